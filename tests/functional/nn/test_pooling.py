import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from purefn.functional import nn

MAX = {1: nn.max_pool1d, 2: nn.max_pool2d, 3: nn.max_pool3d}
AVG = {1: nn.avg_pool1d, 2: nn.avg_pool2d, 3: nn.avg_pool3d}
TORCH_MAX = {1: torch.nn.MaxPool1d, 2: torch.nn.MaxPool2d, 3: torch.nn.MaxPool3d}
TORCH_AVG = {1: torch.nn.AvgPool1d, 2: torch.nn.AvgPool2d, 3: torch.nn.AvgPool3d}


@st.composite
def windows(draw, dilated):
    """Return options with lengths that may or may not fit, and an input."""
    dims = draw(st.integers(1, 3))

    def per_dim(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(dims))

    kernel = per_dim(1, 4)
    options = {
        "kernel_size": kernel,
        "stride": draw(st.sampled_from([None, per_dim(1, 4)])),
        "padding": tuple(draw(st.integers(0, length // 2)) for length in kernel),
        "ceil_mode": draw(st.booleans()),
    }
    if dilated:
        options["dilation"] = per_dim(1, 2)
    else:
        options["count_include_pad"] = draw(st.booleans())
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 2)), *per_dim(1, 7))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    return dims, options, torch.randn(shape, generator=generator).to(dtype)


def has_empty_window(options, x):
    """Say, window by window, whether one lies in the padding with all its elements."""
    y = output_lengths(options, x)
    for dim, length in enumerate(x.shape[2:]):
        kernel, padding = options["kernel_size"][dim], options["padding"][dim]
        stride = (options["stride"] or options["kernel_size"])[dim]
        step = options.get("dilation", (1, 1, 1))[dim]
        for position in range(y[dim]):
            first = position * stride - padding
            if not any(0 <= first + step * i < length for i in range(kernel)):
                return True
    return False


def output_lengths(options, x):
    function = {1: torch.max_pool1d, 2: torch.max_pool2d, 3: torch.max_pool3d}[x.ndim - 2]
    options = {name: value for name, value in options.items() if name != "count_include_pad"}
    return function(x, **{**options, "stride": options["stride"] or ()}).shape[2:]


def compare_or_refuse(matches_torch, options, layer, module, x):
    """Where torch refuses the input, the layer does; else they agree."""
    try:
        module(x)
    except RuntimeError:
        # avg_pool3d in torch does not let the padding make up for a small input; the others do.
        message = "at least as large as its kernel|smaller than kernel size"
        with pytest.raises(nn.LayerError, match=message):
            layer({}, x)
        with pytest.raises(nn.LayerError, match=message):
            nn.serial(layer).init(torch.zeros(2, dtype=torch.uint32), x)
        return
    if has_empty_window(options, x):
        with pytest.raises(nn.LayerError, match="every window to hold more than padding"):
            layer({}, x)
    else:
        matches_torch(layer, module, x)


@settings(max_examples=100)
@given(windows(dilated=True))
def test_max_pool(matches_torch, case):
    dims, options, x = case
    compare_or_refuse(matches_torch, options, MAX[dims](**options), TORCH_MAX[dims](**options), x)


@settings(max_examples=100)
@given(windows(dilated=False))
def test_avg_pool(matches_torch, case):
    dims, options, x = case
    compare_or_refuse(matches_torch, options, AVG[dims](**options), TORCH_AVG[dims](**options), x)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_every_small_window_is_computed_or_refused_as_in_torch(stride, ceil_mode):
    computed = empty = 0
    for kernel, padding, dilation, length in itertools.product(*[range(5)] * 4):
        options = {"stride": stride, "padding": padding, "dilation": dilation + 1}
        options = {"kernel_size": kernel + 1, **options, "ceil_mode": ceil_mode}
        x = torch.arange(1.0, length + 2).reshape(1, 1, -1)
        try:
            expected = torch.nn.MaxPool1d(**options)(x)
        except RuntimeError:
            with pytest.raises((ValueError, nn.LayerError), match="max_pool1d"):
                nn.max_pool1d(**options)({}, x)
            continue
        if expected.isfinite().all():
            assert torch.equal(nn.max_pool1d(**options)({}, x), expected)
            computed += 1
        else:
            with pytest.raises(nn.LayerError, match="every window to hold more than padding"):
                nn.max_pool1d(**options)({}, x)
            empty += 1
    assert computed > 50
    assert empty > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_averaged_in_three_dimensions(dtype):
    """For which torch has no kernel on the CPU."""
    x = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = nn.avg_pool3d(3, 2, 1)({}, x.float()).to(dtype)
    assert torch.equal(nn.avg_pool3d(3, 2, 1)({}, x), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: nn.max_pool2d(2, padding=2),
            "max_pool2d: expected padding of at most half .* got 2",
        ),
        (lambda: nn.avg_pool1d(0), "avg_pool1d: expected kernel_size >= 1"),
        (lambda: nn.max_pool3d((2, 2)), "max_pool3d: expected one or 3 integers for kernel_size"),
        (lambda: nn.avg_pool2d(2, stride=0), "avg_pool2d: expected stride >= 1"),
    ],
)
def test_refuses_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("layer", [nn.max_pool2d(2), nn.avg_pool2d(2)], ids=["max", "avg"])
def test_refuses_inputs(layer):
    with pytest.raises(nn.LayerError, match=r"\(N, C, H, W\) or \(C, H, W\), got \(4, 4\)"):
        layer({}, torch.ones(4, 4))
    with pytest.raises(
        nn.LayerError, match=r"pool2d expected a floating-point input, got torch.uint8"
    ):
        layer({}, torch.ones(2, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(nn.LayerError, match=r"pool2d has no parameters"):
        layer({"weight": torch.ones(1)}, torch.ones(2, 3, 4, 4))
    with pytest.raises(nn.LayerError, match=r"\(2, 3, 0, 4\)"):
        layer({}, torch.ones(2, 3, 0, 4))


@pytest.mark.parametrize("layer", [nn.max_pool1d(2, padding=1), nn.avg_pool1d(2, padding=1)])
def test_padding_does_not_make_up_for_an_empty_input(layer):
    with pytest.raises(nn.LayerError, match=r"at least as large as its kernel .*\(2, 3, 0\)"):
        layer({}, torch.ones(2, 3, 0))


def test_flags_are_booleans():
    with pytest.raises(TypeError, match="max_pool2d: expected True or False for ceil_mode, got 1"):
        nn.max_pool2d(2, ceil_mode=1)
    with pytest.raises(TypeError, match=r"avg_pool1d: .* for count_include_pad, got None"):
        nn.avg_pool1d(2, count_include_pad=None)
