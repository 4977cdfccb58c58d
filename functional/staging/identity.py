"""Whether two functions of two processes are the same function."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import types
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor


def digest(fun: Callable[..., Any]) -> str:
    """Return a digest of what a function does.

    It covers the bytecode of the function and of all it names or holds, as far as these are Python:
    functions in closures, globals, defaults, partials and dataclasses, and the numbers there.
    Tensors are values and not covered.

    >>> digest(lambda x: x + 1) == digest(lambda x: x + 1)
    True
    >>> digest(functools.partial(max, 1)) == digest(functools.partial(max, 2))
    False
    """
    text = "\n".join(_parts(fun, {}))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _parts(value: Any, seen: dict[int, int]) -> Iterator[str]:
    """Yield what tells a value from others, the same in every process."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        yield repr(value)
        return
    if isinstance(value, Tensor):
        yield "tensor"
        return
    if id(value) in seen:
        yield f"again {seen[id(value)]}"
        return
    seen[id(value)] = len(seen)
    yield type(value).__qualname__
    for part in _held(value):
        yield from _parts(part, seen)


def _held(value: Any) -> Iterator[Any]:
    """Yield what a value is made of."""
    if isinstance(value, types.FunctionType) and _is_of_a_library(value):
        yield f"{value.__module__}.{value.__qualname__}"
    elif isinstance(value, types.FunctionType):
        yield from (value.__code__, value.__defaults__, value.__kwdefaults__)
        yield from (content(cell) for cell in value.__closure__ or ())
        names = sorted(names_in(value.__code__))
        yield from (_plain(value.__globals__.get(name)) for name in names)
    elif isinstance(value, types.CodeType):
        yield from (value.co_name, value.co_code, value.co_varnames, value.co_names)
        yield from value.co_consts
    elif isinstance(value, types.MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, tuple | list):
        yield from value
    elif isinstance(value, set | frozenset):
        yield from sorted(map(repr, value))
    elif isinstance(value, dict):
        yield from (part for item in value.items() for part in item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from (getattr(value, field.name) for field in dataclasses.fields(value))
    elif hasattr(value, "__wrapped__"):
        yield value.__wrapped__
    else:
        yield getattr(value, "__qualname__", "")


def _is_of_a_library(fun: types.FunctionType) -> bool:
    """Say whether a function belongs to a package whose version says what it does."""
    return (fun.__module__ or "").partition(".")[0] in ("torch", "optree", "numpy")


def _plain(value: Any) -> Any:
    """Return a global if it is a function or a number; modules and classes say nothing by name."""
    kinds = (types.FunctionType, functools.partial, bool, int, float, str, tuple)
    return value if isinstance(value, kinds) else type(value).__qualname__


def names_in(code: types.CodeType) -> set[str]:
    """Return the names of globals and attributes in a function and those defined inside it."""
    nested = (names_in(const) for const in code.co_consts if isinstance(const, types.CodeType))
    return set(code.co_names).union(*nested)


def content(cell: types.CellType, empty: Any = None) -> Any:
    """Return what a captured variable holds, `empty` where it has not been bound yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return empty
