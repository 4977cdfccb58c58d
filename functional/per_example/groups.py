"""Which parameters are clipped together."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from torch import Tensor

from .. import tree
from .calls import Call

#: None for all parameters together, a function from a path to a label, or a tree of labels.
Groups = Callable[[str], Hashable] | tree.PyTree | None


def by_leaf(path: str) -> str:
    """Put every parameter into a group of its own.

    >>> by_leaf("params['head']['weight']")
    "params['head']['weight']"
    """
    return path


def by_layer(path: str) -> str:
    """Put the parameters of one layer, which differ in the last key of their path, together.

    >>> by_layer("params['head']['weight']")
    "params['head']"
    """
    end = max(path.rfind("["), path.rfind("."))
    return path if end < 1 else path[:end]


def labels(call: Call, groups: Groups) -> list[Hashable]:
    """Return the label of each parameter.

    Raises
    ------
    TypeError
        A label cannot be a key of a dict, or is a tensor.
    ValueError
        A tree of labels is no prefix of the tree of parameters.
    """
    paths = call.paths()
    if groups is None:
        return [None] * len(paths)
    if callable(groups):
        return [_checked(call, groups(path)) for path in paths]
    params = call.like_params(call.params)
    try:
        spread = tree.map(
            lambda label, part: _Label(label, len(tree.leaves(part))),
            groups,
            params,
            names=("groups", "params"),
        )
    except ValueError as error:
        raise ValueError(
            f"{call.transform}: groups is no prefix of the parameters: {error}"
        ) from error
    marks: list[Any] = tree.leaves(spread)
    return [_checked(call, mark.label) for mark in marks for _ in range(mark.count)]


def _checked(call: Call, label: Any) -> Hashable:
    # A tensor equals none but itself, and what cannot be hashed is not compared at all.
    if isinstance(label, Tensor) or not isinstance(label, Hashable):
        raise TypeError(
            f"{call.transform}: groups has the label {label!r}, expected a string, a number or "
            "something else that can be a key of a dict."
        )
    return label


class _Label:
    """A label and how many parameters have it in a row."""

    def __init__(self, label: Hashable, count: int) -> None:
        self.label, self.count = label, count
