"""Vectors looked up by integer."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

from .. import initializers
from ..losses.checks import in_range, values_are_visible
from .checks import check_input, check_int, positive_int
from .layer import Layer, LayerError, Params
from .parameters import check_parameters


def embedding(
    num_embeddings: int,
    embedding_dim: int,
    padding_idx: int | None = None,
    *,
    weight_init: initializers.Initializer | None = None,
) -> Layer:
    """Return the layer that looks up the row `weight[i]` for each integer `i` of its input.

    The parameter is that of `torch.nn.Embedding`, `weight` of shape
    `(num_embeddings, embedding_dim)`, by default from the standard normal distribution and of
    dtype float32, since the input has no floating-point dtype to take.

    Parameters
    ----------
    num_embeddings, embedding_dim
        How many rows there are, and their length.
    padding_idx
        A row that starts as zeros and receives no gradient; negative ones count from the end.
    weight_init
        An initializer in the place of the default one.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        The input is not of dtype int32 or int64, an index is outside `[0, num_embeddings)`, or the
        parameters are not this layer's. Under `jit` and `vmap`, where indices have no values to
        look at, torch refuses the index instead.

    Examples
    --------
    >>> from purefn.functional import random
    >>> layer = embedding(100, 16)
    >>> tokens = torch.tensor([[5, 7, 99]])
    >>> layer(layer.init(random.key(0), tokens), tokens).shape
    torch.Size([1, 3, 16])
    """
    positive_int("embedding", "num_embeddings", num_embeddings)
    positive_int("embedding", "embedding_dim", embedding_dim)
    if padding_idx is not None:
        _check_padding_idx(padding_idx, num_embeddings)
    shape = (num_embeddings, embedding_dim)

    def init(key: Tensor, x: Any) -> Params:
        _check_indices(x)
        weight = (weight_init or initializers.normal())(key, shape, torch.float32)
        if padding_idx is not None:
            rows = torch.arange(num_embeddings, device=weight.device)
            weight = torch.where((rows == padding_idx % num_embeddings)[:, None], 0.0, weight)
        return {"weight": weight}

    def apply(
        params: Params, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        check_parameters("embedding", params, {"weight": shape})
        _check_indices(x)
        _check_range(x, num_embeddings)
        return F.embedding(x, params["weight"], padding_idx)

    return Layer(init, apply, uses_key=False)


def _check_padding_idx(padding_idx: Any, num_embeddings: int) -> None:
    check_int("embedding", "padding_idx", padding_idx)
    if not -num_embeddings <= padding_idx < num_embeddings:
        raise ValueError(
            f"embedding: expected padding_idx within the {num_embeddings} rows, got {padding_idx}."
        )


def _check_range(x: Tensor, num_embeddings: int) -> None:
    """Refuse an index without a row, where values can be seen without tracing."""
    if not values_are_visible(x):
        return
    outside = ~in_range(x, num_embeddings)
    if outside.any():
        raise LayerError(
            f"embedding expected indices within [0, {num_embeddings}), got "
            f"{sorted(set(x[outside].tolist()))[:5]}."
        )


def _check_indices(x: Any) -> None:
    check_input("embedding", x, ("...",), floating=False)
    if x.dtype not in (torch.int32, torch.int64):
        raise LayerError(
            f"embedding expected an input of torch.int32 or torch.int64, got {x.dtype} of shape "
            f"{tuple(x.shape)}."
        )
