import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from purefn.functional import nn

MODULES = {"reflection": "Reflection", "replication": "Replication", "circular": "Circular"}


@st.composite
def padded(draw, low):
    """Return the number of dimensions, their padding and an input, with or without a batch."""
    dims = draw(st.integers(1, 3))
    padding = tuple(draw(st.integers(low, 3)) for _ in range(2 * dims))
    if draw(st.booleans()):
        padding = padding[0]
    leading = (draw(st.integers(1, 2)),) * draw(st.integers(1, 2))
    shape = (*leading, *(draw(st.integers(1, 4)) for _ in range(dims)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    return dims, padding, torch.randn(shape, generator=generator, dtype=torch.float64)


@settings(max_examples=60)
@given(padded(low=0), st.sampled_from(list(MODULES)))
def test_padding_from_the_input(matches_torch, case, kind):
    dims, padding, x = case
    layer = getattr(nn, f"{kind}_pad{dims}d")(padding)
    module = getattr(torch.nn, f"{MODULES[kind]}Pad{dims}d")(padding)
    try:
        module(x)
    except RuntimeError:
        with pytest.raises(nn.LayerError, match=rf"{kind}_pad{dims}d can pad \d elements by at"):
            layer({}, x)
    else:
        matches_torch(layer, module, x)


def where_from(kind, length, before, after):
    """Return the place in the input of each element along a padded dimension."""
    places = torch.arange(-before, length + after)
    if kind == "replication":
        return places.clamp(0, length - 1)
    if kind == "circular":
        return places % length
    period = max(2 * (length - 1), 1)
    return torch.minimum(places % period, period - places % period)


@settings(max_examples=100)
@given(padded(low=-3), st.sampled_from(list(MODULES)))
def test_padding_from_the_input_crops_where_it_is_negative(case, kind):
    """By indices: torch's circular padding returns memory that nobody wrote for `(-1, 1)`."""
    dims, padding, x = case
    layer = getattr(nn, f"{kind}_pad{dims}d")(padding)
    pads = padding if isinstance(padding, tuple) else (padding,) * (2 * dims)
    rows = list(zip(x.shape[::-1], pads[::2], pads[1::2], strict=False))
    room = {"reflection": -1, "circular": 0, "replication": 9}[kind]
    if any(max(before, after) > length + room for length, before, after in rows):
        return
    if any(length + before + after < 1 for length, before, after in rows):
        with pytest.raises(nn.LayerError, match=rf"{kind}_pad{dims}d cannot crop \d elements by"):
            layer({}, x)
        return
    expected = x
    for axis, row in enumerate(rows):
        expected = expected.index_select(-1 - axis, where_from(kind, *row))
    assert torch.equal(layer({}, x), expected)


@settings(max_examples=40)
@given(padded(low=-3), st.sampled_from([0, 1, -2.5, float("inf")]))
def test_constant_padding(case, value):
    dims, padding, x = case
    x = x[0] if x.ndim > dims + 1 else x
    layer = getattr(nn, f"constant_pad{dims}d")(padding, value)
    module = getattr(torch.nn, f"ConstantPad{dims}d")(padding, value)
    try:
        expected = module(x)
    except RuntimeError:
        with pytest.raises(nn.LayerError, match=rf"constant_pad{dims}d cannot crop \d elements"):
            layer({}, x)
    else:
        assert torch.equal(layer({}, x), expected)


@pytest.mark.parametrize("layer", [nn.constant_pad1d((1, -1), 7), nn.circular_pad1d(1)])
def test_integers_are_padded(layer):
    x = torch.tensor([[1, 2, 3]])
    assert layer({}, x).dtype == torch.int64
    assert layer({}, x)[0, 1:3].tolist() == [1, 2]


def test_all_leading_dimensions_are_kept():
    assert nn.zero_pad1d((0, 1))({}, torch.ones(3)).tolist() == [1, 1, 1, 0]
    assert nn.zero_pad2d(1)({}, torch.ones(2, 3, 4, 5, 6)).shape == (2, 3, 4, 7, 8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.zero_pad2d((1, 2)), r"zero_pad2d: expected one or 4 integers .*\(1, 2\)"),
        (lambda: nn.zero_pad3d(1.5), "zero_pad3d: expected an integer for padding, got 1.5"),
        (lambda: nn.zero_pad1d((1, True)), "zero_pad1d: expected an integer .* got True"),
        (lambda: nn.constant_pad1d(1, "a"), "constant_pad1d: expected a number for value, got 'a'"),
        (lambda: nn.reflection_pad1d(-1.0), "reflection_pad1d: expected an integer for padding"),
        (lambda: nn.circular_pad3d((1,) * 4), "circular_pad3d: expected one or 6 integers"),
    ],
)
def test_refuses_options(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "x", "message"),
    [
        (nn.zero_pad2d(1), torch.ones(3), r"zero_pad2d .* shape \(\.\.\., H, W\), got \(3,\)"),
        (nn.constant_pad1d(1, 0.5), torch.ones(3).long(), "an integer value for torch.int64, got"),
        (nn.zero_pad1d((-2, -2)), torch.ones(3), "zero_pad1d cannot crop 3 elements by -2 and -2"),
        (nn.zero_pad1d((-4, 2)), torch.ones(3), "zero_pad1d cannot crop 3 elements by -4 and 2"),
        (
            nn.reflection_pad2d(1),
            torch.ones(2, 3),
            r"reflection_pad2d .* shape \(N, C, H, W\) or \(C, H, W\), got \(2, 3\)",
        ),
        (nn.reflection_pad1d((3, 0)), torch.ones(2, 3), "can pad 3 elements by at most 2, got pad"),
        (nn.circular_pad1d(4), torch.ones(2, 3), "can pad 3 elements by at most 3, got padding 4"),
        (nn.replication_pad1d(1), torch.ones(2, 0), r"non-empty input, got shape \(2, 0\)"),
        (nn.replication_pad1d(1), torch.ones(2, 3).long(), "floating-point input, got torch.int64"),
    ],
)
def test_refuses_inputs(layer, x, message):
    with pytest.raises(nn.LayerError, match=message):
        layer({}, x)
