"""Every public layer with its counterpart in torch: what is run on them all."""

from . import (
    activations,
    combinators,
    convolution,
    dense,
    embeddings,
    normalization,
    pooling,
    regularization,
    shapes,
)
from .case import Case

_MODULES = [
    activations,
    combinators,
    convolution,
    dense,
    embeddings,
    normalization,
    pooling,
    regularization,
    shapes,
]
CASES = [case for module in _MODULES for case in module.CASES]

__all__ = ["CASES", "Case"]
