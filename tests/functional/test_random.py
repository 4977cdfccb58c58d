"""`purefn.functional.random` against recorded draws of `jax.random` and published constants."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest
import torch

from purefn.functional import random
from purefn.functional.random import cipher

_FILE = np.load(pathlib.Path(__file__).parent / "reference" / "jax_random.npz")
_CASES = json.loads(str(_FILE["origin"]))["cases"]
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# The C library computes JAX's logarithm of float64; ours may differ in its last place.
_LAST_PLACE = {
    (function, "float64") for function in ("normal", "truncated_normal", "gumbel", "exponential")
}


def _recorded() -> dict[str, list[tuple[dict[str, Any], torch.Tensor]]]:
    """Return the cases of each function with their results."""
    data, position = _FILE["data"].tobytes(), 0
    found: dict[str, list[tuple[dict[str, Any], torch.Tensor]]] = {}
    for case in _CASES:
        dtype, shape = getattr(torch, case["dtype"]), case["shape"]
        size = int(np.prod(shape)) * dtype.itemsize
        words = torch.tensor(list(data[position : position + size]), dtype=torch.uint8)
        found.setdefault(case["function"], []).append(
            (case, words.view(dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype))
        )
        position += size
    assert position == len(data)
    return found


RECORDED = _recorded()


def _argument(value: Any) -> Any:
    if isinstance(value, str):
        return getattr(torch, value)
    if isinstance(value, list) and value and isinstance(value[0], str):
        return torch.tensor(value[1], dtype=getattr(torch, value[0]))
    return tuple(value) if isinstance(value, list) else value


def _draw(case: dict[str, Any]) -> torch.Tensor:
    if case["function"] == "key":
        return random.key(case["seed"])
    arguments = {name: _argument(value) for name, value in case["arguments"].items()}
    return getattr(random, case["function"])(random.key(case["seed"]), **arguments)


def _units_apart(ours: torch.Tensor, theirs: torch.Tensor) -> int:
    integer = _INTEGERS[ours.dtype.itemsize]
    apart = ours.reshape(-1).view(integer).to(torch.int64)
    apart = (apart - theirs.reshape(-1).view(integer).to(torch.int64)).abs()
    return int(apart.max()) if apart.numel() else 0


def test_every_public_function_is_recorded():
    assert set(RECORDED) == set(random.__all__)


@pytest.mark.parametrize("function", sorted(RECORDED))
def test_equals_jax(function):
    for case, theirs in RECORDED[function]:
        ours = _draw(case)
        assert ours.shape == theirs.shape, case
        index = function in ("permutation", "choice", "categorical")
        assert ours.dtype == (theirs.dtype if not (index and case["x64"]) else torch.int32), case
        if (function, case["dtype"]) in _LAST_PLACE:
            # One unit in the last place of log(u) is several of a number that is nearly 0.
            assert _units_apart(ours, theirs) <= 4 or torch.allclose(
                ours, theirs, rtol=0, atol=2.0**-52
            ), case
        else:
            assert torch.equal(ours, theirs.to(ours.dtype)), case


# Random123's tests/kat_vectors: key, counter, result of threefry2x32 with 20 rounds.
KNOWN_ANSWERS = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]


@pytest.mark.parametrize(("key", "block", "answer"), KNOWN_ANSWERS)
def test_threefry_known_answers(key, block, answer):
    words = cipher.threefry2x32(key, block, cipher.rotate_left_int)
    assert tuple(word & 0xFFFFFFFF for word in words) == answer
    key, block = (torch.tensor(pair, dtype=torch.uint32).view(torch.int32) for pair in (key, block))
    words = cipher.rounds(*key.unbind(), *block[:, None].unbind())
    assert tuple(int(word) & 0xFFFFFFFF for word in words) == answer
