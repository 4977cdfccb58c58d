"""Factors of the prefix sum against dense linear algebra, brute force and closed forms."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg, optimize

from purefn.optim import privacy
from purefn.optim.privacy import BandedToeplitz, Participation


def dense(factor, steps):
    column = np.zeros(steps)
    column[: factor.bands] = factor.coefficients[:steps]
    return linalg.toeplitz(column, np.zeros(steps))


def patterns(steps, participation):
    """Yield every set of steps in which an example may be."""
    for times in range(participation.times + 1):
        for chosen in itertools.combinations(range(steps), times):
            if all(b - a >= participation.separation for a, b in itertools.pairwise(chosen)):
                yield list(chosen)


@st.composite
def factors(draw):
    ratios = draw(st.lists(st.floats(0.0, 1.0), max_size=6))
    first = draw(st.floats(0.5, 2.0))
    return BandedToeplitz(tuple(itertools.accumulate(ratios, lambda c, r: c * r, initial=first)))


@given(factors(), st.integers(1, 9), st.integers(1, 4), st.integers(1, 9))
def test_the_sensitivity_is_the_largest_over_all_patterns(factor, steps, times, separation):
    participation = Participation(times, separation)
    matrix = dense(factor, steps)
    largest = max(
        np.linalg.norm(matrix[:, chosen].sum(1)) for chosen in patterns(steps, participation)
    )
    assert factor.sensitivity(steps, participation) == pytest.approx(largest, rel=1e-12)


def test_no_gradients_move_further_than_equal_ones():
    """Examples may move each row by any vector of norm 1; the bound is attained where all agree."""
    factor, participation = privacy.square_root_factor(4), Participation(3, 2)
    matrix, generator = dense(factor, 8), np.random.default_rng(0)
    bound = factor.sensitivity(8, participation)
    for chosen in patterns(8, participation):
        directions = generator.standard_normal((50, len(chosen), 3))
        directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
        moved = np.linalg.norm(matrix[:, chosen] @ directions, axis=(1, 2))
        assert moved.max(initial=0) <= bound * (1 + 1e-12)


@given(factors(), st.integers(1, 30))
def test_inverse_and_prefix_sums_are_those_of_the_matrix(factor, steps):
    inverse = np.linalg.inv(dense(factor, steps))
    scale = np.abs(inverse).max()
    np.testing.assert_allclose(factor.inverse(steps), inverse[:, 0], rtol=0, atol=1e-11 * scale)
    sums = np.tril(np.ones((steps, steps))) @ inverse
    deviations = np.linalg.norm(sums, axis=1)
    found = factor.prefix_sum_deviations(steps)
    np.testing.assert_allclose(found, deviations, rtol=1e-10, atol=1e-11 * scale)


@pytest.mark.parametrize("steps", [1, 5, 64])
def test_with_all_bands_the_square_root_is_one(steps):
    matrix = dense(privacy.square_root_factor(steps), steps)
    np.testing.assert_allclose(matrix @ matrix, np.tril(np.ones((steps, steps))), atol=1e-12)
    np.testing.assert_allclose(matrix, linalg.sqrtm(np.tril(np.ones((steps, steps)))), atol=1e-6)
    for j, coefficient in enumerate(privacy.square_root_factor(steps).coefficients):
        assert coefficient == pytest.approx(math.comb(2 * j, j) / 4**j, rel=1e-12)


def test_the_square_root_attains_its_published_error():
    """Fichtenberger et al. 2023, theorem 1: the largest error, times sensitivity, is at most

    1 + (gamma + log n) / pi, and Matousek et al. 2020's lower bound lies less than 1 below.
    """
    for steps in (16, 256, 2048):
        factor = privacy.square_root_factor(steps)
        error = factor.sensitivity(steps, Participation()) * factor.prefix_sum_deviations(steps)[-1]
        bound = 1 + (np.euler_gamma + math.log(steps)) / math.pi
        assert bound - 1 <= error <= bound


def test_one_band_is_independent_noise():
    factor = privacy.square_root_factor(1)
    deviations = factor.prefix_sum_deviations(50)
    np.testing.assert_allclose(deviations, np.sqrt(np.arange(1, 51)))
    assert factor.sensitivity(50, Participation(9, 3)) == pytest.approx(3.0)


def test_the_optimum_of_two_steps_is_a_root():
    """d/dc (1 + c^2) (2 + (1 - c)^2) = 4 c^3 - 6 c^2 + 8 c - 2."""
    root = optimize.brentq(lambda c: 4 * c**3 - 6 * c**2 + 8 * c - 2, 0, 1)
    assert privacy.optimized_factor(2, 2).coefficients[1] == pytest.approx(root, abs=1e-5)


def squared_error(factor, steps, participation):
    deviations = factor.prefix_sum_deviations(steps)
    return factor.sensitivity(steps, participation) ** 2 * (deviations**2).sum()


@pytest.mark.parametrize(("bands", "steps", "times"), [(4, 60, 1), (8, 64, 4)])
def test_the_optimized_factor_is_a_minimum(bands, steps, times):
    participation = Participation(times, 16)
    factor = privacy.optimized_factor(bands, steps, participation)
    best = squared_error(factor, steps, participation)
    assert best < squared_error(privacy.square_root_factor(bands), steps, participation)
    generator = np.random.default_rng(0)
    for _ in range(30):
        moved = np.array(factor.coefficients[1:])
        moved = moved + 1e-3 * generator.standard_normal(bands - 1)
        moved = np.minimum.accumulate(np.clip(moved, 0, 1))
        other = BandedToeplitz((1.0, *moved.tolist()))
        assert squared_error(other, steps, participation) > best


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: BandedToeplitz(()), ValueError, "tuple of finite"),
        (lambda: BandedToeplitz([1.0]), ValueError, "tuple of finite"),
        (lambda: BandedToeplitz((1.0, math.nan)), ValueError, "tuple of finite"),
        (lambda: BandedToeplitz((1.0, -0.5)), ValueError, "at least 0"),
        (lambda: BandedToeplitz((1.0, 0.2, 0.3)), ValueError, "larger than"),
        (lambda: BandedToeplitz((0.0, 0.0)), ValueError, "positive at first"),
        (lambda: Participation(0), ValueError, "times"),
        (lambda: Participation(1, 1.5), TypeError, "separation"),
        (lambda: privacy.square_root_factor(0), ValueError, "bands"),
        (lambda: privacy.optimized_factor(9, 50, Participation(2, 8)), ValueError, "separation=8"),
    ],
)
def test_refusals(make, error, message):
    with pytest.raises(error, match=message):
        make()
