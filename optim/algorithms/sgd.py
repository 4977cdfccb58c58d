"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import Rule, Scalar, Step, add_scaled
from ..moments import first_step
from ..schedules import Schedule
from ..transformation import GradientTransformation, elementwise
from .recipes import descent, is_zero

__all__ = ["TraceState", "sgd", "trace"]


class TraceState(NamedTuple):
    """How many gradients have been summed (int64, 0-d), and their decaying sum.

    `trace` is torch's `momentum_buffer`.
    """

    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    trace: tree.PyTree


def trace(
    decay: Scalar, nesterov: bool = False, *, dampening: Scalar = 0
) -> GradientTransformation:
    """Replace gradients by their decaying sum: momentum.

    ::

        b_1 = g_1
        b_t = decay b_{t-1} + (1 - dampening) g_t
        update = g_t + decay b_t   if nesterov (Sutskever et al. 2013)   else b_t

    The first gradient is never dampened, as in torch. (Nesterov's rule with dampening is refused
    by the recipe `sgd`, as by torch; here it is what the equation says.)

    Without Nesterov's rule the updates are the new `state.trace`, the same tensors: nothing is
    copied. Where `trace` is the last of a chain, donate one of the two to a later call, not both.

    Raises
    ------
    ValueError
        `decay` is negative, or, in `update`, a gradient does not match the state.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> momentum = optim.trace(0.5)
    >>> state = momentum.init({"w": torch.zeros(1)})
    >>> for gradient in (1.0, 1.0, 1.0):
    ...     updates, state = momentum.update({"w": torch.tensor([gradient])}, state)
    >>> updates
    {'w': tensor([1.7500])}
    """
    checks.non_negative("decay", decay)
    checks.scalar("dampening", dampening)
    checks.flag("nesterov", nesterov)

    def init(params: tree.PyTree) -> TraceState:
        checks.trainable(params)
        return TraceState(first_step(params), tree.zeros_like(params))

    def rule(g: Tensor, b: Tensor, *weight: Scalar) -> tuple[Tensor, Tensor]:
        b = add_scaled(g * weight[0] if weight else g, b, decay)
        return (add_scaled(g, b, decay) if nesterov else b), b

    def step(state: TraceState, params: tree.PyTree | None) -> Step:
        checks.state("trace", state, TraceState)
        weight = _weight_of_gradient(state.count, dampening)
        return Step(
            [Rule(rule, {"state.trace": state.trace}, writes=1, scalars=weight)],
            lambda buffer: TraceState(state.count + 1, buffer),
        )

    return elementwise(init, step)


def sgd(
    lr: Scalar | Schedule = 1e-3,
    momentum: Scalar = 0,
    dampening: Scalar = 0,
    weight_decay: Scalar = 0,
    nesterov: bool = False,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Return stochastic gradient descent, `torch.optim.SGD`.

    ::

        g <- g + weight_decay theta
        b <- momentum b + (1 - dampening) g       (b <- g the first time)
        theta <- theta - lr b                     (theta - lr (g + momentum b) with Nesterov)

    Parameters
    ----------
    lr
        Learning rate: a number, a 0-d tensor or a schedule.
    momentum, dampening, weight_decay
        Numbers or 0-d tensors; `momentum=0` keeps no buffer and ignores `dampening`.
    nesterov
        Use Nesterov's momentum; needs `momentum > 0` and `dampening = 0`.
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
    >>> optimizer = optim.sgd(lr=0.1, momentum=0.9)
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": torch.tensor([2.0])}, state, params)
    >>> optim.apply_updates(params, updates)
    {'w': tensor([0.8000])}
    """
    checks.non_negative("momentum", momentum)
    checks.flag("nesterov", nesterov)
    if nesterov and (is_zero(momentum) or not is_zero(dampening)):
        raise ValueError(
            "nesterov: needs momentum > 0 and dampening = 0, got "
            f"momentum={momentum} and dampening={dampening}."
        )
    rule = [] if is_zero(momentum) else [trace(momentum, nesterov, dampening=dampening)]
    return descent(*rule, lr=lr, weight_decay=weight_decay, maximize=maximize)


def _weight_of_gradient(count: Tensor, dampening: Scalar) -> tuple[Tensor, ...]:
    """Return 1 for the first gradient and `1 - dampening` from then on, or nothing without it."""
    if is_zero(dampening):
        return ()
    later = torch.ones((), dtype=torch.float64, device=count.device) - dampening
    return (torch.where(count == 0, torch.ones_like(later), later),)
