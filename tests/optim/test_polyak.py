"""Polyak's step size against its equation, and on functions whose minimum is known."""

import numpy as np
import pytest
import torch

import purefn.functional as pf
from purefn import optim
from purefn.functional import tree


def polyak(theta, gradients, values, lr, max_lr, f_min, eps, variant):
    """Loizou et al. 2021, arXiv:2002.10542, SPS_max, over a list of leaves."""
    for gradient, value in zip(gradients, values, strict=True):
        gap = max(value - f_min, 0.0) if variant == "sps+" else value - f_min
        square = sum(np.sum(g**2) for g in gradient) + eps
        rate = min(gap / square, max_lr) if square > 0 else 0.0
        theta = [leaf - lr * rate * g for leaf, g in zip(theta, gradient, strict=True)]
        yield theta


@pytest.mark.parametrize("variant", ["sps", "sps+"])
@pytest.mark.parametrize(
    "hyperparameters",
    [
        {"lr": 1.0, "max_lr": 1.0, "f_min": 0.0, "eps": 0.0},
        {"lr": 0.5, "max_lr": 1e9, "f_min": 0.4, "eps": 1e-2},
        {"lr": 2.0, "max_lr": 1e-3, "f_min": -1.0, "eps": 0.0},
    ],
    ids=str,
)
def test_polyak_sgd_is_the_papers(variant, hyperparameters):
    generator = np.random.default_rng(0)
    params = {"b": torch.tensor(0.5, dtype=torch.float64), "w": torch.ones(2, 3).double()}
    scales = 10.0 ** generator.integers(-8, 3, size=60) * (np.arange(60) % 7 > 0)
    gradients = [
        [scale * generator.normal(size=()), scale * generator.normal(size=(2, 3))]
        for scale in scales
    ]
    values = list(generator.uniform(size=60))
    optimizer = optim.polyak_sgd(variant=variant, **hyperparameters)
    state = optimizer.init(params)
    start = [leaf.numpy() for leaf in tree.leaves(params)]
    expected = polyak(start, gradients, values, variant=variant, **hyperparameters)
    for gradient, value, theta in zip(gradients, values, expected, strict=True):
        grads = dict(zip("bw", map(torch.as_tensor, gradient), strict=True))
        updates, state = optimizer.update(grads, state, params, value=torch.tensor(value).double())
        params = optim.apply_updates(params, updates)
        for leaf, reference in zip(tree.leaves(params), theta, strict=True):
            torch.testing.assert_close(leaf, torch.as_tensor(reference), rtol=1e-11, atol=1e-12)


def test_a_quadratic_is_halved_at_every_step():
    """Of |x|^2 the step is |x|^2 / |2 x|^2 = 1/4 of the gradient 2 x."""
    loss, optimizer = (lambda x: (x**2).sum()), optim.polyak_sgd()
    x = torch.tensor([3.0, -4.0], dtype=torch.float64)
    state = optimizer.init(x)
    for step in range(1, 6):
        value, grads = pf.value_and_grad(loss)(x)
        updates, state = optimizer.update(grads, state, x, value=value)
        x = optim.apply_updates(x, updates)
        assert x.tolist() == [3.0 * 0.5**step, -4.0 * 0.5**step]


def test_a_loss_in_float32_serves_parameters_of_any_dtype():
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x = torch.tensor([2.0], dtype=dtype)
        optimizer = optim.polyak_sgd()
        updates, _ = optimizer.update(2 * x, optimizer.init(x), x, value=torch.tensor(4.0))
        assert (updates.dtype, updates.item()) == (dtype, -1.0)


def test_a_chain_hands_the_loss_on():
    optimizer = optim.chain(optim.clip(10.0), optim.polyak_sgd())
    x = torch.tensor([2.0])
    updates, _ = optimizer.update(2 * x, optimizer.init(x), x, value=4.0)
    assert updates.item() == -1.0


def test_zero_gradients_move_nothing():
    x = torch.ones(2)
    updates, _ = optim.polyak_sgd().update(0 * x, optim.polyak_sgd().init(x), x, value=1.0)
    assert torch.equal(updates, -0 * x)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (None, ValueError, r"update\(grads, state, params, value=loss\)"),
        (torch.ones(1), ValueError, "value: expected a number or a 0-d tensor, got a tensor of"),
        ("low", TypeError, "value: expected a number or a 0-d tensor, got 'low'"),
    ],
)
def test_the_loss_is_needed(value, error, message):
    x = torch.ones(1)
    optimizer = optim.polyak_sgd()
    with pytest.raises(error, match=message):
        optimizer.update(x, optimizer.init(x), x, value=value)
