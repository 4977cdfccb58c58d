"""Schedules against recorded learning rates of optax; `reference/record_optax_schedules.py`."""

import json
import pathlib

import pytest
import torch

from purefn.optim import schedules
from purefn.optim.schedules import (
    bounded,
    constant,
    cosine_decay,
    exponential,
    join,
    piecewise_constant,
    piecewise_interpolate,
    polynomial,
    warmup,
)

RECORDED = json.loads(
    (pathlib.Path(__file__).parent / "reference" / "optax_schedules.json").read_text()
)
SCALES = {60: 0.5, 10: 0.1, 100: 3.0}

#: What the table in the docstring of `purefn.optim.schedules` says, case by case.
OURS = {
    "constant": constant(0.3),
    "linear": polynomial(0.1, 50, end_lr=0.7),
    "linear, later": join([constant(0.7), polynomial(0.7, 50, 1.0, 0.1)], [20]),
    "polynomial": polynomial(0.7, 90, 2.5, 0.1),
    "polynomial, later": join([constant(0.7), polynomial(0.7, 40, 0.5, 0.1)], [7]),
    "exponential": exponential(0.7, 0.5 ** (1 / 20)),
    "exponential, staircase": schedules.step(0.7, 20, 0.5),
    "exponential, later, to an end": bounded(
        join([constant(0.7), exponential(0.7, 0.5 ** (1 / 20))], [30]), min_lr=0.2
    ),
    "exponential, up to an end": bounded(exponential(0.1, 2 ** (1 / 20)), max_lr=0.9),
    "cosine": cosine_decay(0.7, 90),
    "cosine, to an end": cosine_decay(0.7, 90, alpha=0.1, exponent=1.7),
    "piecewise constant": piecewise_constant(0.7, SCALES),
    "piecewise linear": piecewise_interpolate(0.7, SCALES),
    "piecewise cosine": piecewise_interpolate(0.7, SCALES, "cosine"),
    "cosine one-cycle": piecewise_interpolate(0.7 / 25, {30: 25, 100: 1 / (25 * 1e4)}, "cosine"),
    "linear one-cycle": piecewise_interpolate(0.7 / 25, {30: 25, 85: 1 / 25, 100: 1 / 1e4}),
    "warm-up, constant": warmup(constant(0.7), 20, 0.01 / 0.7),
    "warm-up, cosine": warmup(
        cosine_decay(0.7, 80, alpha=0.05 / 0.7, exponent=1.3), 20, 0.01 / 0.7
    ),
    "warm-up, exponential": warmup(
        bounded(exponential(0.7, 0.5 ** (1 / 30)), min_lr=0.2), 20, 0.01 / 0.7
    ),
    "warm restarts": join(
        [warmup(cosine_decay(0.7, 25), 5, 0.0), warmup(cosine_decay(0.4, 50), 10, 0.25)], [30]
    ),
}


def test_every_recorded_case_is_compared():
    assert set(OURS) == set(RECORDED["rates"])


@pytest.mark.parametrize("name", OURS)
def test_the_rates_are_optaxs(name):
    steps = torch.tensor(RECORDED["steps"])
    theirs = torch.tensor(RECORDED["rates"][name], dtype=torch.float64)
    assert name == "constant" or theirs.max() - theirs.min() > 0.1
    torch.testing.assert_close(OURS[name](steps), theirs, rtol=1e-13, atol=1e-15)
