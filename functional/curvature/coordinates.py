"""Trees as vectors: what the iterative methods compute with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import tree
from ..border import describe, tensor_leaves
from ..control.checks import check_same

#: A linear map of trees: `v -> A v`, a tree like `v`.
Operator = Callable[[Any], Any]


class Coordinates:
    """The trees like a given one, written as vectors.

    A vector has the dtype to which the leaves promote, and float32 at least, so that long sums are
    not taken in half precision; a tree made from it has the leaves' own dtypes again.
    """

    def __init__(self, caller: str, name: str, like: tree.PyTree) -> None:
        like = tensor_leaves(caller, name, like)
        leaves, self._structure = tree.flatten(like)
        if not leaves:
            raise ValueError(f"{caller}: expected a tree of tensors for {name}, it has no leaf.")
        for path, leaf in zip(tree.path_strings(like, name), leaves, strict=True):
            if not leaf.is_floating_point():
                raise TypeError(
                    f"{caller}: {path} is {describe(leaf)}, expected a floating-point tensor. "
                    "Leave it out with tree.partition."
                )
        self._caller, self._name, self._like = caller, name, like
        self._shapes = [leaf.shape for leaf in leaves]
        self._dtypes = [leaf.dtype for leaf in leaves]
        self._sizes = [math.prod(shape) for shape in self._shapes]
        self.size = sum(self._sizes)
        self.device = leaves[0].device
        self.dtype = torch.float32
        for dtype in self._dtypes:
            self.dtype = torch.promote_types(self.dtype, dtype)

    def ravel(self, value: tree.PyTree, name: str | None = None) -> Tensor:
        """Return the vector of a tree, or refuse one unlike the others by what errors call it."""
        value = tensor_leaves(self._caller, name or self._name, value)
        if name is not None:
            check_same(self._caller, (self._name, name), self._like, value, _KEEP)
        return torch.cat([leaf.reshape(-1).to(self.dtype) for leaf in tree.leaves(value)])

    def unravel(self, vector: Tensor) -> tree.PyTree:
        """Return the tree of a vector, or of vectors along leading axes, which the leaves keep."""
        leading = vector.shape[:-1]
        parts = torch.split(vector, self._sizes, dim=-1)
        rows = zip(parts, self._shapes, self._dtypes, strict=True)
        leaves = [part.reshape(leading + shape).to(dtype) for part, shape, dtype in rows]
        return tree.unflatten(self._structure, leaves)

    def operator(self, operator: Operator, name: str = "operator(v)") -> Callable[[Tensor], Tensor]:
        """Return an operator on trees as one on vectors."""
        if not callable(operator):
            raise TypeError(
                f"{self._caller}: expected a function v -> A v for {name.removesuffix('(v)')}, "
                f"got {describe(operator)}."
            )
        return lambda vector: self.ravel(operator(self.unravel(vector)), name)

    def scalar(self, value: float | Tensor) -> Tensor:
        """Return a number as a 0-d tensor of the dtype and device of the vectors."""
        if isinstance(value, Tensor):
            return value.to(self.dtype)
        return torch.tensor(value, dtype=self.dtype, device=self.device)


_KEEP = "An operator is a square matrix: it returns a tree of what it is given."


def check_count(caller: str, name: str, value: Any, most: float = math.inf, least: int = 1) -> None:
    """Refuse anything but a Python integer from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{caller}: expected an int for {name}, got {describe(value)}.")
    if not least <= value <= most:
        limit = "" if math.isinf(most) else f" and <= {most}, the size of the tree"
        raise ValueError(f"{caller}: expected {name} >= {least}{limit}, got {value}.")


def without(basis: Tensor, vector: Tensor) -> Tensor:
    """Return the part of a vector that is orthogonal to the rows of `basis`, orthonormal or zero.

    Gram-Schmidt, twice: then it is orthogonal to rounding (Giraud, Langou, Rozloznik 2005).
    """
    for _ in range(2):
        vector = vector - basis.mT @ (basis @ vector)
    return vector
