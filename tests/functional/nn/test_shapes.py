import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from purefn.functional import nn


@given(
    shape=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    start=st.integers(-4, 3),
    end=st.integers(-4, 3),
)
def test_flatten(shape, start, end):
    x = torch.arange(torch.Size(shape).numel()).reshape(shape)
    try:
        expected = torch.nn.Flatten(start, end)(x)
    except (IndexError, RuntimeError):
        with pytest.raises(nn.LayerError, match="flatten from dimension"):
            nn.flatten(start, end)({}, x)
    else:
        assert torch.equal(nn.flatten(start, end)({}, x), expected)


@pytest.mark.parametrize(("start", "end"), [("1", -1), (1.0, -1), (1, None), (True, -1)])
def test_flatten_refuses_options(start, end):
    with pytest.raises(TypeError, match=r"flatten: expected an integer for (start|end)_dim, got"):
        nn.flatten(start, end)


def test_the_batch_dimension_stays():
    assert nn.flatten()({}, torch.ones(2, 3, 4, 5)).shape == (2, 60)
    with pytest.raises(nn.LayerError, match=r"shape \(2,\)"):
        nn.flatten()({}, torch.ones(2))


@given(
    shape=st.lists(st.sampled_from([1, 2, 4, 6]), min_size=1, max_size=3),
    dim=st.integers(-3, 2),
    sizes=st.lists(st.sampled_from([-1, 1, 2, 3]), min_size=1, max_size=3),
)
def test_unflatten(shape, dim, sizes):
    x = torch.arange(torch.Size(shape).numel()).reshape(shape)
    try:
        expected = torch.nn.Unflatten(dim, tuple(sizes))(x)
    except (IndexError, RuntimeError):
        with pytest.raises((nn.LayerError, ValueError), match=r"unflatten.* expected"):
            nn.unflatten(dim, sizes)({}, x)
    else:
        assert torch.equal(nn.unflatten(dim, sizes)({}, x), expected)


@pytest.mark.parametrize(
    ("dim", "sizes", "message"),
    [
        (1.0, (2, 3), "unflatten: expected an integer for dim, got 1.0"),
        (1, 6, "one or more integers for unflattened_size, got 6"),
        (1, (), r"one or more integers for unflattened_size, got \(\)"),
        (1, (2, 3.0), "an integer for unflattened_size, got 3.0"),
        (1, (-2, 3), "unflattened_size >= 0, got -2"),
        (1, (-1, -1), r"at most one -1 in unflattened_size, got \(-1, -1\)"),
        (1, (-1, 0), r"no 0 beside -1 in unflattened_size, got \(-1, 0\)"),
    ],
)
def test_unflatten_refuses_options(dim, sizes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        nn.unflatten(dim, sizes)


def test_unflatten_refuses_inputs():
    with pytest.raises(nn.LayerError, match=r"that has dimension 1, got shape \(6,\)"):
        nn.unflatten(1, (2, 3))({}, torch.ones(6))
    with pytest.raises(nn.LayerError, match=r"the product of \(2, 3\), got shape \(2, 5\)"):
        nn.unflatten(1, (2, 3))({}, torch.ones(2, 5))
