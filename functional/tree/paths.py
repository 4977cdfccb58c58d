"""Choosing places in a tree by name.

A name is torch's: keys, indices and fields joined by dots, `layer4.0.conv1.weight`. A pattern
stands for all places whose names it matches, entry by entry as in a shell: `*` for any characters,
`?`, `[0-9]` and `[!a]` for one; and the entry `**` for any number of entries, or none.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterator, Sequence

import optree

from .pytree import NAMESPACE, PyTree, leaves_with_path, structure, unflatten

#: A pattern of names, or a function that says of a leaf's name whether that leaf is meant.
Where = str | Callable[[str], bool]


def mask(tree: PyTree, *where: Where) -> PyTree:
    """Return a tree of booleans: for each leaf whether its name matches, or lies below a match.

    It is what `tree.partition`, `optim.masked`, `optim.freeze` and the like select leaves by.

    Parameters
    ----------
    tree
        Any tree; its leaves are not looked at.
    where
        Patterns, such as `"encoder"` (everything in it), `"**.bias"` or `"layer[34].*.conv1"`, and
        functions of the name of a leaf. A leaf is selected where one of them does.

    Raises
    ------
    TypeError
        `where` holds something else, or a function returns something else than True or False.
    ValueError
        There is no `where`, or one of them selects nothing; the message names what is similar.

    Examples
    --------
    Freezing by name: the frozen leaves do not move, and no gradient of theirs is computed.

    >>> import torch
    >>> import purefn.functional as pf
    >>> from purefn.functional import tree
    >>> params = {"encoder": {"weight": torch.tensor(3.0)}, "head": {"weight": torch.tensor(2.0)}}
    >>> mask(params, "encoder")
    {'encoder': {'weight': True}, 'head': {'weight': False}}
    >>> frozen, trainable = tree.partition(params, mask(params, "encoder"))
    >>> def loss(trainable):
    ...     params = tree.combine(trainable, frozen)
    ...     return params["encoder"]["weight"] * params["head"]["weight"]
    >>> pf.grad(loss)(trainable)
    {'encoder': {'weight': None}, 'head': {'weight': tensor(3.)}}
    """
    chosen = set(select("tree.mask", tree, where))
    paths = [path for path, _ in leaves_with_path(tree)]
    names = [tuple(map(str, path)) for path in paths]
    flags = [any(name[:end] in chosen for end in range(1, len(name) + 1)) for name in names]
    return unflatten(structure(tree), flags)


def select(caller: str, tree: PyTree, where: Sequence[Where]) -> list[tuple[str, ...]]:
    """Return the places that `where` selects, each its entries as strings, outermost ones only.

    >>> select("at", {"a": {"weight": 1}, "b": {"weight": 2, "bias": 3}}, ["**.weight", "b"])
    [('a', 'weight'), ('b',)]
    """
    if not where:
        raise ValueError(f"{caller}: expected a pattern of names such as '**.bias', got none.")
    places = dict(_places(tree, ()))
    found: set[tuple[str, ...]] = set()
    for one in where:
        matches = [
            place for place, is_leaf in places.items() if _is_match(caller, one, place, is_leaf)
        ]
        if not matches:
            raise ValueError(f"{caller}: {_nothing(one, ['.'.join(place) for place in places])}")
        found.update(matches)
    return [
        place
        for place in places
        if place in found and not any(place[:end] in found for end in range(1, len(place)))
    ]


def one_level(tree: PyTree) -> tuple[list[str], list[PyTree], optree.PyTreeSpec] | None:
    """Return names and values of what `tree` holds, and what puts it together; None for a leaf.

    >>> one_level({"a": [1], "b": None})[:2]
    (['a', 'b'], [[1], None])
    """
    values, spec = optree.tree_flatten(
        tree, lambda node: node is not tree, none_is_leaf=True, namespace=NAMESPACE
    )
    if spec.is_leaf():
        return None
    names = [
        str(entry.field if isinstance(entry, optree.NamedTupleEntry) else entry.entry)
        for (entry,) in spec.accessors()
    ]
    return names, values, spec


def _places(tree: PyTree, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Yield every place below the root, containers before what they hold, and if it is a leaf."""
    level = one_level(tree)
    for name, value in zip(*level[:2], strict=True) if level else ():
        place = (*above, name)
        yield place, value is not None and one_level(value) is None
        yield from _places(value, place)


def _is_match(caller: str, where: Where, place: tuple[str, ...], is_leaf: bool) -> bool:
    name = ".".join(place)
    if isinstance(where, str):
        return name == where or _fits(place, where.split("."))
    if not callable(where):
        raise TypeError(
            f"{caller}: expected a pattern of names or a function of the name of a leaf, got "
            f"{where!r}."
        )
    flag = is_leaf and where(name)
    if not isinstance(flag, bool):
        raise TypeError(f"{caller}: expected True or False for {name!r}, got {flag!r}.")
    return flag


def _fits(place: tuple[str, ...], entries: Sequence[str]) -> bool:
    """Say whether a place has the entries of a pattern."""
    if not entries or not place:
        return not place and all(entry == "**" for entry in entries)
    if entries[0] == "**":
        return _fits(place, entries[1:]) or _fits(place[1:], entries)
    return fnmatch.fnmatchcase(place[0], entries[0]) and _fits(place[1:], entries[1:])


def _nothing(where: Where, names: Sequence[str]) -> str:
    """Say that nothing is selected, and what has a similar name."""
    if not isinstance(where, str):
        return "the function selects no leaf."
    near = difflib.get_close_matches(where, names, n=3) or list(names[:3])
    return f"nothing is called {where!r}; there are {', '.join(map(repr, near)) or 'no names'}."
