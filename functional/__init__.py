"""Everything that computes.

The transforms stand here (`pf.jit`, `pf.grad`, `pf.vmap`, ...); `tree`, `random`, `nn`, `losses`,
`initializers` and `metrics` are modules of their own.
"""

from . import initializers, losses, metrics, nn, random, tree
from .abstract import ShapeDtype, eval_shape
from .autodiff import (
    grad,
    hessian,
    hvp,
    jacfwd,
    jacrev,
    jvp,
    stop_gradient,
    value_and_grad,
    vjp,
)
from .batching import vmap
from .staging import DonationWarning, Jitted, TraceError, disable_jit, jit

__all__ = [
    "DonationWarning",
    "Jitted",
    "ShapeDtype",
    "TraceError",
    "disable_jit",
    "eval_shape",
    "grad",
    "hessian",
    "hvp",
    "initializers",
    "jacfwd",
    "jacrev",
    "jit",
    "jvp",
    "losses",
    "metrics",
    "nn",
    "random",
    "stop_gradient",
    "tree",
    "value_and_grad",
    "vjp",
    "vmap",
]
