"""Adan against the paper's algorithm."""

import numpy as np
import torch

from purefn import optim
from purefn.testing import check_optimizer


def adan(
    theta,
    gradients,
    lr=1e-3,
    betas=(0.98, 0.92, 0.99),
    eps=1e-8,
    weight_decay=0.0,
    no_prox=False,
    maximize=False,
):
    """Xie et al. 2022, arXiv:2208.06677, algorithm 1, whose betas are one minus these."""
    beta1, beta2, beta3 = (1 - beta for beta in betas)
    m, v, n = (np.zeros_like(theta) for _ in range(3))
    last = None
    for k, g in enumerate(gradients, start=1):
        g = -g if maximize else g
        difference = g - (g if last is None else last)
        m = (1 - beta1) * m + beta1 * g
        v = (1 - beta2) * v + beta2 * difference
        n = (1 - beta3) * n + beta3 * (g + (1 - beta2) * difference) ** 2
        m_hat, v_hat, n_hat = (
            average / (1 - (1 - beta) ** k)
            for average, beta in ((m, beta1), (v, beta2), (n, beta3))
        )
        step = (m_hat + (1 - beta2) * v_hat) / (np.sqrt(n_hat) + eps)
        if no_prox:
            theta = theta - lr * (step + weight_decay * theta)
        else:
            theta = (theta - lr * step) / (1 + lr * weight_decay)
        last = g
        yield theta, {"mu": m, "diff": v, "nu": n, "previous_gradient": g}


def test_adan_is_the_papers():
    check_optimizer(optim.adan, adan, examples=3)


def test_proximal_decay_follows_a_schedule():
    params = torch.tensor([3.0, -1.0], dtype=torch.float64)
    grads = [params * scale for scale in (0.5, 0.1, -3.0)]
    optimizer = optim.adan(
        lr=optim.schedules.step(0.5, step_size=1, gamma=4.0), weight_decay=0.3, eps=0.0
    )
    state = optimizer.init(params)
    for step, (lr, grad) in enumerate(zip((0.5, 2.0, 8.0), grads, strict=True)):
        before = params
        updates, state = optimizer.update(grad, state, params)
        params = optim.apply_updates(params, updates)
        gradients = [each.numpy() for each in grads[: step + 1]]
        *_, (undecayed, _) = adan(np.zeros(2), gradients, eps=0.0)  # the same gradients and lr 1e-3
        previous = list(adan(np.zeros(2), gradients[:-1], eps=0.0))
        direction = (undecayed - (previous[-1][0] if previous else 0)) / -1e-3
        expected = (before.numpy() - lr * direction) / (1 + lr * 0.3)
        torch.testing.assert_close(params, torch.as_tensor(expected), rtol=1e-11, atol=0)


def test_the_gradient_that_is_kept_is_a_copy():
    rescale, grads = optim.scale_by_adan(), torch.ones(3)
    _, state = rescale.update(grads, rescale.init(grads))
    assert state.previous_gradient.data_ptr() != grads.data_ptr()
