import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import purefn.functional as pf
from purefn.functional import nn

LAYERS = {1: nn.lp_pool1d, 2: nn.lp_pool2d, 3: nn.lp_pool3d}
MODULES = {1: torch.nn.LPPool1d, 2: torch.nn.LPPool2d, 3: torch.nn.LPPool3d}


@settings(max_examples=60)
@given(st.data())
def test_lp_pool(matches_torch, data):
    dims = data.draw(st.integers(1, 3))
    per_dim = st.tuples(*[st.integers(1, 3)] * dims) if dims > 1 else st.integers(1, 3)
    options = {
        "norm_type": data.draw(st.sampled_from([1, 2, 2.0, 3, 0.5, 1.7, math.inf])),
        "kernel_size": data.draw(per_dim),
        "stride": data.draw(st.one_of(st.none(), per_dim)),
        "ceil_mode": data.draw(st.booleans()),
    }
    shape = (2, 2, *(data.draw(st.integers(3, 6)) for _ in range(dims)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    x = torch.rand(shape, generator=generator, dtype=torch.float64) + 0.1
    matches_torch(LAYERS[dims](**options), MODULES[dims](**options), x)


@pytest.mark.parametrize("norm_type", [1, 2, 3, math.inf])
def test_the_gradient_of_zeros_is_that_of_torch(norm_type, matches_torch):
    x = torch.tensor([[[0.0, 0.0, 3.0, 4.0, 0.0, 2.0]]], dtype=torch.float64)
    matches_torch(nn.lp_pool1d(norm_type, 2), torch.nn.LPPool1d(norm_type, 2), x)
    gradient = pf.grad(lambda x: nn.lp_pool1d(norm_type, 2)({}, x).sum())(x)
    assert torch.equal(gradient[..., :2], torch.zeros(1, 1, 2, dtype=torch.float64))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_powers_of_halves_do_not_overflow(dims):
    """Of 300 the square is beyond float16; and in three dimensions torch has no half on the CPU."""
    x = torch.full((1, 1, *[2] * dims), 300.0, dtype=torch.float16)
    y = LAYERS[dims](2, 2)({}, x)
    assert y.dtype == torch.float16
    assert y.item() == pytest.approx(300 * 2 ** (dims / 2), rel=1e-3)


def test_a_negative_sum_of_odd_powers_has_no_root_as_in_torch():
    x = torch.tensor([[[-1.0, -1.0, 2.0, -1.0]]])
    y = nn.lp_pool1d(3, 2)({}, x)
    torch.testing.assert_close(y, torch.nn.LPPool1d(3, 2)(x), equal_nan=True)
    assert y.isnan().tolist() == [[[True, False]]]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.lp_pool2d(0, 2), ValueError, "lp_pool2d: expected norm_type > 0, got 0"),
        (lambda: nn.lp_pool2d(math.nan, 2), ValueError, "lp_pool2d: expected norm_type > 0, got n"),
        (lambda: nn.lp_pool1d("2", 2), TypeError, "lp_pool1d: expected a number for norm_type"),
        (lambda: nn.lp_pool3d(2, 0), ValueError, "lp_pool3d: expected kernel_size >= 1, got 0"),
        (lambda: nn.lp_pool2d(2, (1, 2, 3)), ValueError, "one or 2 integers for kernel_size"),
        (lambda: nn.lp_pool2d(2, 2, 0), ValueError, "lp_pool2d: expected stride >= 1, got 0"),
        (lambda: nn.lp_pool2d(2, 2, ceil_mode=1), TypeError, "True or False for ceil_mode, got 1"),
    ],
)
def test_refuses_options(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_refuses_inputs():
    layer = nn.lp_pool2d(2, 3)
    with pytest.raises(nn.LayerError, match=r"lp_pool2d expected .*\(C, H, W\), got \(4, 4\)"):
        layer({}, torch.ones(4, 4))
    with pytest.raises(nn.LayerError, match=r"lp_pool2d expected .* as its kernel of \(3, 3\)"):
        layer({}, torch.ones(2, 3, 2, 4))
    with pytest.raises(nn.LayerError, match="lp_pool2d expected a floating-point input"):
        layer({}, torch.ones(2, 3, 4, 4, dtype=torch.int64))
