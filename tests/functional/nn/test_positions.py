"""Positions: rotary, sinusoidal, learned, and the slopes of linear biases."""

import math

import pytest
import torch

import purefn.functional as pf
from purefn.functional import nn, random


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


X = normal(2, 5, 6)


def by_complex_numbers(x, offset=0, base=10_000.0):
    rates = [base ** (-2 * i / x.shape[-1]) for i in range(x.shape[-1] // 2)]
    rates = torch.tensor(rates, dtype=torch.float64)
    angles = (torch.arange(x.shape[-2]) + offset)[:, None] * rates
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


@pytest.mark.parametrize("offset", [0, 7, torch.tensor(7)])
@pytest.mark.parametrize("base", [10_000.0, 100])
def test_rotary_multiplies_by_unit_complex_numbers(offset, base):
    expected = by_complex_numbers(X, offset, base)
    torch.testing.assert_close(nn.rotary(X, offset, base=base), expected, rtol=0, atol=1e-12)
    halves = torch.cat([X[..., ::2], X[..., 1::2]], -1)
    y = nn.rotary(halves, offset, base=base, interleaved=False)
    expected = torch.cat([expected[..., ::2], expected[..., 1::2]], -1)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)


def test_products_of_rotated_vectors_depend_on_the_difference_of_positions(is_close):
    q, k = normal(2, 1, 8).unbind()
    product = nn.rotary(q, 3) @ nn.rotary(k, 1).T
    is_close(nn.rotary(q, 103) @ nn.rotary(k, 101).T, product, "product")
    assert not torch.allclose(nn.rotary(q, 103) @ nn.rotary(k, 102).T, product)


def test_far_positions_are_told_apart_in_bfloat16():
    x = torch.ones(1, 2, dtype=torch.bfloat16)
    y = nn.rotary(x, 1001).float()
    torch.testing.assert_close(y, nn.rotary(x.float(), 1001), rtol=0, atol=0.01)


def test_sinusoidal_positions_are_those_of_the_paper():
    for width in (6, 5):
        y = nn.sinusoidal_positions(torch.zeros(2, 4, width, dtype=torch.float64), 2)
        for position in range(4):
            for feature in range(width):
                angle = (position + 2) / 10_000 ** ((feature - feature % 2) / width)
                wave = math.cos(angle) if feature % 2 else math.sin(angle)
                assert abs(y[1, position, feature].item() - wave) < 1e-12


def test_offsets_as_tensors_serve_one_program_and_a_batch():
    step = pf.jit(nn.rotary, backend="aot_eager")
    for offset in (0, 3):
        torch.testing.assert_close(step(X, torch.tensor(offset)), nn.rotary(X, offset))
    assert str(pf.explain_retraces(step)).endswith("traced once.")
    for function in (nn.rotary, nn.sinusoidal_positions):
        y = pf.vmap(function)(X, torch.tensor([4, 2]))
        torch.testing.assert_close(y[1], function(X[1], 2))


def published_slopes(heads):
    """Return what the authors' recursion does."""
    if math.log2(heads).is_integer():
        start = 2 ** (-(2 ** -(math.log2(heads) - 3)))
        return [start * start**head for head in range(heads)]
    power = 2 ** math.floor(math.log2(heads))
    return published_slopes(power) + published_slopes(2 * power)[0::2][: heads - power]


@pytest.mark.parametrize("heads", [1, 2, 3, 8, 12, 20])
def test_alibi_slopes_are_those_of_the_authors(heads):
    torch.testing.assert_close(nn.alibi_slopes(heads), torch.tensor(published_slopes(heads)))


def test_refusals():
    with pytest.raises(nn.LayerError, match=r"rotary expected an even number of features, got \(2"):
        nn.rotary(X[..., :5])
    with pytest.raises(nn.LayerError, match=r"rotary expected an input of shape \(..., L, D\)"):
        nn.rotary(X[0, 0])
    with pytest.raises(TypeError, match=r"rotary: expected an integer for offset, got 1\.5"):
        nn.rotary(X, 1.5)
    with pytest.raises(nn.LayerError, match=r"one integer for offset, got a torch.int64 .*\(1,\)"):
        nn.rotary(X, torch.tensor([1]))
    with pytest.raises(nn.LayerError, match=r"one integer for offset, got a torch\.bool"):
        nn.rotary(X, torch.tensor(True))
    with pytest.raises(nn.LayerError, match=r"one integer for offset, got a torch\.float32"):
        nn.sinusoidal_positions(X, torch.tensor(1.0))
    with pytest.raises(ValueError, match="rotary: expected a finite base > 0, got 0"):
        nn.rotary(X, base=0)
    with pytest.raises(TypeError, match="expected True or False for interleaved, got 1"):
        nn.rotary(X, interleaved=1)
    with pytest.raises(ValueError, match="alibi_slopes: expected num_heads >= 1, got 0"):
        nn.alibi_slopes(0)
    with pytest.raises(ValueError, match="learned_positions: expected max_length >= 1, got 0"):
        nn.learned_positions(0)


def test_learned_positions_refuse_longer_sequences():
    layer = nn.learned_positions(4)
    params = layer.init(random.key(0), X[:, :4])
    assert torch.equal(layer(params, X[:, :2]), X[:, :2] + params["weight"][:2])
    for call in (lambda: layer(params, X), lambda: layer.init(random.key(0), X)):
        with pytest.raises(nn.LayerError, match="at most max_length=4 positions, got 5 in shape"):
            call()
    with pytest.raises(nn.LayerError, match=r"input of shape \(..., L, 6\), got \(2, 4, 5\)"):
        layer(params, X[:, :4, :5])
    assert 0.01 < params["weight"].std() < 0.04
