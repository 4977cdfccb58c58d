"""Replacing parts of a tree by name: JAX's `x.at[...].set(...)` for trees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .paths import Where, one_level, select
from .pytree import PyTree, unflatten


class At:
    """Places in a tree; see `tree.at`.

    >>> at({"a": 1, "b": {"c": 2}}, "b.c")
    <At 'b.c'>
    """

    def __init__(self, tree: PyTree, *where: Where) -> None:
        self._tree = tree
        self._places = select("tree.at", tree, where)

    def __repr__(self) -> str:
        """Show the names of the places."""
        return f"<At {', '.join(map(repr, self.names))}>"

    @property
    def names(self) -> list[str]:
        """The names of the places."""
        return [".".join(place) for place in self._places]

    def get(self) -> PyTree:
        """Return what stands at the place, of which there must be one.

        Raises
        ------
        ValueError
            There are several places, for which there is `get_all`, or two with one name.

        Examples
        --------
        >>> at({"encoder": {"weight": 1}, "head": 2}, "encoder").get()
        {'weight': 1}
        """
        found = self.get_all()
        if len(found) > 1:
            raise ValueError(
                f"tree.at: expected one place to get, there are {self.names}; use get_all()."
            )
        (value,) = found.values()
        return value

    def get_all(self) -> dict[str, PyTree]:
        """Return what stands at each place, by name.

        Raises
        ------
        ValueError
            Two places have one name, for there are keys with dots, or both 1 and "1".

        Examples
        --------
        >>> at({"a": {"bias": 1}, "b": {"bias": 2}}, "**.bias").get_all()
        {'a.bias': 1, 'b.bias': 2}
        """
        found = {}

        def keep(name: str, value: PyTree) -> PyTree:
            if name in found:  # as {"a.b": 1, "a": {"b": 2}} has them
                raise ValueError(f"tree.at: two places are called {name!r}.")
            found[name] = value
            return value

        _replaced(self._tree, self._places, keep)
        return found

    def set(self, value: PyTree) -> PyTree:
        """Return the tree with `value`, a leaf or a subtree, at each place.

        >>> at({"encoder": 1, "head": {"weight": 2}}, "head").set([3, 4])
        {'encoder': 1, 'head': [3, 4]}
        """
        return _replaced(self._tree, self._places, lambda name, old: value)

    def apply(self, fun: Callable[[Any], Any]) -> PyTree:
        """Return the tree with `fun(value)` in the place of each value.

        >>> at({"a": {"bias": 1}, "b": {"bias": 2}}, "**.bias").apply(lambda bias: 10 * bias)
        {'a': {'bias': 10}, 'b': {'bias': 20}}
        """
        return _replaced(self._tree, self._places, lambda name, old: fun(old))


def at(tree: PyTree, *where: Where) -> At:
    """Return the places of `tree` that `where` selects, to get or to replace what stands there.

    Nothing is written: `set` and `apply` return a new tree, which shares with the old one all that
    was not replaced. Unlike in JAX the new value may have any shape or structure.

    Parameters
    ----------
    tree
        Any tree, of any nodes that optree knows.
    where
        As in `tree.mask`: names and patterns, of leaves or of whole subtrees, and functions of
        the name of a leaf. Below a place that is selected nothing else is.

    Raises
    ------
    TypeError, ValueError
        As in `tree.mask`. So a misspelt name is an error.

    Examples
    --------
    >>> import torch
    >>> params = {"conv1": {"weight": torch.ones(2)}, "head": {"weight": torch.ones(3)}}
    >>> at(params, "head.weight").set(torch.zeros(10))["head"]["weight"].shape
    torch.Size([10])
    >>> at(params, "*.weight").apply(lambda weight: -weight)["conv1"]
    {'weight': tensor([-1., -1.])}
    >>> at(params, "head.wieght")
    Traceback (most recent call last):
    ValueError: tree.at: nothing is called 'head.wieght'; there are 'head.weight'.
    """
    return At(tree, *where)


def _replaced(
    tree: PyTree, places: list[tuple[str, ...]], new: Callable[[str, PyTree], PyTree]
) -> PyTree:
    """Return `tree` with `new(name, value)` at each place."""

    def visit(node: PyTree, above: tuple[str, ...]) -> PyTree:
        level = one_level(node)
        if level is None:
            return node
        names, values, spec = level
        children = []
        for name, value in zip(names, values, strict=True):
            place = (*above, name)
            if place in chosen:
                children.append(new(".".join(place), value))
            else:
                children.append(visit(value, place) if place in inside else value)
        return unflatten(spec, children)

    chosen = set(places)
    inside = {place[:end] for place in places for end in range(1, len(place))}
    return visit(tree, ())
