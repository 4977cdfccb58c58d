"""Taking pytrees apart and putting them together again.

A pytree is any nesting of containers that optree knows: dicts, lists, tuples, NamedTuples, deques,
`tree.dataclass` classes and every node registered with optree. `None` is an empty subtree, and the
keys of a dict are visited in sorted order, so that two dicts with the same items are the same tree.
"""

from __future__ import annotations

import builtins
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import optree

#: The one optree namespace in which this library registers its nodes.
NAMESPACE = "purefn"

#: A nesting of containers; its leaves are whatever no container holds open.
PyTree = Any
Structure = optree.PyTreeSpec
Path = tuple[Any, ...]
IsLeaf = Callable[[Any], bool]


def flatten(tree: PyTree, is_leaf: IsLeaf | None = None) -> tuple[list[Any], Structure]:
    """Return the leaves of `tree` in order and the structure that puts them back.

    >>> leaves, structure = flatten({"b": 1, "a": (2, None)})
    >>> leaves
    [2, 1]
    >>> unflatten(structure, [20, 10])
    {'b': 10, 'a': (20, None)}
    """
    leaves, structure = optree.tree_flatten(tree, is_leaf, namespace=NAMESPACE)
    return leaves, structure


def unflatten(structure: Structure, leaves: Iterable[Any]) -> PyTree:
    """Return the tree of the given structure that holds `leaves` in order.

    >>> unflatten(structure({"b": 0, "a": [0, None]}), [1, 2])
    {'b': 2, 'a': [1, None]}
    """
    return optree.tree_unflatten(structure, leaves)


def leaves(tree: PyTree, is_leaf: IsLeaf | None = None) -> list[Any]:
    """Return the leaves of `tree` in order.

    >>> leaves({"w": 1, "b": [2, None]})
    [2, 1]
    """
    return flatten(tree, is_leaf)[0]


def structure(tree: PyTree, is_leaf: IsLeaf | None = None) -> Structure:
    """Return the structure of `tree`: comparable, hashable, without the leaves.

    >>> structure({"a": 1, "b": 2}) == structure({"b": 3, "a": 4})
    True
    """
    return flatten(tree, is_leaf)[1]


def leaves_with_path(tree: PyTree, is_leaf: IsLeaf | None = None) -> list[tuple[Path, Any]]:
    """Return `(path, leaf)` pairs; a path is the tuple of keys, indices and fields to the leaf.

    >>> leaves_with_path({"conv1": {"weight": 1.0}, "scale": [2.0]})
    [(('conv1', 'weight'), 1.0), (('scale', 0), 2.0)]
    """
    values, spec = flatten(tree, is_leaf)
    return list(zip([_path(accessor) for accessor in spec.accessors()], values, strict=True))


def path_strings(tree: PyTree, name: str = "tree", is_leaf: IsLeaf | None = None) -> list[str]:
    """Return for each leaf the expression that reaches it from a variable called `name`.

    >>> path_strings({"conv1": {"weight": 1.0}, "scale": [2.0]}, "params")
    ["params['conv1']['weight']", "params['scale'][0]"]
    """
    return [accessor.codify(name) for accessor in structure(tree, is_leaf).accessors()]


def map(  # noqa: A001 - JAX's name
    fun: Callable[..., Any],
    tree: PyTree,
    *rest: PyTree,
    is_leaf: IsLeaf | None = None,
    names: Sequence[str] = (),
) -> PyTree:
    """Apply `fun` to corresponding leaves of one or more trees.

    Every tree of `rest` has the structure of `tree`; where `tree` has a leaf it may have a whole
    subtree, which `fun` then receives. `names` are what an error calls the trees.

    Raises
    ------
    ValueError
        A tree of `rest` does not fit; the message names the path at which it differs.

    Examples
    --------
    >>> map(lambda p, g: p - g, {"w": 3, "b": 2}, {"w": 1, "b": 1})
    {'w': 2, 'b': 1}
    """
    values, spec = flatten(tree, is_leaf)
    columns = _columns(spec, tree, rest, names)
    return unflatten(spec, [fun(*row) for row in zip(values, *columns, strict=True)])


