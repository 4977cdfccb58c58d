"""LARS, LAMB and Fromage against the papers' algorithms."""

import numpy as np
import pytest
import torch

from purefn import optim
from purefn.testing import check_optimizer


def norm(x):
    return np.sqrt(np.sum(np.abs(x) ** 2))


def lars(
    theta,
    gradients,
    lr,
    momentum=0.9,
    weight_decay=0.0,
    trust_coefficient=1e-3,
    eps=0.0,
    maximize=False,
):
    """You et al. 2017, arXiv:1708.03888, algorithm 1, of one layer."""
    v = np.zeros_like(theta)
    for g in gradients:
        g = -g if maximize else g
        denominator = norm(g) + weight_decay * norm(theta) + eps
        defined = norm(theta) > 0 and denominator > 0
        rate = trust_coefficient * norm(theta) / denominator if defined else 1.0
        v = momentum * v + lr * rate * (g + weight_decay * theta)
        theta = theta - v
        yield theta, {"trace": -v}


def lamb(theta, gradients, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0, maximize=False):
    """You et al. 2020, arXiv:1904.00962, algorithm 2, of one layer, with phi the identity."""
    (b1, b2), m, v = betas, np.zeros_like(theta), np.zeros_like(theta)
    for t, g in enumerate(gradients, start=1):
        g = -g if maximize else g
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        r = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        u = r + weight_decay * theta
        ratio = norm(theta) / norm(u) if norm(theta) > 0 and norm(u) > 0 else 1.0
        theta = theta - lr * ratio * u
        yield theta, {"mu": m, "nu": v}


def fromage(theta, gradients, lr=1e-2, maximize=False):
    """Bernstein et al. 2020, arXiv:2002.03432, algorithm 1, of one layer."""
    for g in gradients:
        g = -g if maximize else g
        ratio = norm(theta) / norm(g) if norm(theta) > 0 and norm(g) > 0 else 1.0
        theta = 1 / np.sqrt(1 + lr**2) * (theta - lr * ratio * g)
        yield theta


def test_lars_is_the_papers():
    check_optimizer(optim.lars, lars, hyperparameters={"lr": 1.0}, examples=2)


def test_lamb_is_the_papers():
    check_optimizer(optim.lamb, lamb, examples=3)


def test_fromage_is_the_papers():
    check_optimizer(optim.fromage, fromage, examples=3)


def test_a_step_of_lamb_is_the_learning_rate_of_the_weights():
    params = {"w": torch.randn(4, 3, dtype=torch.float64), "b": torch.zeros(3, dtype=torch.double)}
    grads = {"w": torch.randn(4, 3, dtype=torch.float64), "b": torch.ones(3, dtype=torch.double)}
    optimizer = optim.lamb(lr=0.25)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    torch.testing.assert_close(updates["w"].norm(), 0.25 * params["w"].norm())
    torch.testing.assert_close(updates["b"], torch.full_like(params["b"], -0.25), rtol=1e-5, atol=0)


def test_fromage_keeps_the_norm_at_right_angles_to_the_last_digit():
    params = torch.tensor([3.0, 0.0], dtype=torch.float64)
    for lr in (0.0, 1e-9, 1e-4, 2.0):
        optimizer = optim.fromage(lr=lr)
        grads = torch.tensor([0.0, -7.0], dtype=torch.float64)
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        moved = optim.apply_updates(params, updates)
        torch.testing.assert_close(moved.norm(), params.norm(), rtol=1e-15, atol=0)
        assert updates[0].item() == pytest.approx(3 / (1 + lr**2) ** 0.5 - 3, rel=1e-6, abs=1e-15)


def test_fromage_follows_a_schedule():
    params = torch.tensor([3.0, 1.0], dtype=torch.float64)
    grads = torch.tensor([1.0, -7.0], dtype=torch.float64)
    optimizer = optim.fromage(lr=optim.schedules.step(0.5, step_size=1, gamma=0.5))
    state = optimizer.init(params)
    for lr in (0.5, 0.25, 0.125):
        updates, state = optimizer.update(grads, state, params)
        (expected,) = fromage(params.numpy(), [grads.numpy()], lr=lr)
        params = optim.apply_updates(params, updates)
        torch.testing.assert_close(params, torch.as_tensor(expected), rtol=1e-14, atol=0)


@pytest.mark.parametrize("zero", ["params", "updates"])
def test_a_norm_of_zero_leaves_updates_as_they_are(zero):
    trees = {"params": torch.ones(3), "updates": torch.full((3,), 2.0)}
    trees[zero] = torch.zeros(3)
    for rescale in (optim.scale_by_trust_ratio(), optim.scale_by_local_rate()):
        updates, _ = rescale.update(trees["updates"], optim.EmptyState(), trees["params"])
        assert torch.equal(updates, trees["updates"])


def test_norms_are_taken_to_be_at_least_min_norm():
    rescale = optim.scale_by_trust_ratio(min_norm=2.0, trust_coefficient=3.0, eps=1.0)
    updates, _ = rescale.update(torch.tensor([0.5]), optim.EmptyState(), torch.tensor([0.25]))
    assert updates.item() == pytest.approx(0.5 * 3.0 * 2.0 / (2.0 + 1.0))


def test_complex_and_empty_leaves_have_a_norm():
    params = {"c": torch.tensor([3.0 + 4.0j]), "e": torch.zeros(0, 2), "s": torch.tensor(-5.0)}
    grads = {"c": torch.tensor([0.1j]), "e": torch.zeros(0, 2), "s": torch.tensor(0.5)}
    updates, _ = optim.scale_by_trust_ratio().update(grads, optim.EmptyState(), params)
    torch.testing.assert_close(updates["c"], torch.tensor([5j]))
    torch.testing.assert_close(updates["s"], torch.tensor(5.0))
    assert updates["e"].shape == (0, 2)


@pytest.mark.parametrize("name", ["scale_by_trust_ratio", "scale_by_local_rate"])
def test_parameters_are_needed(name):
    with pytest.raises(ValueError, match=f"{name}.update needs the parameters"):
        getattr(optim, name)().update(torch.ones(1), optim.EmptyState())
