"""AdEMAMix against the paper's algorithm and its warm-ups."""

import math

import numpy as np
import pytest
import torch

from purefn import optim
from purefn.testing import check_optimizer


def ademamix(
    theta,
    gradients,
    lr=1e-3,
    betas=(0.9, 0.999, 0.9999),
    eps=1e-8,
    weight_decay=0.0,
    alpha=2.0,
    beta3_warmup=None,
    alpha_warmup=None,
    maximize=False,
):
    """Pagliardini et al. 2024, arXiv:2409.03137, algorithm 1."""
    b1, b2, b3 = betas
    m1, m2, v = (np.zeros_like(theta) for _ in range(3))
    for t, g in enumerate(gradients, start=1):
        g = -g if maximize else g
        alpha_t = alpha if alpha_warmup is None else min(t * alpha / alpha_warmup, alpha)
        b3_t = b3 if beta3_warmup is None else scheduled_beta3(t, b1, b3, beta3_warmup)
        m1 = b1 * m1 + (1 - b1) * g
        m2 = b3_t * m2 + (1 - b3_t) * g
        v = b2 * v + (1 - b2) * g**2
        m1_hat, v_hat = m1 / (1 - b1**t), v / (1 - b2**t)
        step = (m1_hat + alpha_t * m2) / (np.sqrt(v_hat) + eps)
        theta = theta - lr * (step + weight_decay * theta)
        yield theta, {"m1": m1, "m2": m2, "nu": v}


def scheduled_beta3(t, start, end, total):
    """The paper's `f_beta3(t)`."""
    log_start, log_end, part = math.log(start), math.log(end), t / total
    exponent = log_start * log_end / ((1 - part) * log_end + part * log_start)
    return min(math.exp(exponent), end) if t < total else end


def test_ademamix_is_the_papers():
    check_optimizer(optim.ademamix, ademamix, examples=3, seed=1)


def test_without_the_slow_average_it_is_adamw():
    options = {"lr": 0.1, "weight_decay": 0.3}
    ours, theirs = optim.ademamix(alpha=0.0, **options), optim.adamw(**options)
    params = torch.tensor([3.0, -1.0], dtype=torch.float64)
    states = ours.init(params), theirs.init(params)
    for scale in (1.0, -0.1, 4.0):
        left, ours_state = ours.update(params * scale, states[0], params)
        right, theirs_state = theirs.update(params * scale, states[1], params)
        torch.testing.assert_close(left, right, rtol=1e-13, atol=0)
        states = ours_state, theirs_state


def test_half_lives_warm_up_from_no_memory():
    """b1 = 0 has the half-life 0: the slow rate begins at what the first T-th of the way gives."""
    optimizer = optim.ademamix(lr=1.0, betas=(0.0, 0.9, 0.99), beta3_warmup=10)
    params = torch.ones(1, dtype=torch.float64)
    _, state = optimizer.update(params, optimizer.init(params), params)
    assert optim.get(state, "m2").item() == pytest.approx(1 - 0.99**10, rel=1e-12)


@pytest.mark.parametrize("rate", [1.0, torch.ones(1), "0.9"])
def test_a_schedule_of_b3_must_return_a_decay_rate(rate):
    rescale, params = optim.scale_by_ademamix(b3=lambda step: rate), torch.zeros(1)
    with pytest.raises((ValueError, TypeError), match=r"b3\(step\): expected"):
        rescale.update(params, rescale.init(params))