def map_with_path(
    fun: Callable[..., Any], tree: PyTree, *rest: PyTree, is_leaf: IsLeaf | None = None
) -> PyTree:
    """Like `map`, but `fun` receives the path of the leaf first.

    >>> map_with_path(lambda path, leaf: path[-1] == "weight", {"fc": {"weight": 1, "bias": 2}})
    {'fc': {'weight': True, 'bias': False}}
    """
    pairs, spec = leaves_with_path(tree, is_leaf), structure(tree, is_leaf)
    columns = _columns(spec, tree, rest, ())
    rows = zip(pairs, *columns, strict=True)
    return unflatten(spec, [fun(path, leaf, *others) for (path, leaf), *others in rows])


def reduce(fun: Callable[[Any, Any], Any], tree: PyTree, *initializer: Any) -> Any:
    """Fold the leaves of `tree` from left to right, from `initializer` where one is given.

    >>> reduce(lambda total, leaf: total + leaf, {"a": 1, "b": (2, 3)}, 0)
    6
    """
    return functools.reduce(fun, leaves(tree), *initializer)


def all(tree: PyTree) -> bool:  # noqa: A001 - JAX's name
    """Say whether every leaf is true; an empty tree is.

    >>> all({"a": True, "b": [True, False]})
    False
    """
    return builtins.all(leaves(tree))


def any(tree: PyTree) -> bool:  # noqa: A001 - the counterpart of `all`
    """Say whether some leaf is true; in an empty tree none is.

    >>> any({"a": True, "b": [True, False]})
    True
    """
    return builtins.any(leaves(tree))


def transpose(outer: Structure, inner: Structure, tree: PyTree) -> PyTree:
    """Turn a tree of `outer` structure holding `inner` trees inside out.

    >>> pairs = {"w": (1, 2), "b": (3, 4)}
    >>> transpose(structure({"w": 0, "b": 0}), structure((0, 0)), pairs)
    ({'w': 1, 'b': 3}, {'w': 2, 'b': 4})
    """
    subtrees = _flatten_up_to(outer, None, tree, "outer", "tree")
    rows = [_flatten_up_to(inner, None, subtree, "inner", "subtree") for subtree in subtrees]
    columns = [[row[i] for row in rows] for i in range(inner.num_leaves)]
    return unflatten(inner, [unflatten(outer, column) for column in columns])


def partition(tree: PyTree, mask: PyTree | Callable[[Path, Any], bool]) -> tuple[PyTree, PyTree]:
    """Split `tree` in two of the same shape: the leaves selected by `mask`, and the others.

    Each half has `None` where the other has a leaf. `mask` is a function of `(path, leaf)` or a
    tree of booleans, of which a leaf may stand for a whole subtree; `tree.mask` makes one of names.

    >>> trainable, frozen = partition({"a": 1, "b": 2}, {"a": True, "b": False})
    >>> trainable, frozen
    ({'a': 1, 'b': None}, {'a': None, 'b': 2})
    >>> combine(trainable, frozen)
    {'a': 1, 'b': 2}
    """
    values, spec = flatten(tree)
    flags = _flags(tree, mask)
    selected = [leaf if flag else None for leaf, flag in zip(values, flags, strict=True)]
    others = [None if flag else leaf for leaf, flag in zip(values, flags, strict=True)]
    return unflatten(spec, selected), unflatten(spec, others)


def combine(*trees: PyTree) -> PyTree:
    """Merge trees made by `partition`: at each place the first leaf that is not `None`.

    >>> combine({"a": None, "b": 2}, {"a": 1, "b": None})
    {'a': 1, 'b': 2}
    """
    if not trees:
        raise ValueError("tree.combine: expected at least one tree, got none.")
    flat = [optree.tree_flatten(tree, none_is_leaf=True, namespace=NAMESPACE) for tree in trees]
    for position, (_, spec) in enumerate(flat[1:], start=2):
        if spec != flat[0][1]:
            raise ValueError(f"tree.combine: {_unequal(flat[0][1], spec, f'tree {position}')}")
    merged = [
        next((leaf for leaf in row if leaf is not None), None)
        for row in zip(*[values for values, _ in flat], strict=True)
    ]
    return unflatten(flat[0][1], merged)


