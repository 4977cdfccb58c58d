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


def test_the_batch_dimension_stays():
    assert nn.flatten()({}, torch.ones(2, 3, 4, 5)).shape == (2, 60)
    with pytest.raises(nn.LayerError, match=r"shape \(2,\)"):
        nn.flatten()({}, torch.ones(2))
