"""add_noise: its distribution, its key, and the dtypes. (Its numbers are in test_against_optax.)"""

import math

import pytest
import torch

import purefn.functional as pf
from purefn import optim
from purefn.functional import random, tree


def noise_at(steps, params, **options):
    """Yield the noise of each step, which is what zero gradients become."""
    optimizer = optim.add_noise(**{"eta": 0.09, "gamma": 0.5, "key": 0, **options})
    state = optimizer.init(params)
    for _ in range(steps):
        noise, state = optimizer.update(tree.zeros_like(params), state, params)
        yield noise, state


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64, torch.complex64])
def test_the_variance_falls_with_the_power_of_the_step(dtype):
    params = {"w": torch.zeros(4000, dtype=dtype)}
    for step, (noise, _) in enumerate(noise_at(3, params), start=1):
        w = noise["w"].to(torch.complex128 if dtype.is_complex else torch.float64)
        assert noise["w"].dtype == dtype
        variance = 0.09 / step**0.5
        assert w.abs().square().mean().item() == pytest.approx(
            variance, rel=6 * math.sqrt(2 / 4000)
        )
        assert w.mean().abs().item() < 5 * math.sqrt(variance / 4000)


def test_gradients_are_kept_beneath():
    params = {"w": torch.ones(3), "s": torch.ones(())}
    optimizer = optim.add_noise(eta=0.04, gamma=0.0, key=random.key(7))
    state = optimizer.init(params)
    noise, _ = optimizer.update(tree.zeros_like(params), state)
    noisy, _ = optimizer.update(params, state)
    for leaf, other in zip(tree.leaves(noisy), tree.leaves(noise), strict=True):
        torch.testing.assert_close(leaf, 1 + other)
    silent = optim.add_noise(eta=0.0, gamma=1.0, key=0)
    updates, _ = silent.update(params, silent.init(params))
    assert all(map(torch.equal, tree.leaves(updates), tree.leaves(params)))


def test_noise_follows_from_the_state_alone():
    params = {"a": torch.zeros(50), "b": torch.zeros(50)}
    first, again, other = (list(noise_at(3, params, key=key)) for key in (0, 0, 1))
    for (left, _), (right, _) in zip(first, again, strict=True):
        assert all(map(torch.equal, tree.leaves(left), tree.leaves(right)))
    drawn = [leaf for run in (first, other) for noise, _ in run for leaf in tree.leaves(noise)]
    correlations = torch.corrcoef(torch.stack(drawn)) - torch.eye(len(drawn))
    assert correlations.abs().max() < 0.6
    optimizer = optim.add_noise(eta=0.09, gamma=0.5, key=99)  # the key is the state's from then on
    resumed, _ = optimizer.update(tree.zeros_like(params), first[1][1], params)
    assert torch.equal(resumed["a"], first[2][0]["a"])


def test_the_key_is_copied_into_the_state():
    key = random.key(3)
    optimizer = optim.add_noise(0.1, 0.5, key)
    state = optimizer.init({"w": torch.zeros(1)})
    assert torch.equal(state.rng_key, key)
    assert state.rng_key.data_ptr() != key.data_ptr()
    assert optim.add_noise(0.1, 0.5, 3).init({}).rng_key.tolist() == key.tolist()


def test_compiled_and_batched():
    params = {"w": torch.zeros(5)}
    optimizer = optim.add_noise(0.09, 0.5, 0)
    step = pf.jit(optimizer.update, backend="eager")
    state = optimizer.init(params)
    for noise, _ in noise_at(3, params):
        updates, state = step(tree.zeros_like(params), state)
        torch.testing.assert_close(updates, noise)
    assert step.trace_count == 1
    keys = random.split(random.key(0), 2)
    batched = pf.vmap(lambda key: optimizer.update(params, state._replace(rng_key=key))[0])(keys)
    for index, key in enumerate(keys):
        alone, _ = optimizer.update(params, state._replace(rng_key=key))
        assert torch.equal(batched["w"][index], alone["w"])


def test_what_is_refused():
    for options, message in (
        ({"eta": -0.1}, "eta: expected a number that is at least 0"),
        ({"gamma": -0.1}, "gamma: expected a number that is at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            optim.add_noise(**{"eta": 0.1, "gamma": 0.5, "key": 0, **options})
    for key in ("zero", torch.zeros(2), 0.5, None, True):
        with pytest.raises(TypeError, match="key"):
            optim.add_noise(0.1, 0.5, key)
    with pytest.raises(TypeError, match=r"updates\['n'\] is a tensor of torch.int64"):
        optim.add_noise(0.1, 0.5, 0).update({"n": torch.ones(1).long()}, optim.AddNoiseState(0, 0))
