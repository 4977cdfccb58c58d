"""Sharpness-aware minimization against loops written out in numpy."""

import numpy as np
import pytest
import torch

import purefn.functional as pf
from purefn import optim
from purefn.functional import tree

MATRIX = np.array([[3.0, 1.0], [1.0, 0.5]])


def loss(params):
    matrix = torch.as_tensor(MATRIX).to(params["w"].dtype)
    return params["w"] @ matrix @ params["w"] / 2 + params["s"] ** 4


def numpy_gradient(w, s):
    return MATRIX @ w, 4 * s**3


def start(dtype=torch.float64):
    return {"w": torch.tensor([1.0, -2.0], dtype=dtype), "s": torch.tensor(0.5, dtype=dtype)}


def train(optimizer, params, steps, transform=lambda fun: fun):
    grad_fn = pf.grad(loss)

    @transform
    def step(params, state):
        updates, state = optimizer.update(grad_fn(params), state, params, grad_fn=grad_fn)
        return optim.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


@pytest.mark.parametrize("adaptive", [False, True])
def test_it_is_the_algorithm(adaptive):
    """Algorithm 1 of arXiv:2010.01412, and of arXiv:2102.11600 with T = |w|; SGD with momentum."""
    rho, lr, momentum = 0.3, 0.05, 0.9
    w, s, b = np.array([1.0, -2.0]), 0.5, None
    for _ in range(60):
        g = np.append(*numpy_gradient(w, s))
        scale = np.abs(np.append(w, s)) if adaptive else np.ones(3)
        e = rho * scale**2 * g / np.linalg.norm(scale * g)
        g = np.append(*numpy_gradient(w + e[:2], s + e[2]))
        b = g if b is None else momentum * b + g
        w, s = w - lr * b[:2], s - lr * b[2]
    optimizer = optim.sam(optim.sgd(lr=lr, momentum=momentum), rho, adaptive)
    params, _ = train(optimizer, start(), 60)
    np.testing.assert_allclose(params["w"].numpy(), w, rtol=1e-9)
    np.testing.assert_allclose(params["s"].numpy(), s, rtol=1e-9)


def test_without_distance_it_is_the_base():
    for adaptive in (False, True):
        params, state = train(optim.sam(optim.adam(0.1), 0.0, adaptive), start(), 5)
        expected, expected_state = train(optim.adam(0.1), start(), 5)
        for ours, theirs in zip(
            tree.leaves((params, state.inner_state)),
            tree.leaves((expected, expected_state)),
            strict=True,
        ):
            assert torch.equal(ours, theirs)


def test_the_point_is_at_distance_rho():
    seen = []

    def grad_fn(params):
        seen.append(params)
        return params

    params = {"w": torch.tensor([3.0, 0.0]), "s": torch.tensor(4.0), "empty": torch.ones(0)}
    for scale in (1.0, 1e-30, 1e30):
        optimizer = optim.sam(optim.sgd(), rho=0.5)
        grads = tree.map(lambda leaf: leaf * scale, params)  # noqa: B023 - called at once
        optimizer.update(grads, optimizer.init(params), params, grad_fn=grad_fn)
        torch.testing.assert_close(seen[-1]["w"], torch.tensor([3.3, 0.0]))
        torch.testing.assert_close(seen[-1]["s"], torch.tensor(4.4))
    assert len(seen) == 3


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_zero_gradient_goes_nowhere(adaptive):
    params = start()
    optimizer = optim.sam(optim.sgd(lr=1.0), adaptive=adaptive)
    zero = tree.zeros_like(params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params, grad_fn=lambda p: p)
    for update, leaf in zip(tree.leaves(updates), tree.leaves(params), strict=True):
        assert torch.equal(update, -leaf)


def test_eager_jit_and_vmap_agree():
    optimizer = optim.sam(optim.adam(0.1), rho=0.3, adaptive=True)
    eager = train(optimizer, start(), 20)
    compiled = train(optimizer, start(), 20, lambda fun: pf.jit(fun, backend="eager"))
    batch = tree.map(lambda leaf: torch.stack([leaf, leaf + 1]), start())
    batched = pf.vmap(lambda params: train(optimizer, params, 20))(batch)
    for other in (compiled, tree.map(lambda leaf: leaf[0], batched)):
        for ours, theirs in zip(tree.leaves(other), tree.leaves(eager), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_it_composes_and_extra_arguments_go_on():
    seen = []

    def note(updates, state, params=None, **extra):
        seen.append(extra)
        return updates, state

    noting = optim.GradientTransformation(lambda params: optim.EmptyState(), note)
    optimizer = optim.chain(optim.lookahead(optim.sam(noting)), optim.identity())
    params = start()
    state = optimizer.init(params)
    optimizer.update(params, state, params, grad_fn=lambda p: p, value=3.0)
    assert seen == [{"value": 3.0}]


def test_what_is_refused():
    params = start()
    with pytest.raises(TypeError, match="base"):
        optim.sam(0.1)
    with pytest.raises(ValueError, match="rho"):
        optim.sam(optim.sgd(), rho=-0.1)
    with pytest.raises(TypeError, match="adaptive"):
        optim.sam(optim.sgd(), adaptive=1)
    optimizer = optim.sam(optim.sgd())
    state = optimizer.init(params)
    with pytest.raises(TypeError, match="grad_fn=grad_fn"):
        optimizer.update(params, state, params)
    with pytest.raises(ValueError, match="needs the parameters"):
        optimizer.update(params, state, grad_fn=lambda p: p)
    with pytest.raises(ValueError, match=r"grad_fn\(params\)\['s'\]"):
        optimizer.update(params, state, params, grad_fn=lambda p: {**p, "s": torch.ones(3)})
