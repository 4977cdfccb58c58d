"""Gradient descent with noise: the noise is that of its key, and fades as the paper says."""

import pytest
import torch

from purefn import optim
from purefn.functional import random


def test_the_noise_is_that_of_the_key():
    """Neelakantan et al. 2015, arXiv:1511.06807, equation 1, from the keys that the state holds."""
    params = {"b": torch.zeros(3, dtype=torch.float64), "w": torch.ones(2, 2).double()}
    optimizer = optim.noisy_sgd(lr=0.5, eta=0.3, gamma=0.7, key=11)
    state, key = optimizer.init(params), random.key(11)
    for t in range(1, 6):
        assert torch.equal(optim.get(state, "rng_key"), key)
        key, sample = random.split(key)
        keys = random.split(sample, 2)
        updates, state = optimizer.update(params, state, params)
        for leaf_key, name in zip(keys, sorted(params), strict=True):
            noise = random.normal(leaf_key, params[name].shape, torch.float64)
            expected = -0.5 * (params[name] + (0.3 / t**0.7) ** 0.5 * noise)
            torch.testing.assert_close(updates[name], expected, rtol=1e-13, atol=0)


def test_the_variance_falls():
    optimizer = optim.noisy_sgd(lr=1.0, eta=4.0, gamma=1.0, key=random.key(0))
    params = torch.zeros(20000)
    state = optimizer.init(params)
    for t in range(1, 4):
        updates, state = optimizer.update(params, state, params)
        assert updates.var().item() == pytest.approx(4.0 / t, rel=0.05)


def test_one_transformation_gives_the_same_noise_again():
    optimizer, params = optim.noisy_sgd(key=0), torch.zeros(3)
    state = optimizer.init(params)
    first, _ = optimizer.update(params, state, params)
    second, _ = optimizer.update(params, state, params)
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", ["eta", "gamma", "lr", "weight_decay"])
def test_negative_hyperparameters_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}: expected"):
        optim.noisy_sgd(key=0, **{name: -1.0})
