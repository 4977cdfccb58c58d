"""What a state holds, by name: `get`, `get_all`, `replace`.

A state is a nesting of tuples (of a `chain`), dicts (of a `named_chain` or `partition`) and
NamedTuples, whose fields are the names. A field `inner_state` or `inner_states` holds the state of
a wrapped transformation, which is looked into; a field `hyperparams` or `scheduled` is a dict of
values by name. Everything else is a value, in which nothing is looked for: the names in a tree of
parameters are not mistaken for those of the state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..functional import tree

__all__ = ["get", "get_all", "replace"]

#: The fields that hold the states of other transformations, and values by name.
_STATES, _NAMED = ("inner_state", "inner_states"), ("hyperparams", "scheduled")


class Entry(NamedTuple):
    """A value in a state: where it is, what it is called, what it is."""

    path: str
    name: str
    value: Any


def get(state: Any, name: str) -> Any:
    """Return what the state of an optimizer, however it was composed, holds under `name`.

    Where several parts of the state use the name, give a path that `get_all` lists instead.

    Raises
    ------
    KeyError
        Nothing has that name, or several things have; the message lists what there is.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.chain(optim.clip_by_global_norm(1.0), optim.adam())
    >>> state = optimizer.init({"w": torch.ones(2)})
    >>> get(state, "mu"), get(state, "state[1][0].count")
    ({'w': tensor([0., 0.])}, tensor(0))
    """
    return _the_one(state, name).value


def get_all(state: Any, name: str | None = None) -> dict[str, Any]:
    """Return all that a state holds, or all of it called `name`, by its path.

    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.chain(optim.trace(0.9), optim.trace(0.5))
    >>> state = optimizer.init({"w": torch.ones(2)})
    >>> list(get_all(state))
    ['state[0].count', 'state[0].trace', 'state[1].count', 'state[1].trace']
    >>> get_all(state, "count")
    {'state[0].count': tensor(0), 'state[1].count': tensor(0)}
    """
    return {
        entry.path: entry.value for entry in entries(state) if name is None or entry.name == name
    }


def replace(state: Any, /, **values: Any) -> Any:
    """Return `state` with other values under the given names; `state` itself stays as it is.

    A number becomes a tensor like the one that it replaces, so that a compiled step is not traced
    again; a tensor must already be like it. Two parts of a state with the same name are told
    apart by paths: `replace(state, **{"state[0].count": 0})`.

    Raises
    ------
    KeyError
        Nothing has that name, or several things have.
    TypeError
        A value is neither a tensor nor a real number.
    ValueError
        A value differs in structure, shape, dtype or device from the one that it replaces, or a
        schedule sets this one at every step.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.inject_hyperparams(optim.sgd)(lr=0.1)
    >>> state = optimizer.init({"w": torch.ones(2)})
    >>> get(replace(state, lr=0.01), "lr")
    tensor(0.0100, dtype=torch.float64)
    """
    new = {}
    for name, value in values.items():
        entry = _the_one(state, name)
        if ".scheduled[" in entry.path:
            raise ValueError(
                f"{name}: a schedule sets it at every step; to change it by hand, build the "
                "optimizer with a number in place of the schedule."
            )
        new[entry.path] = _like(entry, value)
    return _mapped(state, lambda entry: new.get(entry.path, entry.value))


def entries(state: Any) -> Iterator[Entry]:
    """Yield everything that a state holds under a name."""
    found: list[Entry] = []

    def note(entry: Entry) -> Any:
        found.append(entry)
        return entry.value

    _mapped(state, note)
    yield from found


def _mapped(state: Any, function: Callable[[Entry], Any], path: str = "state") -> Any:
    """Return `state` with `function(entry)` in the place of each entry's value."""
    if isinstance(state, Mapping):
        return type(state)(  # type: ignore[call-arg]
            {key: _mapped(value, function, f"{path}[{key!r}]") for key, value in state.items()}
        )
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        return type(state)(
            *[
                _mapped_field(name, value, function, f"{path}.{name}")
                for name, value in zip(state._fields, state, strict=True)
            ]
        )
    if isinstance(state, tuple):
        parts = enumerate(state)
        return tuple([_mapped(value, function, f"{path}[{index}]") for index, value in parts])
    return state


def _mapped_field(name: str, value: Any, function: Callable[[Entry], Any], path: str) -> Any:
    if name in _STATES:
        return _mapped(value, function, path)
    if name in _NAMED:
        return {key: function(Entry(f"{path}[{key!r}]", key, held)) for key, held in value.items()}
    return function(Entry(path, name, value))


def _the_one(state: Any, name: str) -> Entry:
    known = list(entries(state))
    found = [entry for entry in known if name in (entry.name, entry.path)]
    if len(found) != 1:
        places = ", ".join([entry.path for entry in known]) or "nothing"
        raise KeyError(f"{name!r} names {len(found)} entries of the state, which holds: {places}.")
    return found[0]


def _like(entry: Entry, value: Any) -> Any:
    """Return `value` in the form of the value that it replaces."""
    place = [path.removeprefix("tree") for path in tree.path_strings(entry.value)]
    names = iter([entry.name + path for path in place])
    return tree.map(
        lambda old, new: _leaf_like(next(names), old, new),
        entry.value,
        value,
        names=(entry.path, entry.name),
    )


def _leaf_like(name: str, old: Tensor, new: Any) -> Tensor:
    if isinstance(new, Tensor):
        if (new.shape, new.dtype, new.device) != (old.shape, old.dtype, old.device):
            raise ValueError(f"{name}: expected {_described(old)}, got {_described(new)}.")
        return new
    if isinstance(new, bool) or not isinstance(new, int | float):
        raise TypeError(f"{name}: expected a number or a tensor, got {new!r}.")
    if old.ndim:
        raise ValueError(f"{name}: expected {_described(old)}, got the number {new}.")
    if isinstance(new, float) and not old.is_floating_point():
        raise TypeError(f"{name}: expected an int for {_described(old)}, got {new!r}.")
    return torch.full_like(old, new)


def _described(leaf: Tensor) -> str:
    return f"a tensor of shape {tuple(leaf.shape)}, {leaf.dtype}, on {leaf.device}"
