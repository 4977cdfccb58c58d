"""Filters of logits against plain definitions, and draws against exact probabilities."""

import functools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

import purefn.functional as pf
from purefn.functional import models, random


def reference_top_k(logits, k):
    """As transformers' TopKLogitsWarper: what is below the k-th greatest goes."""
    least = np.sort(logits)[-k]
    return np.where(logits < least, -np.inf, logits)


def reference_top_p(logits, p):
    """The nucleus by its definition: the shortest run of most probable tokens that reaches p."""
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    kept, total = np.full_like(logits, -np.inf), 0.0
    for token in np.argsort(-logits, kind="stable"):
        kept[token] = logits[token]
        total += probabilities[token]
        if total >= p:
            break
    return kept


ROWS = st.lists(
    st.lists(st.floats(-8, 8), min_size=6, max_size=6, unique=True), min_size=1, max_size=3
)


@given(ROWS, st.integers(1, 6))
def test_top_k_keeps_the_k_greatest(rows, k):
    logits = np.array(rows)
    expected = np.stack([reference_top_k(row, k) for row in logits])
    ours = models.top_k_logits(torch.tensor(logits), k)
    assert np.array_equal(ours.numpy(), expected)
    assert (torch.isfinite(ours).sum(-1) == k).all()


@given(ROWS, st.floats(0.01, 0.99))
def test_top_p_keeps_the_nucleus(rows, p):
    logits = np.array(rows)
    expected = np.stack([reference_top_p(row, p) for row in logits])
    totals = np.cumsum(np.sort(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))[:, ::-1], -1)
    if np.abs(totals - p).min() > 1e-9:  # where rounding decides, either is right
        assert np.array_equal(models.top_p_logits(torch.tensor(logits), p).numpy(), expected)


def test_edges_of_the_filters():
    logits = torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0]])
    assert torch.equal(models.top_k_logits(logits, 3), logits)
    assert torch.equal(models.top_p_logits(logits, 1.0), logits)
    # Equal logits stay together under top-k, and the first of them is the nucleus.
    assert torch.isfinite(models.top_k_logits(logits, 1)).tolist() == [
        [True, True, False],
        [False, True, True],
    ]
    assert torch.isfinite(models.top_p_logits(logits, 1e-9)).tolist() == [
        [True, False, False],
        [False, True, False],
    ]
    # What has no probability stays out, also after a first filter.
    gone = torch.tensor([0.0, -torch.inf, 0.0])
    assert torch.equal(models.top_p_logits(gone, 0.99), gone)


def test_filters_under_transforms():
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))

    def both(row):
        return models.top_p_logits(models.top_k_logits(row, 5), 0.8)

    expected = both(logits)
    assert torch.equal(pf.vmap(both)(logits), expected)
    assert torch.equal(pf.jit(both, backend="aot_eager")(logits), expected)
    total = pf.grad(lambda x: both(x).nan_to_num(neginf=0.0).sum())(logits)
    assert torch.equal(total, torch.isfinite(expected).float())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 3},
        {"top_p": 0.7},
        {"temperature": 1.7, "top_k": 4, "top_p": 0.8},
    ],
)
def test_draws_have_the_filtered_distribution(options):
    """Chi-square of 20,000 draws with a fixed key; probabilities by the plain definitions."""
    logits = np.array([0.3, 2.0, -1.0, 1.5, 0.0, 1.0])
    kept = logits / options.get("temperature", 1.0)
    if "top_k" in options:
        kept = reference_top_k(kept, options["top_k"])
    if "top_p" in options:
        kept = reference_top_p(kept, options["top_p"])
    probabilities = np.exp(kept) / np.exp(kept).sum()
    draws = models.sample_token(random.key(7), torch.tensor(logits).expand(20_000, 6), **options)
    counts = np.bincount(draws.numpy(), minlength=6)
    possible = probabilities > 0
    assert counts[~possible].sum() == 0
    test = scipy.stats.chisquare(counts[possible], 20_000 * probabilities[possible])
    assert test.pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_drawn_from_and_filtered_like_float32(dtype):
    """Noise of eight bits ties at the top, and sums of many small probabilities stand still."""
    logits = torch.randn(4, 3000, generator=torch.Generator().manual_seed(0)).to(dtype)
    rows = logits.reshape(-1, 10) + 0.1
    for options in ({}, {"temperature": 0.7, "top_k": 900, "top_p": 0.9}):
        draw = functools.partial(models.sample_token, random.key(1), **options)
        assert torch.equal(draw(logits), draw(logits.float()))
    assert torch.equal(draw(rows, top_k=9), draw(rows.float(), top_k=9))
    for p in (0.3, 0.95, 1.0):
        ours = models.top_p_logits(logits, p)
        assert ours.dtype == dtype
        assert torch.equal(ours.float(), models.top_p_logits(logits.float(), p))


