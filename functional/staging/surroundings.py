"""What lies around a function and must not change while it is traced."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch

from .errors import TraceError
from .identity import content, names_in

_CONTAINERS = (list, dict, set, bytearray)


@contextlib.contextmanager
def unchanged(fun: Callable[..., Any], name: str) -> Iterator[None]:
    """Raise a `TraceError` if what runs within changes a variable that `fun` can see.

    Seen are the globals that the function names and the variables it captures, whether they are
    bound anew or are containers whose items change.
    """
    before = surroundings(fun)
    yield
    for variable in changes(before, surroundings(fun)):
        raise TraceError(
            f"jit({name}) changes {variable}, which is not its own. A jitted function's Python "
            "runs once, when it is traced, and not at the calls after: return the new value "
            "instead and let the caller keep it, or debug within `pf.disable_jit()`."
        )


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return the variables that two `surroundings` of one function differ in."""
    return [name for name in before if not _same(before[name], after.get(name, _MISSING))]


def surroundings(fun: Callable[..., Any]) -> dict[str, Any]:
    """Return the globals and captured variables of `fun`, containers as shallow copies."""
    function = getattr(fun, "__func__", fun)
    if not isinstance(function, types.FunctionType):
        return {}
    seen: dict[str, Any] = {}
    for name in sorted(names_in(function.__code__)):
        seen[f"the global `{name}`"] = _snapshot(function.__globals__.get(name, _MISSING))
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    for name, cell in cells:
        seen[f"the captured variable `{name}`"] = _snapshot(content(cell, _MISSING))
    return seen


_MISSING = object()


def _snapshot(value: Any) -> Any:
    return (value, value.copy()) if type(value) in _CONTAINERS else (value, None)


def _same(before: Any, after: Any) -> bool:
    if before is _MISSING or after is _MISSING:
        return before is after
    (old, items), (new, new_items) = before, after
    if old is not new:
        return _is_number(old) and _is_number(new) and old == new
    return items is None or _same_items(items, new_items)


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float | complex | str)


def _same_items(old: Any, new: Any) -> bool:
    """Compare two containers item by item; tensors by identity, for they have no plain equality."""
    if len(old) != len(new):
        return False
    if isinstance(old, dict):
        return old.keys() == new.keys() and all(_same_item(old[key], new[key]) for key in old)
    if isinstance(old, list):
        return all(map(_same_item, old, new))
    return bool(old == new)


def _same_item(old: Any, new: Any) -> bool:
    if old is new:
        return True
    if isinstance(old, torch.Tensor) or isinstance(new, torch.Tensor):
        return False
    return _is_number(old) and _is_number(new) and old == new
