import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import purefn.functional as pf
from purefn.functional import nn, random

KEY = random.key(0)


@given(p=st.floats(0.01, 0.99), seed=st.integers(0, 2**31 - 1))
def test_elements_are_dropped_or_scaled(p, seed):
    x = torch.randn(7, 11, dtype=torch.float64) + 3.0
    y = nn.dropout(p)({}, x, key=random.key(seed), train=True)
    torch.testing.assert_close(y[y != 0], x[y != 0] / (1 - p), rtol=1e-15, atol=0)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_number_dropped_is_binomial_and_the_mean_is_kept(p):
    n = 100_000
    y = nn.dropout(p)({}, torch.ones(n, dtype=torch.float64), key=KEY, train=True)
    assert stats.binomtest(int((y == 0).sum()), n, p).pvalue > 1e-3
    assert y.mean().item() == pytest.approx(1.0, abs=4 * math.sqrt(p / (1 - p) / n))


def test_rows_are_dropped_independently():
    y = nn.dropout(0.5)({}, torch.ones(2, 10_000), key=KEY, train=True) != 0
    agreement = int((y[0] == y[1]).sum())
    assert stats.binomtest(agreement, 10_000, 0.5).pvalue > 1e-3


def test_the_key_alone_decides():
    layer, x = nn.dropout(0.5), torch.ones(1000)
    y = layer({}, x, key=KEY, train=True)
    assert torch.equal(y, layer({}, x, key=random.key(0), train=True))
    assert not torch.equal(y, layer({}, x, key=random.key(1), train=True))
    assert torch.equal(y == 0, layer({}, 5 * x, key=KEY, train=True) == 0)


def test_the_edges():
    x = torch.tensor([1.0, -2.0, math.inf])
    assert torch.equal(nn.dropout(0)({}, x, key=KEY, train=True), x)
    assert torch.equal(nn.dropout(0.0)({}, x, train=True), x)
    assert torch.equal(nn.dropout(1.0)({}, x, key=KEY, train=True), torch.zeros(3))
    assert torch.equal(nn.dropout(1)({}, x, key=KEY, train=True), torch.zeros(3))
    assert torch.equal(nn.dropout(0.5)({}, x), x)
    assert torch.equal(nn.dropout(0.5)({}, x, key=KEY), x)


def test_the_gradient_is_the_mask():
    layer, x = nn.dropout(0.25), torch.randn(100, dtype=torch.float64)
    gradient = pf.grad(lambda x: layer({}, x, key=KEY, train=True).sum())(x)
    mask = layer({}, torch.ones_like(x), key=KEY, train=True)
    assert torch.equal(gradient, mask)
    assert 0 < (gradient == 0).sum() < 100


def test_half_precision_stays():
    y = nn.dropout(0.5)({}, torch.ones(8, dtype=torch.bfloat16), key=KEY, train=True)
    assert y.dtype == torch.bfloat16


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan, "half", True, None])
def test_refuses_what_is_no_probability(p):
    with pytest.raises(ValueError, match=r"probability p within \[0, 1\], got"):
        nn.dropout(p)


def test_refusals():
    layer = nn.dropout(0.5)
    with pytest.raises(nn.LayerError, match="needs a key in training"):
        layer({}, torch.ones(3), train=True)
    with pytest.raises(nn.LayerError, match="needs a key in training"):
        nn.dropout(1.0)({}, torch.ones(3), train=True)
    with pytest.raises(nn.LayerError, match=r"floating-point input, got torch.int64"):
        layer({}, torch.ones(3, dtype=torch.int64), key=KEY, train=True)
    with pytest.raises(nn.LayerError, match=r"True or False for train, got a torch.bool tensor"):
        layer({}, torch.ones(3), key=KEY, train=torch.tensor(True))
