"""Optimistic gradients against the papers' algorithms, and in a game."""

import numpy as np
import pytest
import torch

import purefn.functional as pf
from purefn import optim
from purefn.testing import check_optimizer


def optimistic_gradient_descent(theta, gradients, lr=1e-3, alpha=1.0, beta=1.0, maximize=False):
    """Mokhtari et al. 2020, arXiv:1901.08511, generalized OGDA from x_{-1} = x_0."""
    last = gradients[0]
    for g in gradients:
        step = (alpha + beta) * g - beta * last
        theta = theta + lr * step if maximize else theta - lr * step
        last = g
        yield theta, {"previous_gradient": -g if maximize else g}


def optimistic_adam(
    theta, gradients, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, alpha=1.0, beta=1.0, maximize=False
):
    """Daskalakis et al. 2018, arXiv:1711.00141, algorithm 1, from an equal last update."""
    (b1, b2), m, v = betas, np.zeros_like(theta), np.zeros_like(theta)
    last = None
    for t, g in enumerate(gradients, start=1):
        g = -g if maximize else g
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        u = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        last = u if last is None else last
        theta = theta - lr * (alpha + beta) * u + lr * beta * last
        last = u
        yield theta, {"mu": m, "nu": v, "previous_gradient": u}


def test_optimistic_gradient_descent_is_the_papers():
    check_optimizer(optim.optimistic_gradient_descent, optimistic_gradient_descent, examples=3)


def test_optimistic_adam_is_the_papers():
    check_optimizer(optim.optimistic_adam, optimistic_adam, examples=3)


@pytest.mark.parametrize(("beta", "converges"), [(1.0, True), (0.0, False)])
def test_a_game_converges_with_optimism_only(beta, converges):
    """min_x max_y x y: the gradients (y, -x) turn plain descent in circles that grow."""
    optimizer = optim.optimistic_gradient_descent(lr=0.3, beta=beta)
    point = torch.tensor([1.0, 1.0], dtype=torch.float64)
    state = optimizer.init(point)
    for _ in range(300):
        grads = torch.stack([point[1], -point[0]])
        updates, state = optimizer.update(grads, state, point)
        point = optim.apply_updates(point, updates)
    assert bool(point.norm() < 1e-3) is converges


def test_the_gradient_that_is_kept_is_a_copy():
    rescale, grads = optim.scale_by_optimistic_gradient(), torch.ones(3)
    _, state = rescale.update(grads, rescale.init(grads))
    assert state.previous_gradient.data_ptr() != grads.data_ptr()


def test_a_donated_gradient_may_go():
    rescale = optim.scale_by_optimistic_gradient()
    step = pf.jit(rescale.update, donate_argnums=(0, 1), backend="eager")
    state = rescale.init(torch.ones(3))
    for scale in (1.0, 2.0, 4.0):
        updates, state = step(torch.full((3,), scale), state)
    assert updates.tolist() == [6.0] * 3
    assert state.previous_gradient.tolist() == [4.0] * 3
