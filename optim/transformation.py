"""The algebra: what an optimizer is, how two become one, how updates reach parameters."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from ..functional import tree
from . import checks
from .execution import Memory
from .leafwise import Rule, Step, leafwise, take

__all__ = ["EmptyState", "GradientTransformation", "apply_updates", "chain", "identity"]

PyTree = tree.PyTree
#: What a transformation carries from one update to the next: a pytree of tensors.
State = Any


class Update(Protocol):
    """The type of `GradientTransformation.update`."""

    def __call__(
        self, updates: PyTree, state: State, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, State]:
        """Return the transformed updates and the next state."""


class GradientTransformation(NamedTuple):
    """A pair of pure functions that turns gradients into the step that parameters take.

    Attributes
    ----------
    init
        `init(params) -> state`.
    update
        `update(updates, state, params=None, **extra) -> (updates, state)`. Gradients go in, and
        what `apply_updates` adds to the parameters comes out. `params` are the parameters before
        the step; `extra` is for transformations that ask for more (a loss value, say), and the
        others ignore it.

    Examples
    --------
    >>> import torch
    >>> halve = GradientTransformation(
    ...     init=lambda params: EmptyState(),
    ...     update=lambda updates, state, params=None, **extra: (
    ...         tree.map(lambda update: update / 2, updates), state))
    >>> halve.update({"w": torch.tensor(3.0)}, EmptyState())
    ({'w': tensor(1.5000)}, EmptyState())
    """

    init: Callable[[PyTree], State]
    update: Update


class EmptyState(NamedTuple):
    """The state of a transformation that remembers nothing."""


def stateless(
    update: Callable[[PyTree, PyTree | None], PyTree], name: str
) -> GradientTransformation:
    """Make a transformation of `update(updates, params) -> updates`, which remembers nothing."""

    def init(params: PyTree) -> EmptyState:
        checks.trainable(params)
        return EmptyState()

    def update_and_state(
        updates: PyTree, state: EmptyState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, EmptyState]:
        checks.state(name, state, EmptyState)
        return update(updates, params), state

    return GradientTransformation(init, update_and_state)


def elementwise(
    init: Callable[[PyTree], State], step: Callable[[State, PyTree | None], Step]
) -> GradientTransformation:
    """Make a transformation that treats every leaf alone: `step(state, params)` says how.

    Several in a row are one pass over the leaves: `chain` makes one step of theirs.

    >>> import torch
    >>> halve = elementwise(
    ...     init=lambda params: EmptyState(),
    ...     step=lambda state, params: Step([Rule(lambda g: g / 2, reads={})], lambda: state))
    >>> halve.update({"w": torch.tensor(3.0)}, EmptyState())
    ({'w': tensor(1.5000)}, EmptyState())
    """
    return GradientTransformation(init, _Elementwise(step))


class _Elementwise:
    """The `update` of an elementwise transformation."""

    __name__ = "update"  # what errors call it

    def __init__(self, step: Callable[[State, PyTree | None], Step]) -> None:
        self.step = step
        self.memory = Memory()

    def __call__(
        self, updates: PyTree, state: State, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, State]:
        return take(self.step(state, params), updates, self.memory)


class Aggregation:
    """The `update` of a transformation that makes gradients of something else: a sum and its bound.

    It comes first in a chain, and itself sees that what it makes matches the parameters.
    """

    __name__ = "update"  # what errors call it

    def __init__(self, update: Update) -> None:
        self.update = update

    def __call__(
        self, updates: Any, state: State, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, State]:
        return self.update(updates, state, params, **extra)


def stateless_elementwise(
    rule: Callable[[PyTree | None], Rule], name: str
) -> GradientTransformation:
    """Make an elementwise transformation that remembers nothing of `rule(params)`."""

    def init(params: PyTree) -> EmptyState:
        checks.trainable(params)
        return EmptyState()

    def step(state: EmptyState, params: PyTree | None) -> Step:
        checks.state(name, state, EmptyState)
        return Step([rule(params)], lambda: state)

    return elementwise(init, step)


def identity() -> GradientTransformation:
    """Return the transformation that leaves gradients as they are.

    >>> identity().update({"w": 1.0}, EmptyState())
    ({'w': 1.0}, EmptyState())
    """
    return stateless(lambda updates, params: updates, "identity")


def chain(*transformations: GradientTransformation) -> GradientTransformation:
    """Apply transformations one after the other, the first to the gradients themselves.

    The state is the tuple of their states. `params` and extra arguments go to each.

    Raises
    ------
    TypeError
        An argument is not a `GradientTransformation`, or, in `update`, the state is not of this
        chain.
    ValueError
        In `update`, a gradient has not the structure, shape, dtype or device of its parameter.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.chain(optim.clip_by_global_norm(1.0), optim.sgd(lr=0.1))
    >>> params = {"w": torch.tensor([0.0, 0.0])}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": torch.tensor([30.0, 40.0])}, state, params)
    >>> updates
    {'w': tensor([-0.0600, -0.0800])}
    """
    for position, part in enumerate(transformations):
        if not isinstance(part, GradientTransformation):
            raise TypeError(
                f"chain: argument {position} is {part!r}, expected a GradientTransformation "
                "such as optim.sgd(lr=0.1)."
            )

    def init(params: PyTree) -> tuple[State, ...]:
        return tuple([part.init(params) for part in transformations])

    runs = _runs([part.update for part in transformations])
    if len(runs) == 1 and isinstance(runs[0][1], _Elementwise):
        return GradientTransformation(init, runs[0][1])
    aggregates = bool(runs) and isinstance(runs[0][1], Aggregation)

    def update(
        updates: PyTree, state: tuple[State, ...], params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, tuple[State, ...]]:
        checks.chain_state(state, len(transformations))
        if params is not None and not aggregates:
            checks.same_leaves({"params": params, "updates": updates})
        new_state: list[State] = []
        for places, run in runs:
            if isinstance(run, _Elementwise):
                updates, states = run(updates, state[places], params)
                new_state += states
            else:
                updates, part_state = run(updates, state[places.start], params, **extra)
                new_state.append(part_state)
        return updates, tuple(new_state)

    return GradientTransformation(init, Aggregation(update) if aggregates else update)


def _runs(updates: Sequence[Update]) -> list[tuple[slice, Update]]:
    """Return the places of each part of a chain and its update; elementwise neighbours are one."""
    runs: list[tuple[slice, Update]] = []
    for is_elementwise, group in itertools.groupby(
        enumerate(updates), lambda part: isinstance(part[1], _Elementwise)
    ):
        places, parts = zip(*group, strict=True)
        if is_elementwise:
            joined = _joined(places[0], [part.step for part in parts])
            runs.append((slice(places[0], places[-1] + 1), _Elementwise(joined)))
        else:
            runs += [(slice(i, i + 1), part) for i, part in zip(places, parts, strict=True)]
    return runs


def _joined(
    first: int, steps: Sequence[Callable[[State, PyTree | None], Step]]
) -> Callable[[State, PyTree | None], Step]:
    """Join the steps of elementwise parts of a chain, of which the first has the place `first`."""

    def step(state: tuple[State, ...], params: PyTree | None) -> Step:
        checks.chain_state(state, len(steps))
        taken = [part(own, params) for part, own in zip(steps, state, strict=True)]
        rules = [
            rule._replace(reads={_inside(name, i): read for name, read in rule.reads.items()})
            for i, part in enumerate(taken, start=first)
            for rule in part.rules
        ]

        def next_state(*written: PyTree) -> tuple[State, ...]:
            rest = iter(written)
            return tuple([part.state(*itertools.islice(rest, _written_by(part))) for part in taken])

        return Step(rules, next_state, params)

    return step


def _inside(name: str, place: int) -> str:
    """Return what `state.mu` of a part is called in the state of its chain: `state[1].mu`."""
    return f"state[{place}]{name.removeprefix('state')}" if name.startswith("state") else name


def _written_by(step: Step) -> int:
    return sum(rule.writes for rule in step.rules)


def apply_updates(params: PyTree, updates: PyTree) -> PyTree:
    """Return `params + updates`, each leaf in its parameter's dtype.

    An update of another dtype is added in the wider of the two; only the sum is rounded.

    Raises
    ------
    TypeError
        A leaf is no tensor of floating-point or complex numbers.
    ValueError
        `updates` differs from `params` in structure, in the shape or device of a leaf, or in
        whether it is real, complex or integer; the message names the path.

    Examples
    --------
    >>> import torch
    >>> apply_updates({"w": torch.tensor([1.0])}, {"w": torch.tensor([-0.25])})
    {'w': tensor([0.7500])}
    """
    trees = {"params": params, "updates": updates}
    return leafwise(_moved, trees, same_dtypes=False, memory=_APPLIED)


def _moved(param: Tensor, update: Tensor) -> Tensor:
    return param + update


_APPLIED = Memory()
