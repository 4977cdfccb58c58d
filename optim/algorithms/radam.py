"""RAdam: Adam that trusts its second moment only when it has seen enough."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import Rule, Scalar, Step
from ..moments import bias_correction, first_moment, first_step, second_moment
from ..schedules import Schedule
from ..transformation import GradientTransformation, elementwise
from .recipes import descent

__all__ = ["ScaleByRadamState", "radam", "scale_by_radam"]


class ScaleByRadamState(NamedTuple):
    """The number of steps (int64, 0-d) and the averages of gradients and of their squares.

    `mu` and `nu` are torch's `exp_avg` and `exp_avg_sq`.
    """

    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    mu: tree.PyTree
    nu: tree.PyTree


def scale_by_radam(
    b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8
) -> GradientTransformation:
    """Rescale gradients by rectified Adam (Liu et al. 2020, arXiv:1908.03265, algorithm 2).

    ::

        mu_t = b1 mu_{t-1} + (1 - b1) g_t
        nu_t = b2 nu_{t-1} + (1 - b2) g_t^2
        rho = 2 / (1 - b2) - 1
        rho_t = rho - 2 t b2^t / (1 - b2^t)
        r_t = sqrt((rho_t - 4) (rho_t - 2) rho / ((rho - 4) (rho - 2) rho_t))
        update = mu_t / (1 - b1^t) r_t sqrt(1 - b2^t) / (sqrt(nu_t) + eps)    if rho_t > 5
                 mu_t / (1 - b1^t)                                            otherwise

    The threshold (the paper's is 4) and the place of `eps` are torch's; optax rectifies from
    `rho_t >= 5` on, and adds `eps` to the root of the corrected moment. With `b2 <= 2/3` the second
    moment is never used.

    Raises
    ------
    ValueError
        `b1` or `b2` lies outside [0, 1), `eps` is negative, or, in `update`, a gradient does not
        match the state.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> radam = optim.scale_by_radam()
    >>> state = radam.init({"w": torch.zeros(2)})
    >>> updates, state = radam.update({"w": torch.tensor([-0.5, 100.0])}, state)
    >>> updates
    {'w': tensor([ -0.5000, 100.0000])}
    """
    checks.decay_rate("b1", b1)
    checks.decay_rate("b2", b2)
    checks.non_negative("eps", eps)

    def init(params: tree.PyTree) -> ScaleByRadamState:
        checks.trainable(params)
        return ScaleByRadamState(
            first_step(params), mu=tree.zeros_like(params), nu=tree.zeros_like(params)
        )

    def rule(
        g: Tensor, m: Tensor, v: Tensor, rectified: Tensor, factor: Tensor, offset: Tensor
    ) -> tuple[Tensor, ...]:
        m = first_moment(m, g, b1)
        v = second_moment(v, g, b2)
        # Before rectification the root has hardly any weight; with none, infinity would be NaN.
        weight = torch.where(rectified, factor, torch.finfo(v.dtype).tiny)
        return m / (v.sqrt() * weight + offset), m, v

    def step(state: ScaleByRadamState, params: tree.PyTree | None) -> Step:
        checks.state("scale_by_radam", state, ScaleByRadamState)
        count = state.count + 1
        reads = {"state.mu": state.mu, "state.nu": state.nu}
        rules = [Rule(rule, reads, writes=2, scalars=_factors(count, b1, b2, eps))]
        return Step(rules, lambda mu, nu: ScaleByRadamState(count, mu, nu))

    return elementwise(init, step)


def radam(
    lr: Scalar | Schedule = 1e-3,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0,
    decoupled_weight_decay: bool = False,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Return RAdam, `torch.optim.RAdam`: `scale_by_radam` at a learning rate.

    Parameters
    ----------
    lr
        Learning rate: a number, a 0-d tensor or a schedule.
    betas
        The decay rates of the first and second moment, in [0, 1).
    eps
        Added to the root of the second moment. With `eps=0` a parameter whose gradients have
        all been zero becomes NaN (0 / 0) when rectification begins, as in torch.
    weight_decay
        A number or 0-d tensor, at least 0.
    decoupled_weight_decay
        Decay the parameters instead of the gradient.
    maximize
        Climb instead of descend.

    Raises
    ------
    ValueError
        A hyperparameter is out of its range; in `update`, `params` is missing while
        `weight_decay` is set, or a gradient does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.radam(lr=0.1)
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": torch.tensor([2.0])}, state, params)
    >>> optim.apply_updates(params, updates)
    {'w': tensor([0.8000])}
    """
    checks.betas("betas", betas)
    checks.non_negative("eps", eps)
    return descent(
        scale_by_radam(*betas, eps),
        lr=lr,
        weight_decay=weight_decay,
        decoupled_weight_decay=decoupled_weight_decay,
        maximize=maximize,
    )


def _factors(count: Tensor, b1: Scalar, b2: Scalar, eps: Scalar) -> tuple[Tensor, ...]:
    """Return whether step `t` is rectified, and what the root of `v` and `eps` then count for."""
    correction1, correction2 = bias_correction(b1, count), bias_correction(b2, count)
    longest = 2 / (torch.ones_like(correction2) - b2) - 1
    length = longest - 2 * count * (1 - correction2) / correction2
    rectified = length > 5
    squared = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    step_size = (torch.where(rectified, squared, 1.0) * correction2).sqrt() / correction1
    return rectified, 1 / step_size, torch.where(rectified, eps / step_size, correction1)
