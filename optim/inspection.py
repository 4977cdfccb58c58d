"""What a state holds, by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["get"]

#: The fields that hold the states of other transformations, or values by name.
_STATES, _NAMED = ("inner_state", "inner_states"), ("hyperparams",)


def get(state: Any, name: str) -> Any:
    """Return what the state of an optimizer, however it was composed, holds under `name`.

    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.chain(optim.clip_by_global_norm(1.0), optim.adam())
    >>> get(optimizer.init({"w": torch.ones(2)}), "mu")
    {'w': tensor([0., 0.])}

    Raises
    ------
    KeyError
        Nothing has that name, or several things have; the message lists what there is.
    """
    found = [value for _, key, value in entries(state) if key == name]
    if len(found) != 1:
        places = ", ".join(sorted({f"{path}" for path, _, _ in entries(state)})) or "nothing"
        raise KeyError(f"{name!r} names {len(found)} entries of the state, which holds: {places}.")
    return found[0]


def entries(state: Any, path: str = "state") -> Iterator[tuple[str, str, Any]]:
    """Yield the path, the name and the value of everything that a state holds under a name."""
    if isinstance(state, dict):
        for key, value in state.items():
            yield from entries(value, f"{path}[{key!r}]")
    elif isinstance(state, tuple) and not hasattr(state, "_fields"):
        for index, value in enumerate(state):
            yield from entries(value, f"{path}[{index}]")
    elif isinstance(state, tuple):
        for name, value in zip(state._fields, state, strict=True):  # type: ignore[attr-defined]
            if name in _STATES:
                yield from entries(value, f"{path}.{name}")
            elif name in _NAMED:
                for key, named in value.items():
                    yield f"{path}.{name}[{key!r}]", key, named
            else:
                yield f"{path}.{name}", name, value
