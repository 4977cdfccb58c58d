"""Derivatives of pure functions of trees, with JAX's names and semantics, over torch.func.

`gradients` differentiates scalar functions, `products` multiplies by a Jacobian or a Hessian
without forming it, `jacobians` forms them; `inputs` and `outputs` are what all of them share.
"""

from .gradients import grad, stop_gradient, value_and_grad
from .jacobians import hessian, jacfwd, jacrev
from .products import hvp, jvp, vjp

__all__ = [
    "grad",
    "hessian",
    "hvp",
    "jacfwd",
    "jacrev",
    "jvp",
    "stop_gradient",
    "value_and_grad",
    "vjp",
]
