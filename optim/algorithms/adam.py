"""Adam and what is made of its two moments: AMSGrad, AdamW."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import Rule, Scalar, Step
from ..moments import (
    corrected_direction,
    corrections,
    first_moment,
    first_step,
    second_moment,
    zeros,
)
from ..schedules import Schedule
from ..transformation import GradientTransformation, elementwise
from .recipes import descent

__all__ = [
    "ScaleByAdamState",
    "ScaleByAmsgradState",
    "adam",
    "adamw",
    "scale_by_adam",
    "scale_by_amsgrad",
]


class ScaleByAdamState(NamedTuple):
    """The number of steps (int64, 0-d) and the averages of gradients and of their squares.

    `mu` and `nu` are torch's `exp_avg` and `exp_avg_sq`.
    """

    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    mu: tree.PyTree
    nu: tree.PyTree


class ScaleByAmsgradState(NamedTuple):
    """Adam's state and the largest second moment so far, torch's `max_exp_avg_sq`."""

    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    mu: tree.PyTree
    nu: tree.PyTree
    nu_max: tree.PyTree


def scale_by_adam(
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    *,
    mu_dtype: torch.dtype | None = None,
) -> GradientTransformation:
    """Rescale gradients by Adam's rule (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1).

    ::

        mu_t = b1 mu_{t-1} + (1 - b1) g_t
        nu_t = b2 nu_{t-1} + (1 - b2) g_t^2
        update = mu_t / (1 - b1^t) / (sqrt(nu_t / (1 - b2^t)) + eps)

    The moments have the parameters' dtypes, but for `mu` where `mu_dtype` says otherwise: it is
    rounded after the step, and all else is computed as precisely as ever. Bias corrections keep all
    digits, at step 1 as at step 10^7.

    Raises
    ------
    ValueError
        `b1` or `b2` lies outside [0, 1), `eps` is negative, or, in `update`, a gradient does not
        match the state.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> adam = optim.scale_by_adam()
    >>> state = adam.init({"w": torch.zeros(2)})
    >>> updates, state = adam.update({"w": torch.tensor([-0.5, 100.0])}, state)
    >>> updates
    {'w': tensor([-1.0000,  1.0000])}
    """
    _check_hyperparameters(b1, b2, eps, mu_dtype)

    def init(params: tree.PyTree) -> ScaleByAdamState:
        checks.trainable(params)
        return ScaleByAdamState(
            first_step(params), mu=zeros(params, mu_dtype), nu=tree.zeros_like(params)
        )

    def rule(g: Tensor, m: Tensor, v: Tensor, *factors: Scalar) -> tuple[Tensor, ...]:
        m = first_moment(m, g, b1)
        v = second_moment(v, g, b2)
        return corrected_direction(m, v, *factors), m, v

    def step(state: ScaleByAdamState, params: tree.PyTree | None) -> Step:
        checks.state("scale_by_adam", state, ScaleByAdamState)
        count = state.count + 1
        reads = {"state.mu": state.mu, "state.nu": state.nu}
        factors = corrections(count, b1, b2, eps)
        rules = [Rule(rule, reads, writes=2, scalars=factors, kept=[mu_dtype, None])]
        return Step(rules, lambda mu, nu: ScaleByAdamState(count, mu, nu))

    return elementwise(init, step)


def scale_by_amsgrad(
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    *,
    mu_dtype: torch.dtype | None = None,
) -> GradientTransformation:
    """Rescale gradients by AMSGrad (Reddi et al. 2018, arXiv:1904.09237), as torch computes it.

    Adam with `nu_t` in the update replaced by its maximum so far::

        nu_max_t = max(nu_max_{t-1}, nu_t)
        update = mu_t / (1 - b1^t) / (sqrt(nu_max_t / (1 - b2^t)) + eps)

    The maximum is over raw moments, corrected afterwards; optax takes it over corrected ones.
    Arguments and errors are those of `scale_by_adam`.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> amsgrad = optim.scale_by_amsgrad()
    >>> state = amsgrad.init({"w": torch.zeros(1)})
    >>> updates, state = amsgrad.update({"w": torch.tensor([-0.5])}, state)
    >>> updates
    {'w': tensor([-1.0000])}
    """
    _check_hyperparameters(b1, b2, eps, mu_dtype)

    def init(params: tree.PyTree) -> ScaleByAmsgradState:
        checks.trainable(params)
        return ScaleByAmsgradState(
            first_step(params),
            mu=zeros(params, mu_dtype),
            nu=tree.zeros_like(params),
            nu_max=tree.zeros_like(params),
        )

    def rule(
        g: Tensor, m: Tensor, v: Tensor, v_max: Tensor, *factors: Scalar
    ) -> tuple[Tensor, ...]:
        m = first_moment(m, g, b1)
        v = second_moment(v, g, b2)
        v_max = torch.maximum(v_max, v)
        return corrected_direction(m, v_max, *factors), m, v, v_max

    def step(state: ScaleByAmsgradState, params: tree.PyTree | None) -> Step:
        checks.state("scale_by_amsgrad", state, ScaleByAmsgradState)
        count = state.count + 1
        reads = {"state.mu": state.mu, "state.nu": state.nu, "state.nu_max": state.nu_max}
        factors = corrections(count, b1, b2, eps)
        rules = [Rule(rule, reads, writes=3, scalars=factors, kept=[mu_dtype, None, None])]
        return Step(rules, lambda mu, nu, nu_max: ScaleByAmsgradState(count, mu, nu, nu_max))

    return elementwise(init, step)


def adam(
    lr: Scalar | Schedule = 1e-3,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0,
    amsgrad: bool = False,
    *,
    maximize: bool = False,
    decoupled_weight_decay: bool = False,
    mu_dtype: torch.dtype | None = None,
) -> GradientTransformation:
    """Return Adam, `torch.optim.Adam`: `scale_by_adam` at a learning rate.

    `weight_decay` is an L2 penalty: it is added to the gradient before the moments see it.

    Parameters
    ----------
    lr
        Learning rate: a number, a 0-d tensor or a schedule.
    betas
        The decay rates of the first and second moment, in [0, 1).
    eps
        Added to the root of the second moment. With `eps=0` a parameter whose gradients have
        all been zero becomes NaN (0 / 0), as in torch.
    weight_decay
        A number or 0-d tensor, at least 0.
    amsgrad
        Use the largest second moment so far (`scale_by_amsgrad`).
    maximize
        Climb instead of descend.
    decoupled_weight_decay
        Decay the parameters instead of the gradient, which is `adamw`.
    mu_dtype
        The dtype in which the first moment is kept, such as torch.bfloat16 to save memory; torch
        has no such argument.

    Raises
    ------
    ValueError
        A hyperparameter is out of its range; in `update`, `params` is missing while
        `weight_decay` is set, or a gradient does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.adam(lr=0.1)
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": torch.tensor([25.0])}, state, params)
    >>> optim.apply_updates(params, updates)
    {'w': tensor([0.9000])}
    """
    checks.betas("betas", betas)
    checks.non_negative("eps", eps)
    checks.flag("amsgrad", amsgrad)
    rescale = scale_by_amsgrad if amsgrad else scale_by_adam
    return descent(
        rescale(*betas, eps, mu_dtype=mu_dtype),
        lr=lr,
        weight_decay=weight_decay,
        decoupled_weight_decay=decoupled_weight_decay,
        maximize=maximize,
    )


def adamw(
    lr: Scalar | Schedule = 1e-3,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 1e-2,
    amsgrad: bool = False,
    *,
    maximize: bool = False,
    mu_dtype: torch.dtype | None = None,
) -> GradientTransformation:
    """Return AdamW, `torch.optim.AdamW` (Loshchilov & Hutter 2019, arXiv:1711.05101).

    Adam whose weight decay does not pass through the moments::

        theta <- theta - lr (adam(g) + weight_decay theta)

    Parameters and errors are those of `adam`.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.adamw(lr=0.1, weight_decay=0.5)
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": torch.tensor([0.0])}, state, params)
    >>> optim.apply_updates(params, updates)
    {'w': tensor([0.9500])}
    """
    return adam(
        lr,
        betas,
        eps,
        weight_decay,
        amsgrad,
        maximize=maximize,
        decoupled_weight_decay=True,
        mu_dtype=mu_dtype,
    )


def _check_hyperparameters(
    b1: Scalar, b2: Scalar, eps: Scalar, mu_dtype: torch.dtype | None
) -> None:
    if mu_dtype is not None:
        checks.floating("mu_dtype", mu_dtype)
    checks.decay_rate("b1", b1)
    checks.decay_rate("b2", b2)
    checks.non_negative("eps", eps)
