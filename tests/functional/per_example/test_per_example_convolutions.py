"""Norms and clipped sums of convolutions, whatever the geometry."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from hypothesis import given, settings
from hypothesis import strategies as st

from purefn.functional import tree
from purefn.functional.per_example import clipped_grad
from purefn.functional.per_example.calls import Call
from purefn.functional.per_example.factored import factored

BATCH = 3
FORWARD = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def normal(*shape):
    return torch.randn(shape, dtype=torch.float64)


@st.composite
def geometries(draw, transposed):
    """Draw the shapes of input and weight, and the settings of a convolution that fit."""
    dims = draw(st.sampled_from([1, 1, 2, 2, 3]))

    def each(least, most):
        return tuple(draw(st.integers(least, most)) for _ in range(dims))

    kernel, dilation, stride = each(1, 3), each(1, 2), each(1, 3)
    groups = draw(st.integers(1, 3))
    inner, outer = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    settings = {"stride": stride, "dilation": dilation, "groups": groups}
    if transposed:
        settings["padding"] = each(0, 1)
        settings["output_padding"] = tuple(
            draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
        )
        # The output may not be empty.
        size = tuple(2 * p + 1 + draw(st.integers(0, 2)) for p in settings["padding"])
        return (groups * inner, *size), (groups * inner, outer, *kernel), settings
    if draw(st.booleans()):
        settings["stride"], settings["padding"] = 1, "same"
        size = each(1, 4)
    else:
        settings["padding"] = each(0, 2)
        reach = (d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
        size = tuple(
            max(r - 2 * p, 1) + draw(st.integers(0, 3))
            for r, p in zip(reach, settings["padding"], strict=True)
        )
    return (groups * inner, *size), (groups * outer, inner, *kernel), settings


@settings(max_examples=12)
@given(geometry=geometries(transposed=False))
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_convolution(oracle, geometry):
    torch.manual_seed(0)
    size, shape, options = geometry
    convolve = FORWARD[len(size) - 1]
    params = {"w": normal(*shape), "b": normal(shape[0])}

    def losses(params, x):
        return oracle.energy(convolve(x, params["w"], params["b"], **options))

    oracle.assert_clips(losses, params, normal(BATCH, *size), methods=("ghost", "auto"))
    assert "params['w']" in oracle.understood(losses, params, normal(BATCH, *size))


@settings(max_examples=8)
@given(geometry=geometries(transposed=True))
def test_transposed_convolution(oracle, geometry):
    torch.manual_seed(0)
    size, shape, options = geometry
    convolve = TRANSPOSED[len(size) - 1]
    params = {"w": normal(*shape), "b": normal(shape[1] * options["groups"])}

    def losses(params, x):
        return oracle.energy(convolve(x, params["w"], params["b"], **options))

    oracle.assert_clips(losses, params, normal(BATCH, *size), methods=("ghost", "auto"))
    assert "params['w']" in oracle.understood(losses, params, normal(BATCH, *size))


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
def test_other_paddings(oracle, mode):
    torch.manual_seed(0)

    def losses(params, x):
        return oracle.energy(F.conv2d(F.pad(x, (1, 1, 1, 1), mode), params))

    oracle.assert_clips(losses, normal(4, 2, 3, 3), normal(BATCH, 2, 4, 4))
    assert oracle.understood(losses, normal(4, 2, 3, 3), normal(BATCH, 2, 4, 4))


@pytest.mark.parametrize("groups", [1, 2])
def test_frames_of_an_example_are_a_batch(oracle, groups):
    torch.manual_seed(0)

    def losses(params, x):
        y = F.conv2d(x.flatten(0, 1), params, groups=groups).unflatten(0, x.shape[:2])
        return oracle.energy(y)

    params, x = normal(4, 2 // groups, 3, 2), normal(BATCH, 3, 2, 4, 4)
    oracle.assert_clips(losses, params, x, methods=("ghost", "auto"))
    assert oracle.understood(losses, params, x)


TWICE = {
    "one geometry": (1, lambda x, w: F.conv2d(F.conv2d(x, w, padding=1).tanh(), w)),
    "two geometries": (
        1,
        lambda x, w: F.conv2d(F.conv2d(x, w, padding=1).tanh(), w, stride=2, dilation=2),
    ),
    "depthwise": (4, lambda x, w: F.conv2d(F.conv2d(x, w, padding=1, groups=4), w, groups=4)),
    "and its transpose": (
        1,
        lambda x, w: F.conv_transpose2d(F.conv2d(x, w, stride=2), w, stride=2, output_padding=1),
    ),
    "and its mirror image": (1, lambda x, w: F.conv2d(F.conv2d(x, w).tanh(), w.flip(2, 3))),
    "and as a matrix": (1, lambda x, w: F.conv2d(x, w).flatten(1)[:, :36] @ w.flatten(1).T),
    "on patches": (1, lambda x, w: F.conv2d(x, w).flatten(2) + w.flatten(1) @ F.unfold(x, 3)),
    "turned": (1, lambda x, w: F.conv2d(x, w.transpose(0, 1)) + F.conv2d(x, w.mT)),
}  # fmt: skip


@pytest.mark.parametrize("use", TWICE)
def test_a_kernel_used_twice(oracle, use):
    torch.manual_seed(0)
    groups, convolve = TWICE[use]

    def losses(params, x):
        return oracle.energy(convolve(x, params))

    params, x = normal(4, 4 // groups, 3, 3), normal(BATCH, 4, 6, 6)
    oracle.assert_clips(losses, params, x)
    if use not in ("and its mirror image", "turned"):
        assert oracle.understood(losses, params, x)


def test_a_network_of_convolutions(oracle):
    torch.manual_seed(0)
    params = {
        "narrow": normal(4, 2, 3, 3), "wide": normal(4, 4, 1, 1), "scale": normal(4),
        "up": normal(4, 2, 2, 2), "head": normal(3, 2),
    }  # fmt: skip

    def losses(params, x):
        h = F.relu(F.conv2d(x, params["narrow"], padding=1))
        h = h + F.group_norm(F.conv2d(h, params["wide"]), 2, params["scale"])
        h = F.interpolate(F.max_pool2d(h, 2), scale_factor=2, mode="bilinear")
        h = F.conv_transpose2d(h, params["up"], stride=2)
        return oracle.energy(F.adaptive_avg_pool2d(h, 1).flatten(1) @ params["head"].T)

    oracle.assert_clips(losses, params, normal(BATCH, 2, 6, 6), methods=("ghost", "auto"))
    kernels = {f"params['{name}']" for name in ("narrow", "wide", "up", "head")}
    assert kernels <= oracle.understood(losses, params, normal(BATCH, 2, 6, 6))


@pytest.mark.parametrize(
    ("convolve", "method"),
    [
        (F.conv1d, "ghost"),
        (F.conv1d, "materialize"),
        (F.conv_transpose1d, "ghost"),
        (F.conv_transpose1d, "materialize"),
    ],
)
def test_one_position(oracle, convolve, method):
    # Torch's batched derivative does not run for this layout.
    torch.manual_seed(0)

    def losses(params, x):
        return oracle.energy(convolve((x * x.sin()).mT, params, padding=1))

    oracle.assert_clips(losses, normal(2, 2, 3), normal(BATCH, 1, 2), methods=(method,))


@pytest.mark.parametrize(
    ("transposed", "options"),
    [
        (False, {}),
        (False, {"stride": 2, "padding": 1}),
        (False, {"dilation": 2, "groups": 2}),
        (True, {"stride": 2, "padding": 1, "output_padding": 1}),
        (True, {"groups": 2}),
    ],
)
def test_a_group_for_each_example(oracle, transposed, options):
    # In float32, and with as many channels and places as it takes.
    torch.manual_seed(0)
    groups = options.get("groups", 1)
    x, w = normal(BATCH, 16 * groups, 18, 18), normal(16 * groups, 16, 3, 3) / 12
    convolve = F.conv_transpose2d if transposed else F.conv2d

    def losses(params, x):
        return oracle.energy(convolve(x, params, **options))

    factor = factored(Call("norms", losses, (w.float(), x.float()))).leaves[0].parts[0].factor
    assert factor._has_fast_groups()
    assert not factored(Call("norms", losses, (w, x))).leaves[0].parts[0].factor._has_fast_groups()
    single, double = (
        clipped_grad(losses, 5.0, method="auto")(tree.cast(w, dtype), tree.cast(x, dtype))
        for dtype in (torch.float32, torch.float64)
    )
    oracle.assert_equal(single.norms.double(), double.norms, "norms", rtol=1e-5)
    oracle.assert_equal(single.grads.double(), double.grads, "sums", rtol=1e-5)
    formed = factor.widened().materialized().double()
    oracle.assert_equal(formed, oracle.gradients(losses, w, x)[0], "formed", rtol=1e-5)
