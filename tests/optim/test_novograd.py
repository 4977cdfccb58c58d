"""NovoGrad against the paper's algorithm."""

import numpy as np
import pytest
import torch

from purefn import optim
from purefn.testing import check_optimizer


def novograd(
    theta, gradients, lr=1e-3, betas=(0.95, 0.98), eps=1e-8, weight_decay=0.0, maximize=False
):
    """Ginsburg et al. 2019, arXiv:1905.11286, algorithm 1, of one layer."""
    (b1, b2), v, m = betas, None, None
    for t, g in enumerate(gradients, start=1):
        g = -g if maximize else g
        square = np.sum(g**2)
        v = square if t == 1 else b2 * v + (1 - b2) * square
        u = g / (np.sqrt(v) + eps) + weight_decay * theta
        m = u if t == 1 else b1 * m + u
        theta = theta - lr * m
        yield theta, {"nu": v, "trace": m}


def test_novograd_is_the_papers():
    check_optimizer(optim.novograd, novograd, examples=3)


def test_layers_do_not_know_each_others_scale():
    rescale = optim.scale_by_layer_moment(eps=0.0)
    grads = {"small": torch.full((4,), 1e-10), "large": torch.full((2, 2), 1e10)}
    updates, _ = rescale.update(grads, rescale.init(grads))
    torch.testing.assert_close(updates["small"], torch.full((4,), 0.5))
    torch.testing.assert_close(updates["large"], torch.full((2, 2), 0.5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_squared_norms_are_kept_in_float32(dtype):
    """300^2 is beyond float16, and 1e6 times 1.001 beyond the digits of bfloat16."""
    params = torch.full((100,), 300.0, dtype=dtype)
    rescale = optim.scale_by_layer_moment()
    updates, state = rescale.update(params, rescale.init(params))
    assert (state.nu.dtype, updates.dtype) == (torch.float32, dtype)
    torch.testing.assert_close(updates, torch.full((100,), 0.1, dtype=dtype))


def test_a_complex_leaf_is_its_two_parts():
    grads = torch.tensor([3.0 + 4.0j, 0.0])
    rescale = optim.scale_by_layer_moment()
    updates, state = rescale.update(grads, rescale.init(grads))
    assert state.nu.item() == 25.0
    torch.testing.assert_close(updates, grads / 5)
