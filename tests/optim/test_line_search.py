"""The strong Wolfe search against torch's own, trial by trial, and against its conditions."""

import math

import numpy as np
import pytest
import torch
from torch.optim.lbfgs import _strong_wolfe as torch_search

import purefn.functional as pf
from purefn.optim.algorithms.line_search import Line, Point, strong_wolfe


def test_the_search_tries_and_returns_what_torchs_does():
    """Both are told the same made-up values and slopes, with ties, so that they go every way."""
    generator, lengths = np.random.default_rng(0), set()
    for _ in range(400):
        values = [0.0, *generator.integers(-6, 3, size=12) / 4 * generator.choice([1e-4, 0.01, 1])]
        slopes = [-1.0, *generator.integers(-30, 30, size=12) / 20]
        first, most = 10.0 ** generator.integers(-2, 2), int(generator.integers(0, 10))
        trials = {"torch": [], "ours": []}

        def look(who, step, values=values, slopes=slopes, trials=trials):
            trials[who].append(float(step))
            place = len(trials[who])
            return values[place], torch.tensor([slopes[place]], dtype=torch.float64)

        ones = torch.ones(1, dtype=torch.float64)
        value, _, step, count = torch_search(
            lambda x, t, d, look=look: look("torch", t),
            ones, first, ones, 0.0, -ones, -ones.sum(), tolerance_change=0.05, max_ls=most,
        )  # fmt: skip

        def evaluate(step, look=look):
            value, gradient = look("ours", step)
            return Point(step, torch.tensor(value, dtype=torch.float64), gradient, gradient[0])

        zero = torch.zeros((), dtype=torch.float64)
        line = Line(Point(zero, zero, -ones, zero - 1), evaluate, torch.tensor(most), zero + 0.05)
        point, evaluations = strong_wolfe(line, zero + first)
        np.testing.assert_allclose(trials["ours"], trials["torch"], rtol=1e-12)
        assert evaluations == count == len(trials["ours"])
        assert (point.step.item(), point.value.item()) == pytest.approx((float(step), value))
        lengths.add(count)
    assert lengths >= {1, 2, 3, 4, 5}


@pytest.mark.parametrize("seed", range(20))
def test_the_search_ends_where_the_strong_wolfe_conditions_hold(seed):
    a, b, c = np.random.default_rng(seed).uniform(0.1, 3, size=3)
    uphill = math.copysign(1, 3 * c - 2 * a * b)

    def function(t):
        t = -uphill * t
        return a * (t - b) ** 2 + c * torch.sin(3 * t) + 0.05 * t**4

    evaluations = 0

    def evaluate(t):
        nonlocal evaluations
        evaluations += 1
        value, slope = pf.value_and_grad(function)(t)
        return Point(t, value, slope[None], slope)

    start = evaluate(torch.zeros((), dtype=torch.float64))
    line = Line(start, evaluate, torch.tensor(25), torch.tensor(1e-9).double())
    point, count = strong_wolfe(line, torch.tensor(10.0 ** (seed % 5 - 3), dtype=torch.float64))
    assert count + 1 == evaluations
    assert point.value <= start.value + 1e-4 * point.step * start.slope
    assert abs(point.slope) <= -0.9 * start.slope
