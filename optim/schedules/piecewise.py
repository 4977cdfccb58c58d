"""Rates that change at given steps."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .. import checks
from ..leafwise import Scalar
from .curves import Schedule, half_cosine, line, of_step

__all__ = ["multi_step", "piecewise_constant", "piecewise_interpolate"]

_CURVES = {"linear": line, "cosine": half_cosine}


def multi_step(lr: Scalar, milestones: Sequence[int], gamma: Scalar = 0.1) -> Schedule:
    """Multiply by `gamma` at each of the `milestones` (`MultiStepLR`).

    A milestone that stands there twice counts twice.

    >>> multi_step(1.0, milestones=[30, 80])(torch.tensor([29, 30, 80]))
    tensor([1.0000, 0.1000, 0.0100], dtype=torch.float64)
    """
    checks.non_negative("lr", lr)
    checks.non_negative("gamma", gamma)
    if not isinstance(milestones, Sequence):
        raise TypeError(f"milestones: expected a sequence of steps, got {milestones!r}.")
    for position, milestone in enumerate(milestones):
        checks.non_negative_int(f"milestones[{position}]", milestone)

    def rate(t: Tensor) -> Tensor:
        reached = t[..., None] >= torch.tensor(milestones, dtype=t.dtype, device=t.device)
        return lr * gamma ** reached.sum(-1).double()

    milestones = tuple(milestones)
    return of_step(rate)


def piecewise_constant(lr: Scalar, boundaries_and_scales: Mapping[int, Scalar]) -> Schedule:
    """Multiply by a factor of its own at each boundary (optax's `piecewise_constant_schedule`).

    Factors multiply: after several boundaries the rate is `lr` times all of theirs.

    >>> piecewise_constant(1.0, {100: 0.5, 200: 0.1})(torch.tensor([99, 100, 200]))
    tensor([1.0000, 0.5000, 0.0500], dtype=torch.float64)
    """
    checks.non_negative("lr", lr)
    scales = _sorted(boundaries_and_scales)

    def rate(t: Tensor) -> Tensor:
        value = torch.zeros_like(t) + lr
        for boundary, scale in scales:
            value = torch.where(t < boundary, value, value * scale)
        return value

    return of_step(rate)


def piecewise_interpolate(
    lr: Scalar, boundaries_and_scales: Mapping[int, Scalar], interpolate_type: str = "linear"
) -> Schedule:
    """Reach at each boundary the rate before it times its factor, and go there by a smooth way.

    `interpolate_type` is `"linear"` or `"cosine"` (optax's `piecewise_interpolate_schedule`).

    >>> piecewise_interpolate(1.0, {4: 0.1, 8: 0.01})(torch.tensor([0, 2, 4, 6, 8, 9]))
    tensor([1.0000, 0.5500, 0.1000, 0.0505, 0.0010, 0.0010], dtype=torch.float64)

    optax's one-cycle schedules, whose phases are a step longer than torch's, are

    >>> peak, steps, div, final_div = 1.0, 100, 25.0, 1e4
    >>> cosine_onecycle = piecewise_interpolate(
    ...     peak / div, {int(0.3 * steps): div, steps: 1 / (div * final_div)}, "cosine")
    >>> linear_onecycle = piecewise_interpolate(
    ...     peak / div, {int(0.3 * steps): div, int(0.85 * steps): 1 / div, steps: 1 / final_div})
    >>> linear_onecycle(torch.tensor([0, 30, 85]))
    tensor([0.0400, 1.0000, 0.0400], dtype=torch.float64)
    """
    checks.non_negative("lr", lr)
    checks.one_of("interpolate_type", interpolate_type, _CURVES)
    scales = _sorted(boundaries_and_scales)
    curve = _CURVES[interpolate_type]

    def rate(t: Tensor) -> Tensor:
        start = value = torch.zeros_like(t) + lr
        for (left, _), (right, scale) in itertools.pairwise([(0, 1.0), *scales]):
            x = torch.clamp((t - left) / (right - left), 0, 1)
            value = torch.where(t < left, value, curve(start, start * scale, x))
            start = start * scale
        return value

    return of_step(rate)


def _sorted(boundaries_and_scales: Mapping[int, Scalar]) -> list[tuple[int, Scalar]]:
    """Return the boundaries in order, each with its factor."""
    if not isinstance(boundaries_and_scales, Mapping):
        raise TypeError(
            f"boundaries_and_scales: expected a dict from steps to factors, such as {{100: 0.1}}, "
            f"got {boundaries_and_scales!r}."
        )
    for boundary, scale in boundaries_and_scales.items():
        checks.count("boundaries_and_scales: a boundary", boundary)
        checks.non_negative(f"boundaries_and_scales[{boundary}]", scale)
    return sorted(boundaries_and_scales.items(), key=lambda item: item[0])