def _flags(tree: PyTree, mask: PyTree | Callable[[Path, Any], bool]) -> list[bool]:
    """Return for each leaf of `tree` whether `mask` selects it."""
    prefix, spec = flatten(mask)
    if spec.is_leaf() and callable(mask):
        flags = [mask(path, leaf) for path, leaf in leaves_with_path(tree)]
    else:
        (subtrees,) = _columns(spec, mask, (tree,), ("mask", "tree"))
        flags = [
            flag for flag, subtree in zip(prefix, subtrees, strict=True) for _ in leaves(subtree)
        ]
    for flag in flags:
        if not isinstance(flag, bool):
            raise TypeError(f"mask: expected True or False for each leaf, got {flag!r}.")
    return flags


def _path(accessor: optree.PyTreeAccessor) -> Path:
    return tuple(
        entry.field if isinstance(entry, optree.NamedTupleEntry) else entry.entry
        for entry in accessor
    )


def _columns(
    spec: Structure, tree: PyTree, rest: Sequence[PyTree], names: Sequence[str]
) -> list[list[Any]]:
    """Flatten each tree of `rest` as far as `spec`, the structure of `tree`, goes."""
    given = [*names, *(f"tree {position}" for position in range(len(names) + 1, len(rest) + 2))]
    return [
        _flatten_up_to(spec, tree, other, given[0], name)
        for other, name in zip(rest, given[1:], strict=True)
    ]


def _flatten_up_to(
    spec: Structure, tree: PyTree, other: PyTree, tree_name: str, other_name: str
) -> list[Any]:
    """Flatten `other` as far as `spec` goes, the structure of `tree` where that is at hand."""
    try:
        return spec.flatten_up_to(other)
    except ValueError as error:
        example = _example(spec) if tree is None else tree
        raise ValueError(_difference(example, other, tree_name, other_name)) from error


def _example(spec: Structure) -> PyTree:
    return unflatten(spec, ["*"] * spec.num_leaves)


def _difference(tree: PyTree, other: PyTree, tree_name: str, other_name: str) -> str:
    """Say at which path `other` stops having the structure of `tree`."""
    place, expected, found = _first_difference(tree, other, "")
    return (
        f"{other_name}{place} does not have the structure of {tree_name}{place}: "
        f"expected {expected}, found {found}."
    )


def _unequal(spec: Structure, other_spec: Structure, other_name: str) -> str:
    """Say where two structures differ; neither may go deeper than the other, unlike in `map`."""
    tree, other = _example(spec), _example(other_spec)
    if spec.is_prefix(other_spec):
        return _difference(other, tree, other_name, "tree 1")
    return _difference(tree, other, "tree 1", other_name)


def _first_difference(tree: PyTree, other: PyTree, place: str) -> tuple[str, str, str]:
    expected, found = _one_level(tree), _one_level(other)
    if expected is None or found is None or tree is None or other is None:
        return place, _describe(tree), _describe(other)
    (children, spec), (other_children, other_spec) = expected, found
    entries, other_entries = spec.entries(), other_spec.entries()
    if spec.type is not other_spec.type or entries != other_entries:
        missing = [entry for entry in entries if entry not in other_entries]
        extra = [entry for entry in other_entries if entry not in entries]
        if spec.type is other_spec.type and (missing or extra):
            return place, f"entries {entries}", f"entries {other_entries}"
        return place, _describe(tree), _describe(other)
    accessors = spec.accessors()
    for child, other_child, accessor in zip(children, other_children, accessors, strict=True):
        child_spec = structure(child)
        try:
            child_spec.flatten_up_to(other_child)
        except ValueError:
            return _first_difference(child, other_child, place + accessor.codify(""))
    return place, f"{spec}", f"{other_spec}"


def _one_level(tree: PyTree) -> tuple[list[Any], Structure] | None:
    """Flatten the outermost container only; None for a leaf."""
    values, spec = optree.tree_flatten(tree, lambda node: node is not tree, namespace=NAMESPACE)
    return None if spec.is_leaf() else (values, spec)


def _describe(tree: PyTree) -> str:
    if tree is None:
        return "None"
    level = _one_level(tree)
    if level is None:
        shape = getattr(tree, "shape", None)
        return f"a leaf of shape {tuple(shape)}" if shape is not None else f"a leaf ({tree!r})"
    entries = level[1].entries()
    return f"{type(tree).__name__} with entries {entries}"
