"""How far to go along a direction: a search for the strong Wolfe conditions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...functional import while_loop

#: Of the decrease that the first slope promises, the part that a point must reach.
SUFFICIENT_DECREASE = 1e-4
#: Of the first slope, the part that may be left.
CURVATURE = 0.9


class Point(NamedTuple):
    """A point on a line: how far it is, the value there, the gradient and the slope."""

    step: Tensor
    value: Tensor
    gradient: Tensor
    slope: Tensor


class Line(NamedTuple):
    """What is searched: where it starts, how it is evaluated, and when to give up.

    `evaluate(step)` returns a `Point`; one with a NaN in its value or slope counts as infinitely
    high, so that it is never the result. At most `max_steps` points (a 0-d integer tensor) are
    tried after the first, and none when the interval is narrower than `width`.
    """

    start: Point
    evaluate: Callable[[Tensor], Point]
    max_steps: Tensor
    width: Tensor

    def at(self, step: Tensor) -> Point:
        """Return the point at `step`."""
        point = self.evaluate(step)
        unusable = point.value.isnan() | point.slope.isnan()
        value = torch.where(unusable, torch.full_like(point.value, torch.inf), point.value)
        return point._replace(value=value)

    def rises(self, point: Point) -> Tensor:
        """Say whether `point` lies above the line of sufficient decrease."""
        start = self.start
        return point.value > start.value + SUFFICIENT_DECREASE * point.step * start.slope

    def is_flat(self, point: Point) -> Tensor:
        """Say whether the slope at `point` is small enough."""
        return point.slope.abs() <= -CURVATURE * self.start.slope


class _Bracket(NamedTuple):
    """Two ends of an interval with a point to be found, and how it came about."""

    first: Point
    second: Point
    first_is_low: Tensor
    is_found: Tensor
    is_cramped: Tensor  # the last trial was near an end
    steps: Tensor

    @property
    def low(self) -> Point:
        return _choose(self.first_is_low, self.first, self.second)

    @property
    def high(self) -> Point:
        return _choose(self.first_is_low, self.second, self.first)


def strong_wolfe(line: Line, step: Tensor) -> tuple[Point, Tensor]:
    """Return a point of `line` that meets the strong Wolfe conditions, and how many were evaluated.

    ::

        f(t) <= f(0) + 1e-4 t f'(0)    and    |f'(t)| <= 0.9 |f'(0)|

    Trials grow from `step` until they enclose such a point (Nocedal & Wright 2006, algorithm 3.5);
    the interval then shrinks around it (3.6). Where the trials run out, the lowest end is returned,
    which may be the start. Choices in the margin are those of torch.optim.LBFGS.
    """
    bracket = while_loop(
        lambda bracket: _goes_on(line, bracket),
        lambda bracket: _zoom(line, bracket),
        _enclose(line, step),
    )
    return bracket.low, bracket.steps + 1


class _Trial(NamedTuple):
    previous: Point
    newest: Point
    steps: Tensor


def _enclose(line: Line, step: Tensor) -> _Bracket:
    """Return the first interval between trials, of which each is longer than the one before."""

    def has_risen(trial: _Trial) -> Tensor:
        above = trial.newest.value >= trial.previous.value
        return line.rises(trial.newest) | ((trial.steps > 1) & above)

    def goes_on(trial: _Trial) -> Tensor:
        newest = trial.newest
        ends = has_risen(trial) | line.is_flat(newest) | (newest.slope >= 0)
        return (trial.steps < line.max_steps) & ~ends

    def lengthened(trial: _Trial) -> _Trial:
        last, newest = trial.previous.step, trial.newest.step
        bounds = newest + 0.01 * (newest - last), 10 * newest
        step = _minimum_of_cubic(trial.previous, trial.newest, *bounds)
        return _Trial(trial.newest, line.at(step), trial.steps + 1)

    start = _Trial(line.start, line.at(step), torch.zeros_like(line.max_steps))
    trial = while_loop(goes_on, lengthened, start)
    exhausted = trial.steps >= line.max_steps
    is_found = ~exhausted & ~has_risen(trial) & line.is_flat(trial.newest)
    first = _choose(exhausted, line.start, _choose(is_found, trial.newest, trial.previous))
    return _Bracket(
        first,
        trial.newest,
        first_is_low=first.value <= trial.newest.value,
        is_found=is_found,
        is_cramped=torch.zeros_like(is_found),
        steps=trial.steps,
    )


def _goes_on(line: Line, bracket: _Bracket) -> Tensor:
    is_narrow = (bracket.second.step - bracket.first.step).abs() < line.width
    return ~bracket.is_found & (bracket.steps < line.max_steps) & ~is_narrow


def _zoom(line: Line, bracket: _Bracket) -> _Bracket:
    """Try a point inside of `bracket` and put it in the place of one end."""
    low, high = bracket.low, bracket.high
    step, is_cramped = _trial_inside(bracket)
    new = line.at(step)
    is_worse = line.rises(new) | (new.value >= low.value)
    is_found = ~is_worse & line.is_flat(new)
    turns = ~is_worse & ~is_found & (new.slope * (high.step - low.step) >= 0)
    high = _choose(is_worse, new, _choose(turns, low, high))
    low = _choose(is_worse, low, new)
    first = _choose(bracket.first_is_low, low, high)
    second = _choose(bracket.first_is_low, high, low)
    first_is_low = torch.where(is_worse, first.value <= second.value, bracket.first_is_low)
    return _Bracket(first, second, first_is_low, is_found, is_cramped, bracket.steps + 1)


def _trial_inside(bracket: _Bracket) -> tuple[Tensor, Tensor]:
    """Return the next trial, and whether it is too near an end to be allowed so twice."""
    ends = bracket.first.step, bracket.second.step
    left, right = torch.minimum(*ends), torch.maximum(*ends)
    step = _minimum_of_cubic(bracket.first, bracket.second, left, right)
    margin = 0.1 * (right - left)
    is_near = torch.minimum(right - step, step - left) < margin
    must_move = is_near & (bracket.is_cramped | (step >= right) | (step <= left))
    nearer_right = (step - right).abs() < (step - left).abs()
    moved = torch.where(nearer_right, right - margin, left + margin)
    return torch.where(must_move, moved, step), is_near & ~must_move


def _minimum_of_cubic(x: Point, y: Point, lower: Tensor, upper: Tensor) -> Tensor:
    """Return the minimum, in `[lower, upper]`, of the cubic with the values and slopes of `x`, `y`.

    It is (Nocedal & Wright 2006, equation 3.59), or the middle where the cubic has none.
    """
    ordered = x.step <= y.step
    left, right = _choose(ordered, x, y), _choose(ordered, y, x)
    width = right.step - left.step
    d1 = x.slope + y.slope - 3 * (x.value - y.value) / (x.step - y.step)
    square = d1**2 - x.slope * y.slope
    d2 = square.clamp(min=0).sqrt()
    minimum = right.step - width * ((right.slope + d2 - d1) / (right.slope - left.slope + 2 * d2))
    exists = (square >= 0) & minimum.isfinite()
    return torch.where(exists, minimum.clamp(lower, upper), (lower + upper) / 2)


def _choose(condition: Tensor, x: Point, y: Point) -> Point:
    return Point(*[torch.where(condition, a, b) for a, b in zip(x, y, strict=True)])
