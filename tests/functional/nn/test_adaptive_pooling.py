import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import purefn.functional as pf
from purefn.functional import nn

LAYERS = {
    "avg": (nn.adaptive_avg_pool1d, nn.adaptive_avg_pool2d, nn.adaptive_avg_pool3d),
    "max": (nn.adaptive_max_pool1d, nn.adaptive_max_pool2d, nn.adaptive_max_pool3d),
}
MODULES = {
    "avg": (torch.nn.AdaptiveAvgPool1d, torch.nn.AdaptiveAvgPool2d, torch.nn.AdaptiveAvgPool3d),
    "max": (torch.nn.AdaptiveMaxPool1d, torch.nn.AdaptiveMaxPool2d, torch.nn.AdaptiveMaxPool3d),
}


@settings(max_examples=60)
@given(st.data())
def test_adaptive_pooling(matches_torch, data):
    kind, dims = data.draw(st.sampled_from(["avg", "max"])), data.draw(st.integers(1, 3))
    per_dim = st.one_of(st.none(), st.integers(1, 5))
    size = tuple(data.draw(per_dim) for _ in range(dims))
    if data.draw(st.booleans()) or dims == 1:
        size = data.draw(st.integers(1, 5))
    shape = (2, 2, *(data.draw(st.integers(1, 7)) for _ in range(dims)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    matches_torch(LAYERS[kind][dims - 1](size), MODULES[kind][dims - 1](size), x)


def test_one_dimension_takes_a_sequence_and_none():
    x = torch.randn(2, 3, 5)
    assert torch.equal(nn.adaptive_max_pool1d(None)({}, x), x)
    assert torch.equal(nn.adaptive_max_pool1d((1,))({}, x), x.amax(2, keepdim=True))


@pytest.mark.parametrize("dims", [1, 2, 3, 4])
def test_global_pooling_is_over_all_spatial_dimensions(dims):
    x = torch.randn(2, 3, *range(2, 2 + dims), dtype=torch.float64)
    axes = tuple(range(2, 2 + dims))
    torch.testing.assert_close(nn.global_avg_pool()({}, x), x.mean(axes))
    assert torch.equal(nn.global_max_pool()({}, x), x.amax(axes))


def test_of_equal_elements_the_first_has_the_gradient():
    x = torch.tensor([[[[1.0, 2.0], [2.0, 0.0]]]])
    expected = torch.tensor([[[[0.0, 1.0], [0.0, 0.0]]]])
    for layer in (nn.global_max_pool(), nn.adaptive_max_pool2d(1)):
        gradient = pf.grad(lambda x, layer=layer: layer({}, x).sum())(x)
        assert torch.equal(gradient, expected)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.adaptive_avg_pool2d((1, 2, 3)), ValueError, "adaptive_avg_pool2d: .* 2 len"),
        (lambda: nn.adaptive_avg_pool2d(0), ValueError, "adaptive_avg_pool2d: expected output_siz"),
        (lambda: nn.adaptive_max_pool2d((1, 2, 3)), ValueError, "adaptive_max_pool2d: .* 2 len"),
        (lambda: nn.adaptive_max_pool3d(0), ValueError, "adaptive_max_pool3d: expected output_siz"),
        (lambda: nn.adaptive_max_pool1d(1.5), TypeError, "adaptive_max_pool1d: expected an integ"),
    ],
)
def test_refuses_options(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    "layer",
    [nn.adaptive_avg_pool2d(1), nn.adaptive_max_pool2d(1), nn.global_avg_pool()],
    ids=["avg", "max", "global"],
)
def test_refuses_inputs(layer):
    with pytest.raises(
        nn.LayerError, match=r"pool\w* expected an input of shape \(N, C.*, got \(3"
    ):
        layer({}, torch.ones(3, 4))
    with pytest.raises(nn.LayerError, match=r"pool\w* expected a floating-point input, got torch."):
        layer({}, torch.ones(2, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(nn.LayerError, match=r"expected a non-empty input, .*\(2, 3, 0, 4\)"):
        layer({}, torch.ones(2, 3, 0, 4))
    with pytest.raises(nn.LayerError, match=r"expected a non-empty input, .*\(2, 0, 4, 4\)"):
        layer({}, torch.ones(2, 0, 4, 4))
    with pytest.raises(nn.LayerError, match=r"has no parameters"):
        layer({"weight": torch.ones(1)}, torch.ones(2, 3, 4, 4))
    assert layer({}, torch.ones(0, 3, 4, 4)).shape[:2] == (0, 3)


def test_global_pooling_needs_spatial_dimensions():
    with pytest.raises(nn.LayerError, match=r"global_max_pool .* \(N, C, L, ...\), got \(2, 3\)"):
        nn.global_max_pool()({}, torch.ones(2, 3))
