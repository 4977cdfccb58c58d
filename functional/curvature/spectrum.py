"""The spectrum of a symmetric operator, by stochastic Lanczos quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .. import random, tree
from ..control import map as map_slices
from .coordinates import Coordinates, Operator, check_count
from .estimators import Estimate
from .probes import Probe, rademacher_like
from .tridiagonalization import ritz_weights, tridiagonalize


class Spectrum(NamedTuple):
    """Measures on the real line, one for each probe, that estimate the sum over eigenvalues."""

    #: Where they have mass, shape `(probes, steps)`.
    nodes: Tensor
    #: How much, same shape; each row sums to the squared length of its probe.
    weights: Tensor


def lanczos_spectrum(
    operator: Operator,
    like: tree.PyTree,
    *,
    key: Tensor,
    steps: int,
    probes: int,
    probe: Probe = rademacher_like,
) -> Spectrum:
    """Estimate the spectrum of a symmetric operator by stochastic Lanczos quadrature.

    ::

        tr f(A) = E[z^T f(A) z],    z^T f(A) z ~ |z|^2 sum_j tau_j^2 f(theta_j)

    where `theta_j` are the eigenvalues of Lanczos's matrix started at `z`, and `tau_j` the first
    elements of its eigenvectors. The quadrature is exact for polynomials of degree up to
    `2 steps - 1`. Ubaru, Chen, Saad 2017; Ghorbani, Krishnan, Xiao 2019, arXiv:1901.10159.

    Parameters
    ----------
    operator
        A symmetric linear function `v -> A v` of trees.
    like
        A tree of floating tensors, such as the parameters: what `operator` takes.
    key
        A key of `purefn.functional.random`.
    steps
        How many products for each probe, at most the number of elements of `like`; so many trees
        are held at once.
    probes
        How many random starts.
    probe
        `probe(key, like)` draws one.

    Returns
    -------
    A `Spectrum`, to be read by `spectral_sum` and `spectral_density`.

    Raises
    ------
    TypeError, ValueError
        A number is out of range, or what the operator returns is not like what it got; the message
        names the leaf.

    Examples
    --------
    >>> operator = lambda v: torch.tensor([1.0, 2.0, 4.0]) * v
    >>> found = lanczos_spectrum(operator, torch.zeros(3), key=random.key(0), steps=3, probes=1)
    >>> found.nodes, found.weights
    (tensor([[1.0000, 2.0000, 4.0000]]), tensor([[1.0000, 1.0000, 1.0000]]))
    """
    caller = "lanczos_spectrum"
    space = Coordinates(caller, "like", like)
    check_count(caller, "steps", steps, most=space.size)
    check_count(caller, "probes", probes)
    apply = space.operator(operator)

    def quadrature(key: Tensor) -> Spectrum:
        start = space.ravel(probe(key, like), "probe")
        values, weights = ritz_weights(tridiagonalize(apply, start, steps))
        return Spectrum(values, start.square().sum() * weights)

    found: Spectrum = map_slices(quadrature, random.split(key, probes))
    return found


def spectral_sum(spectrum: Spectrum, fun: Callable[[Tensor], Tensor]) -> Estimate:
    """Estimate `tr f(A) = sum_i f(lambda_i)`: with `torch.log`, the logarithm of the determinant.

    Parameters
    ----------
    spectrum
        What `lanczos_spectrum` found.
    fun
        A function of the eigenvalues, elementwise on a tensor.

    Returns
    -------
    An `Estimate` of two 0-d tensors. The error is that of the probes, without the quadrature's.

    Examples
    --------
    >>> spectrum = Spectrum(torch.tensor([[1.0, 4.0]]), torch.tensor([[1.0, 1.0]]))
    >>> spectral_sum(spectrum, torch.sqrt).value
    tensor(3.)
    """
    nodes, weights = spectrum
    # A function may be infinite or undefined where there is no mass.
    sums = torch.where(weights > 0, weights * fun(nodes), 0.0).sum(-1)
    count = len(sums)
    spread = sums.std() if count > 1 else torch.full_like(sums[0], math.nan)
    return Estimate(sums.mean(), spread / math.sqrt(count))


def spectral_density(spectrum: Spectrum, grid: Tensor, width: float | Tensor) -> Tensor:
    """Return the density of the eigenvalues, smoothed by normal curves.

    ::

        phi(t) = sum_j w_j N(t; theta_j, width^2) / sum_j w_j

    Parameters
    ----------
    spectrum
        What `lanczos_spectrum` found.
    grid
        The points at which the density is wanted, shape `(m,)`.
    width
        The standard deviation of the curves, above 0.

    Returns
    -------
    Tensor
        Shape `(m,)`; its integral over the line is 1.

    Examples
    --------
    >>> spectrum = Spectrum(torch.tensor([[0.0, 3.0]]), torch.tensor([[1.0, 1.0]]))
    >>> spectral_density(spectrum, torch.tensor([0.0, 3.0, 9.0]), width=0.1)
    tensor([1.9947, 1.9947, 0.0000])
    """
    nodes, weights = (part.reshape(-1) for part in spectrum)
    z = (grid[:, None] - nodes) / width
    curves = torch.exp(-0.5 * z.square()) / (width * math.sqrt(2 * math.pi))
    return curves @ weights / weights.sum()
