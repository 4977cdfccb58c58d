"""Yogi against the paper's algorithm."""

import numpy as np
import pytest
import torch

from purefn import optim
from purefn.testing import check_optimizer


def yogi(
    theta,
    gradients,
    lr=1e-2,
    betas=(0.9, 0.999),
    eps=1e-3,
    weight_decay=0.0,
    initial_accumulator_value=1e-6,
    maximize=False,
):
    """Zaheer et al. 2018, algorithm 2, with the corrections of Adam."""
    (b1, b2), m = betas, np.zeros_like(theta)
    v = np.full_like(theta, initial_accumulator_value)
    for t, g in enumerate(gradients, start=1):
        g = (-g if maximize else g) + weight_decay * theta
        m = b1 * m + (1 - b1) * g
        v = v - (1 - b2) * np.sign(v - g**2) * g**2
        theta = theta - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        yield theta, {"mu": m, "nu": v}


def test_yogi_is_the_papers():
    check_optimizer(optim.yogi, yogi, examples=3, without=["precision"])


def test_the_second_moment_falls_by_the_square_it_sees():
    """After a large gradient Adam forgets at the rate b2, Yogi only as fast as squares come in."""
    rescale = optim.scale_by_yogi(b2=0.9, initial_accumulator_value=0.0)
    grads = torch.ones(1, dtype=torch.float64)
    state = rescale.init(grads)
    _, state = rescale.update(10 * grads, state)
    for _ in range(5):
        _, state = rescale.update(grads, state)
    assert state.nu.item() == pytest.approx(10 - 5 * 0.1, rel=1e-13)
