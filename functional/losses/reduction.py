"""From the elements to one value per example, in a precision that serves sums."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def example_mean(values: Tensor) -> Tensor:
    """Return the mean over each example's own elements, `(N, ...) -> (N,)`."""
    return values if values.ndim == 1 else values.flatten(1).mean(1)


def widened(values: Tensor) -> Tensor:
    """Return bfloat16 and float16 values as float32, others as they are."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def log_sum_exp(values: Tensor, dim: int) -> Tensor:
    """Return `log sum exp` over a dimension; of nothing but -inf it is -inf, with derivative 0."""
    nothing = (values == -math.inf).all(dim)
    filled = values.masked_fill(nothing.unsqueeze(dim), 0)
    return filled.logsumexp(dim).masked_fill(nothing, -math.inf)


def power(base: Tensor, exponent: float) -> Tensor:
    """Return `base ** exponent` for a base of at least 0, with derivative 0 at 0."""
    positive = base > 0
    return torch.where(positive, torch.where(positive, base, 1) ** exponent, 0.0**exponent)
