"""Adamax: Adam by the largest gradient instead of the mean square."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import Rule, Scalar, Step
from ..moments import bias_correction, first_moment, first_step
from ..schedules import Schedule
from ..transformation import GradientTransformation, elementwise
from .recipes import descent

__all__ = ["ScaleByAdamaxState", "adamax", "scale_by_adamax"]


class ScaleByAdamaxState(NamedTuple):
    """The number of steps (int64, 0-d), the average and the decaying maximum of gradients.

    `mu` and `nu` are torch's `exp_avg` and `exp_inf`.
    """

    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    mu: tree.PyTree
    nu: tree.PyTree


def scale_by_adamax(
    b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8
) -> GradientTransformation:
    """Rescale gradients by Adamax (Kingma & Ba 2015, arXiv:1412.6980, algorithm 2).

    ::

        mu_t = b1 mu_{t-1} + (1 - b1) g_t
        nu_t = max(b2 nu_{t-1}, |g_t| + eps)
        update = mu_t / (1 - b1^t) / nu_t

    `eps` is torch's and optax's addition, which keeps a zero gradient from dividing by zero; with
    `eps=0` a parameter whose gradients have all been zero becomes NaN, as in torch.

    Raises
    ------
    ValueError
        `b1` or `b2` lies outside [0, 1), `eps` is negative, or, in `update`, a gradient does not
        match the state.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> adamax = optim.scale_by_adamax()
    >>> state = adamax.init({"w": torch.zeros(2)})
    >>> updates, state = adamax.update({"w": torch.tensor([-0.5, 100.0])}, state)
    >>> updates
    {'w': tensor([-1.,  1.])}
    """
    checks.decay_rate("b1", b1)
    checks.decay_rate("b2", b2)
    checks.non_negative("eps", eps)

    def init(params: tree.PyTree) -> ScaleByAdamaxState:
        checks.trainable(params)
        return ScaleByAdamaxState(
            first_step(params), mu=tree.zeros_like(params), nu=tree.zeros_like(params)
        )

    def rule(g: Tensor, m: Tensor, v: Tensor, correction: Scalar) -> tuple[Tensor, ...]:
        m = first_moment(m, g, b1)
        v = torch.maximum(b2 * v, g.abs() + eps)
        return m / (v * correction), m, v

    def step(state: ScaleByAdamaxState, params: tree.PyTree | None) -> Step:
        checks.state("scale_by_adamax", state, ScaleByAdamaxState)
        count = state.count + 1
        reads = {"state.mu": state.mu, "state.nu": state.nu}
        rules = [Rule(rule, reads, writes=2, scalars=[bias_correction(b1, count)])]
        return Step(rules, lambda mu, nu: ScaleByAdamaxState(count, mu, nu))

    return elementwise(init, step)


def adamax(
    lr: Scalar | Schedule = 2e-3,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Return Adamax, `torch.optim.Adamax`: `scale_by_adamax` at a learning rate.

    Parameters
    ----------
    lr
        Learning rate: a number, a 0-d tensor or a schedule.
    betas
        The decay rates of the average and of the maximum, in [0, 1).
    eps
        Added to the magnitude of each gradient.
    weight_decay
        An L2 penalty: a number or 0-d tensor, at least 0.
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
    >>> optimizer = optim.adamax(lr=0.1)
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": torch.tensor([25.0])}, state, params)
    >>> optim.apply_updates(params, updates)
    {'w': tensor([0.9000])}
    """
    checks.betas("betas", betas)
    checks.non_negative("eps", eps)
    return descent(
        scale_by_adamax(*betas, eps), lr=lr, weight_decay=weight_decay, maximize=maximize
    )
