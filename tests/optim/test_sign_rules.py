"""signSGD and Signum against the paper's algorithms."""

import numpy as np
import pytest
import torch

from purefn import optim
from purefn.testing import check_optimizer


def sign_sgd(theta, gradients, lr=1e-3, weight_decay=0.0, maximize=False):
    """Bernstein et al. 2018, arXiv:1802.04434, algorithm 1."""
    for g in gradients:
        g = -g if maximize else g
        theta = theta - lr * (np.sign(g) + weight_decay * theta)
        yield theta


def signum(theta, gradients, lr=1e-3, momentum=0.9, weight_decay=0.0, maximize=False):
    """Bernstein et al. 2018, arXiv:1802.04434, algorithm 2."""
    m = np.zeros_like(theta)
    for g in gradients:
        g = -g if maximize else g
        m = momentum * m + (1 - momentum) * g
        theta = theta - lr * (np.sign(m) + weight_decay * theta)
        yield theta, {"ema": m}


def test_sign_sgd_is_the_papers():
    check_optimizer(optim.sign_sgd, sign_sgd, examples=3)


def test_signum_is_the_papers():
    check_optimizer(optim.signum, signum, examples=3)


@pytest.mark.parametrize("scale", [1e-38, 1.0, 1e38])
def test_signs_do_not_know_the_scale(scale):
    grads = scale * torch.tensor([-3.0, 0.0, 0.5])
    signs, _ = optim.scale_by_sign().update(grads, optim.EmptyState())
    assert signs.tolist() == [-1.0, 0.0, 1.0]


def test_nan_and_infinity_are_not_hidden():
    grads = torch.tensor([torch.nan, torch.inf, -torch.inf])
    signs, _ = optim.scale_by_sign().update(grads, optim.EmptyState())
    assert signs[0].isnan()
    assert signs[1:].tolist() == [1.0, -1.0]


@pytest.mark.parametrize("momentum", [-1.0, 1.0])
def test_a_momentum_out_of_range_is_named(momentum):
    with pytest.raises(ValueError, match=r"^momentum: expected a number in \[0, 1\), got"):
        optim.signum(momentum=momentum)
