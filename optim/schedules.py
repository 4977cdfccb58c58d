"""Learning rates as pure functions of the step.

A schedule maps the number of updates made so far, 0 at the first, to the learning rate of the next
one. The step is a Python int or a tensor of integers (0-d inside a training step; a whole range of
them to draw the curve), and the result is a float64 tensor of its shape. (A function of your own
may return a number or a 0-d tensor.) Names and arguments are
those of `torch.optim.lr_scheduler`; `lr` is the rate that a scheduler finds in its optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import checks
from .leafwise import Scalar

__all__ = ["Schedule", "constant", "cosine", "join", "linear", "step", "warmup"]

#: `schedule(step) -> learning rate`
Schedule = Callable[[int | Tensor], Scalar]


def constant(lr: Scalar) -> Schedule:
    """Return the schedule that is `lr`, a number or a 0-d tensor, at every step.

    >>> constant(0.1)(1000)
    tensor(0.1000, dtype=torch.float64)
    """
    checks.non_negative("lr", lr)
    return _schedule(lambda t: torch.zeros_like(t) + lr)


def step(lr: float, step_size: int, gamma: float = 0.1) -> Schedule:
    """Multiply by `gamma` every `step_size` steps: `lr * gamma**floor(t / step_size)` (`StepLR`).

    >>> step(1.0, step_size=10)(torch.tensor([9, 10, 20]))
    tensor([1.0000, 0.1000, 0.0100], dtype=torch.float64)
    """
    checks.non_negative("lr", lr)
    checks.count("step_size", step_size)
    checks.non_negative("gamma", gamma)
    return _schedule(lambda t: lr * gamma ** torch.floor(t / step_size))


def cosine(lr: float, T_max: int, eta_min: float = 0.0) -> Schedule:  # noqa: N803 - torch's name
    """Descend along half a cosine from `lr` to `eta_min` in `T_max` steps (`CosineAnnealingLR`).

    ``eta_min + (lr - eta_min) (1 + cos(pi t / T_max)) / 2`` (Loshchilov & Hutter 2017,
    arXiv:1608.03983). Beyond `T_max` it goes on as the cosine does, up again, as in torch.

    >>> cosine(1.0, T_max=100)(torch.tensor([0, 50, 100]))
    tensor([1.0000, 0.5000, 0.0000], dtype=torch.float64)
    """
    checks.non_negative("lr", lr)
    checks.count("T_max", T_max)
    checks.non_negative("eta_min", eta_min)
    return _schedule(lambda t: eta_min + (lr - eta_min) * (1 + torch.cos(math.pi * t / T_max)) / 2)


def linear(
    lr: float, start_factor: float = 1 / 3, end_factor: float = 1.0, total_iters: int = 5
) -> Schedule:
    """Go from `lr * start_factor` to `lr * end_factor` in `total_iters` steps (`LinearLR`).

    >>> linear(1.0, start_factor=0.5, total_iters=2)(torch.arange(4))
    tensor([0.5000, 0.7500, 1.0000, 1.0000], dtype=torch.float64)
    """
    checks.non_negative("lr", lr)
    checks.non_negative("start_factor", start_factor)
    checks.non_negative("end_factor", end_factor)
    checks.count("total_iters", total_iters)

    def value(t: Tensor) -> Tensor:
        progress = torch.clamp(t / total_iters, max=1.0)
        return lr * (start_factor + (end_factor - start_factor) * progress)

    return _schedule(value)


def join(schedules: Sequence[Schedule], milestones: Sequence[int]) -> Schedule:
    """Run schedules one after the other, each from its own step 0 (`SequentialLR`).

    `milestones[i]` is the step at which `schedules[i + 1]` takes over.

    >>> join([constant(0.1), cosine(1.0, T_max=10)], milestones=[5])(torch.tensor([4, 5, 15]))
    tensor([0.1000, 1.0000, 0.0000], dtype=torch.float64)

    Raises
    ------
    TypeError
        A schedule is no function of the step, or a milestone no int.
    ValueError
        There is not one milestone fewer than schedules, or milestones do not increase.
    """
    if len(milestones) != len(schedules) - 1:
        raise ValueError(
            f"milestones: expected one fewer than schedules, got {len(milestones)} for "
            f"{len(schedules)} schedules."
        )
    for position, schedule in enumerate(schedules):
        checks.schedule(f"schedules[{position}]", schedule)
    for position, milestone in enumerate(milestones):
        checks.count(f"milestones[{position}]", milestone)
        if position and milestone <= milestones[position - 1]:
            raise ValueError(f"milestones: expected increasing steps, got {list(milestones)}.")

    def joined(step: int | Tensor) -> Tensor:
        checks.step(step)
        t = torch.as_tensor(step)
        zeros = torch.zeros_like(t, dtype=torch.float64)  # a schedule may return a Python number
        value = zeros + schedules[0](t)
        for milestone, schedule in zip(milestones, schedules[1:], strict=True):
            later = zeros + schedule(torch.clamp(t - milestone, min=0))
            value = torch.where(t < milestone, value, later)
        return value

    return joined


def warmup(schedule: Schedule, total_iters: int, start_factor: float = 1e-3) -> Schedule:
    """Rise linearly to where `schedule` begins in `total_iters` steps, then run it from its step 0.

    The rise starts at `start_factor * schedule(0)`: `LinearLR` and `schedule` in a `SequentialLR`.

    >>> warmup(cosine(1.0, T_max=10), total_iters=4, start_factor=0)(torch.tensor([0, 2, 4, 14]))
    tensor([0.0000, 0.5000, 1.0000, 0.0000], dtype=torch.float64)
    """
    checks.schedule("schedule", schedule)
    rise = linear(1.0, start_factor, 1.0, total_iters)

    def rising(step: int | Tensor) -> Scalar:
        return rise(step) * schedule(0 * step)  # the first value, on the device of the step

    return join([rising, schedule], [total_iters])


def _schedule(value: Callable[[Tensor], Tensor]) -> Schedule:
    """Make a schedule of a formula in `t`, the step as a float64 tensor."""

    def schedule(step: int | Tensor) -> Tensor:
        checks.step(step)
        return value(torch.as_tensor(step).double())

    return schedule
