"""Assertions about the structure, shapes, dtypes and devices of trees, also inside `jit`.

A failure names every leaf.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import optree
import torch
from torch import Tensor

from ...functional import tree
from ...functional.border import describe
from .differences import check_pairs, fail_if

__all__ = [
    "assert_tree_has_only_tensors",
    "assert_tree_is_on_device",
    "assert_tree_no_nones",
    "assert_tree_shape",
    "assert_tree_shape_prefix",
    "assert_tree_shape_suffix",
    "assert_trees_all_equal_dtypes",
    "assert_trees_all_equal_shapes",
    "assert_trees_all_equal_shapes_and_dtypes",
    "assert_trees_all_equal_sizes",
    "assert_trees_all_equal_structs",
]


def assert_trees_all_equal_structs(*trees: Any) -> None:
    """Require that all trees have one structure; leaves may be anything.

    >>> assert_trees_all_equal_structs({"w": torch.ones(2), "b": 0}, {"b": 1, "w": 2})
    >>> assert_trees_all_equal_structs({"w": 1, "b": 0}, {"w": 1, "bias": 0})
    Traceback (most recent call last):
    ...
    AssertionError: assert_trees_all_equal_structs: the structures differ: only the first has \
tree['b']; only the second has tree['bias'].
    """
    check_pairs("assert_trees_all_equal_structs", trees, lambda first, other: [])


def assert_trees_all_equal_shapes(*trees: Any) -> None:
    """Require that corresponding leaves of all trees have one shape; a number has `()`.

    >>> assert_trees_all_equal_shapes({"w": torch.ones(2)}, {"w": torch.zeros(2)})
    >>> assert_trees_all_equal_shapes({"w": torch.ones(2)}, {"w": torch.zeros(2, 1)})
    Traceback (most recent call last):
    ...
    AssertionError: assert_trees_all_equal_shapes: 1 of 1 leaves differ.
      tree['w']: (2,) != (2, 1)
    """
    _check_equal("assert_trees_all_equal_shapes", trees, _shape)


def assert_trees_all_equal_dtypes(*trees: Any) -> None:
    """Require that corresponding leaves of all trees have one dtype, or Python type.

    >>> assert_trees_all_equal_dtypes({"w": torch.ones(2), "n": 1}, {"w": torch.ones(3), "n": 2})
    """
    _check_equal("assert_trees_all_equal_dtypes", trees, _dtype)


def assert_trees_all_equal_shapes_and_dtypes(*trees: Any) -> None:
    """Require that corresponding leaves of all trees have one shape and one dtype.

    >>> assert_trees_all_equal_shapes_and_dtypes({"w": torch.ones(2)}, {"w": torch.zeros(2)})
    """
    _check_equal(
        "assert_trees_all_equal_shapes_and_dtypes",
        trees,
        lambda x: (_shape(x), _dtype(x)),
        describe,
    )


def assert_trees_all_equal_sizes(*trees: Any) -> None:
    """Require that corresponding leaves of all trees have one number of elements.

    >>> assert_trees_all_equal_sizes({"w": torch.ones(2, 3)}, {"w": torch.zeros(6)})
    """
    _check_equal("assert_trees_all_equal_sizes", trees, lambda x: math.prod(_shape(x)))


def assert_tree_shape(tree_like: Any, expected_shape: Sequence[int]) -> None:
    """Require that all leaves of a tree have the same, given shape.

    >>> assert_tree_shape({"a": torch.ones(2, 3), "b": torch.zeros(2, 3)}, (2, 3))
    """
    wanted = tuple(expected_shape)
    _check("assert_tree_shape", tree_like, lambda x: _shape(x) == wanted, f"the shape {wanted}")


def assert_tree_shape_prefix(tree_like: Any, shape_prefix: Sequence[int]) -> None:
    """Require that the shape of every leaf begins with `shape_prefix`.

    >>> batch = {"images": torch.ones(8, 3, 3), "labels": torch.ones(8)}
    >>> assert_tree_shape_prefix(batch, (8,))
    >>> assert_tree_shape_prefix(batch, (8, 3))
    Traceback (most recent call last):
    ...
    AssertionError: assert_tree_shape_prefix: 1 of 2 leaves fail, expected sides (8, 3) first.
      tree['labels']: float32 of shape (8,)
    """
    prefix = tuple(shape_prefix)
    _check(
        "assert_tree_shape_prefix",
        tree_like,
        lambda x: _shape(x)[: len(prefix)] == prefix,
        f"sides {prefix} first",
    )


def assert_tree_shape_suffix(tree_like: Any, shape_suffix: Sequence[int]) -> None:
    """Require that the shape of every leaf ends with `shape_suffix`.

    >>> assert_tree_shape_suffix({"a": torch.ones(5, 3), "b": torch.ones(3)}, (3,))
    """
    suffix = tuple(shape_suffix)
    _check(
        "assert_tree_shape_suffix",
        tree_like,
        lambda x: suffix == _shape(x)[max(0, len(_shape(x)) - len(suffix)) :],
        f"sides {suffix} last",
    )


def assert_tree_is_on_device(
    tree_like: Any, device: str | torch.device | Iterable[str | torch.device] = "cpu"
) -> None:
    """Require that every tensor is on a device, or on one of several.

    A device without an index, such as "cuda", means any of its type. Leaves that are no tensors are
    nowhere, and fail.

    >>> assert_tree_is_on_device({"w": torch.ones(2)}, "cpu")
    >>> assert_tree_is_on_device({"w": torch.ones(2)}, ["cuda", "meta"])
    Traceback (most recent call last):
    ...
    AssertionError: assert_tree_is_on_device: 1 of 1 leaves fail, expected to be on cuda or meta.
      tree['w']: float32 of shape (2,) on cpu
    """
    several = [device] if isinstance(device, str | torch.device) else list(device)
    devices = [torch.device(each) for each in several]

    def is_there(x: Any) -> bool:
        return isinstance(x, Tensor) and any(
            x.device.type == each.type and each.index in (None, x.device.index) for each in devices
        )

    def show(x: Any) -> str:
        return f"{describe(x)} on {x.device}" if isinstance(x, Tensor) else describe(x)

    wanted = f"to be on {' or '.join(map(str, devices))}"
    _check("assert_tree_is_on_device", tree_like, is_there, wanted, show)


def assert_tree_no_nones(tree_like: Any) -> None:
    """Require that no None stands in a tree, where it is an empty subtree.

    >>> assert_tree_no_nones({"w": torch.ones(2)})
    >>> assert_tree_no_nones({"w": torch.ones(2), "b": [None]})
    Traceback (most recent call last):
    ...
    AssertionError: assert_tree_no_nones: None stands at tree['b'][0].
    """
    leaves, structure = optree.tree_flatten(tree_like, none_is_leaf=True, namespace=tree.NAMESPACE)
    accessors = zip(structure.accessors(), leaves, strict=True)
    places = [accessor.codify("tree") for accessor, leaf in accessors if leaf is None]
    if places:
        raise AssertionError(f"assert_tree_no_nones: None stands at {', '.join(places)}.")


def assert_tree_has_only_tensors(tree_like: Any) -> None:
    """Require that every leaf is a tensor (chex: `assert_tree_has_only_ndarrays`).

    >>> assert_tree_has_only_tensors({"w": torch.ones(2), "b": None})
    >>> assert_tree_has_only_tensors({"w": torch.ones(2), "steps": 3})
    Traceback (most recent call last):
    ...
    AssertionError: assert_tree_has_only_tensors: 1 of 2 leaves fail, expected a tensor.
      tree['steps']: the int 3
    """
    _check("assert_tree_has_only_tensors", tree_like, lambda x: isinstance(x, Tensor), "a tensor")


def _check(
    who: str,
    tree_like: Any,
    holds: Callable[[Any], bool],
    wanted: str,
    show: Callable[[Any], str] = describe,
) -> None:
    rows = zip(tree.path_strings(tree_like), tree.leaves(tree_like), strict=True)
    found = [f"{path}: {show(leaf)}" for path, leaf in rows if not holds(leaf)]
    fail_if(found, tree_like, who, f"fail, expected {wanted}")


def _check_equal(
    who: str,
    trees: tuple[Any, ...],
    of: Callable[[Any], Any],
    show: Callable[[Any], str] | None = None,
) -> None:
    shown = show or (lambda x: str(of(x)))

    def compare(first: Any, other: Any) -> list[str]:
        rows = zip(tree.path_strings(first), tree.leaves(first), tree.leaves(other), strict=True)
        return [
            f"{path}: {shown(left)} != {shown(right)}"
            for path, left, right in rows
            if of(left) != of(right)
        ]

    check_pairs(who, trees, compare)


def _shape(x: Any) -> tuple[int, ...]:
    return tuple(getattr(x, "shape", ()))


def _dtype(x: Any) -> Any:
    return getattr(x, "dtype", type(x))
