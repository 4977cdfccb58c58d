"""Layers that change nothing but the shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .checks import check_input, check_int, positive_int
from .layer import Layer, LayerError, lift


def flatten(start_dim: int = 1, end_dim: int = -1) -> Layer:
    """Return the layer that makes one dimension of `start_dim` to `end_dim`, both included.

    As in torch the default keeps the batch dimension.

    Raises
    ------
    TypeError
        `start_dim` or `end_dim` is not an integer.
    LayerError
        The input has too few dimensions.

    Examples
    --------
    >>> import torch
    >>> flatten()({}, torch.ones(8, 3, 4, 4)).shape
    torch.Size([8, 48])
    """
    check_int("flatten", "start_dim", start_dim)
    check_int("flatten", "end_dim", end_dim)

    def flattened(x: Tensor) -> Any:
        check_input("flatten", x, ("...",), floating=False)
        both_exist = all(-x.ndim <= dim < x.ndim for dim in (start_dim, end_dim))
        if not both_exist or start_dim % x.ndim > end_dim % x.ndim:
            raise LayerError(
                f"flatten from dimension {start_dim} to {end_dim} expected an input that has "
                f"them, got shape {tuple(x.shape)}."
            )
        return x.flatten(start_dim, end_dim)

    return lift(flattened, "flatten")


def unflatten(dim: int, unflattened_size: Sequence[int]) -> Layer:
    """Return the layer that makes dimensions of lengths `unflattened_size` of dimension `dim`.

    Parameters
    ----------
    dim
        The dimension; a negative one counts from the last.
    unflattened_size
        The lengths; one of them may be -1, which stands for what is left.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        The input does not have the dimension, or its length is not that of the lengths together.

    Examples
    --------
    >>> import torch
    >>> unflatten(1, (3, -1, 4))({}, torch.ones(8, 48)).shape
    torch.Size([8, 3, 4, 4])
    """
    check_int("unflatten", "dim", dim)
    if not isinstance(unflattened_size, Sequence) or not unflattened_size:
        raise TypeError(
            f"unflatten: expected one or more integers for unflattened_size, got "
            f"{unflattened_size!r}."
        )
    sizes = tuple(unflattened_size)
    if sizes.count(-1) > 1:
        raise ValueError(f"unflatten: expected at most one -1 in unflattened_size, got {sizes}.")
    for size in sizes:
        if size != -1:
            positive_int("unflatten", "unflattened_size", size, minimum=0)
    known = math.prod(size for size in sizes if size != -1)
    if not known and -1 in sizes:
        raise ValueError(f"unflatten: expected no 0 beside -1 in unflattened_size, got {sizes}.")

    def unflattened(x: Tensor) -> Any:
        check_input("unflatten", x, ("...",), floating=False)
        if not -x.ndim <= dim < x.ndim:
            raise LayerError(
                f"unflatten expected an input that has dimension {dim}, got shape {tuple(x.shape)}."
            )
        if x.shape[dim] % known if -1 in sizes else x.shape[dim] != known:
            raise LayerError(
                f"unflatten expected dimension {dim} to have a length that is the product of "
                f"{sizes}, got shape {tuple(x.shape)}."
            )
        return x.unflatten(dim, sizes)

    return lift(unflattened, "unflatten")
