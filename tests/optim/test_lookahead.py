"""Lookahead against two loops in numpy."""

import numpy as np
import pytest
import torch

import purefn.functional as pf
from purefn import optim
from purefn.functional import tree
from purefn.testing import check_optimizer


def lookahead(theta, gradients, lr=0.1, sync_period=5, slow_step_size=0.5, reset=False):
    """Algorithm 1 of arXiv:1907.08610, around SGD with momentum 0.9."""
    slow, fast, momentum = theta, theta, np.zeros_like(theta)
    for t, g in enumerate(gradients, start=1):
        momentum = 0.9 * momentum + g
        fast = fast - lr * momentum
        if t % sync_period == 0:
            slow = slow + slow_step_size * (fast - slow)
            fast = slow
            momentum = 0 * momentum if reset else momentum
        yield fast, {"slow": slow, "trace": momentum}


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(("sync_period", "slow_step_size"), [(5, 0.5), (1, 0.3), (7, 1.0), (3, 0)])
def test_it_is_the_algorithm(sync_period, slow_step_size, reset):
    def ours(lr=0.1):
        base = optim.sgd(lr=lr, momentum=0.9)
        return optim.lookahead(base, sync_period, slow_step_size, reset_state=reset)

    def reference(theta, gradients, lr=0.1):
        return lookahead(theta, gradients, lr, sync_period, slow_step_size, reset)

    generator = torch.Generator().manual_seed(0)
    params = torch.randn(4, dtype=torch.float64, generator=generator)
    grads = [torch.randn(4, dtype=torch.float64, generator=generator) for _ in range(30)]
    state = ours().init(params)
    for grad, (fast, expected) in zip(
        grads, reference(params.numpy(), [g.numpy() for g in grads]), strict=True
    ):
        updates, state = ours().update(grad, state, params)
        params = optim.apply_updates(params, updates)
        np.testing.assert_allclose(params.numpy(), fast, rtol=1e-11, atol=1e-14)
        for name, value in expected.items():
            np.testing.assert_allclose(optim.get(state, name).numpy(), value, rtol=1e-11)


def test_the_kit_agrees():
    def ours(lr=0.1):
        return optim.lookahead(optim.sgd(lr=lr, momentum=0.9))

    def reference(theta, gradients, lr=0.1):
        return lookahead(theta, gradients, lr)

    check_optimizer(ours, reference, hyperparameters={"lr": 0.1}, examples=2, steps=30)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_a_synchronization_fast_is_slow_to_the_bit(dtype):
    generator = torch.Generator().manual_seed(0)
    params = {"w": torch.randn(50, generator=generator, dtype=dtype)}
    optimizer = optim.lookahead(optim.adam(0.3), sync_period=3, slow_step_size=0.7)
    state = optimizer.init(params)
    for step in range(1, 31):
        grads = {"w": torch.randn(50, generator=generator, dtype=dtype)}
        updates, state = optimizer.update(grads, state, params)
        params = optim.apply_updates(params, updates)
        assert torch.equal(params["w"], optim.get(state, "slow")["w"]) == (step % 3 == 0)
        assert state.steps_since_sync == step % 3


def test_eager_jit_and_vmap_agree():
    optimizer = optim.lookahead(optim.adam(0.1), sync_period=3, reset_state=True)

    def train(params, transform=lambda fun: fun):
        step = transform(lambda params, state: optimizer.update(params, state, params))
        state = optimizer.init(params)
        for _ in range(10):
            updates, state = step(params, state)
            params = optim.apply_updates(params, updates)
        return params, state

    start = {"w": torch.linspace(-1, 1, 5, dtype=torch.float64)}
    batch = tree.map(lambda leaf: torch.stack([leaf, leaf + 1]), start)
    eager = train(start)
    batched = pf.vmap(train)(batch)
    compiled = train(start, lambda fun: pf.jit(fun, backend="eager"))
    for other in (compiled, tree.map(lambda leaf: leaf[0], batched)):
        for ours, theirs in zip(tree.leaves(other), tree.leaves(eager), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_slow_is_a_copy_and_dtypes_are_stable():
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.complex64):
        params = {"w": torch.ones(2, dtype=dtype), "s": torch.ones((), dtype=dtype), "none": None}
        optimizer = optim.lookahead(optim.adam(), sync_period=1, reset_state=True)
        state = optimizer.init(params)
        assert state.slow["w"].data_ptr() != params["w"].data_ptr()
        updates, new = optimizer.update(params, state, params)
        for old, leaf in zip(
            tree.leaves((params, state)), tree.leaves((updates, new)), strict=True
        ):
            assert (old.dtype, old.shape) == (leaf.dtype, leaf.shape)


def test_what_is_refused():
    with pytest.raises(TypeError, match="base"):
        optim.lookahead(0.1)
    with pytest.raises(ValueError, match="sync_period"):
        optim.lookahead(optim.sgd(), sync_period=0)
    with pytest.raises(TypeError, match="slow_step_size"):
        optim.lookahead(optim.sgd(), slow_step_size="half")
    with pytest.raises(TypeError, match="reset_state"):
        optim.lookahead(optim.sgd(), reset_state=1)
    params = torch.ones(2)
    optimizer = optim.lookahead(optim.sgd())
    with pytest.raises(ValueError, match="needs the parameters"):
        optimizer.update(params, optimizer.init(params))
    with pytest.raises(TypeError, match="expected the state"):
        optimizer.update(params, optim.EmptyState(), params)