def test_draws_from_many_halves_are_not_the_first_ones():
    flat = torch.zeros(400, 20_000, dtype=torch.bfloat16)
    tokens = models.sample_token(random.key(0), flat).double()
    assert abs(tokens.mean() / 10_000 - 1) < 4 / math.sqrt(3 * 400)


def test_a_probability_of_one_keeps_all():
    # In float32 the first probability is 1, and the second has a logarithm all the same.
    logits = torch.tensor([0.0, -200.0, -torch.inf])
    assert torch.equal(models.top_p_logits(logits, 1.0), logits)
    assert torch.equal(models.top_p_logits(logits, 1), logits)


def test_nan_stays_nan_in_the_filters():
    logits = torch.tensor([0.0, torch.nan, 1.0])
    assert models.top_k_logits(logits, 2).isnan().any()
    assert models.top_p_logits(logits, 0.5).isnan().any()


@pytest.mark.parametrize("options", [{}, {"temperature": 0}, {"top_k": 2}, {"top_p": 0.5}])
@pytest.mark.parametrize(
    "row", [[-math.inf] * 3, [0.0, math.nan, 1.0], [0.0, math.inf, 1.0], [math.inf, math.inf, 0.0]]
)
def test_rows_without_a_distribution_are_refused(row, options):
    logits = torch.tensor([[0.0, 90.0, -math.inf], row])

    def draw(logits):
        return models.sample_token(random.key(0), logits, **options)

    with pytest.raises(ValueError, match="finite greatest logit in every row"):
        draw(logits)
    for hidden in (pf.vmap(draw), pf.jit(draw, backend="eager")):
        assert hidden(logits).tolist() == [1, -1]


def test_temperatures_at_the_end_of_the_dtype():
    for dtype in (torch.float16, torch.float32, torch.float64):
        logits = torch.tensor([[5.0, 60.0, 66.0], [-3, -1, -2], [0, -math.inf, 9]], dtype=dtype)
        for temperature in (1e-5, 1e-40, 1e-320):
            cold = models.sample_token(random.key(0), logits, temperature=temperature)
            assert torch.equal(cold, logits.argmax(-1))
            tied = torch.tensor([2.0, 2.0, 0.0], dtype=dtype).expand(300, 3)
            drawn = models.sample_token(random.key(0), tied, temperature=temperature)
            assert 100 < drawn.sum() < 200
        hot = logits.expand(300, 3, 3)
        for temperature in (1e30, 1e308, 10**400):
            tokens = models.sample_token(random.key(0), hot, temperature=temperature)
            counts = torch.stack([(tokens == i).sum(0) for i in range(3)], 1)
            assert counts[:2].min() > 70
            assert counts[2, 1] == 0


def test_temperature_zero_is_greedy():
    logits = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
    greedy = models.sample_token(random.key(0), logits, temperature=0, top_k=2, top_p=0.5)
    assert torch.equal(greedy, logits.argmax(-1))
    cold = models.sample_token(random.key(0), logits, temperature=1e-4)
    assert torch.equal(cold, greedy)


def test_options_out_of_range_are_refused():
    logits = torch.zeros(2, 5)

    def sample(**options):
        return models.sample_token(random.key(0), logits, **options)

    for temperature in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite temperature >= 0"):
            sample(temperature=temperature)
    for wrong in ("1", True, torch.tensor(1.0)):
        with pytest.raises(TypeError, match="number for temperature"):
            sample(temperature=wrong)
    with pytest.raises(ValueError, match="top_k >= 1, got 0"):
        sample(top_k=0)
    with pytest.raises(ValueError, match="top_k to be at most the 5 tokens there are, got 6"):
        sample(top_k=6)
    with pytest.raises(TypeError, match="integer for top_k"):
        sample(top_k=2.0)
    for p in (0.0, 1.5, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"top_p within \(0, 1\]"):
            sample(top_p=p)
    with pytest.raises(TypeError, match="number for top_p"):
        sample(top_p="0.9")
    with pytest.raises(ValueError, match="k to be at most the 5"):
        models.top_k_logits(logits, 6)
    with pytest.raises(ValueError, match=r"p within"):
        models.top_p_logits(logits, 2.0)
    with pytest.raises(TypeError, match="floating-point"):
        models.top_k_logits(torch.zeros(3, dtype=torch.int64), 1)
    with pytest.raises(ValueError, match=r"shape \(\)"):
        models.top_p_logits(torch.tensor(1.0), 0.5)
    for options in ({}, {"temperature": 0}):
        with pytest.raises(ValueError, match=r"V >= 1, got shape \(2, 0\)"):
            models.sample_token(random.key(0), torch.zeros(2, 0), **options)
