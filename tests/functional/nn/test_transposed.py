import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from purefn.functional import initializers, nn, random

OURS = {1: nn.conv_transpose1d, 2: nn.conv_transpose2d, 3: nn.conv_transpose3d}
TORCHS = {1: torch.nn.ConvTranspose1d, 2: torch.nn.ConvTranspose2d, 3: torch.nn.ConvTranspose3d}
KEY = random.key(0)


@st.composite
def transposed_convolutions(draw):
    """Return the number of dimensions, channels, options and an input that may not fit."""
    dims = draw(st.integers(1, 3))

    def per_dim(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(dims))

    groups = draw(st.integers(1, 2))
    channels_in, channels_out = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    stride, dilation = per_dim(1, 3), per_dim(1, 2)
    options = {
        "kernel_size": per_dim(1, 3),
        "stride": stride,
        "padding": per_dim(0, 2),
        "output_padding": tuple(
            draw(st.integers(0, max(pair) - 1)) for pair in zip(stride, dilation, strict=True)
        ),
        "dilation": dilation,
        "groups": groups,
        "bias": draw(st.booleans()),
    }
    shape = (draw(st.integers(1, 2)), channels_in, *per_dim(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    return dims, channels_out, options, torch.randn(shape, generator=generator).to(dtype)


@settings(max_examples=40)
@given(transposed_convolutions())
def test_transposed_convolution(matches_torch, case):
    dims, channels, options, x = case
    layer = OURS[dims](channels, **options)
    module = TORCHS[dims](x.shape[1], channels, **options).to(x.dtype)
    try:
        expected = module(x).shape
    except RuntimeError:
        with pytest.raises(nn.LayerError, match="leaves an output with padding"):
            layer.init(KEY, x)
        return
    if 0 in expected:
        with pytest.raises(nn.LayerError, match="leaves an output with padding"):
            layer.init(KEY, x)
        return
    matches_torch(layer, module, x)
    assert layer(layer.init(KEY, x), x).shape == expected


def test_it_is_the_derivative_of_the_convolution():
    options = {"stride": 2, "padding": 1, "dilation": 2, "groups": 2, "bias": False}
    convolution, transposed = nn.conv2d(6, 3, **options), nn.conv_transpose2d(4, 3, **options)
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64, requires_grad=True)
    params = convolution.init(KEY, x)
    y = convolution(params, x)
    cotangent = torch.randn_like(y)
    (expected,) = torch.autograd.grad(y, x, cotangent)
    torch.testing.assert_close(transposed(params, cotangent), expected)


def test_default_values_are_uniform_within_torchs_bound():
    layer = nn.conv_transpose2d(400, (2, 5), groups=40)
    params = layer.init(KEY, torch.ones(1, 40, 6, 6))
    assert params["weight"].shape == (40, 10, 2, 5)  # torch counts 100 as coming in
    assert params["bias"].shape == (400,)
    for value in params.values():
        assert 0.099 < value.abs().max() <= 0.1
        assert value.var().item() == pytest.approx(0.01 / 3, rel=0.1)


def test_initializers_are_used():
    layer = nn.conv_transpose1d(
        1, 2, weight_init=initializers.ones, bias_init=initializers.constant(0.5)
    )
    x = torch.ones(1, 3, 2)
    assert layer(layer.init(KEY, x), x).tolist() == [[[3.5, 6.5, 3.5]]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": (1, 2, 3)}, "one or 2 integers for kernel_size"),
        ({"kernel_size": 0}, "kernel_size >= 1"),
        ({"stride": 0}, "stride >= 1"),
        ({"dilation": 1.5}, "integer for dilation, got 1.5"),
        ({"padding": -1}, "padding >= 0, got -1"),
        ({"padding": "same"}, "for padding, got 'same'"),
        ({"output_padding": -1}, "output_padding >= 0, got -1"),
        ({"output_padding": 1}, "output_padding less than stride = 1 or dilation = 1, got 1"),
        ({"output_padding": (1, 2), "stride": 2}, "less than stride = 2 or dilation = 1, got 2"),
        ({"groups": 3}, "out_channels divisible by groups = 3, got 4"),
        ({"bias": 1}, "True or False for bias, got 1; the input size is inferred"),
    ],
)
def test_refuses_options(options, message):
    with pytest.raises((TypeError, ValueError), match=f"conv_transpose2d: .*{message}"):
        nn.conv_transpose2d(4, **{"kernel_size": 3, **options})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((8, 2, 9, 9), r"shape \(N, 4, H, W\) or \(4, H, W\), got \(8, 2, 9, 9\)"),
        ((4, 9), r"shape \(N, 4, H, W\) or \(4, H, W\), got \(4, 9\)"),
        ((8, 4, 2, 9), r"padding \(2, 2\), got shape \(8, 4, 2, 9\), .* shape of \(0, 7\)"),
        ((8, 4, 0, 9), r"got shape \(8, 4, 0, 9\)"),
    ],
)
def test_refuses_inputs(shape, message):
    layer = nn.conv_transpose2d(4, 3, padding=2, groups=2)
    params = layer.init(KEY, torch.ones(8, 4, 9, 9))
    with pytest.raises(nn.LayerError, match=f"conv_transpose2d expected an input .*{message}"):
        layer(params, torch.ones(shape))


def test_refuses_dtypes_and_groups():
    layer = nn.conv_transpose2d(4, 3, groups=2)
    for channels in (0, 3):
        with pytest.raises(nn.LayerError, match=rf"groups = 2, got shape \(8, {channels}, 9, 9\)"):
            layer.init(KEY, torch.ones(8, channels, 9, 9))
    with pytest.raises(nn.LayerError, match=r"floating-point input, got torch.uint8"):
        layer.init(KEY, torch.zeros(8, 4, 9, 9, dtype=torch.uint8))
    params = layer.init(KEY, torch.ones(8, 4, 9, 9))
    with pytest.raises(nn.LayerError, match=r"'weight' of torch.float32"):
        layer(params, torch.ones(8, 4, 9, 9, dtype=torch.float64))


@pytest.mark.parametrize("layer", OURS.values())
def test_torchs_signature_builds_no_other_layer(layer):
    with pytest.raises(TypeError, match="takes 2 positional arguments"):
        layer(3, 16, 3)
