"""Rates that stand still, or change the same way at every step."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import checks
from ..leafwise import Scalar
from .curves import Schedule, line, of_step

__all__ = ["constant", "constant_factor", "exponential", "linear", "polynomial", "step"]


def constant(lr: Scalar) -> Schedule:
    """Return the schedule that is `lr`, a number or a 0-d tensor, at every step.

    >>> constant(0.1)(1000)
    tensor(0.1000, dtype=torch.float64)
    """
    checks.non_negative("lr", lr)
    return of_step(lambda t: torch.zeros_like(t) + lr)


def constant_factor(lr: Scalar, factor: Scalar = 1 / 3, total_iters: int = 5) -> Schedule:
    """Begin with `lr * factor` for `total_iters` steps, then stay at `lr` (`ConstantLR`).

    >>> constant_factor(1.0, factor=0.5, total_iters=2)(torch.arange(4))
    tensor([0.5000, 0.5000, 1.0000, 1.0000], dtype=torch.float64)
    """
    checks.non_negative("lr", lr)
    checks.fraction("factor", factor)
    checks.non_negative_int("total_iters", total_iters)

    def rate(t: Tensor) -> Tensor:
        full = torch.zeros_like(t) + lr
        return torch.where(t < total_iters, full * factor, full)

    return of_step(rate)


def linear(
    lr: Scalar, start_factor: Scalar = 1 / 3, end_factor: Scalar = 1.0, total_iters: int = 5
) -> Schedule:
    """Go from `lr * start_factor` to `lr * end_factor` in `total_iters` steps (`LinearLR`).

    As in torch a factor is at most 1 and the first is not 0; `polynomial` and `warmup` may begin
    at 0.

    >>> linear(1.0, start_factor=0.5, total_iters=2)(torch.arange(4))
    tensor([0.5000, 0.7500, 1.0000, 1.0000], dtype=torch.float64)
    """
    checks.non_negative("lr", lr)
    checks.positive("start_factor", start_factor)
    checks.fraction("start_factor", start_factor)
    checks.fraction("end_factor", end_factor)
    checks.count("total_iters", total_iters)
    return of_step(
        lambda t: lr * line(start_factor, end_factor, torch.clamp(t / total_iters, max=1))
    )


def polynomial(
    lr: Scalar, total_iters: int = 5, power: Scalar = 1.0, end_lr: Scalar = 0.0
) -> Schedule:
    """Go from `lr` to `end_lr`, up or down, in `total_iters` steps (`PolynomialLR`).

    ::

        end_lr + (lr - end_lr) (1 - min(t, total_iters) / total_iters)^power

    torch's has no `end_lr`; with it this is optax's `polynomial_schedule`.

    >>> polynomial(1.0, total_iters=4, power=2.0)(torch.tensor([0, 2, 4, 9]))
    tensor([1.0000, 0.2500, 0.0000, 0.0000], dtype=torch.float64)
    >>> polynomial(0.0, total_iters=4, end_lr=1.0)(torch.tensor([0, 2, 4, 9]))
    tensor([0.0000, 0.5000, 1.0000, 1.0000], dtype=torch.float64)
    """
    checks.non_negative("lr", lr)
    checks.count("total_iters", total_iters)
    checks.non_negative("power", power)
    checks.non_negative("end_lr", end_lr)

    def rate(t: Tensor) -> Tensor:
        left = 1 - torch.clamp(t / total_iters, max=1)
        return end_lr + (lr - end_lr) * left**power

    return of_step(rate)


def exponential(lr: Scalar, gamma: Scalar) -> Schedule:
    """Multiply by `gamma` at every step: `lr * gamma**t` (`ExponentialLR`).

    >>> exponential(1.0, gamma=0.5)(torch.arange(3))
    tensor([1.0000, 0.5000, 0.2500], dtype=torch.float64)
    """
    checks.non_negative("lr", lr)
    checks.non_negative("gamma", gamma)
    return of_step(lambda t: lr * gamma**t)


def step(lr: Scalar, step_size: int, gamma: Scalar = 0.1) -> Schedule:
    """Multiply by `gamma` every `step_size` steps: `lr * gamma**floor(t / step_size)` (`StepLR`).

    >>> step(1.0, step_size=10)(torch.tensor([9, 10, 20]))
    tensor([1.0000, 0.1000, 0.0100], dtype=torch.float64)
    """
    checks.non_negative("lr", lr)
    checks.count("step_size", step_size)
    checks.non_negative("gamma", gamma)
    return of_step(lambda t: lr * gamma ** torch.floor(t / step_size))
