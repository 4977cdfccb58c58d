"""Adan: Nesterov's momentum for Adam, by an average of differences of gradients."""

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
from ..whole_tree import rate_at
from .recipes import descent

__all__ = ["ScaleByAdanState", "adan", "scale_by_adan"]


class ScaleByAdanState(NamedTuple):
    """The number of steps (int64, 0-d), three averages and the last gradient.

    `mu` averages gradients, `diff` their differences, `nu` squares: the authors' `exp_avg`,
    `exp_avg_diff` and `exp_avg_sq`.
    """

    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    mu: tree.PyTree
    diff: tree.PyTree
    nu: tree.PyTree
    previous_gradient: tree.PyTree


def scale_by_adan(
    b1: Scalar = 0.98, b2: Scalar = 0.92, b3: Scalar = 0.99, eps: Scalar = 1e-8
) -> GradientTransformation:
    """Rescale gradients by Adan (Xie et al. 2022, arXiv:2208.06677, algorithm 1).

    With `d_t = g_t - g_{t-1}` and `d_1 = 0`::

        mu_t = b1 mu_{t-1} + (1 - b1) g_t
        diff_t = b2 diff_{t-1} + (1 - b2) d_t
        nu_t = b3 nu_{t-1} + (1 - b3) (g_t + b2 d_t)^2
        update = (mu_t / (1 - b1^t) + b2 diff_t / (1 - b2^t)) / (sqrt(nu_t / (1 - b3^t)) + eps)

    The betas are those of the authors' program, decay rates; the paper writes `1 - beta` for them.
    (optax takes decay rates too, but weighs `d` and `diff` with `1 - b2`, which is neither.)

    Raises
    ------
    ValueError
        A beta lies outside [0, 1), `eps` is negative, or, in `update`, a gradient does not match
        the state.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> adan = optim.scale_by_adan()
    >>> state = adan.init({"w": torch.zeros(2)})
    >>> updates, state = adan.update({"w": torch.tensor([-0.5, 100.0])}, state)
    >>> updates
    {'w': tensor([-1.,  1.])}
    """
    for name, beta in (("b1", b1), ("b2", b2), ("b3", b3)):
        checks.decay_rate(name, beta)
    checks.non_negative("eps", eps)

    def init(params: tree.PyTree) -> ScaleByAdanState:
        checks.trainable(params)
        return ScaleByAdanState(first_step(params), *[tree.zeros_like(params) for _ in range(4)])

    def rule(
        g: Tensor, m: Tensor, d: Tensor, n: Tensor, last: Tensor, later: Scalar, *weights: Scalar
    ) -> tuple[Tensor, ...]:
        of_m, of_d, of_n = weights
        difference = (g - last) * later
        m = first_moment(m, g, b1)
        d = d * b2 + difference * (1 - b2)
        n = second_moment(n, g + difference * b2, b3)
        return (m * of_m + d * of_d) / ((n * of_n).sqrt() + eps), m, d, n, g.clone()

    def step(state: ScaleByAdanState, params: tree.PyTree | None) -> Step:
        checks.state("scale_by_adan", state, ScaleByAdanState)
        count = state.count + 1
        correction1, correction2, correction3 = (bias_correction(b, count) for b in (b1, b2, b3))
        later = torch.where(state.count == 0, 0.0, torch.ones_like(correction1))
        names = ("mu", "diff", "nu", "previous_gradient")
        reads = {f"state.{name}": getattr(state, name) for name in names}
        scalars = [later, 1 / correction1, b2 / correction2, 1 / correction3]
        return Step(
            [Rule(rule, reads, writes=4, scalars=scalars)],
            lambda *written: ScaleByAdanState(count, *written),
        )

    return elementwise(init, step)


def adan(
    lr: Scalar | Schedule = 1e-3,
    betas: tuple[Scalar, Scalar, Scalar] = (0.98, 0.92, 0.99),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0,
    *,
    no_prox: bool = False,
    maximize: bool = False,
) -> GradientTransformation:
    """Return Adan (Xie et al. 2022, arXiv:2208.06677), with the authors' defaults.

    ::

        theta <- (theta - lr adan(g)) / (1 + lr weight_decay)
        theta <- theta - lr (adan(g) + weight_decay theta)          with no_prox

    Parameters
    ----------
    lr
        Learning rate: a number, a 0-d tensor or a schedule.
    betas
        The decay rates of gradients, of their differences and of squares, in [0, 1).
    eps
        Added to the root of the average of squares.
    weight_decay
        A number or 0-d tensor, at least 0.
    no_prox
        Decay as AdamW does, instead of by the proximal step of the paper.
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
    >>> optimizer = optim.adan(lr=0.1)
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": torch.tensor([25.0])}, state, params)
    >>> optim.apply_updates(params, updates)
    {'w': tensor([0.9000])}
    """
    checks.learning_rate("lr", lr)
    checks.decay_rates("betas", betas, 3)
    checks.non_negative("weight_decay", weight_decay)
    checks.flag("no_prox", no_prox)
    return descent(
        scale_by_adan(*betas, eps),
        lr=lr if no_prox else _proximal(lr, weight_decay),
        weight_decay=weight_decay,
        decoupled_weight_decay=True,
        maximize=maximize,
    )


def _proximal(lr: Scalar | Schedule, weight_decay: Scalar) -> Scalar | Schedule:
    """Return the rate at which plain decoupled decay is the proximal step.

    `(theta - lr u) / (1 + lr w) - theta = -lr / (1 + lr w) (u + w theta)`.
    """
    if callable(lr):
        return lambda step: _proximal_rate(rate_at(lr, torch.as_tensor(step)), weight_decay)
    return _proximal_rate(lr, weight_decay)


def _proximal_rate(lr: Scalar, weight_decay: Scalar) -> Scalar:
    return lr / (1 + lr * weight_decay)
