"""ADOPT against the paper's algorithms."""

import numpy as np
import pytest
import torch

from purefn import optim
from purefn.testing import check_optimizer


def adopt(
    theta,
    gradients,
    lr=1e-3,
    betas=(0.9, 0.9999),
    eps=1e-6,
    weight_decay=0.0,
    decoupled_weight_decay=False,
    use_clipping=True,
    maximize=False,
):
    """Taniguchi et al. 2024, arXiv:2411.02853, algorithm 2 (and 1, without clipping)."""
    (b1, b2), m = betas, np.zeros_like(theta)
    for t, g in enumerate(gradients):
        g = -g if maximize else g
        decay = weight_decay * theta
        g = g if decoupled_weight_decay else g + decay
        if t == 0:
            v = g**2
        else:
            normalized = g / np.maximum(np.sqrt(v), eps)
            if use_clipping:
                normalized = np.clip(normalized, -(t**0.25), t**0.25)
            m = b1 * m + (1 - b1) * normalized
            theta = theta - lr * m
            v = b2 * v + (1 - b2) * g**2
        theta = theta - lr * decay if decoupled_weight_decay else theta
        yield theta, {"mu": m, "nu": v}


def test_adopt_is_the_papers():
    check_optimizer(optim.adopt, adopt, examples=3)


@pytest.mark.parametrize("use_clipping", [True, False])
def test_the_first_gradient_moves_nothing_even_without_eps(use_clipping):
    rescale = optim.scale_by_adopt(eps=0.0, use_clipping=use_clipping)
    grads = torch.tensor([-2.0, 0.0, 1e-30, 1e30])
    updates, state = rescale.update(grads, rescale.init(grads))
    assert updates.tolist() == [0.0] * 4
    assert state.nu.tolist() == (grads * grads).tolist()
