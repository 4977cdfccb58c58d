"""Matrices that act on the dimensions of a tensor, one on each: what Shampoo and SOAP share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...functional import tree
from ..leafwise import working

#: What acts on each dimension of a tensor: a matrix, a diagonal (a vector) or, if empty, nothing.
Factors = tuple[Tensor, ...]


def gram(x: Tensor, dim: int) -> Tensor:
    """Return the products of all pairs of slices of `x` along `dim`: `X X^T` and `X^T X`.

    >>> x = torch.tensor([[1.0, 2.0]])
    >>> gram(x, 0), gram(x, 1)
    (tensor([[5.]]), tensor([[1., 2.],
            [2., 4.]]))
    """
    slices = x.movedim(dim, 0)
    slices = slices.reshape(len(slices), -1) if x.numel() else slices.new_zeros(len(slices), 0)
    return slices @ slices.mT


def apply(factors: Factors, x: Tensor, *, transposed: bool = False) -> Tensor:
    """Multiply `x` along each dimension by the factor of that dimension: `A X B^T` for a matrix.

    `transposed` multiplies by the transposed factors, `A^T X B`.

    >>> double, swap = torch.tensor([2.0]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    >>> apply((double, swap), torch.tensor([[1.0, 3.0]]))
    tensor([[6., 2.]])
    """
    for factor in factors:  # each time the first dimension goes to the end
        if not len(factor):
            x = x.movedim(0, -1)
        elif factor.ndim == 1:
            x = x.movedim(0, -1) * factor
        else:
            x = torch.tensordot(x, factor, dims=([0], [0 if transposed else 1]))
    return x.contiguous()


def eigenvectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues and eigenvectors of a symmetric matrix, or NaN where it is not finite.

    (LAPACK raises an error at NaN, or does not return.)
    """
    finite = matrix.isfinite().all()
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    values, vectors = torch.linalg.eigh(torch.where(finite, matrix, identity))
    nan = torch.full((), torch.nan, dtype=matrix.dtype, device=matrix.device)
    return torch.where(finite, values, nan), torch.where(finite, vectors, nan)


def of_leaves(function: Callable[[Tensor], Factors], params: tree.PyTree) -> tree.PyTree:
    """Return the tree of `function(leaf)`, leaves in the dtype that they are computed with in."""
    return tree.map(lambda leaf: function(working(leaf)), params)


def rows(like: tree.PyTree, *trees: tree.PyTree) -> tuple[tree.Structure, list[tuple[Any, ...]]]:
    """Return the structure of `like`, and its leaves with what stands in their place in `trees`."""
    leaves, structure = tree.flatten(like)
    columns = [structure.flatten_up_to(other) for other in trees]
    return structure, list(zip(leaves, *columns, strict=True))
