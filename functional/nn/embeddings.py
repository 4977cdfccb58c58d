"""Vectors looked up by integer, one by one or in bags."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

from .. import initializers
from ..losses.checks import in_range, values_are_visible
from .checks import check_input, check_int, positive_int
from .layer import Layer, LayerError, Params, describe
from .parameters import check_parameters, check_same_dtype


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
    table = _Table("embedding", num_embeddings, embedding_dim, padding_idx, weight_init)

    def init(key: Tensor, x: Any) -> Params:
        table.check_indices(x)
        return table.init(key, torch.float32)

    def apply(
        params: Params, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        table.check(params, x)
        return F.embedding(x, params["weight"], padding_idx)

    return Layer(init, apply, uses_key=False)


def embedding_bag(
    num_embeddings: int,
    embedding_dim: int,
    mode: Literal["sum", "mean", "max"] = "mean",
    padding_idx: int | None = None,
    *,
    weight_init: initializers.Initializer | None = None,
) -> Layer:
    """Return the layer that looks up a bag of rows for each example and reduces it to one vector.

    Inputs are integers of shape `(N, k)`, N bags of k rows, and outputs have shape
    `(N, embedding_dim)`. With mode "sum" the input may be a pair `(indices, per_sample_weights)`
    of tensors of that shape, where

        y[n] = sum_j per_sample_weights[n, j] weight[indices[n, j]].

    Bags of different lengths are a pair `(indices, offsets)` of one dimension each: bag `n` goes
    from `indices[offsets[n]]` up to the next bag, as in torch, where `offsets` of an integer dtype
    begin with 0 and do not fall; or a triple with weights of the shape of the indices.

    The parameter is that of `torch.nn.EmbeddingBag`, as for `embedding`; it takes the dtype of
    the weights of a pair.

    Parameters
    ----------
    num_embeddings, embedding_dim
        How many rows there are, and their length.
    mode
        Whether a bag becomes the sum, the mean or the elementwise maximum of its rows.
    padding_idx
        A row that counts for nothing, not even in the mean; it starts as zeros, and negative ones
        count from the end. A bag of nothing else, or an empty one, becomes zeros. So bags of fewer
        rows are filled up.
    weight_init
        An initializer in the place of the standard normal distribution.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        As for `embedding`; also where weights are given without mode "sum", or do not have the
        shape of the indices and the dtype of the parameter; or offsets are not as above (under
        `jit` and `vmap` only their shape and dtype are looked at).

    Examples
    --------
    >>> layer = embedding_bag(5, 2, "mean", padding_idx=0)
    >>> params = {"weight": torch.arange(10.0).reshape(5, 2)}
    >>> layer(params, torch.tensor([[1, 4], [3, 0]]))
    tensor([[5., 6.],
            [6., 7.]])
    >>> layer(params, (torch.tensor([1, 4, 3]), torch.tensor([0, 2])))
    tensor([[5., 6.],
            [6., 7.]])
    """
    if mode not in ("sum", "mean", "max"):
        raise ValueError(f"embedding_bag: expected mode to be sum, mean or max, got {mode!r}.")
    table = _Table("embedding_bag", num_embeddings, embedding_dim, padding_idx, weight_init)

    def init(key: Tensor, x: Any) -> Params:
        indices, offsets, weights = _bags(x, mode)
        table.check_indices(indices, _pattern(offsets))
        return table.init(key, torch.float32 if weights is None else weights.dtype)

    def apply(params: Params, x: Any, *, key: Tensor | None = None, train: bool = False) -> Tensor:
        indices, offsets, weights = _bags(x, mode)
        table.check(params, indices, _pattern(offsets))
        rows = F.embedding(indices, params["weight"])
        if weights is not None:
            check_same_dtype("embedding_bag", weights, params)
            rows = rows * weights.unsqueeze(-1)
        counted = None
        if padding_idx is not None:
            counted = (indices != padding_idx % num_embeddings).unsqueeze(-1)
        if offsets is None:
            return _reduced(rows, counted, mode)
        return _reduced_by_offsets(rows, counted, offsets, mode)

    return Layer(init, apply, uses_key=False)


def _pattern(offsets: Any) -> tuple[str, ...]:
    return ("N", "k") if offsets is None else ("k",)


def _bags(x: Any, mode: str) -> tuple[Any, Any, Any]:
    """Return indices, offsets and weights, `None` for what is not given."""
    if not isinstance(x, tuple):
        return x, None, None
    if len(x) not in (2, 3):
        raise LayerError(
            "embedding_bag expected indices, (indices, per_sample_weights), (indices, offsets) or "
            f"(indices, offsets, per_sample_weights), got {describe(x)}."
        )
    indices, *others = x
    has_offsets = len(x) == 3 or not getattr(others[0], "dtype", torch.float32).is_floating_point
    offsets = others[0] if has_offsets else None
    weights = None if has_offsets and len(x) == 2 else others[-1]
    check_input("embedding_bag", indices, _pattern(offsets), floating=False)
    if offsets is not None:
        _check_offsets(offsets, indices.shape[0])
    if weights is not None:
        if mode != "sum":
            raise LayerError(
                f"embedding_bag takes per-sample weights with mode='sum' only, got mode={mode!r}."
            )
        check_input("embedding_bag", weights, tuple(indices.shape))
    return indices, offsets, weights


def _check_offsets(offsets: Any, count: int) -> None:
    check_input("embedding_bag", offsets, ("N",), floating=False)
    if offsets.dtype not in (torch.int32, torch.int64):
        raise LayerError(
            f"embedding_bag expected offsets of torch.int32 or torch.int64, got {offsets.dtype}."
        )
    if not isinstance(offsets, Tensor) or not values_are_visible(offsets) or not len(offsets):
        return
    if offsets[0] != 0 or (offsets.diff() < 0).any() or offsets[-1] > count:
        raise LayerError(
            f"embedding_bag expected offsets that begin with 0 and do not fall, up to {count}, got "
            f"{offsets.tolist()[:8]}."
        )


def _reduced_by_offsets(rows: Tensor, counted: Tensor | None, offsets: Tensor, mode: str) -> Tensor:
    """Reduce those of the rows that count, bag by bag."""
    # A row's bag is the number of bags that begin up to it; bags without rows may begin at the end.
    begins = torch.zeros(len(rows) + 1, dtype=torch.int64, device=rows.device)
    begins = begins.index_add(0, offsets.long(), torch.ones_like(offsets, dtype=torch.int64))
    bags = begins.cumsum(0)[:-1] - 1
    counted = torch.ones_like(bags[:, None], dtype=torch.bool) if counted is None else counted
    shape = (offsets.shape[0], rows.shape[1])
    number = torch.zeros_like(offsets, dtype=torch.int64).index_add(0, bags, counted[:, 0].long())
    if mode == "max":
        index = bags[:, None].expand_as(rows)
        lowest = torch.where(counted, rows, -math.inf).detach()
        largest = rows.new_full(shape, -math.inf).scatter_reduce(0, index, lowest, "amax")
        # The gradient goes to the first of equal rows, as in torch; that of "amax" to all of them.
        is_largest = (lowest == largest.index_select(0, bags)) | lowest.isnan()
        places = torch.arange(len(rows), device=rows.device)[:, None].expand_as(rows)
        places = torch.where(is_largest, places, len(rows))
        first = torch.full_like(largest, len(rows), dtype=torch.int64)
        first = first.scatter_reduce(0, index, places, "amin")
        chosen = torch.cat([rows, rows.new_zeros(1, shape[1])]).gather(0, first)
        return torch.where(number[:, None] > 0, chosen, 0.0)
    total = rows.new_zeros(shape).index_add(0, bags, torch.where(counted, rows, 0.0))
    return total / number.clamp_min(1)[:, None] if mode == "mean" else total


def _reduced(rows: Tensor, counted: Tensor | None, mode: str) -> Tensor:
    """Reduce those of the rows that count along their dimension of length k."""
    k = rows.shape[-2]
    if mode == "max" and k:
        if counted is None:
            return rows.max(dim=-2).values
        largest = torch.where(counted, rows, -math.inf).max(dim=-2).values
        return torch.where(counted.any(dim=-2), largest, 0.0)
    number: int | Tensor = max(k, 1)
    if counted is not None:
        rows = torch.where(counted, rows, 0.0)
        number = counted.sum(dim=-2).clamp_min(1)
    total = rows.sum(dim=-2)
    return total / number if mode == "mean" else total


@dataclass(frozen=True)
class _Table:
    """The checked options of a table of vectors."""

    name: str
    num_embeddings: int
    embedding_dim: int
    padding_idx: int | None
    weight_init: initializers.Initializer | None

    def __post_init__(self) -> None:
        positive_int(self.name, "num_embeddings", self.num_embeddings)
        positive_int(self.name, "embedding_dim", self.embedding_dim)
        if self.padding_idx is not None:
            _check_padding_idx(self.name, self.padding_idx, self.num_embeddings)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the parameter."""
        return (self.num_embeddings, self.embedding_dim)

    def init(self, key: Tensor, dtype: torch.dtype) -> Params:
        """Return the parameter, with zeros in the row of the padding."""
        weight = (self.weight_init or initializers.normal())(key, self.shape, dtype)
        if self.padding_idx is not None:
            rows = torch.arange(self.num_embeddings, device=weight.device)
            is_padding = rows == self.padding_idx % self.num_embeddings
            weight = torch.where(is_padding[:, None], 0.0, weight)
        return {"weight": weight}

    def check(self, params: Params, x: Any, pattern: Sequence[str] = ("...",)) -> None:
        """Refuse parameters and indices that are not this table's."""
        check_parameters(self.name, params, {"weight": self.shape})
        self.check_indices(x, pattern)
        _check_range(self.name, x, self.num_embeddings)

    def check_indices(self, x: Any, pattern: Sequence[str] = ("...",)) -> None:
        """Refuse what is not an index by its shape and dtype."""
        check_input(self.name, x, pattern, floating=False)
        if x.dtype not in (torch.int32, torch.int64):
            raise LayerError(
                f"{self.name} expected an input of torch.int32 or torch.int64, got {x.dtype} of "
                f"shape {tuple(x.shape)}."
            )


def _check_padding_idx(name: str, padding_idx: Any, num_embeddings: int) -> None:
    check_int(name, "padding_idx", padding_idx)
    if not -num_embeddings <= padding_idx < num_embeddings:
        raise ValueError(
            f"{name}: expected padding_idx within the {num_embeddings} rows, got {padding_idx}."
        )


def _check_range(name: str, x: Tensor, num_embeddings: int) -> None:
    """Refuse an index without a row, where values can be seen without tracing."""
    if not values_are_visible(x):
        return
    outside = ~in_range(x, num_embeddings)
    if outside.any():
        raise LayerError(
            f"{name} expected indices within [0, {num_embeddings}), got "
            f"{sorted(set(x[outside].tolist()))[:5]}."
        )
