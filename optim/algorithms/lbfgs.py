"""L-BFGS: Newton's method with curvature from the last steps."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...functional import cond, tree, value_and_grad, while_loop
from .. import checks
from ..leafwise import Scalar, stored, working
from ..moments import first_step
from ..schedules import Schedule
from ..transformation import GradientTransformation
from ..whole_tree import rate_at
from .lbfgs_memory import LbfgsState, direction_of, empty_memory, remember
from .line_search import Line, Point, strong_wolfe

__all__ = ["LbfgsState", "lbfgs"]


class _Limits(NamedTuple):
    """When an update ends."""

    max_iter: int
    max_eval: int
    tolerance_grad: Scalar
    tolerance_change: Scalar


class _Place(NamedTuple):
    """Where an update has come to."""

    params: tree.PyTree
    value: Tensor
    gradient: Tensor
    state: LbfgsState
    iterations: Tensor  # of this update
    evaluations: Tensor
    goes_on: Tensor


#: `evaluate(params)` returns the loss and its gradient as a vector.
_Evaluate = Callable[[tree.PyTree], tuple[Tensor, Tensor]]


def lbfgs(
    lr: Scalar | Schedule = 1,
    max_iter: int = 20,
    max_eval: int | None = None,
    tolerance_grad: Scalar = 1e-7,
    tolerance_change: Scalar = 1e-9,
    history_size: int = 100,
    line_search_fn: str | None = None,
) -> GradientTransformation:
    """Return L-BFGS, `torch.optim.LBFGS` (Liu & Nocedal 1989; Nocedal & Wright 2006, chapter 7).

    ::

        s = t d,  y = g_new - g             remembered where y.s > 1e-10
        d = -H g                            H = gamma I, corrected by each pair (s, y) in turn
        theta <- theta + t d                t = lr, or by the strong Wolfe conditions

    One update makes up to `max_iter` iterations, as torch's `step(closure)` does, so it is given
    the loss: `update(grads, state, params, value_fn=loss)`, where `loss(params)` returns a 0-d
    tensor and `grads` are its gradients at `params`. With `value=` too, the loss at `params`, one
    evaluation is spared. `max_iter=1` without a line search needs no `value_fn`. Under `jit` the
    iterations are a loop on the device; reverse derivatives through it do not exist.

    Half precision is computed with in float32, mixed dtypes in the widest. With the line search no
    step is taken to a point where the loss or its slope is NaN: such a point counts as infinitely
    high (torch may go there). A NaN in `grads`, or without a line search in any gradient on the
    way, makes the parameters NaN.

    Parameters
    ----------
    lr
        How far to go along a direction at first (at the very first `lr min(1, 1 / |g|_1)`): a
        number, a 0-d tensor or a schedule of the number of updates.
    max_iter, max_eval
        The most iterations, and evaluations of the loss, that an update makes; `max_eval` is
        `max_iter * 5 // 4` when None. A line search may exceed it by one.
    tolerance_grad
        An update ends where no element of the gradient exceeds this.
    tolerance_change
        An update ends where the loss, or every parameter, changes by less.
    history_size
        How many pairs are remembered, at least 1. The state holds `2 history_size n` numbers.
    line_search_fn
        None or "strong_wolfe".

    Raises
    ------
    TypeError
        An argument is of the wrong kind; in `update`, `value_fn` is no function.
    ValueError
        An argument is out of its range; in `update`, `params` or `value_fn` is missing, or a
        gradient or the state does not match.

    Examples
    --------
    >>> import torch
    >>> import purefn.functional as pf
    >>> from purefn import optim
    >>> def rosenbrock(x):
    ...     return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
    >>> optimizer = optim.lbfgs(line_search_fn="strong_wolfe")
    >>> x = torch.tensor([-1.5, 1.0], dtype=torch.float64)
    >>> state = optimizer.init(x)
    >>> for _ in range(3):
    ...     updates, state = optimizer.update(pf.grad(rosenbrock)(x), state, x, value_fn=rosenbrock)
    ...     x = optim.apply_updates(x, updates)
    >>> x
    tensor([1.0000, 1.0000], dtype=torch.float64)
    """
    checks.learning_rate("lr", lr)
    checks.count("max_iter", max_iter)
    max_eval = max_iter * 5 // 4 if max_eval is None else max_eval
    checks.count("max_eval", max_eval)
    checks.scalar("tolerance_grad", tolerance_grad)
    checks.scalar("tolerance_change", tolerance_change)
    checks.count("history_size", history_size)
    if line_search_fn not in (None, "strong_wolfe"):
        raise ValueError(
            f"line_search_fn: expected None or 'strong_wolfe', got {line_search_fn!r}."
        )
    limits = _Limits(max_iter, max_eval, tolerance_grad, tolerance_change)
    searches = line_search_fn is not None

    def init(params: tree.PyTree) -> LbfgsState:
        checks.trainable(params)
        return empty_memory(_vector(params), first_step(params), history_size)

    def update(
        updates: tree.PyTree,
        state: LbfgsState,
        params: tree.PyTree | None = None,
        *,
        value_fn: Callable[[tree.PyTree], Tensor] | None = None,
        value: Tensor | None = None,
        **extra: Any,
    ) -> tuple[tree.PyTree, LbfgsState]:
        checks.state("lbfgs", state, LbfgsState)
        checks.given("lbfgs", params)
        checks.same_leaves({"params": params, "updates": updates})
        gradient = _vector(updates)
        _check_memory(state, gradient)
        _check_value_fn(value_fn, needed=searches or max_iter > 1)
        if value is None and max_iter + searches > 1:
            value = value_fn(params)  # type: ignore[misc]
        start = _start(params, value, gradient, state, limits)
        iterate = functools.partial(
            _iterate,
            evaluate=_evaluation(value_fn),
            rate=rate_at(lr, state.count),
            limits=limits,
            searches=searches,
        )
        end = while_loop(lambda place: place.goes_on, iterate, start)
        moves = tree.map(torch.sub, end.params, params)
        evaluations = state.evaluations + end.evaluations
        return moves, end.state._replace(count=state.count + 1, evaluations=evaluations)

    return GradientTransformation(init, update)


# ------------------------------------------------------------------------------------- an iteration


def _start(
    params: tree.PyTree,
    value: Tensor | None,
    gradient: Tensor,
    state: LbfgsState,
    limits: _Limits,
) -> _Place:
    zero = torch.zeros_like(state.count)
    return _Place(
        params,
        gradient.new_zeros(()) if value is None else value.to(gradient.dtype),
        gradient,
        state,
        iterations=zero,
        evaluations=zero + 1,
        goes_on=~(_largest(gradient) <= limits.tolerance_grad),
    )


def _iterate(
    place: _Place, evaluate: _Evaluate, rate: Scalar, limits: _Limits, searches: bool
) -> _Place:
    """Choose a direction, and go along it where it leads down."""
    gradient, state = place.gradient, remember(place.state, place.gradient)
    direction = direction_of(state, gradient)
    is_first = state.iterations == 0
    shortened = gradient.abs().sum().reciprocal().clamp(max=1)
    step = (torch.where(is_first, shortened, torch.ones_like(shortened)) * rate).to(gradient.dtype)
    slope = gradient.dot(direction)
    state = state._replace(
        iterations=state.iterations + 1, direction=direction, step_size=step, gradient=gradient
    )
    place = place._replace(state=state, iterations=place.iterations + 1)
    move = _search if searches else _go
    next_place: _Place = cond(
        slope > -limits.tolerance_change,
        lambda place: place._replace(goes_on=torch.zeros_like(place.goes_on)),
        lambda place: _moved_on(place, move(place, slope, evaluate, limits), limits),
        place,
    )
    return next_place


def _go(place: _Place, slope: Tensor, evaluate: _Evaluate, limits: _Limits) -> _Place:
    """Go along the direction as far as the learning rate says."""
    state = place.state
    there = place._replace(params=_add(place.params, state.step_size * state.direction))

    def look(place: _Place) -> _Place:
        value, gradient = evaluate(place.params)
        return place._replace(value=value, gradient=gradient, evaluations=place.evaluations + 1)

    if limits.max_iter > 1:  # where the last iteration ends nobody looks
        there = cond(place.iterations < limits.max_iter, look, lambda place: place, there)
    return there


def _search(place: _Place, slope: Tensor, evaluate: _Evaluate, limits: _Limits) -> _Place:
    """Go along the direction to a point that meets the strong Wolfe conditions."""
    params, state = place.params, place.state

    def at(step: Tensor) -> Point:
        value, gradient = evaluate(_add(params, step * state.direction))
        return Point(step, value, gradient, gradient.dot(state.direction))

    start = Point(torch.zeros_like(slope), place.value, place.gradient, slope)
    width = limits.tolerance_change / _largest(state.direction)
    line = Line(start, at, max_steps=limits.max_eval - place.evaluations, width=width)
    point, evaluations = strong_wolfe(line, state.step_size)
    return place._replace(
        params=_add(params, point.step * state.direction),
        value=point.value,
        gradient=point.gradient,
        state=state._replace(step_size=point.step),
        evaluations=place.evaluations + evaluations,
    )


def _moved_on(before: _Place, place: _Place, limits: _Limits) -> _Place:
    """Return `place` and whether another iteration follows."""
    step = place.state.step_size * place.state.direction
    ends = (
        (place.iterations >= limits.max_iter)
        | (place.evaluations >= limits.max_eval)
        | (_largest(place.gradient) <= limits.tolerance_grad)
        | (_largest(step) <= limits.tolerance_change)
        | ((place.value - before.value).abs() < limits.tolerance_change)
    )
    return place._replace(goes_on=~ends)


# -------------------------------------------------------------------------------- trees and vectors


def _evaluation(value_fn: Callable[[tree.PyTree], Tensor] | None) -> _Evaluate:
    """Return the loss with its gradient as a vector; without a loss nothing calls it."""

    def evaluate(params: tree.PyTree) -> tuple[Tensor, Tensor]:
        leaves, structure = tree.flatten(params)

        def of_real_numbers(views: list[Tensor]) -> Tensor:
            pairs = zip(views, leaves, strict=True)
            given = [stored(view, leaf.dtype) for view, leaf in pairs]
            return value_fn(tree.unflatten(structure, given))  # type: ignore[misc]

        value, grads = value_and_grad(of_real_numbers)([working(leaf) for leaf in leaves])
        gradient = _vector(grads)
        return value.detach().to(gradient.dtype), gradient

    return evaluate


def _vector(params: tree.PyTree) -> Tensor:
    """Return all leaves as one real vector, in the widest of the dtypes that are computed in."""
    leaves = [working(leaf).reshape(-1) for leaf in tree.leaves(params)]
    if not leaves:
        return torch.zeros(0)
    dtype = functools.reduce(torch.promote_types, [leaf.dtype for leaf in leaves])
    return torch.cat([leaf.to(dtype) for leaf in leaves])


def _add(params: tree.PyTree, vector: Tensor) -> tree.PyTree:
    """Return `params + vector`."""
    leaves, structure = tree.flatten(params)
    views = [working(leaf) for leaf in leaves]
    parts = vector.split([view.numel() for view in views])
    return tree.unflatten(
        structure,
        [
            stored(view + part.reshape(view.shape), leaf.dtype)
            for leaf, view, part in zip(leaves, views, parts, strict=True)
        ],
    )


def _largest(vector: Tensor) -> Tensor:
    return vector.abs().amax() if len(vector) else vector.new_zeros(())


# ------------------------------------------------------------------------------------------- checks


def _check_memory(state: LbfgsState, gradient: Tensor) -> None:
    if state.gradient.shape != gradient.shape or state.gradient.dtype != gradient.dtype:
        raise ValueError(
            f"lbfgs.update: the state remembers vectors of {len(state.gradient)} numbers, "
            f"{state.gradient.dtype}, but the parameters have {len(gradient)}, {gradient.dtype}. "
            "Make a state of these parameters with init(params)."
        )


def _check_value_fn(value_fn: Any, *, needed: bool) -> None:
    if value_fn is None and needed:
        raise ValueError(
            "lbfgs.update needs the loss, a function of the parameters alone: call "
            "update(grads, state, params, value_fn=loss)."
        )
    if value_fn is not None and not callable(value_fn):
        raise TypeError(f"value_fn: expected a function of the parameters, got {value_fn!r}.")
