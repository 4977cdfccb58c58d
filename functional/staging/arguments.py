"""What `jit` sees of a call: static and donated arguments, numbers, and what a leaf is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import optree
import torch
from torch import Tensor

from .. import tree
from ..border import argument_name

Call = tuple[tuple[Any, ...], dict[str, Any]]


class Signature(NamedTuple):
    """A function, and which of its arguments `jit` treats in a special way.

    A set holds positions and names alike: an argument may be passed either way.
    """

    fun: Callable[..., Any]
    name: str
    static: frozenset[int | str]
    donated: frozenset[int | str]


def signature(
    fun: Callable[..., Any],
    static_argnums: int | Iterable[int] | None,
    static_argnames: str | Iterable[str] | None,
    donate_argnums: int | Iterable[int] | None,
) -> Signature:
    """Resolve `jit`'s options against the signature of `fun`."""
    parameters = _parameters(fun)
    static = _both(parameters, static_argnums, static_argnames, "static_argnums")
    donated = _both(parameters, donate_argnums, None, "donate_argnums")
    if static & donated:
        raise ValueError(
            f"jit: arguments {sorted(map(str, static & donated))} are static and donated."
        )
    name = getattr(fun, "__qualname__", type(fun).__qualname__)
    return Signature(fun, name, static, donated)


def split_static(names: Signature, call: Call) -> tuple[Call, tuple[tuple[int | str, Typed], ...]]:
    """Take the static arguments out of a call; an empty subtree stands in for each."""
    if not names.static:
        return call, ()
    args, kwargs = call
    places = [place for place in (*range(len(args)), *kwargs) if place in names.static]
    static = {place: args[place] if isinstance(place, int) else kwargs[place] for place in places}
    for place, value in static.items():
        _check_hashable(names, place, value)
    return _replace(call, dict.fromkeys(places)), tuple(
        (place, Typed(value)) for place, value in static.items()
    )


def with_static(
    fun: Callable[..., Any], static: tuple[tuple[int | str, Typed], ...]
) -> Callable[..., Any]:
    """Return `fun` with the static arguments put back in their places."""
    if not static:
        return fun
    values = {place: typed.value for place, typed in static}

    def call(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = _replace((args, kwargs), values)
        return fun(*args, **kwargs)

    return call


def _replace(call: Call, values: Mapping[int | str, Any]) -> Call:
    args, kwargs = call
    return (
        tuple(values.get(place, value) for place, value in enumerate(args)),
        {place: values.get(place, value) for place, value in kwargs.items()},
    )


class Typed:
    """A static value, equal only to one of the same type: `1`, `1.0` and `True` are three keys."""

    __slots__ = ("identity", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        self.identity = _identity(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Typed) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)


def as_tensors(names: Signature, leaves: Sequence[Any], structure: tree.Structure) -> list[Tensor]:
    """Turn Python numbers among the leaves of a call into 0-d tensors that widen nothing.

    A number takes the widest floating (or signed integer) dtype among the tensors beside it, and
    torch's default where there is none.

    Raises
    ------
    TypeError
        A leaf is neither a tensor nor a number; the message names its path.
    """
    if all(type(leaf) is Tensor for leaf in leaves):
        return list(leaves)
    dtypes = {leaf.dtype for leaf in leaves if isinstance(leaf, Tensor)}
    real = {dtype.to_real() for dtype in dtypes if dtype.is_floating_point or dtype.is_complex}
    floating = _widest(real, torch.get_default_dtype())
    integer = _widest(dtypes & {torch.int32, torch.int64}, torch.int64)
    for index, leaf in enumerate(leaves):
        if not isinstance(leaf, (Tensor, bool, int, float, complex)):
            raise TypeError(_untraceable(names, leaf, structure.accessors()[index]))
    return [
        leaf if isinstance(leaf, Tensor) else _from_number(leaf, floating, integer)
        for leaf in leaves
    ]


def leaf_name(names: Signature, accessor: optree.PyTreeAccessor) -> str:
    """Return what a user calls a leaf of `(args, kwargs)`: `params['conv1']['weight']`."""
    kind, place = accessor[0].entry, accessor[1].entry
    rest = optree.PyTreeAccessor(accessor[2:])
    return rest.codify(_argument_name(names, place) if kind == 0 else place)


def donated_leaves(names: Signature, structure: tree.Structure) -> list[int]:
    """Return which leaves of `(args, kwargs)` belong to donated arguments."""
    if not names.donated:
        return []
    return [
        index
        for index, accessor in enumerate(structure.accessors())
        if accessor[1].entry in names.donated
    ]


def _parameters(fun: Callable[..., Any]) -> tuple[str, ...]:
    try:
        parameters = inspect.signature(fun).parameters.values()
    except (TypeError, ValueError):
        return ()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(parameter.name for parameter in parameters if parameter.kind in positional)


def _both(
    parameters: tuple[str, ...],
    argnums: int | Iterable[int] | None,
    argnames: str | Iterable[str] | None,
    option: str,
) -> frozenset[int | str]:
    """Return positions together with the names that stand at them, and names with positions."""
    numbers = [argnums] if isinstance(argnums, int) else list(argnums or ())
    names = [argnames] if isinstance(argnames, str) else list(argnames or ())
    places: set[int | str] = set(names)
    places |= {parameters.index(name) for name in names if name in parameters}
    for number in numbers:
        place = number + len(parameters) if number < 0 else number
        if not isinstance(number, int) or place < 0:
            raise ValueError(f"jit: {option}={argnums!r} does not fit arguments {parameters}.")
        places |= {place} | ({parameters[place]} if place < len(parameters) else set())
    return frozenset(places)


def _check_hashable(names: Signature, place: int | str, value: Any) -> None:
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"jit({names.name}): static argument {_argument_name(names, place)} must be hashable, "
            f"got {type(value).__name__}. Use a tuple or a frozen dataclass."
        ) from None
    if isinstance(value, Tensor):
        raise TypeError(
            f"jit({names.name}): static argument {_argument_name(names, place)} is a tensor; "
            "tensors are traced. Leave it out of the static arguments."
        )


def _untraceable(names: Signature, leaf: Any, accessor: optree.PyTreeAccessor) -> str:
    argument = _argument_name(names, accessor[1].entry)
    return (
        f"jit({names.name}): {leaf_name(names, accessor)} is a {type(leaf).__name__}, which cannot "
        "be traced; tensors, numbers and containers of them can. If it is a setting, mark the "
        f"argument as static: static_argnames={argument!r}."
    )


def _from_number(number: complex, floating: torch.dtype, integer: torch.dtype) -> Tensor:
    if isinstance(number, bool):
        return torch.tensor(number)
    if isinstance(number, int):
        fits = torch.iinfo(integer).min <= number <= torch.iinfo(integer).max
        return torch.tensor(number, dtype=integer if fits else torch.int64)
    dtype = floating if isinstance(number, float) else floating.to_complex()
    return torch.tensor(number, dtype=dtype)


def _argument_name(names: Signature, place: int | str) -> str:
    return argument_name(names.fun, place) if isinstance(place, int) else place


def _identity(value: Any) -> Hashable:
    if isinstance(value, float):
        return (float, value.hex())
    if isinstance(value, tuple):
        return (type(value), tuple(_identity(item) for item in value))
    return (type(value), value)


def _widest(dtypes: Iterable[torch.dtype], default: torch.dtype) -> torch.dtype:
    widest: torch.dtype | None = None
    for dtype in dtypes:
        widest = dtype if widest is None else torch.promote_types(widest, dtype)
    return default if widest is None else widest
