"""Lion against the paper's algorithm and what follows from it."""

import numpy as np
import torch

from purefn import optim
from purefn.testing import check_optimizer


def lion(theta, gradients, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, maximize=False):
    """Chen et al. 2023, arXiv:2302.06675, algorithm 2."""
    m = np.zeros_like(theta)
    for g in gradients:
        g = -g if maximize else g
        c = betas[0] * m + (1 - betas[0]) * g
        theta = theta - lr * (np.sign(c) + weight_decay * theta)
        m = betas[1] * m + (1 - betas[1]) * g
        yield theta, {"mu": m}


def test_lion_is_the_papers():
    check_optimizer(optim.lion, lion, examples=3)


def test_every_step_has_the_same_length():
    optimizer, params = optim.lion(lr=0.25), torch.zeros(3)
    state = optimizer.init(params)
    for scale in (1e-30, 1e30):
        grads = scale * torch.tensor([1.0, -2.0, 3.0])
        updates, state = optimizer.update(grads, state, params)
        assert updates.abs().tolist() == [0.25] * 3


def test_nan_is_not_hidden_by_its_sign():
    rescale, grads = optim.scale_by_lion(), torch.tensor([torch.nan, 1.0])
    updates, state = rescale.update(grads, rescale.init(grads))
    assert updates.isnan().tolist() == state.mu.isnan().tolist() == [True, False]
