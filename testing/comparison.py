"""How far two runs may be apart, and where they part."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .problems import WIDE

#: The relative amount by which numbers are moved to see what rounding does: `disturbed`.
DISTURBANCE = 4 * torch.finfo(WIDE).eps
#: The relative error of a rule that is computed in another order than its reference.
_RELATIVE = 1e-11
#: How many times what such a disturbance changes may be the distance of two runs.
_NOISES = 32


class Difference(NamedTuple):
    """The first place at which two runs are further apart than they may be."""

    step: int
    leaf: int
    name: str
    element: tuple[int, ...]
    expected: float | complex
    got: float | complex
    tolerance: float
    also: tuple[str, ...]


def tolerances(expected: Tensor, disturbed: Tensor, start: Tensor | None) -> Tensor:
    """Return how far from `expected`, which has a row for each step, another run may be.

    That is 1e-11 of the largest magnitude so far, and a multiple of what disturbing the numbers by
    a few ulps has changed: more where the rule is ill-conditioned. Of parameters, with their
    `start`, it is 1e-11 of the way that they have gone, and a few ulps for every sum on it.
    """
    size = _so_far(expected.nan_to_num(0, 0, 0).abs())
    allowed = _RELATIVE * size
    if start is not None:
        size = size.maximum(start.abs())
        way = torch.cat([start[None], expected]).diff(dim=0).nan_to_num(0, 0, 0).abs().cumsum(0)
        steps = torch.arange(1, len(expected) + 1).reshape(-1, *[1] * (expected.ndim - 1))
        allowed = _RELATIVE * way + torch.finfo(WIDE).eps * (8 + 2 * steps) * size
    noise = _so_far((disturbed - expected).abs().nan_to_num(0, 0, 0))
    noise = _NOISES * smoothed(noise, size)
    return (allowed + noise).masked_fill(_so_far(noise > size / 10), torch.inf)  # no digit is left


def _so_far(rows: Tensor) -> Tensor:
    return rows.cummax(0).values if rows.numel() else rows  # torch has none of nothing


def smoothed(noise: Tensor, size: Tensor) -> Tensor:
    """Return `noise`, but at no element less, relative to its size, than at half of the leaf.

    By chance a disturbance changes nothing at some elements.
    """
    relative = _flat_rows(noise / size.clamp(min=torch.finfo(size.dtype).tiny))
    if not relative.shape[1]:
        return noise
    typical = relative.median(1).values.reshape(-1, *[1] * (noise.ndim - 1))
    return noise.maximum(typical * size)


def _flat_rows(values: Tensor) -> Tensor:
    return values.reshape(len(values), math.prod(values.shape[1:]))


def exceeds(got: Tensor, expected: Tensor, tolerance: Tensor) -> Tensor:
    """Say where `got` is further from `expected` than allowed, or one of them is not finite."""
    if not expected.is_floating_point() and not expected.is_complex():
        return got != expected  # of keys and flags there is no distance
    wrong = (got - expected).abs() > tolerance
    one_nan = got.isnan() != expected.isnan()
    infinite = (got.isinf() | expected.isinf()) & (got != expected)
    wrong = wrong | one_nan | (infinite & ~got.isnan() & ~expected.isnan())
    return wrong & ~tolerance.isinf()


def first_difference(
    got: Mapping[str, Sequence[Tensor]],
    expected: Mapping[str, Sequence[Tensor]],
    allowed: Mapping[str, Sequence[Tensor]],
) -> Difference | None:
    """Return the first step, and there the first leaf, at which anything differs.

    The arguments hold, for each name, leaves with a row for each step. Of several things that
    differ at one leaf, a part of the state is named before the parameters that it moves.
    """
    wrong = {
        (name, leaf): exceeds(*rows)
        for name in expected
        for leaf, rows in enumerate(zip(got[name], expected[name], allowed[name], strict=True))
    }
    steps = {place: _first_row(rows) for place, rows in wrong.items()}
    found = [(step, place) for place, step in steps.items() if step is not None]
    if not found:
        return None
    first = min(step for step, _ in found)
    places = [place for step, place in found if step == first]
    leaf = min(index for _, index in places)
    names = sorted({name for name, index in places if index == leaf}, key=_OUTCOMES.count)
    name = names[0]
    at = got[name][leaf][first], expected[name][leaf][first], allowed[name][leaf][first]
    element = _worst(*at, wrong[name, leaf][first])
    values = [_number(value[element]) for value in at]
    return Difference(
        first + 1, leaf, name, element, values[1], values[0], abs(values[2]), tuple(names[1:])
    )


#: What follows from the state, and is named after it.
_OUTCOMES = ("params", "updates")


def _first_row(wrong: Tensor) -> int | None:
    rows = _flat_rows(wrong).any(1).nonzero()
    return int(rows[0]) if len(rows) else None


def _worst(got: Tensor, expected: Tensor, allowed: Tensor, wrong: Tensor) -> tuple[int, ...]:
    """Return the index of the element that is furthest out."""
    excess = (got - expected).abs() / allowed.clamp(min=torch.finfo(WIDE).tiny)
    excess = torch.where(wrong, excess.nan_to_num(torch.inf).clamp(min=1e-300), 0.0)
    place = torch.unravel_index(excess.argmax(), excess.shape) if excess.ndim else ()
    return tuple(int(index) for index in place)


def _number(value: Tensor) -> float | complex:
    number = value.item()
    return complex(number) if isinstance(number, complex) else float(number)


def unjudged(
    expected: Sequence[Tensor], allowed: Sequence[Tensor], start: Sequence[Tensor]
) -> dict[int, str]:
    """Return the leaves of the parameters that a comparison says nothing of, and why.

    A leaf is judged where an element moves by more than a thousand times what it may be off.
    """
    reasons = {}
    for leaf, (rows, tolerance, before) in enumerate(zip(expected, allowed, start, strict=True)):
        if not before.numel() or not len(rows):
            continue
        moved = (rows - before).abs()
        if not rows.isfinite().any():
            reasons[leaf] = "is not finite from the first step on"
        elif not (moved.nan_to_num(0) > 0).any():
            reasons[leaf] = "never moves"
        elif not ((moved > 1000 * tolerance) & rows.isfinite()).any():
            reasons[leaf] = "moves by less than a thousand times the tolerance"
    return reasons
