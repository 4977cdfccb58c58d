"""Factors of the prefix sum: how noise is shared among steps, and how much that takes.

Training reads sums of gradients, `A x` with `A` lower triangular and all ones. With `A = B C` the
matrix mechanism releases `B (C x + z)`, of white noise `z`: what it adds to the gradients is
`C^-1 z`, correlated from step to step so that it cancels in the sums. Privacy is that of one
Gaussian mechanism, whose sensitivity is how far one example moves `C x`; gradients may depend on
what was released before (Denisov et al. 2022, arXiv:2202.08312). With `C` in a band of `b`
diagonals, making the noise takes the last `b - 1` steps' (Choquette-Choo et al. 2023,
arXiv:2306.08153).
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy

from .. import checks
from .accountants import import_scipy

__all__ = ["BandedToeplitz", "Participation", "optimized_factor", "square_root_factor"]


@dataclasses.dataclass(frozen=True)
class Participation:
    """In how many steps an example is: at most `times`, any two of them `separation` apart.

    Data that pass in one order, epoch by epoch, have `times` epochs and as many steps an epoch as
    `separation`. One pass is `Participation()`.

    Raises
    ------
    TypeError, ValueError
        A number is no int of at least 1.

    Examples
    --------
    >>> Participation(times=3, separation=100)
    Participation(times=3, separation=100)
    """

    times: int = 1
    separation: int = 1

    def __post_init__(self) -> None:
        checks.count("times", self.times)
        checks.count("separation", self.separation)


@dataclasses.dataclass(frozen=True)
class BandedToeplitz:
    """The factor `C[t, s] = coefficients[t - s]`, zero outside the band.

    Raises
    ------
    ValueError
        The coefficients are not finite, not positive at first, below 0 or increasing: what the
        sensitivity is, is known only of such ones.

    Examples
    --------
    >>> factor = BandedToeplitz((1.0, 0.5))
    >>> factor.bands, factor.sensitivity(100, Participation(times=4, separation=2))
    (2, 2.23606797749979)
    """

    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        values = self.coefficients
        if not isinstance(values, tuple) or not values or not all(map(math.isfinite, values)):
            raise ValueError(f"coefficients: expected a tuple of finite numbers, got {values!r}.")
        falls = all(a >= b for a, b in itertools.pairwise(values))
        if not (values[0] > 0 and values[-1] >= 0 and falls):
            raise ValueError(
                "coefficients: expected numbers of at least 0, positive at first, none larger than "
                f"the one before it, got {values!r}."
            )

    @property
    def bands(self) -> int:
        """How many diagonals are not zero."""
        return len(self.coefficients)

    def sensitivity(self, steps: int, participation: Participation) -> float:
        """Return how far an example moves `C x`, where it moves each row of `x` by at most 1.

        ::

            max over the steps S of an example  |sum_{s in S} C[:, s]|

        which steps `0, separation, 2 separation, ...` attain (Kalinin and Lampert 2024,
        arXiv:2405.13763, theorem 2).
        """
        moved = numpy.zeros(steps)
        starts = range(0, steps, participation.separation)[: participation.times]
        for start in starts:
            column = self.coefficients[: steps - start]
            moved[start : start + len(column)] += column
        return float(numpy.sqrt(moved @ moved))

    def inverse(self, steps: int) -> numpy.ndarray:
        """Return the first column of `C^-1`, which is Toeplitz too."""
        impulse = numpy.zeros(steps)
        impulse[:1] = 1.0
        return self._solved(impulse)

    def prefix_sum_deviations(self, steps: int) -> numpy.ndarray:
        """Return the standard deviation of the noise in each prefix sum, `|(A C^-1)[t]|`."""
        row = self._solved(numpy.ones(steps))
        return numpy.asarray(numpy.sqrt(numpy.cumsum(row**2)))

    def _solved(self, right: numpy.ndarray) -> numpy.ndarray:
        """Return `C^-1 right`, by forward substitution."""
        first, *rest = self.coefficients
        reverse, reach = numpy.array(rest[::-1]), len(rest)
        solved = numpy.zeros(reach + len(right))  # zeros before the first step
        for t, value in enumerate(right):
            solved[reach + t] = (value - reverse @ solved[t : reach + t]) / first
        return solved[reach:]


def square_root_factor(bands: int) -> BandedToeplitz:
    """Return the band of the prefix sum's square root (Kalinin and Lampert 2024, arXiv:2405.13763).

    ::

        c_j = (2 j choose j) / 4^j,    j < bands

    With as many bands as steps `C C = A` (Fichtenberger et al. 2023, arXiv:2202.11205), all but
    optimal for one pass over the data. With one, noise is independent, as in `dp_aggregate`.

    Raises
    ------
    TypeError, ValueError
        `bands` is no int of at least 1.

    Examples
    --------
    >>> square_root_factor(4)
    BandedToeplitz(coefficients=(1.0, 0.5, 0.375, 0.3125))
    """
    checks.count("bands", bands)
    ratios = [(2 * j - 1) / (2 * j) for j in range(1, bands)]
    return BandedToeplitz(tuple(itertools.accumulate(ratios, lambda c, r: c * r, initial=1.0)))


def optimized_factor(
    bands: int, steps: int, participation: Participation = Participation()
) -> BandedToeplitz:
    """Return the banded factor with the least mean squared noise in the prefix sums.

    ::

        min_c  sensitivity(C)^2 |A C^-1|_F^2,    c_0 = 1

    by L-BFGS-B from the square root's coefficients (Choquette-Choo et al. 2023, arXiv:2306.08153,
    for factors that are Toeplitz).

    Raises
    ------
    TypeError, ValueError
        A number is no int of at least 1, or `participation.separation` is below `bands`, where
        steps of one example would overlap.
    ImportError
        scipy is not installed: `pip install "purefn[privacy]"`.

    Examples
    --------
    >>> optimized_factor(bands=2, steps=2)  # all steps in the band
    BandedToeplitz(coefficients=(1.0, 0.305...))
    """
    checks.count("bands", bands)
    checks.count("steps", steps)
    if participation.times > 1 and participation.separation < bands:
        raise ValueError(
            f"bands: expected at most separation={participation.separation}, got {bands}."
        )
    start = numpy.array(square_root_factor(bands).coefficients[1:])
    if not len(start):
        return BandedToeplitz((1.0,))

    def log_error(rest: numpy.ndarray) -> float:
        factor = BandedToeplitz((1.0, *_falling(rest)))
        errors = factor.prefix_sum_deviations(steps) ** 2
        return 2 * math.log(factor.sensitivity(steps, participation)) + math.log(errors.sum())

    found = import_scipy().optimize.minimize(
        log_error, start, method="L-BFGS-B", bounds=[(0.0, 1.0)] * len(start)
    )
    return BandedToeplitz((1.0, *_falling(found.x)))


def _falling(rest: numpy.ndarray) -> list[float]:
    return [float(value) for value in numpy.minimum.accumulate(rest)]
