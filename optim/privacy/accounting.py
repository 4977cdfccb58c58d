"""What noise costs: epsilon of a run, and the noise or the steps that an epsilon allows."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy

from .. import checks
from . import arguments
from .accountants import ACCOUNTANTS, Accountant, import_dp_accounting, import_scipy
from .sampling import FixedSize, FullBatch, Poisson, Sampling

__all__ = ["epsilon", "noise_multiplier_for", "steps_for"]

#: The noise found is at most so much larger than the least that is enough, in proportion.
_TOLERANCE = 1e-5
#: Powers of two between which a noise multiplier is looked for, and the first step of the search.
_SMALLEST, _LARGEST, _REACH = -10.0, 40.0, 0.05
_MOST_STEPS = 1 << 40
#: Past this epsilon the closed form for Gaussians loses its digits, and the noise is next to none.
_LARGE = 1e6


def epsilon(
    noise_multiplier: float,
    delta: float,
    *,
    steps: int,
    sampling: Sampling,
    accountant: Accountant = "pld",
) -> float:
    """Return the epsilon for which `steps` noisy steps are (epsilon, delta)-private.

    Each step releases the sum of clipped gradients of a batch and Gaussian noise ::

        sum_i g_i + N(0, (noise_multiplier C)^2),    |g_i| <= C

    which is what `dp_aggregate` and `per_example.clipped_grad` compute. `delta` has to be well
    below one over the number of examples.

    Parameters
    ----------
    noise_multiplier
        Standard deviation of the noise in units of the sensitivity `C` of adding or removing one
        example, whatever the sampling; 0 costs an infinite epsilon.
    delta
        In (0, 1).
    steps
        How many, at least 0.
    sampling
        How batches are drawn: `poisson(probability)`, `fixed_size(batch_size, dataset_size)` or
        `full_batch()`; it also says which data sets count as adjacent.
    accountant
        `"pld"`: privacy loss distributions, rounded against us (Doroshenko et al. 2022,
        arXiv:2207.04380), tight to four digits. `"rdp"`: Renyi divergences (Mironov et al. 2019,
        arXiv:1908.10530; for fixed sizes Wang et al. 2019, arXiv:1808.00087), looser and faster.

    Returns
    -------
    float
        An upper bound, by dp-accounting.

    Raises
    ------
    TypeError
        An argument is not of its type; `sampling` is a string, such as `"shuffle"`.
    ValueError
        A number is out of its range, or there is no such accountant.
    ImportError
        dp-accounting is not installed: `pip install "purefn[privacy]"`.

    Examples
    --------
    >>> from purefn.optim import privacy
    >>> sampling = privacy.poisson(0.1)
    >>> round(privacy.epsilon(3.0, 1e-6, steps=512, sampling=sampling), 2)
    3.77
    >>> round(privacy.epsilon(3.0, 1e-6, steps=512, sampling=sampling, accountant="rdp"), 2)
    4.05
    """
    arguments.multiplier("noise_multiplier", noise_multiplier)
    checks.non_negative_int("steps", steps)
    _check_common(delta, sampling, accountant)
    return _epsilon(noise_multiplier, delta, steps, sampling, accountant)


def noise_multiplier_for(
    epsilon: float,
    delta: float,
    *,
    steps: int,
    sampling: Sampling,
    accountant: Accountant = "pld",
) -> float:
    """Return the least noise multiplier that keeps `steps` steps within (epsilon, delta).

    The inverse of `epsilon`, by its terms: with the noise returned the run costs at most `epsilon`,
    and with a hundred-thousandth less it would cost more. The second holds as far as `epsilon`
    itself is exact, to about 1e-12 for full batches. Privacy loss distributions of noise below 1/4
    take seconds each, and an answer or a refusal found among them 10 to 40.

    Raises
    ------
    TypeError
        As of `epsilon`.
    ValueError
        As of `epsilon`; no noise multiplier between 2^-10 and 2^40 is the answer.

    Examples
    --------
    >>> from purefn.optim import privacy
    >>> sampling = privacy.poisson(0.1)
    >>> round(privacy.noise_multiplier_for(3.77, 1e-6, steps=512, sampling=sampling), 2)
    3.0
    """
    arguments.budget("epsilon", epsilon)
    checks.count("steps", steps)
    _check_common(delta, sampling, accountant)

    @functools.cache
    def excess(exponent: float) -> float:
        """Return how much a noise multiplier of `2^exponent` costs too much, close to a line."""
        cost = _epsilon(2.0**exponent, delta, steps, sampling, accountant)
        if cost <= epsilon:
            return math.log(cost / epsilon) if cost > 0 else -1.0
        return max(math.log(cost / epsilon), math.ulp(0.0))

    low, high = _bracket(excess, _unsampled_exponent(epsilon, delta, steps, sampling))
    if excess(low) <= 0:
        raise ValueError(
            f"epsilon: {epsilon!r} needs next to no noise and protects next to nothing."
        )
    if excess(high) > 0:
        raise ValueError(f"epsilon: {epsilon!r} is out of reach, however much noise is added.")
    return float(2.0 ** _least(excess, low, high))


def steps_for(
    epsilon: float,
    delta: float,
    *,
    noise_multiplier: float,
    sampling: Sampling,
    accountant: Accountant = "pld",
) -> int:
    """Return how many steps can be taken within (epsilon, delta): one more would cost too much.

    Raises
    ------
    TypeError, ValueError
        As of `epsilon`; the number would be above 2^40.

    Examples
    --------
    >>> from purefn.optim import privacy
    >>> privacy.steps_for(4.0, 1e-6, noise_multiplier=3.0, sampling=privacy.poisson(0.1))
    570
    """
    arguments.budget("epsilon", epsilon)
    arguments.multiplier("noise_multiplier", noise_multiplier)
    _check_common(delta, sampling, accountant)

    @functools.cache
    def excess(steps: int) -> float:
        """Return how much so many steps cost too much."""
        return _epsilon(noise_multiplier, delta, steps, sampling, accountant) - epsilon

    high = 1
    while excess(high) <= 0:
        high *= 4
        if high > _MOST_STEPS:
            raise ValueError(f"steps_for: more than {_MOST_STEPS} steps stay within this epsilon.")
    if high == 1:
        return 0
    brentq = import_scipy().optimize.brentq
    steps = round(float(brentq(lambda x: excess(round(x)), high // 4, high, xtol=0.5)))
    while excess(steps) > 0:
        steps -= 1
    while excess(steps + 1) <= 0:
        steps += 1
    return steps


def _unsampled_exponent(epsilon: float, delta: float, steps: int, sampling: Sampling) -> float:
    """Return the power of two that is the noise multiplier without sampling, to start from.

    It has a closed form, and is nearly the answer where that is small, and trials are slow.
    """
    moved = 2 if isinstance(sampling, FixedSize) else 1
    with numpy.errstate(divide="ignore"):
        sigma = import_dp_accounting().get_sigma_gaussian(min(epsilon, _LARGE), delta)
    exponent = math.log2(sigma * moved) + math.log2(steps) / 2
    return min(max(exponent, _SMALLEST), _LARGEST)


def _bracket(excess: Callable[[float], float], start: float) -> tuple[float, float]:
    """Return two exponents between which `excess` falls below 0, or the last two tried."""
    enough = excess(start) <= 0
    at, reach = start, -_REACH if enough else _REACH
    while True:
        last, at = at, min(max(at + reach, _SMALLEST), _LARGEST)
        if (excess(at) <= 0) != enough or at in (_SMALLEST, _LARGEST):
            return min(last, at), max(last, at)
        reach *= 4


def _least(excess: Callable[[float], float], low: float, high: float) -> float:
    """Return an exponent that is enough, where one less by less than `_TOLERANCE` is not.

    Brent's method is quick on what is close to a line; what it finds is not taken for granted.
    """
    root = float(import_scipy().optimize.brentq(excess, low, high, xtol=_TOLERANCE / 4))
    trials = [root, root - _TOLERANCE / 2, root + _TOLERANCE / 2]
    while high - low > _TOLERANCE:
        middle = trials.pop(0) if trials else (low + high) / 2
        if not low < middle < high:
            continue
        if excess(middle) > 0:
            low = middle
        else:
            high = middle
    return high


def _epsilon(
    noise_multiplier: float, delta: float, steps: int, sampling: Sampling, accountant: Accountant
) -> float:
    if steps == 0:
        return 0.0
    if noise_multiplier == 0:
        return math.inf
    with numpy.errstate(divide="ignore"):  # log(0) is an honest answer inside
        return ACCOUNTANTS[accountant](float(noise_multiplier), delta, steps, sampling)


def _check_common(delta: float, sampling: Sampling, accountant: str) -> None:
    arguments.probability("delta", delta)
    checks.one_of("accountant", accountant, ACCOUNTANTS)
    if not isinstance(sampling, Poisson | FixedSize | FullBatch):
        raise TypeError(
            f"sampling: expected privacy.poisson(probability), privacy.fixed_size(batch_size, "
            f"dataset_size) or privacy.full_batch(), got {sampling!r}. {_SHUFFLING}"
        )


_SHUFFLING = (
    "Batches of shuffled data, as data.batches gives them, are no Poisson samples and may cost far "
    "more than these are accounted for (Chua et al. 2024, arXiv:2403.17673): draw with "
    "data.poisson_batches, or account for `epochs` passes by full_batch() and steps=epochs."
)
