"""Transformations that are applied at some steps only, as data decide."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...functional import control, tree
from .. import checks
from ..leafwise import Scalar
from ..moments import first_step
from ..pieces.clipping import global_norm
from ..transformation import GradientTransformation, State

__all__ = [
    "ApplyIfFiniteState",
    "ConditionallyMaskState",
    "ConditionallyTransformState",
    "SkipLargeUpdatesState",
    "apply_if_finite",
    "conditionally_mask",
    "conditionally_transform",
    "skip_large_updates",
]

#: `condition(step, **extra)` says whether to apply: a 0-d tensor of bool.
Condition = Callable[..., Tensor]


class ApplyIfFiniteState(NamedTuple):
    """How many updates in a row were not finite, whether the last was, how many were not in all."""

    notfinite_count: Tensor
    last_finite: Tensor
    total_notfinite: Tensor
    inner_state: State


class SkipLargeUpdatesState(NamedTuple):
    """The squared norm of the last updates, whether they were skipped, and how many were in all."""

    norm_squared: Tensor
    should_skip: Tensor
    total_skipped: Tensor
    inner_state: State


class ConditionallyTransformState(NamedTuple):
    """The state inside, and how many updates there have been (int64, 0-d)."""

    inner_state: State
    step: Tensor


class ConditionallyMaskState(NamedTuple):
    """The state inside, and how many updates there have been (int64, 0-d)."""

    inner_state: State
    step: Tensor


def apply_if_finite(
    inner: GradientTransformation, max_consecutive_errors: int
) -> GradientTransformation:
    """Skip a step whose gradients hold an infinity or NaN: updates are 0, the state inside stays.

    After `max_consecutive_errors` skipped steps in a row it gives up and applies what comes, until
    gradients are finite again: such a run shows that it has failed instead of standing still.

    Raises
    ------
    TypeError, ValueError
        `max_consecutive_errors` is no int, or negative.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.apply_if_finite(optim.sgd(lr=1.0), max_consecutive_errors=5)
    >>> state = optimizer.init({"w": torch.zeros(1)})
    >>> updates, state = optimizer.update({"w": torch.tensor([torch.inf])}, state)
    >>> updates, optim.get(state, "total_notfinite")
    ({'w': tensor([0.])}, tensor(1))
    """
    checks.transformation("apply_if_finite: inner", inner)
    checks.non_negative_int("max_consecutive_errors", max_consecutive_errors)

    def init(params: tree.PyTree) -> ApplyIfFiniteState:
        none = first_step(params)
        return ApplyIfFiniteState(none, none == 0, none.clone(), inner.init(params))

    def update(
        updates: tree.PyTree,
        state: ApplyIfFiniteState,
        params: tree.PyTree | None = None,
        **extra: Any,
    ) -> tuple[tree.PyTree, ApplyIfFiniteState]:
        checks.state("apply_if_finite", state, ApplyIfFiniteState)
        checks.trainable(updates, "updates")
        finite = all_finite(updates, like=state.last_finite)
        in_a_row = torch.where(finite, 0, state.notfinite_count + 1)
        updates, inner_state = update_if(
            finite | (in_a_row > max_consecutive_errors),
            functools.partial(inner.update, **extra),
            (updates, state.inner_state, params),
            otherwise=tree.zeros_like,
        )
        total = state.total_notfinite + ~finite
        return updates, ApplyIfFiniteState(in_a_row, finite, total, inner_state)

    return GradientTransformation(init, update)


def skip_large_updates(
    inner: GradientTransformation, max_squared_norm: Scalar
) -> GradientTransformation:
    """Skip a step whose gradients are large: updates are 0, the state inside stays.

    A step is taken where the square of the global norm is below `max_squared_norm`; one that
    is NaN is skipped. Around `multi_steps` it skips single microbatches, as if they had not been;
    inside it, whole steps.

    Raises
    ------
    ValueError
        `max_squared_norm` is not positive.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.skip_large_updates(optim.sgd(lr=1.0), max_squared_norm=4.0)
    >>> state = optimizer.init({"w": torch.zeros(1)})
    >>> updates, state = optimizer.update({"w": torch.tensor([3.0])}, state)
    >>> updates, optim.get(state, "norm_squared")
    ({'w': tensor([0.])}, tensor(9.))
    """
    checks.transformation("skip_large_updates: inner", inner)
    checks.positive("max_squared_norm", max_squared_norm)

    def init(params: tree.PyTree) -> SkipLargeUpdatesState:
        none = first_step(params)
        norm_squared = torch.zeros_like(global_norm(params))
        return SkipLargeUpdatesState(norm_squared, none > 0, none, inner.init(params))

    def update(
        updates: tree.PyTree,
        state: SkipLargeUpdatesState,
        params: tree.PyTree | None = None,
        **extra: Any,
    ) -> tuple[tree.PyTree, SkipLargeUpdatesState]:
        checks.state("skip_large_updates", state, SkipLargeUpdatesState)
        norm_squared = global_norm(updates) ** 2
        skip = ~(norm_squared < max_squared_norm)  # also where it is NaN
        updates, inner_state = update_if(
            ~skip,
            functools.partial(inner.update, **extra),
            (updates, state.inner_state, params),
            otherwise=tree.zeros_like,
        )
        total = state.total_skipped + skip
        return updates, SkipLargeUpdatesState(norm_squared, skip, total, inner_state)

    return GradientTransformation(init, update)


def conditionally_transform(
    inner: GradientTransformation,
    should_transform_fn: Condition,
    forward_extra_args: bool = False,
) -> GradientTransformation:
    """Transform updates at some steps; at the others they pass through, the state inside stays.

    Parameters
    ----------
    inner
        What is done at those steps.
    should_transform_fn
        A function of the number of earlier updates, an int64 0-d tensor, that returns a bool or a
        0-d tensor of bool.
    forward_extra_args
        Give it the extra arguments of `update` too.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> start_late = optim.conditionally_transform(optim.scale(10.0), lambda step: step >= 1)
    >>> state = start_late.init({"w": torch.ones(1)})
    >>> first, state = start_late.update({"w": torch.ones(1)}, state)
    >>> second, state = start_late.update({"w": torch.ones(1)}, state)
    >>> first, second
    ({'w': tensor([1.])}, {'w': tensor([10.])})
    """
    return _conditional(
        ConditionallyTransformState,
        "conditionally_transform",
        inner,
        should_transform_fn,
        forward_extra_args,
        otherwise=lambda updates: updates,
    )


def conditionally_mask(
    inner: GradientTransformation,
    should_transform_fn: Condition,
    forward_extra_args: bool = False,
) -> GradientTransformation:
    """Transform updates at some steps; at the others they are 0, and the state inside stays.

    Parameters are those of `conditionally_transform`.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> every_second = optim.conditionally_mask(optim.scale(10.0), lambda step: step % 2 == 0)
    >>> state = every_second.init({"w": torch.ones(1)})
    >>> first, state = every_second.update({"w": torch.ones(1)}, state)
    >>> second, state = every_second.update({"w": torch.ones(1)}, state)
    >>> first, second
    ({'w': tensor([10.])}, {'w': tensor([0.])})
    """
    return _conditional(
        ConditionallyMaskState,
        "conditionally_mask",
        inner,
        should_transform_fn,
        forward_extra_args,
        otherwise=tree.zeros_like,
    )


def _conditional(
    make_state: Callable[[State, Tensor], Any],
    who: str,
    inner: GradientTransformation,
    condition: Condition,
    forward_extra_args: bool,
    otherwise: Callable[[tree.PyTree], tree.PyTree],
) -> GradientTransformation:
    checks.transformation(f"{who}: inner", inner)
    checks.flag("forward_extra_args", forward_extra_args)
    if not callable(condition):
        raise TypeError(f"should_transform_fn: expected a function of the step, got {condition!r}.")

    def init(params: tree.PyTree) -> Any:
        return make_state(inner.init(params), first_step(params))

    def update(
        updates: tree.PyTree, state: Any, params: tree.PyTree | None = None, **extra: Any
    ) -> tuple[tree.PyTree, Any]:
        checks.state(who, state, make_state)  # type: ignore[arg-type]
        updates, inner_state = update_if(
            condition(state.step, **(extra if forward_extra_args else {})),
            functools.partial(inner.update, **extra),
            (updates, state.inner_state, params),
            otherwise,
        )
        return updates, make_state(inner_state, state.step + 1)

    return GradientTransformation(init, update)


def update_if(
    condition: Tensor | bool,
    update: Callable[..., tuple[tree.PyTree, State]],
    operands: tuple[tree.PyTree, State, tree.PyTree | None],
    otherwise: Callable[[tree.PyTree], tree.PyTree],
) -> tuple[tree.PyTree, State]:
    """Return what `update(updates, state, params)` does where the condition holds.

    Elsewhere updates are `otherwise(updates)` and the state is as it was. Only one is computed, but
    under `vmap`, where `torch.where` selects.
    """

    def apply(
        updates: tree.PyTree, state: State, params: tree.PyTree | None
    ) -> tuple[tree.PyTree, State]:
        new, state = update(updates, state, params)
        checks.same_leaves({"updates": updates, "updates of the inner transformation": new})
        return new, state

    def keep(
        updates: tree.PyTree, state: State, params: tree.PyTree | None
    ) -> tuple[tree.PyTree, State]:
        return otherwise(updates), state

    return choose(condition, apply, keep, operands)


def choose(
    condition: Tensor | bool,
    on_true: Callable[..., tuple[tree.PyTree, State]],
    on_false: Callable[..., tuple[tree.PyTree, State]],
    operands: tuple[tree.PyTree, State, tree.PyTree | None],
) -> tuple[tree.PyTree, State]:
    """Call one of two functions of updates, state and parameters, as data decide."""
    chosen: tuple[tree.PyTree, State] = control.cond(condition, on_true, on_false, *operands)
    return chosen


def all_finite(updates: tree.PyTree, like: Tensor) -> Tensor:
    """Return whether every element is finite, a 0-d tensor; it is where there is none."""
    finite = [leaf.isfinite().all().to(like.device) for leaf in tree.leaves(updates)]
    return torch.stack(finite).all() if finite else torch.ones_like(like, dtype=torch.bool)
