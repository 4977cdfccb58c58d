"""AdaBelief against the paper's algorithm."""

import numpy as np
import torch

from purefn import optim
from purefn.testing import check_optimizer


def adabelief(
    theta,
    gradients,
    lr=1e-3,
    betas=(0.9, 0.999),
    eps=1e-16,
    weight_decay=0.0,
    decoupled_weight_decay=True,
    maximize=False,
):
    """Zhuang et al. 2020, arXiv:2010.07468, algorithm 2."""
    (b1, b2), m, s = betas, np.zeros_like(theta), np.zeros_like(theta)
    for t, g in enumerate(gradients, start=1):
        g = -g if maximize else g
        decay = weight_decay * theta
        g = g + decay if weight_decay and not decoupled_weight_decay else g
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * (g - m) ** 2 + eps
        direction = (m / (1 - b1**t)) / (np.sqrt(s / (1 - b2**t)) + eps)
        theta = theta - lr * (direction + (decay if decoupled_weight_decay else 0))
        yield theta, {"mu": m, "nu": s}


def test_adabelief_is_the_papers():
    check_optimizer(optim.adabelief, adabelief, examples=3)


def test_without_memory_of_gradients_there_is_no_surprise():
    """With b1 = 0 every gradient is as expected, and nu is what eps_root adds up to."""
    belief = optim.scale_by_belief(b1=0.0, b2=0.5, eps=0.0, eps_root=1e-4)
    params = torch.zeros(2, dtype=torch.float64)
    state = belief.init(params)
    for t in range(1, 6):
        updates, state = belief.update(params + 3, state)
        expected = 1e-4 * (1 - 0.5**t) / (1 - 0.5)
        torch.testing.assert_close(state.nu, params + expected, rtol=1e-13, atol=0)
        torch.testing.assert_close(updates, params + 3 / (2e-4**0.5), rtol=1e-13, atol=0)
