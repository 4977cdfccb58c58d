"""Refusals: what a loop or a choice was given that does not fit, and where."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import tree
from ..border import describe


def check_function(transform: str, name: str, fun: Any) -> None:
    """Raise a `TypeError` for what cannot be called."""
    if not callable(fun):
        raise TypeError(f"{transform}: expected a function for {name}, got {describe(fun)}.")


def check_same(
    transform: str, names: tuple[str, str], expected: tree.PyTree, found: tree.PyTree, advice: str
) -> None:
    """Raise a `ValueError` where two trees of tensors differ in structure, shape, dtype or device.

    `names` are what the message calls them.
    """
    if tree.structure(expected) != tree.structure(found):
        raise ValueError(f"{transform}: {_difference(names, expected, found)} {advice}")
    rows = zip(tree.leaves(expected), tree.leaves(found), strict=True)
    for index, (old, new) in enumerate(rows):
        if old.shape != new.shape or old.dtype != new.dtype or old.device != new.device:
            here, there = (
                tree.path_strings(value, name)[index]
                for value, name in zip((expected, found), names, strict=True)
            )
            raise ValueError(
                f"{transform}: {here} is {_kind(old, new)}, but {there} is {_kind(new, old)}. "
                f"{advice}"
            )


def check_predicate(transform: str, name: str, predicate: Any) -> Tensor:
    """Return a predicate as a 0-d boolean tensor, or raise."""
    if isinstance(predicate, bool):
        return torch.tensor(predicate)
    if not isinstance(predicate, Tensor) or predicate.dtype is not torch.bool:
        raise TypeError(
            f"{transform}: expected a boolean for {name}, got {describe(predicate)}. Compare it "
            "with something: `x > 0`."
        )
    if predicate.ndim:
        raise ValueError(
            f"{transform}: expected one boolean for {name}, got {describe(predicate)}. Reduce it "
            "with `.all()` or `.any()`; for a choice in every place use `torch.where`."
        )
    return predicate


def check_index(transform: str, name: str, index: Any) -> Tensor:
    """Return an integer as a 0-d int64 tensor, or raise."""
    if isinstance(index, int) and not isinstance(index, bool):
        return torch.tensor(index)
    if (
        not isinstance(index, Tensor)
        or index.is_floating_point()
        or index.is_complex()
        or index.dtype is torch.bool
    ):
        raise TypeError(f"{transform}: expected an integer for {name}, got {describe(index)}.")
    if index.ndim:
        raise ValueError(f"{transform}: expected one integer for {name}, got {describe(index)}.")
    return index.to(torch.int64)


def common_length(transform: str, xs: tree.PyTree, length: int | None) -> int:
    """Return the length that all leaves of `xs` have along their first axis."""
    sizes: dict[int, str] = {}
    for path, x in zip(tree.path_strings(xs, "xs"), tree.leaves(xs), strict=True):
        if not isinstance(x, Tensor) or not x.ndim:
            raise ValueError(
                f"{transform}: {path} is {describe(x)}, which has no axis to go along. Close over "
                "what is the same in every step."
            )
        sizes.setdefault(x.shape[0], path)
    if length is not None and (isinstance(length, bool) or not isinstance(length, int)):
        raise TypeError(f"{transform}: expected an int or None for length, got {length!r}.")
    if length is not None and length < 0:
        raise ValueError(f"{transform}: expected a length >= 0, got {length}.")
    found = ", ".join(f"{path} has {size}" for size, path in sizes.items())
    if len(sizes) > 1:
        raise ValueError(f"{transform}: the leaves of xs differ in length: {found}.")
    if length is not None and sizes and length not in sizes:
        raise ValueError(f"{transform}: length is {length}, but {found}.")
    if length is None and not sizes:
        raise ValueError(f"{transform}: xs has no leaf, so say how many steps: give length.")
    return next(iter(sizes)) if length is None else length


def _difference(names: tuple[str, str], expected: tree.PyTree, found: tree.PyTree) -> str:
    """Say at which path two structures part, whichever goes deeper."""
    for first, second, order in ((expected, found, names), (found, expected, names[::-1])):
        try:
            tree.map(lambda *_: None, first, second, names=order)
        except ValueError as error:
            return str(error)
    return f"{names[1]} does not have the structure of {names[0]}."


def _kind(tensor: Tensor, other: Tensor) -> str:
    where = f" on {tensor.device}" if tensor.device != other.device else ""
    return f"{describe(tensor)}{where}"
