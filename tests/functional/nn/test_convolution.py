import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from purefn.functional import initializers, nn, random

OURS = {1: nn.conv1d, 2: nn.conv2d, 3: nn.conv3d}
TORCHS = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}
KEY = random.key(0)


@st.composite
def convolutions(draw):
    """Return the number of dimensions, channels, options and an input that they fit."""
    dims = draw(st.integers(1, 3))

    def per_dim(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(dims))

    groups = draw(st.integers(1, 2))
    channels_in, channels_out = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    kernel, dilation = per_dim(1, 3), per_dim(1, 2)
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    padding = draw(st.sampled_from(["same", "valid", "integers"]))
    padding = per_dim(0, 2) if padding == "integers" else padding
    stride = (1,) * dims if padding == "same" else per_dim(1, 2)
    spatial = [max(span, 3) + draw(st.integers(0, 2)) for span in spans]
    options = {
        "kernel_size": kernel,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "bias": draw(st.booleans()),
        "padding_mode": draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
    }
    shape = (draw(st.integers(1, 2)), channels_in, *spatial)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    return dims, channels_out, options, torch.randn(shape, generator=generator).to(dtype)


@settings(max_examples=60)
@given(convolutions())
def test_convolution(matches_torch, convolution):
    dims, channels, options, x = convolution
    layer = OURS[dims](channels, **options)
    matches_torch(layer, TORCHS[dims](x.shape[1], channels, **options), x)
    params = layer.init(KEY, x)
    assert params.keys() == ({"weight", "bias"} if options["bias"] else {"weight"})
    assert layer(params, x).shape[:2] == (x.shape[0], channels)


def test_one_integer_serves_for_all_dimensions(matches_torch):
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    module = torch.nn.Conv2d(3, 4, 3, 2, 1, 2)
    matches_torch(nn.conv2d(4, 3, stride=2, padding=1, dilation=2), module, x)


def test_default_values_are_uniform_within_the_inverse_root_of_fan_in():
    layer = nn.conv2d(400, (2, 5), groups=2)
    params = layer.init(KEY, torch.ones(1, 20, 6, 6))
    assert params["weight"].shape == (400, 10, 2, 5)  # fan_in is 100
    for value in params.values():
        assert 0.099 < value.abs().max() <= 0.1
        assert value.var().item() == pytest.approx(0.01 / 3, rel=0.1)


def test_initializers_are_used():
    layer = nn.conv1d(1, 2, weight_init=initializers.ones, bias_init=initializers.constant(0.5))
    x = torch.ones(1, 3, 2)
    assert layer(layer.init(KEY, x), x).item() == 6.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": (1, 2, 3)}, "one or 2 integers for kernel_size"),
        ({"kernel_size": 0}, "kernel_size >= 1"),
        ({"kernel_size": 1.5}, "integer for kernel_size"),
        ({"stride": 0}, "stride >= 1"),
        ({"dilation": -1}, "dilation >= 1"),
        ({"padding": -1}, "padding >= 0"),
        ({"padding": "full"}, "'same' or 'valid' for padding, got 'full'"),
        ({"padding": "same", "stride": 2}, "padding='same' expected stride 1"),
        ({"groups": 3}, "out_channels divisible by groups = 3, got 4"),
        ({"padding_mode": "wrap"}, "padding_mode .*got 'wrap'"),
        ({"bias": 1}, "True or False for bias, got 1; the input size is inferred"),
    ],
)
def test_refuses_options(options, message):
    with pytest.raises((TypeError, ValueError), match=f"conv2d: .*{message}"):
        nn.conv2d(4, **{"kernel_size": 3, **options})


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({}, (8, 1, 9, 9), r"shape \(N, 3, H, W\) or \(3, H, W\), got \(8, 1, 9, 9\)"),
        ({}, (1, 9, 9), r"shape \(N, 3, H, W\) or \(3, H, W\), got \(1, 9, 9\)"),
        ({}, (3, 9), r"shape \(N, 3, H, W\) or \(3, H, W\), got \(3, 9\)"),
        ({}, (8, 3, 2, 9), r"its kernel, which spans 3 of 2 \+ 0 \+ 0 \(padding\)"),
        ({"dilation": 5}, (8, 3, 9, 9), "spans 11 of 9"),
        (
            {"padding": 5, "padding_mode": "reflect"},
            (8, 3, 5, 9),
            "can pad 5 elements by at most 4",
        ),
        ({"padding": 6, "padding_mode": "circular"}, (8, 3, 5, 9), "by at most 5 with"),
    ],
)
def test_refuses_inputs(options, shape, message):
    layer = nn.conv2d(4, 3, **options)
    params = layer.init(KEY, torch.ones(8, 3, 20, 20))
    with pytest.raises(nn.LayerError, match=message):
        layer(params, torch.ones(shape))
    if shape[-3:-2] == (3,) and len(shape) == 4:
        with pytest.raises(nn.LayerError, match=message):
            layer.init(KEY, torch.ones(shape))


@pytest.mark.parametrize("conv", [nn.conv1d, nn.conv2d, nn.conv3d])
def test_torchs_signature_builds_no_other_layer(conv):
    with pytest.raises(TypeError, match="takes 2 positional arguments"):
        conv(3, 16, 3)


def test_refuses_dtypes_and_groups():
    layer = nn.conv2d(4, 3, groups=2)
    with pytest.raises(
        nn.LayerError, match=r"input channels divisible by groups = 2.*\(8, 3, 9, 9\)"
    ):
        layer.init(KEY, torch.ones(8, 3, 9, 9))
    images = torch.zeros(8, 4, 9, 9, dtype=torch.uint8)
    with pytest.raises(
        nn.LayerError, match=r"conv2d expected a floating-point input, got torch.uint8"
    ):
        layer.init(KEY, images)
    params = layer.init(KEY, images.float())
    with pytest.raises(nn.LayerError, match=r"got torch.uint8"):
        layer(params, images)
    with pytest.raises(nn.LayerError, match=r"'weight' of torch.float32"):
        layer(params, images.double())
