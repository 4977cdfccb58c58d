"""The arithmetic of attention, without parameters."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor
from torch._C._functorch import TransformType
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters

from .positions import alibi_slopes


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    drop: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return `drop(softmax(query key^T / sqrt(D) + mask)) value` for each head.

    `query` has shape `([N,] H, L, D)`, `key` and `value` have `([N,] H_kv, S, D)`, where `H` is a
    multiple of `H_kv`. A position that attends to nothing gets zero. `mask` and `causal` exclude
    each other, as in `torch.nn.functional.scaled_dot_product_attention`, which is used unless a
    transform asks for derivatives that its kernels do not have.

    >>> x = torch.tensor([[[0.0], [2.0]]])
    >>> attend(x, x, x, causal=True)
    tensor([[[0.0000],
             [1.9640]]])
    """
    groups = query.shape[-3] // key.shape[-3]
    key, value = _for_each_query_head(key, groups), _for_each_query_head(value, groups)
    if mask is not None:
        # The fused kernels want a row for each position.
        mask = torch.atleast_2d(mask if mask.dtype == torch.bool else mask.to(query.dtype))
    if drop is not None or not _kernels_have_the_derivatives():
        return _by_formula(query, key, value, mask, causal, drop)
    if query.ndim == 4:
        return F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal)
    # The fused kernels want a batch.
    batch = query[None], key[None], value[None]
    return F.scaled_dot_product_attention(*batch, mask, is_causal=causal)[0]


def alibi_bias(
    num_heads: int, queries: Tensor, keys: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return `-slope |i - j|` for each head and positions `i` of queries and `j` of keys.

    It is of `dtype`, or of float32 in the place of a half, which does not tell far positions apart.

    >>> alibi_bias(1, torch.arange(2), torch.arange(2))
    tensor([[[-0.0000, -0.0039],
             [-0.0039, -0.0000]]])
    """
    distance = (queries[:, None] - keys).abs()
    slopes = alibi_slopes(num_heads, torch.promote_types(dtype, torch.float32))
    return -slopes.to(queries.device)[:, None, None] * distance


def not_before(queries: Tensor, keys: Tensor) -> Tensor:
    """Return which positions `j` of keys a position `i` of queries may see, `j <= i`.

    >>> not_before(torch.arange(2), torch.arange(2))
    tensor([[ True, False],
            [ True,  True]])
    """
    return keys <= queries[:, None]


def combined(mask: Tensor, other: Tensor) -> Tensor:
    """Return the mask that says what two masks say, each boolean or added to the scores.

    >>> combined(torch.tensor([1.0, 2.0]), torch.tensor([True, False]))
    tensor([1., -inf])
    """
    if mask.dtype == other.dtype == torch.bool:
        return mask & other
    if mask.dtype == torch.bool:
        mask, other = other, mask
    return torch.where(other, mask, -torch.inf) if other.dtype == torch.bool else mask + other


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _kernels_have_the_derivatives() -> bool:
    """Say whether no transform runs but at most one that goes backwards.

    The fused kernels have no batching rule, no forward mode and no second derivative.
    """
    running = [interpreter.key() for interpreter in retrieve_all_functorch_interpreters()]
    return running in ([], [TransformType.Grad])


def _by_formula(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    drop: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    scores = (query * query.shape[-1] ** -0.5) @ key.mT
    if causal:
        positions = torch.arange(scores.shape[-1], device=scores.device)
        mask = not_before(positions, positions)
    if mask is None:
        weights = scores.softmax(-1)
    else:
        scores = combined(mask, scores)
        # A row of -inf alone would be 0 / 0, in the softmax and in its derivative.
        is_empty = (scores == -torch.inf).all(-1, keepdim=True)
        weights = torch.where(is_empty, 0.0, scores).softmax(-1)
        weights = torch.where(is_empty, 0.0, weights)
    return (weights if drop is None else drop(weights)) @ value


def _for_each_query_head(x: Tensor, groups: int) -> Tensor:
    """Return each head of `x` as often as there are query heads that use it."""
    if groups == 1:
        return x
    shape = (*x.shape[:-2], groups, *x.shape[-2:])
    return x.unsqueeze(-3).expand(shape).flatten(-4, -3)
