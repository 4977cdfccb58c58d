"""Schedules made of schedules."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import checks
from ..leafwise import Scalar
from .curves import Schedule, line, rate_at

__all__ = ["bounded", "join", "product", "warmup"]


def join(schedules: Sequence[Schedule], milestones: Sequence[int]) -> Schedule:
    """Run schedules one after the other, each from its own step 0 (`SequentialLR`).

    `milestones[i]` is the step at which `schedules[i + 1]` takes over.

    Raises
    ------
    TypeError
        A schedule is no function of the step, or a milestone no int.
    ValueError
        There is not one milestone fewer than schedules, or milestones do not increase.

    Examples
    --------
    >>> from purefn.optim import schedules
    >>> rate = schedules.join(
    ...     [schedules.constant(0.1), schedules.cosine(1.0, T_max=10)], milestones=[5])
    >>> rate(torch.tensor([4, 5, 15]))
    tensor([0.1000, 1.0000, 0.0000], dtype=torch.float64)
    """
    _check("join", schedules)
    if len(milestones) != len(schedules) - 1:
        raise ValueError(
            f"milestones: expected one fewer than schedules, got {len(milestones)} for "
            f"{len(schedules)} schedules."
        )
    for position, milestone in enumerate(milestones):
        checks.count(f"milestones[{position}]", milestone)
        if position and milestone <= milestones[position - 1]:
            raise ValueError(f"milestones: expected increasing steps, got {list(milestones)}.")
    first, *others = schedules
    starts = list(zip(milestones, others, strict=True))

    def joined(step: int | Tensor) -> Tensor:
        checks.step(step)
        t = torch.as_tensor(step)
        value = rate_at(first, t)
        for milestone, schedule in starts:
            later = rate_at(schedule, torch.clamp(t - milestone, min=0))
            value = torch.where(t < milestone, value, later)
        return value

    return joined


def product(*schedules: Schedule) -> Schedule:
    """Multiply schedules (`ChainedScheduler` of those that multiply a rate by factors).

    >>> from purefn.optim import schedules
    >>> rate = schedules.product(
    ...     schedules.exponential(0.1, gamma=0.5), schedules.constant_factor(1.0, 0.1, 2))
    >>> rate(torch.arange(3))
    tensor([0.0100, 0.0050, 0.0250], dtype=torch.float64)

    Raises
    ------
    TypeError
        A schedule is no function of the step.
    ValueError
        There is none.
    """
    _check("product", schedules)

    def multiplied(step: int | Tensor) -> Tensor:
        checks.step(step)
        t = torch.as_tensor(step)
        return functools.reduce(operator.mul, [rate_at(schedule, t) for schedule in schedules])

    return multiplied


def warmup(schedule: Schedule, total_iters: int, start_factor: Scalar = 1e-3) -> Schedule:
    """Rise linearly to where `schedule` begins in `total_iters` steps, then run it from its step 0.

    The rise starts at `start_factor * schedule(0)`: `LinearLR` and `schedule` in a `SequentialLR`.

    >>> from purefn.optim import schedules
    >>> rate = schedules.warmup(schedules.cosine(1.0, T_max=10), total_iters=4, start_factor=0)
    >>> rate(torch.tensor([0, 2, 4, 14]))
    tensor([0.0000, 0.5000, 1.0000, 0.0000], dtype=torch.float64)
    """
    checks.schedule("schedule", schedule)
    checks.count("total_iters", total_iters)
    checks.non_negative("start_factor", start_factor)

    def rising(step: int | Tensor) -> Tensor:
        t = torch.as_tensor(step)
        x = torch.clamp(t.double() / total_iters, max=1)
        return line(start_factor, 1.0, x) * rate_at(schedule, 0 * t)

    return join([rising, schedule], [total_iters])


def bounded(
    schedule: Schedule, min_lr: Scalar | None = None, max_lr: Scalar | None = None
) -> Schedule:
    """Keep a schedule at or above `min_lr`, and at or below `max_lr`.

    >>> from purefn.optim import schedules
    >>> schedules.bounded(schedules.exponential(1.0, gamma=0.5), min_lr=0.2)(torch.arange(4))
    tensor([1.0000, 0.5000, 0.2500, 0.2000], dtype=torch.float64)

    Raises
    ------
    TypeError
        `schedule` is no function of the step, or a bound no number.
    ValueError
        A bound is negative, or `min_lr` is above `max_lr`.
    """
    checks.schedule("schedule", schedule)
    bounds = {"min_lr": min_lr, "max_lr": max_lr}
    for name, bound in bounds.items():
        if bound is not None:
            checks.non_negative(name, bound)
    numbers = [bound for bound in bounds.values() if isinstance(bound, int | float)]
    if numbers != sorted(numbers):
        raise ValueError(f"min_lr: expected at most max_lr={max_lr!r}, got {min_lr!r}.")

    def within(step: int | Tensor) -> Tensor:
        checks.step(step)
        value = rate_at(schedule, torch.as_tensor(step))
        if min_lr is not None:
            value = torch.maximum(value, torch.zeros_like(value) + min_lr)
        if max_lr is not None:
            value = torch.minimum(value, torch.zeros_like(value) + max_lr)
        return value

    return within


def _check(who: str, schedules: Sequence[Schedule]) -> None:
    if not schedules:
        raise ValueError(f"{who}: expected at least one schedule, got none.")
    for position, schedule in enumerate(schedules):
        checks.schedule(f"schedules[{position}]", schedule)
