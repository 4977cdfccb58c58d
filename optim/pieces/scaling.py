"""Multiplying updates: by a number, by a schedule, by the learning rate."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import Rule, Scalar, Step
from ..moments import first_step
from ..schedules import Schedule
from ..transformation import GradientTransformation, elementwise, stateless_elementwise

__all__ = ["ScaleByScheduleState", "scale", "scale_by_learning_rate", "scale_by_schedule"]


class ScaleByScheduleState(NamedTuple):
    """How many updates have been made, an int64 0-d tensor."""

    count: Tensor  # type: ignore[assignment]  # hides tuple.count


def scale(factor: Scalar) -> GradientTransformation:
    """Multiply updates by `factor`, a number or a 0-d tensor.

    >>> import torch
    >>> from purefn import optim
    >>> optim.scale(3.0).update({"w": torch.tensor([2.0])}, optim.EmptyState())[0]
    {'w': tensor([6.])}
    """
    checks.scalar("scale: factor", factor)
    return stateless_elementwise(lambda params: _scaling(factor), "scale")


def scale_by_schedule(schedule: Schedule) -> GradientTransformation:
    """Multiply the updates of step `t = 0, 1, ...` by `schedule(t)`.

    The schedule receives `t` as an int64 0-d tensor and returns a number or a 0-d tensor. (One of
    your own keeps float64's digits when it computes with `t.double()`: torch gives float32 for
    integers and numbers. Those of `optim.schedules` do.)

    >>> import torch
    >>> halving = scale_by_schedule(lambda step: 0.5**step)
    >>> state = halving.init({"w": torch.tensor(8.0)})
    >>> for _ in range(3):
    ...     updates, state = halving.update({"w": torch.tensor(8.0)}, state)
    >>> updates, state
    ({'w': tensor(2.)}, ScaleByScheduleState(count=tensor(3)))
    """
    checks.schedule("schedule", schedule)

    def init(params: tree.PyTree) -> ScaleByScheduleState:
        checks.trainable(params)
        return ScaleByScheduleState(first_step(params))

    def step(state: ScaleByScheduleState, params: tree.PyTree | None) -> Step:
        checks.state("scale_by_schedule", state, ScaleByScheduleState)
        factor = schedule(state.count)
        checks.scalar("schedule(step)", factor)
        return Step([_scaling(factor)], lambda: ScaleByScheduleState(state.count + 1))

    return elementwise(init, step)


def scale_by_learning_rate(lr: Scalar | Schedule) -> GradientTransformation:
    """Turn a direction into a step downhill: multiply by `-lr`.

    `lr` is a number, a 0-d tensor or a schedule; only for a schedule does the state hold a count
    of steps. A 0-d tensor may be traced by `jit`, batched by `vmap` and differentiated by `grad`.

    Raises
    ------
    ValueError
        `lr` is a negative number or a tensor that is not 0-d.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optim.scale_by_learning_rate(0.5).update({"w": torch.tensor([2.0])}, optim.EmptyState())[0]
    {'w': tensor([-1.])}
    """
    checks.learning_rate("lr", lr)
    if callable(lr):
        return scale_by_schedule(_downhill(lr))
    return stateless_elementwise(lambda params: _scaling(-lr), "scale_by_learning_rate")


def _downhill(schedule: Schedule) -> Schedule:
    """Return the schedule `-lr(step)`, whose values are checked to be learning rates."""

    def factor(step: int | Tensor) -> Scalar:
        lr = schedule(step)
        checks.non_negative("lr(step)", lr)
        return -lr

    return factor


def _scaling(factor: Scalar) -> Rule:
    return Rule(_scaled, reads={}, scalars=(factor,))


def _scaled(update: Tensor, factor: Scalar) -> Tensor:
    return update * factor
