"""The reduction of elements to one value per example."""

from __future__ import annotations

from torch import Tensor


def example_mean(values: Tensor) -> Tensor:
    """Return the mean over each example's own elements, `(N, ...) -> (N,)`."""
    return values if values.ndim == 1 else values.flatten(1).mean(1)
