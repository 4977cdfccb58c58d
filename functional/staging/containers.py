"""Trees of a known structure taken apart and put together by functions written for it.

Flattening a tree whose structure is unknown costs more than all else that a call does. Here the
structure of the last call is taken for granted, written down as Python that takes the leaves out
and looks on the way whether the containers are the expected ones. What a program returns is put
together likewise, by one expression of literals.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import optree

from .. import tree

#: Returns the leaves of `(args, kwargs)`, or None where these have another structure.
Reader = Callable[[tuple[Any, ...], dict[str, Any]], list[Any] | None]
#: Returns the tree that holds the given leaves.
Builder = Callable[[Sequence[Any]], tree.PyTree]


def reader(structure: tree.Structure) -> Reader:
    """Return the reader of calls of this structure.

    What stands in the place of a leaf is returned as it is, be it a container. Where a container is
    neither dict, list, tuple nor NamedTuple, the tree is flattened and compared.

    >>> read = reader(tree.structure((({"w": 1, "b": (2, None)},), {"rate": 3})))
    >>> read(({"b": (5, None), "w": 6},), {"rate": 7})
    [5, 6, 7]
    >>> read(({"b": (5, 5), "w": 6},), {"rate": 7}) is None
    True
    """
    writer = _Writer()
    call, keywords = structure.children()
    if not (writer.visit(call, "args") and writer.visit(keywords, "kwargs")):
        return functools.partial(_flattened, structure)
    lines = "".join(f"        {line}\n" for line in writer.lines)
    source = (
        "def read(args, kwargs):\n"
        "    try:\n"
        f"{lines}"
        f"        return [{', '.join(writer.leaves)}]\n"
        "    except KeyError:\n"
        "        return None\n"
    )
    exec(source, writer.scope)
    read: Reader = writer.scope["read"]
    return read


def builder(structure: tree.Structure) -> Builder:
    """Return the function that puts leaves into a tree of this structure.

    >>> build = builder(tree.structure({"w": 1, "b": (2, None)}))
    >>> build([5, 6])
    {'w': 6, 'b': (5, None)}
    """
    writer = _Writer()
    expression = writer.build(structure.unflatten(map(_Place, range(structure.num_leaves))))
    if expression is None:
        return structure.unflatten
    names = "".join(f"l{place}, " for place in range(structure.num_leaves))
    take = f"    {names} = leaves\n" if names else ""
    exec(f"def build(leaves):\n{take}    return {expression}\n", writer.scope)
    build: Builder = writer.scope["build"]
    return build


class _Place(int):
    """Where a leaf stands in the row of leaves."""


def _flattened(
    structure: tree.Structure, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[Any] | None:
    leaves, found = tree.flatten((args, kwargs))
    return leaves if found == structure else None


class _Writer:
    """Writes the lines that check containers and the expressions that reach leaves."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.leaves: list[str] = []
        self.scope: dict[str, Any] = {}

    def visit(self, structure: tree.Structure, expression: str) -> bool:
        """Write what reads a subtree; say whether that can be done."""
        if structure.is_leaf():
            self.leaves.append(expression)
            return True
        kind = structure.type
        if kind is None or kind is type(None):
            self.lines.append(f"if {expression} is not None: return None")
            return True
        if kind not in (dict, list, tuple) and not optree.is_namedtuple_class(kind):
            return False
        name = f"t{len(self.scope)}"
        self.scope[name] = None
        entries = structure.entries()
        self.lines.append(f"{name} = {expression}")
        self.lines.append(
            f"if type({name}) is not {self.bind(kind)} or len({name}) != {len(entries)}: "
            "return None"
        )
        places = entries if kind is dict else range(len(entries))
        children = zip(places, structure.children(), strict=True)
        return all(self.visit(child, f"{name}[{self.key(place)}]") for place, child in children)

    def build(self, node: Any) -> str | None:
        """Return the expression that makes a subtree whose leaves are places, if there is one."""
        kind = type(node)
        if kind is _Place:
            return f"l{int(node)}"
        if node is None:
            return "None"
        if kind is dict:
            children = [self.build(child) for child in node.values()]
            keys = [self.key(key) for key in node]
            texts = [f"{key}: {child}" for key, child in zip(keys, children, strict=True)]
            return None if None in children else f"{{{', '.join(texts)}}}"
        if kind not in (list, tuple) and not optree.is_namedtuple_class(kind):
            return None
        children = [self.build(child) for child in node]
        if None in children:
            return None
        inside = "".join(f"{child}, " for child in children)
        if kind is list:
            return f"[{inside}]"
        return f"({inside})" if kind is tuple else f"{self.bind(kind)}({inside})"

    def key(self, place: Any) -> str:
        """Return the source of a key."""
        return repr(place) if type(place) in (str, int) else self.bind(place)

    def bind(self, value: Any) -> str:
        """Return a name for a value."""
        name = f"c{len(self.scope)}"
        self.scope[name] = value
        return name
