"""The bound that follows a quantile of the norms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import purefn.functional as pf
from purefn.functional import random
from purefn.functional.per_example import adapt_max_norm


@given(
    norms=st.lists(st.floats(0, 1e6), min_size=1, max_size=9),
    bound=st.floats(1e-6, 1e6),
    quantile=st.floats(0, 1),
    lr=st.floats(0, 2),
)
def test_is_the_equation(norms, bound, quantile, lr):
    found = adapt_max_norm(
        torch.tensor(bound, dtype=torch.float64),
        torch.tensor(norms, dtype=torch.float64),
        quantile=quantile,
        lr=lr,
    )
    below = sum(norm <= bound for norm in norms) / len(norms)
    assert found.item() == pytest.approx(bound * math.exp(-lr * (below - quantile)), rel=1e-12)


@pytest.mark.parametrize("quantile", [0.25, 0.5, 0.9])
def test_settles_at_the_quantile(quantile):
    norms = random.uniform(random.key(3), (4000,), dtype=torch.float64) * 7
    bound = torch.tensor(1e-4, dtype=torch.float64)
    for _ in range(400):
        bound = adapt_max_norm(bound, norms, quantile=quantile)
    assert bound.item() == pytest.approx(torch.quantile(norms, quantile).item(), rel=1e-3)


def test_padding_and_norms_that_are_not_finite():
    norms = torch.tensor([0.5, 0.5, 2.0, torch.nan, torch.inf, 0.1, 0.1])
    mask = torch.tensor([True, True, True, True, True, False, False])
    found = adapt_max_norm(torch.tensor(1.0), norms, quantile=0.0, lr=1.0, mask=mask)
    assert found.item() == pytest.approx(math.exp(-2 / 5), rel=1e-6)
    fixed = adapt_max_norm(torch.tensor(1.0), norms, quantile=0.0, lr=1.0, mask=mask, batch_size=10)
    # Of two votes for and three against: 1/2 + (2 - 3) / 2 / 10.
    assert fixed.item() == pytest.approx(math.exp(-0.45), rel=1e-6)


def test_noise_is_that_of_the_count():
    norms, bound = torch.full((8,), 0.5), torch.tensor(1.0)

    def count(key):
        noisy = adapt_max_norm(bound, norms, quantile=0.0, lr=1.0, batch_size=8, noise=3.0, key=key)
        return -8 * noisy.log()

    counts = pf.vmap(count)(random.split(random.key(0), 20000))
    # Five standard errors of a mean, and of a standard deviation, of 20,000 draws.
    assert abs(counts.mean().item() - 8) < 5 * 3 / math.sqrt(20000)
    assert abs(counts.std().item() - 3) < 5 * 3 / math.sqrt(40000)


@given(norms=st.lists(st.floats(0, 10), min_size=1, max_size=9), place=st.integers(0, 8))
def test_an_example_more_moves_the_count_by_a_half(norms, place):
    # Which is what the noise of private training is reckoned by.
    def count(norms):
        rows = torch.tensor(norms, dtype=torch.float64)
        bound = torch.tensor(5.0, dtype=torch.float64)
        found = adapt_max_norm(bound, rows, quantile=0.5, lr=1.0, batch_size=4)
        return -4 * (found / bound).log().item()

    fewer = norms[:place] + norms[place + 1 :]
    if len(fewer) < len(norms):
        assert abs(count(norms) - count(fewer)) == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("norms", [torch.zeros(0), torch.ones(2)])
def test_a_batch_of_nothing_says_nothing(norms):
    mask = torch.zeros(len(norms), dtype=torch.bool)
    assert adapt_max_norm(3.0, norms, mask=mask, quantile=0.9) == 3
    moved = adapt_max_norm(3.0, norms, mask=mask, quantile=0.9, batch_size=8)
    assert moved.item() == pytest.approx(3 * math.exp(0.2 * 0.4))


def test_noise_is_drawn_in_float64():
    bound, norms = torch.tensor(1.0, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    settings = {"quantile": 0.5, "lr": 1.0, "batch_size": 4}
    still = adapt_max_norm(bound, norms, **settings).log()
    drawn = [
        adapt_max_norm(bound, norms, noise=1.0, key=random.key(seed), **settings).log() - still
        for seed in range(8)
    ]
    assert any(abs(x - x.float().double()) > 1e-12 for x in (-4 * torch.stack(drawn)))


def test_bounds_by_group_and_under_jit():
    bounds = {"a": torch.tensor(1.0), "b": torch.tensor(4.0)}
    norms = {"a": torch.tensor([2.0, 2.0]), "b": torch.tensor([1.0, 9.0])}
    found = pf.jit(adapt_max_norm, backend="eager")(bounds, norms)
    assert found["a"].item() == pytest.approx(math.exp(0.1), rel=1e-6)
    assert found["b"].item() == pytest.approx(4.0, rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantile": 1.5}, "expected 0 <= quantile <= 1, got 1.5"),
        ({"noise": -1.0}, "expected noise >= 0, got -1.0"),
        ({"noise": 1.0}, "noise is drawn from a key, got key=None"),
        ({"noise": 1.0, "key": random.key(0)}, "with noise, batch_size is needed"),
        ({"batch_size": 0}, "expected batch_size > 0, got 0"),
        ({"lr": -0.1}, "expected lr >= 0, got -0.1"),
        ({"mask": torch.ones(2)}, "mask is float32 of shape"),
    ],
)
def test_refusals(settings, message):
    with pytest.raises(ValueError, match=message):
        adapt_max_norm(torch.tensor(1.0), torch.ones(3), **settings)


def test_bounds_and_norms_that_do_not_match():
    with pytest.raises(ValueError, match=r"2 bound\(s\), norms has 1 leaves"):
        adapt_max_norm({"a": 1.0, "b": 1.0}, torch.ones(3))
    with pytest.raises(ValueError, match="one bound for each"):
        adapt_max_norm({"a": 1.0}, {"b": torch.ones(3)})
    with pytest.raises(TypeError, match="norms is int64 of shape"):
        adapt_max_norm(1.0, torch.ones(3, dtype=torch.int64))
