"""Curvature without matrices: products, and what can be learned from products.

A matrix is a function `v -> A v` of trees like the parameters. The products `hvp`, `gnvp`, `fvp`,
`sampled_fvp` and `empirical_fvp` make one, of the Hessian, the Gauss-Newton and the Fisher matrix:

>>> import torch
>>> from purefn.functional import curvature, random
>>> def loss(params):
...     return (params["w"] ** 4).sum()
>>> params = {"w": torch.tensor([1.0, 2.0, 3.0])}
>>> hessian = lambda v: curvature.hvp(loss, (params,), (v,))
>>> curvature.power_iteration(hessian, params, key=random.key(0)).values
tensor([108.])
>>> curvature.conjugate_gradient(hessian, {"w": torch.ones(3)})[0]
{'w': tensor([0.0833, 0.0208, 0.0093])}

The methods take such a function: `hutchinson_trace`, `hutchinson_diagonal` and `hutchpp_trace`
estimate, `lanczos` and `power_iteration` find eigenpairs, `lanczos_spectrum` the density of all of
them, `conjugate_gradient` solves; `dense` writes a small one out. All work under `jit`, which
traces the function a few times whatever the number of steps, and under `vmap`.
"""

from ..autodiff import hvp
from .distributions import (
    OutputDistribution,
    bernoulli,
    categorical,
    gaussian,
    gaussian_with_variance,
)
from .eigenpairs import power_iteration
from .estimators import Estimate, hutchinson_diagonal, hutchinson_trace, hutchpp_trace
from .matrices import dense
from .probes import normal_like, rademacher_like
from .products import empirical_fvp, fvp, gnvp, sampled_fvp
from .solvers import SolverInfo, conjugate_gradient
from .spectrum import Spectrum, lanczos_spectrum, spectral_density, spectral_sum
from .tridiagonalization import Eigenpairs, Tridiagonalization, lanczos, ritz_pairs

__all__ = [
    "Eigenpairs",
    "Estimate",
    "OutputDistribution",
    "SolverInfo",
    "Spectrum",
    "Tridiagonalization",
    "bernoulli",
    "categorical",
    "conjugate_gradient",
    "dense",
    "empirical_fvp",
    "fvp",
    "gaussian",
    "gaussian_with_variance",
    "gnvp",
    "hutchinson_diagonal",
    "hutchinson_trace",
    "hutchpp_trace",
    "hvp",
    "lanczos",
    "lanczos_spectrum",
    "normal_like",
    "power_iteration",
    "rademacher_like",
    "ritz_pairs",
    "sampled_fvp",
    "spectral_density",
    "spectral_sum",
]
