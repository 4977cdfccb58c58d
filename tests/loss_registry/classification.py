"""Losses of class numbers and of distributions over classes."""

from functools import partial

import torch
from torch.nn import functional as F  # noqa: N812 - torch's name

from purefn.functional import losses

from .case import Case

elements = partial(F.cross_entropy, reduction="none")


def logits(draw):
    return (draw.normal(draw.N, 5, 3),)


def labels(draw):
    drawn = draw.integers(5, draw.N, 3)
    drawn[0, 0] = -100
    return (drawn,)


def soft(draw):
    return draw.normal(draw.N, 5, 3), draw.softmax(draw.N, 5, 3)


def of_probability(function):
    """Return a loss that is a function of the likelihood of the label."""

    def reference(x, y):
        return function(elements(x, y).neg().exp())

    return reference


def clusters(x, head, bias, *tail):
    params = {
        str(j): {"0": {"weight": tail[2 * j]}, "1": {"weight": tail[2 * j + 1]}} for j in (0, 1)
    }
    return {"head": {"weight": head, "bias": bias}, "tail": params}, x


def adaptive(x, head, bias, *tail):
    """Return the module with these parameters, in a call that autograd sees through."""
    module = torch.nn.AdaptiveLogSoftmaxWithLoss(6, 9, [3, 6], div_value=2.0, head_bias=True)
    names = ["head.weight", "head.bias"]
    names += [f"tail.{j}.{part}.weight" for j in (0, 1) for part in (0, 1)]
    state = dict(zip(names, (head, bias, *tail), strict=True))
    return lambda labels: torch.func.functional_call(module, state, (x, labels)).output


def log_probabilities(*parameters):
    """Return all log-probabilities, one label after the other."""
    call = adaptive(*parameters)
    columns = [call(torch.full((len(parameters[0]),), c)) for c in range(9)]
    return torch.stack(columns, 1)


def cluster_parameters(draw):
    shapes = [(5, 6), (5,), (3, 6), (3, 3), (1, 6), (3, 1)]
    return draw.normal(draw.N, 6), *(draw.unit(*shape) for shape in shapes)


CASES = [
    Case("cross_entropy", losses.cross_entropy, logits, elements, labels),
    Case(
        "cross_entropy",
        lambda x, w, y: losses.cross_entropy(x, y, weight=w, label_smoothing=0.1),
        lambda draw: (*logits(draw), draw.uniform(5)),
        lambda x, w, y: elements(x, y, weight=w, label_smoothing=0.1),
        labels,
        variant="-weight-smoothing",
        constant=(1,),
        shared=(1,),
    ),
    Case("cross_entropy", losses.cross_entropy, soft, elements, variant="-soft"),
    Case(
        "nll",
        losses.nll,
        lambda draw: (draw.log_softmax(draw.N, 5, 3),),
        partial(F.nll_loss, reduction="none"),
        labels,
    ),
    Case(
        "linear_cross_entropy",
        lambda x, w, b, y: losses.linear_cross_entropy(x, w, y, linear_bias=b),
        lambda draw: (draw.normal(draw.N, 2), draw.unit(5, 2), draw.unit(5)),
        lambda x, w, b, y: F.linear_cross_entropy(x, w, y, linear_bias=b, reduction="none"),
        lambda draw: (draw.integers(5, draw.N),),
        shared=(1, 2),
    ),
    Case(
        "linear_cross_entropy",
        lambda x, w, b, y: losses.linear_cross_entropy(x, w, y, linear_bias=b),
        lambda draw: (draw.normal(draw.N, 2), draw.unit(5, 3, 2), draw.unit(5, 3)),
        lambda x, w, b, y: F.linear_cross_entropy(x, w, y, linear_bias=b, reduction="none"),
        labels,
        variant="-positions",
        shared=(1, 2),
    ),
    Case(
        "adaptive_softmax",
        lambda *arguments: losses.adaptive_softmax(*clusters(*arguments[:-1]), arguments[-1]),
        cluster_parameters,
        lambda *arguments: -adaptive(*arguments[:-1])(arguments[-1]),
        lambda draw: (draw.integers(9, draw.N),),
        shared=(1, 2, 3, 4, 5, 6),
    ),
    Case(
        "adaptive_log_softmax",
        lambda *parameters: losses.adaptive_log_softmax(*clusters(*parameters)).mean(1),
        cluster_parameters,
        log_probabilities,
        shared=(1, 2, 3, 4, 5, 6),
    ),
    Case(
        "softmax_focal",
        partial(losses.softmax_focal, gamma=1.5),
        logits,
        of_probability(lambda p: -((1 - p) ** 1.5) * p.log()),
        lambda draw: (draw.integers(5, draw.N, 3),),
    ),
    Case(
        "softmax_focal",
        lambda x, q, w: losses.softmax_focal(x, q, weight=w),
        lambda draw: (*soft(draw), draw.uniform(5)),
        lambda x, q, w: elements(x, q * (1 - x.softmax(1)) ** 2, weight=w),
        variant="-soft-weight",
        constant=(2,),
        shared=(2,),
    ),
    Case(
        "poly_cross_entropy",
        partial(losses.poly_cross_entropy, epsilon=-1.0),
        logits,
        of_probability(lambda p: -p.log() - (1 - p)),
        lambda draw: (draw.integers(5, draw.N, 3),),
    ),
    Case(
        "poly_cross_entropy",
        losses.poly_cross_entropy,
        soft,
        lambda x, q: elements(x, q) + 2 * (q * (1 - x.softmax(1))).sum(1),
        variant="-soft",
    ),
    *(
        Case(
            name,
            getattr(losses, name),
            logits,
            None,
            lambda draw: (draw.integers(5, draw.N, 3),),
        )
        for name in ("multiclass_sparsemax", "entmax15")
    ),
]
