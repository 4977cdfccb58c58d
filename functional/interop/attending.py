"""Attention by its formula, for where torch's kernels cannot do what is asked."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch._C._functorch import TransformType
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters


def kernels_suffice() -> bool:
    """Say whether no transform runs but at most one that goes backwards.

    torch's kernels for attention have no batching rule, no forward mode and no second derivative.
    """
    return transforms() in ([], [TransformType.Grad])


def transforms() -> list[TransformType]:
    """Return the transforms of torch.func that run, from the outermost inwards."""
    return [interpreter.key() for interpreter in retrieve_all_functorch_interpreters()]


def attention_by_formula(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    drop: Callable[[Tensor, float], Tensor] | None = None,
) -> Tensor:
    """Return `drop(softmax(scale q k' + mask)) v`, with torch's arguments.

    Vaswani et al. 2017, Attention is all you need (arXiv:1706.03762). A position that attends to
    nothing gets zero.
    """
    if is_causal and attn_mask is not None:
        raise ValueError("attention takes no attn_mask beside is_causal=True.")
    if not (attn_mask is None or attn_mask.is_floating_point() or attn_mask.dtype == torch.bool):
        raise ValueError(f"attention takes a mask of booleans or floats, got {attn_mask.dtype}.")
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = (shared.repeat_interleave(groups, dim=-3) for shared in (key, value))
    scores = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = torch.where(attn_mask, scores, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    # Not the weights of nothing, which are no numbers, nor their derivatives.
    nothing = scores.isneginf().all(-1, keepdim=True)
    weights = torch.where(nothing, 0.0, torch.where(nothing, 0.0, scores).softmax(-1))
    return (weights if drop is None else drop(weights, dropout_p)) @ value
