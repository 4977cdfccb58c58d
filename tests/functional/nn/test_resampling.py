import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import purefn.functional as pf
from purefn.functional import nn

MODES = {1: ["linear"], 2: ["bilinear", "bicubic"], 3: ["trilinear"]}
FACTORS = st.sampled_from([0.3, 0.5, 1.0, 1.5, 2, 2.3])


@st.composite
def resized(draw):
    """Return options and an input of which something may not be left."""
    dims = draw(st.integers(1, 3))
    mode = draw(st.sampled_from(["nearest", "nearest-exact", "area", *MODES[dims]]))
    options = {"mode": mode}
    if draw(st.booleans()):
        one = st.integers(1, 7)
        options["size"] = draw(st.one_of(one, st.tuples(*[one] * dims)))
    else:
        options["scale_factor"] = draw(st.one_of(FACTORS, st.tuples(*[FACTORS] * dims)))
        options["recompute_scale_factor"] = draw(st.booleans())
    if mode in MODES[dims]:
        options["align_corners"] = draw(st.sampled_from([None, True, False]))
    shape = (2, draw(st.integers(1, 2)), *(draw(st.integers(1, 5)) for _ in range(dims)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    return options, torch.randn(shape, generator=generator).to(dtype)


@settings(max_examples=80)
@given(resized())
def test_upsample(matches_torch, case):
    options, x = case
    layer, module = nn.upsample(**options), torch.nn.Upsample(**options)
    try:
        is_empty = module(x).numel() == 0
    except RuntimeError:
        is_empty = True
    if is_empty:
        with pytest.raises(nn.LayerError, match="an input of which something is left"):
            layer({}, x)
    else:
        matches_torch(layer, module, x)


@settings(max_examples=60)
@given(st.data())
def test_unfold_and_fold(matches_torch, data):
    def pair(low, high):
        return tuple(data.draw(st.integers(low, high)) for _ in range(2))

    options = {
        "kernel_size": pair(1, 3),
        "dilation": pair(1, 2),
        "padding": pair(0, 1),
        "stride": pair(1, 3),
    }
    size, leading = pair(1, 6), data.draw(st.sampled_from([(2, 3), (3,)]))
    x = torch.randn(*leading, *size, dtype=torch.float64)
    try:
        patches = torch.nn.Unfold(**options)(x)
    except RuntimeError:
        with pytest.raises(nn.LayerError, match="unfold expected a non-empty input at least as"):
            nn.unfold(**options)({}, x)
        with pytest.raises(ValueError, match="fold: expected output_size at least as large as"):
            nn.fold(size, **options)
        return
    matches_torch(nn.unfold(**options), torch.nn.Unfold(**options), x)
    y = torch.randn(patches.shape, dtype=torch.float64)
    matches_torch(nn.fold(size, **options), torch.nn.Fold(size, **options), y)


@pytest.mark.parametrize("shape", [(8, 4, 2), (3, 8, 4, 2), (2, 3, 8, 4, 2)])
def test_shuffles_equal_torchs_for_any_leading_dimensions(shape):
    x = torch.arange(torch.Size(shape).numel()).reshape(shape)
    up = nn.pixel_shuffle(2)({}, x)
    assert torch.equal(up, torch.nn.PixelShuffle(2)(x))
    assert torch.equal(nn.pixel_unshuffle(2)({}, up), x)
    x = x.movedim(-3, 1)
    assert torch.equal(nn.channel_shuffle(2)({}, x), torch.nn.ChannelShuffle(2)(x))


@pytest.mark.parametrize("mode", ["nearest-exact", "linear"])
def test_positions_follow_from_the_lengths_where_asked(mode, matches_torch):
    x = torch.arange(3.0, dtype=torch.float64).reshape(1, 1, 3)
    outputs = []
    for recompute in (True, False):
        options = {"scale_factor": 1.9, "mode": mode, "recompute_scale_factor": recompute}
        matches_torch(nn.upsample(**options), torch.nn.Upsample(**options), x)
        outputs.append(nn.upsample(**options)({}, x))
    assert not torch.equal(*outputs)


@pytest.mark.parametrize("shape", [(0, 8, 4, 2), (2, 0, 4, 2), (2, 8, 0, 2)])
def test_shuffles_of_nothing_have_shapes_and_gradients(shape):
    """torch's `pixel_unshuffle` leaves the shape as it is, and `pixel_shuffle` has no gradient."""
    batch, channels, height, width = shape
    up, down = nn.pixel_shuffle(2), nn.pixel_unshuffle(2)
    shuffled = up({}, torch.ones(shape))
    assert shuffled.shape == (batch, channels // 4, 2 * height, 2 * width)
    assert down({}, shuffled).shape == shape
    for layer in (up, down):
        assert pf.grad(lambda x, layer=layer: layer({}, x).sum())(torch.ones(shape)).shape == shape


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.upsample(), "upsample: expected either size or scale_factor, got None and N"),
        (lambda: nn.upsample(3, 2), "expected either size or scale_factor, got 3 and 2"),
        (lambda: nn.upsample(3, mode="cubic"), "expected one of .*'bicubic'.* got 'cubic'"),
        (lambda: nn.upsample(3, align_corners=True), "align_corners=True with 'nearest'"),
        (lambda: nn.upsample(3, mode="linear", align_corners=1), "for align_corners, got 1"),
        (lambda: nn.upsample(3, recompute_scale_factor=True), "recompute_scale_factor only with"),
        (lambda: nn.upsample(3, recompute_scale_factor=None), "for recompute_scale_factor, got N"),
        (lambda: nn.upsample(0), "expected size >= 1, got 0"),
        (lambda: nn.upsample((3, 2.0)), "an integer for size, got 2.0"),
        (lambda: nn.upsample(scale_factor=0), "finite scale_factor > 0, got 0"),
        (lambda: nn.upsample((3, 3), mode="trilinear"), r"size, .* 3 with mode 'trilinear', got"),
        (lambda: nn.pixel_shuffle(0), "pixel_shuffle: expected upscale_factor >= 1, got 0"),
        (lambda: nn.pixel_unshuffle(2.0), "integer for downscale_factor, got 2.0"),
        (lambda: nn.channel_shuffle(-1), "channel_shuffle: expected groups >= 1, got -1"),
        (lambda: nn.unfold((1, 2, 3)), "unfold: expected one or 2 integers for kernel_size"),
        (lambda: nn.unfold(2, padding=-1), "unfold: expected padding >= 0, got -1"),
        (lambda: nn.fold(0, 1), "fold: expected output_size >= 1, got 0"),
        (lambda: nn.fold((3, 2), 3), r"fold: .* kernel of \(3, 3\) .*, got \(3, 2\)"),
    ],
)
def test_refuses_options(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (nn.upsample(3), (2, 3), r"shape \(N, C, L\) or .* or \(N, C, D, H, W\), got \(2, 3\)"),
        (nn.upsample(3, mode="linear"), (2, 3, 4, 4), r"shape \(N, C, L\), got \(2, 3, 4, 4\)"),
        (nn.upsample((3, 3)), (2, 3, 4), r"size \(3, 3\) .* \(N, C, H, W\), got \(2, 3, 4\)"),
        (nn.upsample(3), (2, 3, 0), r"something is left, got shape \(2, 3, 0\)"),
        (nn.pixel_shuffle(2), (2, 6, 4, 4), r"channels divisible by 4, got shape \(2, 6, 4, 4\)"),
        (nn.pixel_shuffle(2), (4, 4), r"pixel_shuffle .*\(\.\.\., C, H, W\), got \(4, 4\)"),
        (nn.pixel_unshuffle(2), (2, 6, 3, 4), "a height divisible by 2"),
        (nn.pixel_unshuffle(2), (2, 6, 4, 3), "a width divisible by 2"),
        (nn.channel_shuffle(4), (2, 6, 3), "channel_shuffle expected channels divisible by 4"),
        (nn.channel_shuffle(2), (2, 6), r"channel_shuffle .*, got \(2, 6\)"),
        (nn.unfold(2), (4, 4), r"unfold .* shape \(N, C, H, W\) or \(C, H, W\), got \(4, 4\)"),
        (
            nn.unfold(2),
            (2, 0, 4, 4),
            r"unfold expected a non-empty input .* got shape \(2, 0, 4, 4\)",
        ),
        (nn.fold(3, 2), (2, 0, 4), r"fold expected rows divisible by 4, .* got shape \(2, 0, 4\)"),
        (nn.unfold(5), (2, 3, 4, 6), r"kernel of \(5, 5\) .* got shape \(2, 3, 4, 6\)"),
        (nn.fold(3, 2), (2, 8, 5), r"fold expected an input of shape \(N, C \* 4, 4\), got"),
        (nn.fold(3, 2), (8, 5), r"fold expected an input of shape \(C \* 4, 4\), got \(8, 5\)"),
        (nn.fold(3, 2), (2, 6, 4), r"fold expected rows divisible by 4, .* got shape \(2, 6, 4\)"),
    ],
)
def test_refuses_inputs(layer, shape, message):
    with pytest.raises(nn.LayerError, match=message):
        layer({}, torch.ones(shape))


@pytest.mark.parametrize("layer", [nn.upsample(3), nn.unfold(2), nn.fold(3, 2)])
def test_refuses_integers(layer):
    x = torch.ones(2, 4, 4, dtype=torch.int64)
    with pytest.raises(nn.LayerError, match="floating-point input"):
        layer({}, x)
