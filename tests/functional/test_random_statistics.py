"""The distributions, over many keys: Kolmogorov-Smirnov and chi-square tests with fixed keys.

Each p-value is that of a fixed experiment, so a test passes or fails for good. One in a thousand
right programs would fail a test; a wrong constant in any of them leaves a p-value of 0.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import purefn.functional as pf
from purefn.functional import random

LEAST_P = 1e-3
KEYS = random.split(random.key(20240229), 400)


def over_keys(draw) -> np.ndarray:
    """Draw from many keys, and return all numbers as one float64 vector."""
    return torch.cat([draw(key).reshape(-1).to(torch.float64) for key in KEYS]).numpy()


CONTINUOUS = {
    "uniform": (random.uniform, stats.uniform()),
    "normal": (random.normal, stats.norm()),
    "gumbel": (random.gumbel, stats.gumbel_r()),
    "exponential": (random.exponential, stats.expon()),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous(name, dtype):
    draw, distribution = CONTINUOUS[name]
    numbers = over_keys(lambda key: draw(key, (101,), dtype))
    assert stats.kstest(numbers, distribution.cdf).pvalue > LEAST_P


@pytest.mark.parametrize("bounds", [(-2.0, 2.0), (0.5, 3.0), (-1.0, 0.25)])
def test_truncated_normal(bounds):
    numbers = over_keys(lambda key: random.truncated_normal(key, *bounds, (101,)))
    assert bounds[0] < numbers.min() < numbers.max() < bounds[1]
    assert stats.kstest(numbers, stats.truncnorm(*bounds).cdf).pvalue > LEAST_P


def test_first_draws_of_neighbouring_seeds_are_independent():
    first = torch.stack([random.uniform(random.key(seed)) for seed in range(4000)]).double().numpy()
    assert stats.kstest(first, stats.uniform().cdf).pvalue > LEAST_P
    assert abs(stats.spearmanr(first[:-1], first[1:]).statistic) < 4 / np.sqrt(len(first))


def test_first_draws_of_folded_keys_are_independent():
    key = random.key(8)
    first = torch.stack([random.uniform(random.fold_in(key, step)) for step in range(4000)])
    first = first.double().numpy()
    assert stats.kstest(first, stats.uniform().cdf).pvalue > LEAST_P
    assert abs(stats.spearmanr(first[:-1], first[1:]).statistic) < 4 / np.sqrt(len(first))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.uint32, torch.uint64])
def test_every_bit_is_fair(dtype):
    size = dtype.itemsize
    words = torch.cat([random.bits(key, (64,), dtype) for key in KEYS]).numpy()
    ones = np.unpackbits(words.view(np.uint8).reshape(-1, size), axis=1).sum(axis=0)
    count = len(words)
    chi_square = ((ones - count / 2) ** 2 / (count / 4)).sum()
    assert stats.chi2(8 * size).sf(chi_square) > LEAST_P


def counts_match(indices: np.ndarray, probabilities) -> bool:
    probabilities = np.asarray(probabilities, dtype=np.float64)
    counts = np.bincount(indices.astype(np.int64), minlength=len(probabilities))
    possible = probabilities > 0
    assert counts[~possible].sum() == 0
    expected = probabilities[possible] / probabilities.sum() * counts.sum()
    return stats.chisquare(counts[possible], expected).pvalue > LEAST_P


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.uint32, torch.int64])
def test_randint(dtype):
    numbers = over_keys(lambda key: random.randint(key, (60,), 3, 20, dtype))
    assert counts_match(numbers - 3, np.ones(17))


@pytest.mark.parametrize("p", [0.02, 0.5, 0.9])
def test_bernoulli(p):
    assert counts_match(over_keys(lambda key: random.bernoulli(key, p, (101,))), [1 - p, p])


PROBABILITIES = torch.tensor([0.1, 0.0, 0.35, 0.05, 0.5])


def test_categorical():
    logits = torch.log(PROBABILITIES)
    indices = over_keys(lambda key: random.categorical(key, logits, shape=(50,)))
    assert counts_match(indices, PROBABILITIES)


def test_truncated_normal_without_bounds_is_normal():
    infinite = torch.tensor(math.inf)
    draw, gradient = pf.value_and_grad(
        lambda bound: random.truncated_normal(random.key(0), -bound, bound, (1000,)).sum()
    )(infinite)
    assert torch.isfinite(draw)
    assert gradient == 0
    drawn = random.truncated_normal(random.key(0), -math.inf, math.inf, (20_000,))
    assert stats.kstest(drawn.double(), "norm").pvalue > LEAST_P


def test_choice_with_probabilities():
    indices = over_keys(lambda key: random.choice(key, 5, (50,), p=PROBABILITIES))
    assert counts_match(indices, PROBABILITIES)


def test_choice_without_replacement_draws_one_after_the_other():
    p = np.array([0.1, 0.2, 0.3, 0.4])
    keys = random.split(random.key(4), 3000)

    def draw(key: Tensor) -> Tensor:
        return random.choice(key, 4, (2,), replace=False, p=torch.tensor(p, dtype=torch.float32))

    pairs = torch.func.vmap(draw)(keys).numpy()
    # Of what the first draw leaves, the second is proportional to p.
    joint = np.outer(p, p) / (1 - p)[:, None]
    np.fill_diagonal(joint, 0)
    assert counts_match(pairs[:, 0] * 4 + pairs[:, 1], joint.reshape(-1))


@pytest.mark.parametrize("independent", [False, True])
def test_permutations_are_equally_likely(independent):
    columns = torch.arange(4)[:, None].expand(4, 2)
    keys = random.split(random.key(9), 3000)
    orders = torch.func.vmap(lambda key: random.permutation(key, columns, 0, independent))(keys)
    ranks = (orders * torch.tensor([64, 16, 4, 1])[:, None]).sum(dim=1)
    for column in (0, 1):
        _, counts = np.unique(ranks[:, column].numpy(), return_counts=True)
        assert len(counts) == 24
        assert stats.chisquare(counts).pvalue > LEAST_P
    assert bool((ranks[:, 0] == ranks[:, 1]).all()) != independent


def test_a_shuffle_keeps_every_element():
    x = torch.arange(60).reshape(5, 12) // 7
    for axis in (0, 1):
        shuffled = random.permutation(random.key(2), x, axis, independent=True)
        assert torch.equal(shuffled.sort(dim=axis).values, x.sort(dim=axis).values)
        assert not torch.equal(shuffled, x)
