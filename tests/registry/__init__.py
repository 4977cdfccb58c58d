"""Every public layer with its counterpart in torch: what is run on them all."""

import importlib

from .case import Case

_MODULES = (
    "activations",
    "adapters",
    "adaptive_pooling",
    "attention",
    "combinators",
    "convolution",
    "dense",
    "embeddings",
    "ensembles",
    "group_normalization",
    "mixtures",
    "normalization",
    "padding",
    "parametric_activations",
    "pooling",
    "recurrent",
    "regularization",
    "reparameterization",
    "resampling",
    "shapes",
    "sharing",
    "transposed",
    "unpooling",
)
CASES = [case for name in _MODULES for case in importlib.import_module(f".{name}", __name__).CASES]

__all__ = ["CASES", "Case"]
