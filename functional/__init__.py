"""Everything that computes.

The transforms stand here (`pf.jit`, `pf.grad`, `pf.vmap`, ...); `tree`, `random`, `nn`, `losses`,
`models`, `initializers`, `metrics`, `per_example`, `curvature` and `interop` are modules of their
own.
"""

from . import (
    curvature,
    initializers,
    interop,
    losses,
    metrics,
    models,
    nn,
    per_example,
    random,
    tree,
)
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
from .control import cond, fori_loop, map, remat, scan, switch, while_loop  # noqa: A004
from .staging import (
    CompileError,
    DonationWarning,
    Jitted,
    PurityError,
    TraceError,
    UncompiledWarning,
    disable_jit,
    explain_retraces,
    jit,
    make_graph,
)

__all__ = [
    "CompileError",
    "DonationWarning",
    "Jitted",
    "PurityError",
    "ShapeDtype",
    "TraceError",
    "UncompiledWarning",
    "cond",
    "curvature",
    "disable_jit",
    "eval_shape",
    "explain_retraces",
    "fori_loop",
    "grad",
    "hessian",
    "hvp",
    "initializers",
    "interop",
    "jacfwd",
    "jacrev",
    "jit",
    "jvp",
    "losses",
    "make_graph",
    "map",
    "metrics",
    "models",
    "nn",
    "per_example",
    "random",
    "remat",
    "scan",
    "stop_gradient",
    "switch",
    "tree",
    "value_and_grad",
    "vjp",
    "vmap",
    "while_loop",
]
