"""Layers that change nothing but the shape."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .checks import check_input
from .layer import Layer, LayerError, lift


def flatten(start_dim: int = 1, end_dim: int = -1) -> Layer:
    """Return the layer that makes one dimension of `start_dim` to `end_dim`, both included.

    As in torch the default keeps the batch dimension.

    Raises
    ------
    LayerError
        The input has too few dimensions.

    Examples
    --------
    >>> import torch
    >>> flatten()({}, torch.ones(8, 3, 4, 4)).shape
    torch.Size([8, 48])
    """

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
