"""What a fault is, and how one is planted in an optimizer of `purefn.optim`."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import optim
from ...functional import tree
from ...optim import GradientTransformation
from ...optim.inspection import entries

#: A function of hyperparameters that returns a transformation.
Recipe = Callable[..., GradientTransformation]
#: Makes the context in which a wrong recipe is at work.
Plant = Callable[[], AbstractContextManager[Recipe]]

#: What torch.optim calls the recipes.
TORCH = {
    "adadelta": torch.optim.Adadelta,
    "adagrad": torch.optim.Adagrad,
    "adam": torch.optim.Adam,
    "adamax": torch.optim.Adamax,
    "adamw": torch.optim.AdamW,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "rmsprop": torch.optim.RMSprop,
    "rprop": torch.optim.Rprop,
    "sgd": torch.optim.SGD,
}


class Fault(NamedTuple):
    """A mistake in an optimizer, and where a check must place it.

    Attributes
    ----------
    rule
        The name of the recipe in `purefn.optim`.
    plant
        A context in which the wrong recipe, which it gives, is at work.
    property
        What the mistake breaks, in the words of `Counterexample.property`.
    step
        The earliest step at which it can show, None where there is no step.
    leaf
        The leaf at which it shows, None where it is the same at every leaf.
    itself
        Whether it shows even when the wrong recipe is its own reference.
    """

    rule: str
    plant: Plant
    property: str = "reference"
    step: int | None = 1
    leaf: str | None = None
    itself: bool = False

    def reference(self, wrong: Recipe) -> Any:
        """Return what to compare the wrong recipe with."""
        return functools.partial(wrong) if self.itself else TORCH[self.rule]


def substituted(rule: str, module: str, **wrong: Any) -> Plant:
    """Plant a fault by other functions in the place of some in a module of `purefn.optim`."""

    @contextlib.contextmanager
    def plant() -> Iterator[Recipe]:
        place = importlib.import_module(f"purefn.optim.{module}")
        right = {name: getattr(place, name) for name in wrong}
        for name, function in wrong.items():
            setattr(place, name, function)
        try:
            yield getattr(optim, rule)
        finally:
            for name, function in right.items():
                setattr(place, name, function)

    return plant


def rewritten(rule: str, wrong: Callable[..., GradientTransformation]) -> Plant:
    """Plant a fault by another recipe with the signature of the right one."""

    @contextlib.contextmanager
    def plant() -> Iterator[Recipe]:
        yield functools.wraps(getattr(optim, rule))(wrong)

    return plant


def changed(rule: str, change: Callable[[GradientTransformation], GradientTransformation]) -> Plant:
    """Plant a fault around the transformation that the right recipe returns."""

    @contextlib.contextmanager
    def plant() -> Iterator[Recipe]:
        right = getattr(optim, rule)

        @functools.wraps(right)
        def recipe(*args: Any, **hyperparameters: Any) -> GradientTransformation:
            return change(right(*args, **hyperparameters))

        yield recipe

    return plant


class Step(NamedTuple):
    """What a right update was given and what it returned."""

    grads: Any
    before: Any
    params: Any
    updates: Any
    after: Any


def after(rule: str, function: Callable[[Step], tuple[Any, Any]]) -> Plant:
    """Plant a fault that makes other updates and another state of the right ones."""

    def change(right: GradientTransformation) -> GradientTransformation:
        def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
            made = right.update(updates, state, params, **extra)
            return function(Step(updates, state, params, *made))

        return GradientTransformation(right.init, update)

    return changed(rule, change)


def leaves(rule: str, function: Callable[[Tensor], Tensor]) -> Plant:
    """Plant a fault that changes every leaf of the updates by `function`."""
    return after(rule, lambda step: (tree.map(function, step.updates), step.after))


def elements(rule: str, function: Callable[[Tensor, Tensor], Tensor]) -> Plant:
    """Plant a fault that changes the updates by `function` of them and the gradients."""
    return after(rule, lambda step: (tree.map(function, step.updates, step.grads), step.after))


def part(state: Any, name: str) -> Any:
    """Return the first part of a state that has a name; None if none has."""
    return next((entry.value for entry in entries(state) if entry.name == name), None)


def with_part(state: Any, name: str, function: Callable[[Any], Any]) -> Any:
    """Return a state with `function` of every leaf in the parts that have a name."""
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        held = {
            field: tree.map(function, value) if field == name else value
            for field, value in zip(state._fields, state, strict=True)
        }
        return type(state)(**held)
    if isinstance(state, tuple):
        return tuple([with_part(inner, name, function) for inner in state])
    return state
