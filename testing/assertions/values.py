"""Assertions about the values of trees of tensors; a traced tensor, which has none, is refused.

A failure names every leaf that differs, with its largest absolute, relative and ulp difference and
where that is. NaN equals NaN in the same place, infinities equal themselves, 0 equals -0. Shapes
must be the same, nothing is broadcast; devices may differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...functional import tree
from ...functional.border import describe
from . import differences
from .concrete import concrete

__all__ = [
    "assert_tree_all_finite",
    "assert_trees_all_close",
    "assert_trees_all_close_ulp",
    "assert_trees_all_equal",
    "assert_trees_all_equal_comparator",
]


def assert_trees_all_close(*trees: Any, rtol: float = 1e-6, atol: float = 0.0) -> None:
    """Require of the leaves of all trees `|first - other| <= atol + rtol |other|`.

    Differences are computed in float64 (complex128), whatever the dtype.

    Parameters
    ----------
    trees
        Two trees or more, of the same structure, shapes and dtypes. A Python number stands for a
        0-d tensor of the dtype beside it. What is neither number nor tensor must be equal.
    rtol, atol
        Tolerances. The default is for float32; of bfloat16 it demands equality.

    Raises
    ------
    AssertionError
        Something differs; the message names every leaf.
    TraceError
        A leaf is traced by `jit` or batched by `vmap`.

    Examples
    --------
    >>> params = {"w": torch.tensor([1.0, 2.0]), "b": torch.tensor(float("nan"))}
    >>> assert_trees_all_close(params, {**params, "w": params["w"] * (1 + 1e-7)})
    >>> assert_trees_all_close(params, {**params, "w": torch.tensor([1.0, 2.5])})
    Traceback (most recent call last):
    ...
    AssertionError: assert_trees_all_close (rtol 1e-06, atol 0): 1 of 2 leaves differ.
      tree['w']: 1 of 2 elements of float32 of shape (2,) differ
        largest absolute difference 0.5 at [1]: 2.0 != 2.5
        largest relative difference 0.2 at [1]: 2.0 != 2.5
        largest ulps difference 2097152 at [1]: 2.0 != 2.5
    """
    title = f"assert_trees_all_close (rtol {rtol:g}, atol {atol:g})"
    _check(title, trees, differences.within(rtol, atol))


def assert_trees_all_close_ulp(*trees: Any, maxulp: int = 1) -> None:
    """Require that at most `maxulp` representable numbers lie between leaves, in their dtype.

    Of complex numbers that holds of both parts, and integers must be equal. A number and infinity
    are never close. Trees and errors are as in `assert_trees_all_close`.

    >>> one = torch.tensor([1.0], dtype=torch.bfloat16)
    >>> assert_trees_all_close_ulp(one, one + 2**-7)
    >>> assert_trees_all_close_ulp(one, one + 2**-6)
    Traceback (most recent call last):
    ...
    AssertionError: assert_trees_all_close_ulp (maxulp 1): 1 of 1 leaves differ.
      tree: 1 of 1 elements of bfloat16 of shape (1,) differ
        largest absolute difference 0.0156 at [0]: 1.0 != 1.015625
        largest relative difference 0.0154 at [0]: 1.0 != 1.015625
        largest ulps difference 2 at [0]: 1.0 != 1.015625
    """
    _check(f"assert_trees_all_close_ulp (maxulp {maxulp})", trees, differences.within_ulps(maxulp))


def assert_trees_all_equal(*trees: Any, strict: bool = True) -> None:
    """Require that the leaves of all trees are equal.

    With `strict=False` dtypes may differ: float32 is compared with float64 by value. Trees and
    errors are as in `assert_trees_all_close`.

    >>> assert_trees_all_equal({"w": torch.ones(2)}, {"w": torch.ones(2)})
    >>> assert_trees_all_equal({"w": torch.ones(2)}, {"w": torch.ones(1)})
    Traceback (most recent call last):
    ...
    AssertionError: assert_trees_all_equal: 1 of 1 leaves differ.
      tree['w']: float32 of shape (2,) != float32 of shape (1,)
    """
    _check("assert_trees_all_equal", trees, differences.exactly, dtypes=strict)


def assert_trees_all_equal_comparator(
    equality_comparator: Callable[[Any, Any], bool],
    error_msg_fn: Callable[[Any, Any], str],
    *trees: Any,
) -> None:
    """Require that `equality_comparator(leaf, other)` is true of corresponding leaves.

    `error_msg_fn(leaf, other)` says of a pair of which it is false what is wrong.

    >>> assert_trees_all_equal_comparator(
    ...     lambda x, y: x.ndim == y.ndim, lambda x, y: f"{x.ndim} axes, {y.ndim} axes",
    ...     {"w": torch.ones(2), "b": torch.ones(())}, {"w": torch.ones(3), "b": torch.ones(1)})
    Traceback (most recent call last):
    ...
    AssertionError: assert_trees_all_equal_comparator: 1 of 2 leaves differ.
      tree['b']: 0 axes, 1 axes
    """

    def compare(first: Any, other: Any) -> list[str]:
        rows = zip(tree.path_strings(first), tree.leaves(first), tree.leaves(other), strict=True)
        return [
            f"{path}: {error_msg_fn(leaf, beside)}"
            for path, leaf, beside in rows
            if not equality_comparator(leaf, beside)
        ]

    differences.check_pairs("assert_trees_all_equal_comparator", trees, compare)


def assert_tree_all_finite(tree_like: Any) -> None:
    """Require that no tensor or number in a tree is infinite or NaN.

    >>> assert_tree_all_finite({"w": torch.ones(2), "steps": torch.tensor(3)})
    >>> assert_tree_all_finite({"w": torch.tensor([1.0, float("inf")]), "b": torch.tensor(0.0)})
    Traceback (most recent call last):
    ...
    AssertionError: assert_tree_all_finite: 1 of 2 leaves are not finite.
      tree['w']: 1 of 2 elements of float32 of shape (2,), the first at [1]: inf
    """
    found = []
    for path, leaf in zip(tree.path_strings(tree_like), tree.leaves(tree_like), strict=True):
        if not isinstance(leaf, Tensor | int | float | complex):
            continue
        tensor = concrete("assert_tree_all_finite", torch.as_tensor(leaf))
        bad = ~tensor.isfinite()
        if bad.any():
            where = tuple(bad.nonzero()[0].tolist())
            at = f" at {list(where)}" if where else ""
            what = f"{int(bad.sum())} of {bad.numel()} elements of {describe(tensor)}"
            found.append(f"{path}: {what}, the first{at}: {tensor[where].item()}")
    differences.fail_if(found, tree_like, "assert_tree_all_finite", "are not finite")


def _check(
    title: str, trees: tuple[Any, ...], agree: differences.Agree, *, dtypes: bool = True
) -> None:
    who = title.partition(" ")[0]
    differences.check_pairs(
        title,
        trees,
        lambda first, other: differences.differing_leaves(who, first, other, agree, dtypes=dtypes),
    )
