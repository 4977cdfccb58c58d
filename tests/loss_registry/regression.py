"""Losses of real numbers and of counts."""

from functools import partial

from torch.nn import functional as F  # noqa: N812 - torch's name

from purefn.functional import losses

from .case import Case


def pair(draw):
    return draw.normal(draw.N, 3, 2), draw.normal(draw.N, 3, 2)


def rates(draw):
    return draw.uniform(draw.N, 3), 4 * draw.uniform(draw.N, 3)


def elements(function, **options):
    return partial(function, reduction="none", **options)


def with_variances(*shape):
    return lambda draw: (draw.normal(*shape[0]), draw.normal(*shape[0]), draw.uniform(*shape[1]))


CASES = [
    Case("l1", losses.l1, pair, elements(F.l1_loss)),
    Case("mse", losses.mse, pair, elements(F.mse_loss)),
    Case(
        "smooth_l1", partial(losses.smooth_l1, beta=0.7), pair, elements(F.smooth_l1_loss, beta=0.7)
    ),
    Case("huber", partial(losses.huber, delta=0.7), pair, elements(F.huber_loss, delta=0.7)),
    Case(
        "log_cosh",
        losses.log_cosh,
        lambda draw: (draw.unit(draw.N, 3), draw.unit(draw.N, 3)),
        lambda x, y: (x - y).cosh().log(),
    ),
    *(
        Case(
            "poisson_nll",
            partial(losses.poisson_nll, full=full),
            lambda draw: (draw.unit(draw.N, 3), 4 * draw.uniform(draw.N, 3)),
            elements(F.poisson_nll_loss, full=full),
            variant=f"-{full}",
        )
        for full in (False, True)
    ),
    *(
        Case(
            "poisson_nll_with_rates",
            partial(losses.poisson_nll_with_rates, full=full, eps=eps),
            rates,
            elements(F.poisson_nll_loss, full=full, eps=eps, log_input=False),
            variant=f"-{full}-{eps}",
        )
        for full, eps in ((False, 1e-8), (True, 0.1))
    ),
    Case(
        "gaussian_nll",
        losses.gaussian_nll,
        with_variances((4, 3), (4, 3)),
        elements(F.gaussian_nll_loss),
    ),
    Case(
        "gaussian_nll",
        partial(losses.gaussian_nll, full=True, eps=1e-3),
        with_variances((4, 3), (4, 1)),
        elements(F.gaussian_nll_loss, full=True, eps=1e-3),
        variant="-full",
    ),
]
