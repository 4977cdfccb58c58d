"""Stochastic rounding: to one of two neighbours, with the right mean, and the same for a key."""

import functools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import purefn.functional as pf
from purefn import optim
from purefn.functional import random, tree

HALF = [torch.bfloat16, torch.float16]
half = pytest.mark.parametrize("dtype", HALF, ids=["bfloat16", "float16"])


@functools.cache
def all_numbers(dtype):
    """Return every finite number of the dtype in order, -0 left out."""
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    numbers = patterns.view(dtype).double()
    return torch.unique(numbers[numbers.isfinite()])


def rounded(x, dtype, key):
    """Round float64 numbers, as updates of zero parameters."""
    zeros = torch.zeros(x.shape, dtype=dtype)
    return optim.apply_updates_stochastically(zeros, x, random.key(key))


@half
def test_it_rounds_to_one_of_the_two_neighbours(dtype):
    """Of sums that lie between each pair of neighbours in the whole range of the dtype."""
    numbers = all_numbers(dtype)
    low, high = numbers[:-1], numbers[1:]
    for key, part in enumerate((1e-6, 0.25, 0.5, 1 - 1e-6)):
        x = low + (high - low) * part
        result = rounded(x, dtype, key).double()
        assert ((result == low) | (result == high)).all()
        share = (result == high).double().mean().item()
        deviation = math.sqrt(part * (1 - part) / len(x))
        assert abs(share - part) < 5 * deviation + 1 / len(x)


@half
def test_numbers_of_the_dtype_stay(dtype):
    numbers = all_numbers(dtype)
    for key in range(3):
        assert torch.equal(rounded(numbers, dtype, key).double(), numbers)


@given(
    value=st.floats(1e-9, 6e4),
    sign=st.sampled_from([1, -1]),
    dtype=st.sampled_from(HALF),
    key=st.integers(0, 2**31),
)
def test_the_mean_is_the_sum(value, sign, dtype, key):
    draws, value = 4096, sign * value
    numbers = all_numbers(dtype)
    above = int(torch.searchsorted(numbers, torch.tensor(value, dtype=torch.float64)))
    low, high = numbers[above - 1].item(), numbers[above].item()
    up = (value - low) / (high - low)
    result = rounded(torch.full((draws,), value, dtype=torch.float64), dtype, key).double()
    assert set(result.tolist()) <= {low, high}
    deviation = math.sqrt(up * (1 - up) / draws)
    assert abs((result == high).double().mean().item() - up) <= 6 * deviation + 2 / draws


@half
def test_small_updates_are_kept_on_average(dtype):
    """Steps that are each too small for the dtype move as far as they do in float64."""
    params = torch.ones(2048, dtype=dtype)
    step = torch.full((2048,), torch.finfo(dtype).eps / 16)
    add = pf.jit(optim.apply_updates_stochastically, backend="eager")
    stuck = params
    for index in range(160):
        stuck = optim.apply_updates(stuck, step)
        params = add(params, step, random.fold_in(random.key(0), index))
    assert torch.equal(stuck, torch.ones_like(stuck))
    assert add.trace_count == 1
    moved = (params.double().mean() - 1).item() / torch.finfo(dtype).eps
    # Each step has a variance of 15/256 units in the last place.
    assert moved == pytest.approx(10, abs=5 * math.sqrt(160 * 15 / 256 / 2048))


@half
def test_what_is_not_finite_and_what_is_too_large(dtype):
    largest = torch.finfo(dtype).max
    x = torch.tensor([math.inf, -math.inf, math.nan, largest, -largest, 2.0 * largest, -0.0])
    result = rounded(x.double(), dtype, 0).tolist()
    assert result[:2] == [math.inf, -math.inf]
    assert math.isnan(result[2])
    assert result[3:] == [largest, -largest, math.inf, 0.0]
    beyond = torch.full((100,), largest * (1 + 2.0**-14), dtype=torch.float64)
    assert set(rounded(beyond, dtype, 1).tolist()) == {largest}


def test_other_leaves_are_added_as_usual():
    params = {
        "double": torch.ones(3, dtype=torch.float64),
        "float": torch.ones(3),
        "complex": torch.ones(3, dtype=torch.complex64),
        "none": None,
        "half": torch.ones(0, dtype=torch.bfloat16),
    }
    updates = tree.map(lambda p: p * 2.0**-20, params)
    result = optim.apply_updates_stochastically(params, updates, random.key(0))
    expected = optim.apply_updates(params, updates)
    assert tree.structure(result) == tree.structure(expected)
    assert all(map(torch.equal, tree.leaves(result), tree.leaves(expected)))


def test_leaves_are_rounded_independently_and_a_key_repeats():
    params = {name: torch.ones(64, dtype=torch.bfloat16) for name in "ab"}
    updates = tree.map(lambda p: torch.full(p.shape, 2.0**-8), params)
    first, again, other = (
        optim.apply_updates_stochastically(params, updates, random.key(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first["a"], again["a"])
    assert not torch.equal(first["a"], first["b"])
    assert not torch.equal(first["a"], other["a"])


def test_batched_by_keys():
    params = torch.ones(16, dtype=torch.bfloat16)
    update = torch.full((16,), 2.0**-8)
    keys = random.split(random.key(0), 3)
    batched = pf.vmap(lambda key: optim.apply_updates_stochastically(params, update, key))(keys)
    for row, key in zip(batched, keys, strict=True):
        assert torch.equal(row, optim.apply_updates_stochastically(params, update, key))


def test_with_float32_state_it_follows_float64():
    """Adam on bfloat16 parameters at a small rate: rounding to nearest stands still."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4096, generator=generator).bfloat16()
    optimizer = optim.in_dtype(optim.adam(lr=1e-4), torch.float32)
    ends = {}
    for name in ("nearest", "stochastic", "wide"):
        params = start.float() if name == "wide" else start
        state = optimizer.init(params)
        for step in range(30):
            updates, state = optimizer.update(params.sign(), state, params)
            if name == "stochastic":
                key = random.fold_in(random.key(0), step)
                params = optim.apply_updates_stochastically(params, updates, key)
            else:
                params = optim.apply_updates(params, updates)
        ends[name] = (params.double() - start.double()).mul(start.double().sign()).mean().item()
    assert ends["wide"] == pytest.approx(-0.003, rel=0.02)
    assert ends["stochastic"] == pytest.approx(ends["wide"], rel=0.05)
    assert abs(ends["nearest"]) < 0.5 * abs(ends["wide"])


def test_what_is_refused():
    params = {"w": torch.ones(2, dtype=torch.bfloat16)}
    with pytest.raises(TypeError, match="key"):
        optim.apply_updates_stochastically(params, params, torch.tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match=r"updates\['w'\] is a tensor of shape \(3,\)"):
        optim.apply_updates_stochastically(params, {"w": torch.ones(3)}, random.key(0))
    with pytest.raises(TypeError, match=r"params\['n'\] is a tensor of torch.int64"):
        optim.apply_updates_stochastically(
            {"n": torch.ones(1).long()}, {"n": torch.ones(1).long()}, random.key(0)
        )
