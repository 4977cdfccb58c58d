"""The only door to dp-accounting: each accountant bounds the epsilon of equal steps."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy

from .sampling import FixedSize, FullBatch, Poisson, Sampling

#: The names of the accountants.
Accountant = Literal["pld", "rdp"]

#: Width of the cells in which privacy losses up to `_WIDE` are counted (dp-accounting's own); with
#: larger losses it grows, so that their number does not.
_INTERVAL, _WIDE = 1e-4, 30.0
#: Standard deviations past which a privacy loss counts as infinite: a mass of 1e-23.
_TAIL = 10.0


def import_dp_accounting() -> Any:
    """Import dp-accounting with its accountants and return the module.

    Raises
    ------
    ImportError
        It is not installed; the message names the extra.
    """
    for module in ("dp_accounting.rdp", "dp_accounting.pld", "dp_accounting.pld.pld_pmf"):
        _import(module, "dp-accounting")
    return _import("dp_accounting", "dp-accounting")


def import_scipy() -> Any:
    """Import scipy, which dp-accounting needs, with what is used of it, and return the module."""
    for module in ("scipy.optimize", "scipy.special"):
        _import(module, "scipy")
    return _import("scipy", "scipy")


def _import(module: str, distribution: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise ImportError(
            f'{distribution} is not installed: run `pip install "purefn[privacy]"`.', name=package
        ) from error


def _by_renyi_divergences(
    noise_multiplier: float, delta: float, steps: int, sampling: Sampling
) -> float:
    dp_accounting = import_dp_accounting()
    accountant = dp_accounting.rdp.RdpAccountant(neighboring_relation=_relation(sampling))
    event = _event(noise_multiplier, sampling)
    return float(accountant.compose(event, steps).get_epsilon(delta))


def _by_privacy_loss_distributions(
    noise_multiplier: float, delta: float, steps: int, sampling: Sampling
) -> float:
    dp_accounting = import_dp_accounting()
    if isinstance(sampling, FullBatch):  # Gaussian steps are one Gaussian step
        return float(dp_accounting.get_epsilon_gaussian(noise_multiplier / steps**0.5, delta))
    if isinstance(sampling, FixedSize):
        fraction = sampling.batch_size / sampling.dataset_size
        step = fixed_size_distribution(noise_multiplier, fraction)
        return float(step.self_compose(steps).get_epsilon_for_delta(delta))
    accountant = dp_accounting.pld.PLDAccountant(
        _relation(sampling), _interval(_largest_loss(1 / noise_multiplier))
    )
    event = _event(noise_multiplier, sampling)
    return float(accountant.compose(event, steps).get_epsilon(delta))


def _largest_loss(shift: float) -> float:
    """Return what the privacy loss between `N(0, 1)` and `N(shift, 1)` next to never exceeds."""
    return shift**2 / 2 + _TAIL * shift


def _interval(largest: float) -> float:
    return _INTERVAL * max(1.0, largest / _WIDE)


ACCOUNTANTS: Mapping[str, Callable[[float, float, int, Sampling], float]] = {
    "pld": _by_privacy_loss_distributions,
    "rdp": _by_renyi_divergences,
}


def _relation(sampling: Sampling) -> Any:
    relations = import_dp_accounting().NeighboringRelation
    if isinstance(sampling, FixedSize):
        return relations.REPLACE_ONE
    return relations.ADD_OR_REMOVE_ONE


def _event(noise_multiplier: float, sampling: Sampling) -> Any:
    """Return what dp-accounting calls a step.

    Its noise multiplier is in units of what the adjacency relation moves: where an example is
    replaced by another, twice the clipping norm.
    """
    dp_accounting = import_dp_accounting()
    match sampling:
        case Poisson(probability):
            gaussian = dp_accounting.GaussianDpEvent(noise_multiplier)
            return dp_accounting.PoissonSampledDpEvent(probability, gaussian)
        case FixedSize(batch_size, dataset_size):
            gaussian = dp_accounting.GaussianDpEvent(noise_multiplier / 2)
            return dp_accounting.SampledWithoutReplacementDpEvent(
                dataset_size, batch_size, gaussian
            )
        case _:
            return dp_accounting.GaussianDpEvent(noise_multiplier)


def fixed_size_distribution(noise_multiplier: float, fraction: float) -> Any:
    """Return the privacy loss distribution of a step on a uniform subset, for replacing one.

    dp-accounting has none. With `delta_G` the privacy profile of the Gaussian mechanism whose sum
    moves by `2 C`, and `q` the fraction, that of the subsampled one is ::

        delta(log(1 + q (e^eps - 1))) = q delta_G(eps)             for eps >= 0
        delta(-eps) = 1 - e^-eps + e^-eps delta(eps)

    (Balle, Barthe and Gaboardi 2018, arXiv:1807.01647, theorem 9; the second line because replacing
    is a symmetric relation.) A distribution that has this profile dominates the step, and so do
    their compositions (Zhu et al. 2022, arXiv:2106.08567); its cells are made by connecting the
    dots (Doroshenko et al. 2022, arXiv:2207.04380).
    """
    pld = import_dp_accounting().pld
    shift = 2 / noise_multiplier
    largest = _subsampled(_largest_loss(shift), fraction)
    interval = _interval(largest)
    cells = math.ceil(largest / interval)
    profile = _fixed_size_profile(shift, fraction, numpy.arange(cells + 1) * interval)
    masses = pld.pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(
        interval, -cells, cells, profile
    )
    return pld.privacy_loss_distribution.PrivacyLossDistribution(masses)


def _subsampled(epsilon: float, fraction: float) -> float:
    """Return `log(1 + fraction (e^epsilon - 1))`, which may be the logarithm of a huge number."""
    return epsilon + math.log(fraction + (1 - fraction) * math.exp(-epsilon))


def _fixed_size_profile(shift: float, fraction: float, losses: Any) -> Any:
    """Return delta at the `losses`, which begin with 0, and before them at their negatives."""
    shrink = numpy.exp(-losses)
    unsampled = losses + numpy.log1p(-(1 - fraction) * shrink) - math.log(fraction)
    log_ndtr = import_scipy().special.log_ndtr
    above = log_ndtr(shift / 2 - unsampled / shift)
    below = log_ndtr(-shift / 2 - unsampled / shift)
    positive = -fraction * numpy.exp(above) * numpy.expm1(unsampled + below - above)
    negative = 1 - shrink + shrink * positive
    return numpy.concatenate([negative[:0:-1], positive])
