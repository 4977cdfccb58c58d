"""Optimistic gradients: the next gradient is guessed from the last two."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import Rule, Scalar, Step
from ..moments import first_step
from ..schedules import Schedule
from ..transformation import GradientTransformation, elementwise
from .adam import scale_by_adam
from .recipes import descent

__all__ = [
    "ScaleByOptimisticGradientState",
    "optimistic_adam",
    "optimistic_gradient_descent",
    "scale_by_optimistic_gradient",
]


class ScaleByOptimisticGradientState(NamedTuple):
    """The number of steps (int64, 0-d) and the gradient of the last one."""

    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    previous_gradient: tree.PyTree


def scale_by_optimistic_gradient(alpha: Scalar = 1.0, beta: Scalar = 1.0) -> GradientTransformation:
    """Extrapolate gradients (Mokhtari et al. 2020, arXiv:1901.08511, generalized OGDA).

    ::

        update = alpha g_t + beta (g_t - g_{t-1}),    g_0 = g_1

    The first update is `alpha g_1`.

    Raises
    ------
    ValueError
        `alpha` or `beta` is not finite, or, in `update`, a gradient does not match the state.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimistic = optim.scale_by_optimistic_gradient()
    >>> state = optimistic.init({"w": torch.zeros(1)})
    >>> for gradient in (1.0, 3.0):
    ...     updates, state = optimistic.update({"w": torch.tensor([gradient])}, state)
    >>> updates
    {'w': tensor([5.])}
    """
    checks.scalar("alpha", alpha)
    checks.scalar("beta", beta)

    def init(params: tree.PyTree) -> ScaleByOptimisticGradientState:
        checks.trainable(params)
        return ScaleByOptimisticGradientState(first_step(params), tree.zeros_like(params))

    def rule(g: Tensor, previous: Tensor, weight: Scalar) -> tuple[Tensor, Tensor]:
        return g * alpha + (g - previous) * weight, g.clone()

    def step(state: ScaleByOptimisticGradientState, params: tree.PyTree | None) -> Step:
        checks.state("scale_by_optimistic_gradient", state, ScaleByOptimisticGradientState)
        count = state.count.double()
        weight = torch.where(count == 0, 0.0, torch.zeros_like(count) + beta)
        reads = {"state.previous_gradient": state.previous_gradient}
        return Step(
            [Rule(rule, reads, writes=1, scalars=[weight])],
            lambda last: ScaleByOptimisticGradientState(state.count + 1, last),
        )

    return elementwise(init, step)


def optimistic_gradient_descent(
    lr: Scalar | Schedule = 1e-3,
    alpha: Scalar = 1.0,
    beta: Scalar = 1.0,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Return optimistic gradient descent (Mokhtari et al. 2020, arXiv:1901.08511).

    ::

        theta <- theta - lr (alpha g_t + beta (g_t - g_{t-1}))

    It converges where plain gradient descent circles: in games, `min_x max_y f(x, y)`.

    Parameters
    ----------
    lr
        Learning rate: a number, a 0-d tensor or a schedule.
    alpha, beta
        The weights of the gradient and of its change.
    maximize
        Climb instead of descend.

    Raises
    ------
    ValueError
        A hyperparameter is out of its range; in `update`, a gradient does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.optimistic_gradient_descent(lr=0.1)
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = optimizer.init(params)
    >>> for gradient in (1.0, 3.0):
    ...     updates, state = optimizer.update({"w": torch.tensor([gradient])}, state, params)
    ...     params = optim.apply_updates(params, updates)
    >>> params
    {'w': tensor([0.4000])}
    """
    return descent(scale_by_optimistic_gradient(alpha, beta), lr=lr, maximize=maximize)


def optimistic_adam(
    lr: Scalar | Schedule = 1e-3,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-8,
    *,
    alpha: Scalar = 1.0,
    beta: Scalar = 1.0,
    maximize: bool = False,
) -> GradientTransformation:
    """Return optimistic Adam (Daskalakis et al. 2018, arXiv:1711.00141, algorithm 1).

    With `u` the updates of Adam::

        theta <- theta - lr (alpha u_t + beta (u_t - u_{t-1})),    u_0 = u_1

    With `alpha = beta = 1` that is the paper's `- 2 lr u_t + lr u_{t-1}`, but for the first step:
    `u_0` is 0 there, which doubles it.

    Parameters
    ----------
    lr
        Learning rate: a number, a 0-d tensor or a schedule.
    betas, eps
        Those of `adam`.
    alpha, beta
        The weights of the update and of its change.
    maximize
        Climb instead of descend.

    Raises
    ------
    ValueError
        A hyperparameter is out of its range; in `update`, a gradient does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.optimistic_adam(lr=0.1)
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": torch.tensor([25.0])}, state, params)
    >>> optim.apply_updates(params, updates)
    {'w': tensor([0.9000])}
    """
    checks.betas("betas", betas)
    return descent(
        scale_by_adam(*betas, eps),
        scale_by_optimistic_gradient(alpha, beta),
        lr=lr,
        maximize=maximize,
    )
