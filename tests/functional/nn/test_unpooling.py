import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from hypothesis import given
from hypothesis import strategies as st

import purefn.functional as pf
from purefn.functional import nn, random

FRACTIONAL = {2: F.fractional_max_pool2d, 3: F.fractional_max_pool3d}


@given(data=st.data(), dims=st.sampled_from([2, 3]), batched=st.booleans())
def test_fractional_pooling_at_drawn_places_is_torchs(data, dims, batched, matches):
    kernel = data.draw(st.tuples(*[st.integers(1, 3)] * dims))
    output = data.draw(st.tuples(*[st.integers(1, 3)] * dims))
    # torch has no kernel for as little room in three dimensions as in two.
    slack = 0 if dims == 2 else 1
    spare = data.draw(st.tuples(*[st.integers(slack, 4)] * dims))
    lengths = [m + k - 1 + s for m, k, s in zip(output, kernel, spare, strict=True)]
    shape = [2, 3, *lengths] if batched else [3, *lengths]
    x = random.normal(random.key(data.draw(st.integers(0, 99))), shape, torch.float64)
    key = random.key(data.draw(st.integers(0, 99)))
    found = getattr(nn, f"fractional_max_pool{dims}d")(kernel, output)({}, x, key=key, train=True)
    places = random.uniform(key, (*shape[:-dims], dims), torch.float64)
    # torch takes the places of the last dimension first in two, and of the first in three.
    places = places.flip(-1) if dims == 2 else places
    places = places if batched else places[None]
    expected = FRACTIONAL[dims](x, kernel, output, _random_samples=places)
    matches(found, expected)


@pytest.fixture(scope="module")
def matches():
    def equal(found, expected):
        assert found.shape == expected.shape
        assert torch.equal(found, expected)

    return equal


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_maxima_go_back_to_shapes_that_the_stride_leads_to_one(dims, matches):
    pool = getattr(torch.nn, f"MaxPool{dims}d")(3, 2, 1, return_indices=True)
    unpool = getattr(torch.nn, f"MaxUnpool{dims}d")(3, 2, 1)
    for length in (5, 6):
        # Windows overlap here: only maxima of one window keep torch's answer unique.
        x = torch.arange(2.0 * length**dims).reshape(2, *(length for _ in range(dims)))
        pair = pool(x)
        size = (length,) * dims
        layer = getattr(nn, f"max_unpool{dims}d")(3, 2, 1, output_size=length)
        matches(layer({}, pair), unpool(*pair, output_size=size))


def test_unpooling_under_the_transforms():
    layer = nn.serial(nn.max_pool2d_with_indices(2), nn.max_unpool2d(2))
    x = random.normal(random.key(0), (2, 3, 4, 4), torch.float64)

    def loss(x):
        return (layer({}, x) ** 3).sum()

    # Of what is kept, the cubes; of the rest, nothing.
    kept = layer({}, x)
    torch.testing.assert_close(pf.grad(loss)(x), 3 * kept**2, rtol=1e-12, atol=0)
    torch.testing.assert_close(pf.vmap(pf.grad(loss))(x), 3 * kept**2, rtol=1e-12, atol=0)
    jacobian = pf.jacfwd(lambda x: layer({}, x))(x[0, :1, :2, :2])
    assert jacobian.sum() == 1


def test_refusals():
    x = torch.ones(2, 3, 4, 4)
    values, indices = nn.max_pool2d_with_indices(2)({}, x)
    unpool = nn.max_unpool2d(2)
    for pair in (values, (values,), (values, indices.float()), (values, indices[:1])):
        with pytest.raises(nn.LayerError, match="max_unpool2d expected"):
            unpool({}, pair)
    with pytest.raises(nn.LayerError, match=r"output_size \(H, W\) within the stride"):
        nn.max_unpool2d(2, output_size=7)({}, (values, indices))
    with pytest.raises(nn.LayerError, match="max_unpool2d failed"):
        unpool({}, (values, indices + 16))
    for options in ({}, {"output_size": 2, "output_ratio": 0.5}, {"output_ratio": 1.0}):
        with pytest.raises(ValueError, match="fractional_max_pool2d: expected"):
            nn.fractional_max_pool2d(2, **options)
    with pytest.raises(ValueError, match="2 numbers"):
        nn.fractional_max_pool2d(2, output_ratio=(0.5, 0.5, 0.5))
    with pytest.raises(nn.LayerError, match="room for"):
        nn.fractional_max_pool2d(2, 4)({}, x)
    with pytest.raises(nn.LayerError, match="needs a key"):
        nn.fractional_max_pool2d(2, 2)({}, x, train=True)
    for layer in (nn.avg_pool2d, nn.avg_pool3d):
        with pytest.raises(ValueError, match="divisor_override"):
            layer(2, divisor_override=0)
