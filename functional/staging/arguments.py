"""What `jit` sees of a call: static and donated arguments, numbers, and what a leaf is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import optree
from torch import Tensor

from .. import tree
from ..border import argument_name, numbers_to_tensors

Call = tuple[tuple[Any, ...], dict[str, Any]]
StaticArguments = tuple[tuple[int | str, tree.Static], ...]


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
    static = _both(fun, static_argnums, static_argnames, "static_argnums")
    donated = _both(fun, donate_argnums, None, "donate_argnums")
    if static & donated:
        raise ValueError(
            f"jit: arguments {sorted(map(str, static & donated))} are static and donated."
        )
    name = getattr(fun, "__qualname__", type(fun).__qualname__)
    return Signature(fun, name, static, donated)


def split_static(names: Signature, call: Call) -> tuple[Call, StaticArguments]:
    """Take the static arguments out of a call; an empty subtree stands in for each."""
    if not names.static:
        return call, ()
    args, kwargs = call
    places = [place for place in (*range(len(args)), *kwargs) if place in names.static]
    static = {place: args[place] if isinstance(place, int) else kwargs[place] for place in places}
    for place, value in static.items():
        _check_static(names, place, value)
    return _replace(call, dict.fromkeys(places)), tuple(
        (place, tree.Static(value)) for place, value in static.items()
    )


def with_static(fun: Callable[..., Any], static: StaticArguments) -> Callable[..., Any]:
    """Return `fun` with the static arguments put back in their places."""
    if not static:
        return fun
    values = {place: held.value for place, held in static}

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


def as_tensors(names: Signature, leaves: Sequence[Any], structure: tree.Structure) -> list[Tensor]:
    """Turn Python numbers among the leaves of a call into 0-d tensors that widen nothing.

    Raises
    ------
    TypeError
        A leaf is neither a tensor nor a number; the message names its path.
    """
    tensors: list[Tensor] = numbers_to_tensors(leaves)
    for index, leaf in enumerate(tensors):
        if not isinstance(leaf, Tensor):
            raise TypeError(_untraceable(names, leaf, structure.accessors()[index]))
    return tensors


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


def _both(
    fun: Callable[..., Any],
    argnums: int | Iterable[int] | None,
    argnames: str | Iterable[str] | None,
    option: str,
) -> frozenset[int | str]:
    """Return positions together with the names that stand at them, and names with positions."""
    numbers = [argnums] if isinstance(argnums, int) else list(argnums or ())
    names = [argnames] if isinstance(argnames, str) else list(argnames or ())
    positional, keywords, takes_more, takes_any_keyword = _parameters(fun)
    places: set[int | str] = set()
    for number in numbers:
        if not isinstance(number, int):
            raise TypeError(f"jit: {option}={argnums!r}: expected an int or a tuple of ints.")
        place = number + len(positional) if number < 0 else number
        if place < 0 or (place >= len(positional) and not takes_more):
            raise ValueError(f"jit: {option}={argnums!r} does not fit the arguments {positional}.")
        places |= {place} | set(positional[place : place + 1])
    for name in names:
        if name not in keywords and not takes_any_keyword:
            raise ValueError(f"jit: static_argnames={argnames!r}: there is no argument {name!r}.")
        places |= {name} | ({positional.index(name)} if name in positional else set())
    return frozenset(places)


def _parameters(fun: Callable[..., Any]) -> tuple[list[str], list[str], bool, bool]:
    """Return positional names, names usable as keywords, and whether there are `*` and `**`."""
    try:
        parameters = inspect.signature(fun).parameters.values()
    except (TypeError, ValueError):
        return [], [], True, True
    kinds = {parameter.kind for parameter in parameters}
    kind = inspect.Parameter
    positional = [
        p for p in parameters if p.kind in (kind.POSITIONAL_ONLY, kind.POSITIONAL_OR_KEYWORD)
    ]
    keywords = [p for p in parameters if p.kind in (kind.KEYWORD_ONLY, kind.POSITIONAL_OR_KEYWORD)]
    return (
        [parameter.name for parameter in positional],
        [parameter.name for parameter in keywords],
        kind.VAR_POSITIONAL in kinds,
        kind.VAR_KEYWORD in kinds,
    )


def _check_static(names: Signature, place: int | str, value: Any) -> None:
    try:
        hash(tree.Static(value))
    except TypeError as error:
        argument = _argument_name(names, place)
        raise TypeError(f"jit({names.name}): static argument {argument}: {error}") from None


def _untraceable(names: Signature, leaf: Any, accessor: optree.PyTreeAccessor) -> str:
    argument = _argument_name(names, accessor[1].entry)
    return (
        f"jit({names.name}): {leaf_name(names, accessor)} is a {type(leaf).__name__}, which cannot "
        "be traced; tensors, numbers and containers of them can. If it is a setting, mark the "
        f"argument as static: static_argnames={argument!r}."
    )


def _argument_name(names: Signature, place: int | str) -> str:
    return argument_name(names.fun, place) if isinstance(place, int) else place
