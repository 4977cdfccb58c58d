"""Every public layer with its counterpart in torch: what is run on them all."""

from . import (
    activations,
    adapters,
    adaptive_pooling,
    attention,
    combinators,
    convolution,
    dense,
    embeddings,
    group_normalization,
    normalization,
    padding,
    parametric_activations,
    pooling,
    recurrent,
    regularization,
    reparameterization,
    resampling,
    shapes,
    transposed,
)
from .case import Case

_MODULES = [
    activations,
    adapters,
    adaptive_pooling,
    attention,
    combinators,
    convolution,
    dense,
    embeddings,
    group_normalization,
    normalization,
    padding,
    parametric_activations,
    pooling,
    recurrent,
    regularization,
    reparameterization,
    resampling,
    shapes,
    transposed,
]
CASES = [case for module in _MODULES for case in module.CASES]

__all__ = ["CASES", "Case"]
