"""What a schedule is, how one is made of a formula, and the curves between two rates."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .. import checks
from ..leafwise import Scalar

__all__ = ["Schedule"]

#: `schedule(step) -> learning rate`
Schedule = Callable[[int | Tensor], Scalar]


def of_step(formula: Callable[[Tensor], Tensor]) -> Schedule:
    """Make a schedule of a formula in `t`, the step as a float64 tensor.

    >>> of_step(lambda t: 1 / (1 + t))(3)
    tensor(0.2500, dtype=torch.float64)
    """

    def schedule(step: int | Tensor) -> Tensor:
        checks.step(step)
        return formula(torch.as_tensor(step).double())

    return schedule


def rate_at(schedule: Schedule, step: Tensor) -> Tensor:
    """Return the float64 tensor `schedule(step)`; one of the user's may return a number."""
    return torch.zeros_like(step, dtype=torch.float64) + schedule(step)


def line(start: Scalar, end: Scalar, x: Tensor) -> Tensor:
    """Return the height at `x` of the line from `start` at 0 to `end` at 1.

    >>> line(1.0, 0.0, torch.tensor(0.25))
    tensor(0.7500)
    """
    return start + (end - start) * x


def half_cosine(start: Scalar, end: Scalar, x: Tensor) -> Tensor:
    """Return the height at `x` of half a cosine, from `start` at 0 to `end` at 1.

    >>> half_cosine(1.0, 0.0, torch.tensor(0.25))
    tensor(0.8536)
    """
    return end + (start - end) * (1 + torch.cos(math.pi * x)) / 2
