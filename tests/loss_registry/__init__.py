"""Every public loss with its counterpart in torch: what is run on them all."""

import importlib

from .case import Case, Draw

_MODULES = (
    "binary",
    "classification",
    "comparisons",
    "divergences",
    "margins",
    "ranking",
    "regression",
    "segmentation",
    "sequences",
    "structured",
)
CASES = [case for name in _MODULES for case in importlib.import_module(f".{name}", __name__).CASES]

__all__ = ["CASES", "Case", "Draw"]
