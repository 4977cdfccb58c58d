"""Sophia against the paper's algorithm, with estimates that are known."""

import numpy as np
import pytest
import torch

import purefn.functional as pf
from purefn import optim
from purefn.functional import random, tree
from purefn.testing import check_optimizer


def exact(key, params, **extra):
    """Stand for an estimator: the parameters themselves, of either sign."""
    return tree.map(lambda leaf: 3.0 * leaf, params)


def sophia_with_exact_estimates(**hyperparameters):
    """Return Sophia with a key of int64 in its state: torch cannot subtract uint32 to compare."""
    optimizer = optim.sophia(key=0, estimator=exact, **hyperparameters)

    def with_key(state, dtype):
        first, *rest = state
        return first._replace(key=first.key.to(dtype)), *rest

    def update(updates, state, params=None, **extra):
        updates, state = optimizer.update(updates, with_key(state, torch.uint32), params, **extra)
        return updates, with_key(state, torch.int64)

    return optim.GradientTransformation(
        lambda params: with_key(optimizer.init(params), torch.int64), update
    )


def sophia(
    theta,
    gradients,
    lr=1e-4,
    betas=(0.965, 0.99),
    eps=1e-12,
    weight_decay=1e-1,
    gamma=0.01,
    update_interval=10,
):
    """Liu et al. 2023, arXiv:2305.14342, algorithm 3, with 3 theta for the estimate."""
    (b1, b2), m, h = betas, np.zeros_like(theta), np.zeros_like(theta)
    for t, g in enumerate(gradients, start=1):
        m = b1 * m + (1 - b1) * g
        if t % update_interval == 1 % update_interval:
            h = b2 * h + (1 - b2) * 3.0 * theta
        step = np.clip(m / np.maximum(gamma * h, eps), -1, 1)
        theta = theta - lr * weight_decay * theta
        theta = theta - lr * step
        yield theta, {"mu": m, "hessian": h}


@pytest.mark.parametrize(
    "hyperparameters",
    [
        {},
        {"lr": 0.01, "betas": (0.5, 0.5), "gamma": 1.0, "update_interval": 1},
        {"lr": 0.01, "gamma": 10.0, "update_interval": 7, "weight_decay": 0, "eps": 1e-3},
    ],
    ids=str,
)
def test_sophia_is_the_papers(hyperparameters):
    check_optimizer(
        sophia_with_exact_estimates,
        sophia,
        hyperparameters=hyperparameters,
        uncompared=["key"],
        examples=1,
    )


def quadratic(params):
    """A loss with the Hessian [[2, 1], [1, 4]] in "a", and 6 in "b"."""
    x, y = params["a"]
    return x**2 + x * y + 2 * y**2 + 3 * params["b"] ** 2


PARAMS = {"a": torch.tensor([0.3, -0.2], dtype=torch.float64), "b": torch.tensor(1.0).double()}


def test_hutchinsons_estimate_is_u_times_h_u():
    """Of a diagonal Hessian the estimate is `u^2` times it, and each leaf has a `u` of its own."""
    key = random.key(3)
    estimate = optim.hutchinson_diagonal(key, PARAMS, value_fn=quadratic)
    keys = random.split(key, 2)
    u = random.normal(keys[0], (2,), torch.float64)
    hessian = torch.tensor([[2.0, 1.0], [1.0, 4.0]], dtype=torch.float64)
    torch.testing.assert_close(estimate["a"], u * (hessian @ u))
    torch.testing.assert_close(estimate["b"], 6 * random.normal(keys[1], (), torch.float64) ** 2)


def test_hutchinsons_estimates_are_unbiased():
    keys = random.split(random.key(0), 4000)
    estimates = pf.vmap(lambda key: optim.hutchinson_diagonal(key, PARAMS, value_fn=quadratic))(
        keys
    )
    for name, diagonal in (("a", [2.0, 4.0]), ("b", 6.0)):
        expected = torch.tensor(diagonal, dtype=torch.float64)
        error = estimates[name].std(0) / 4000**0.5
        assert torch.all((estimates[name].mean(0) - expected).abs() < 4 * error)


def test_gauss_newton_bartlett_estimates_the_fisher_information():
    """Of logistic regression: sum over examples of p (1 - p) x^2 / batch size."""
    x = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([0.5, -1.0], dtype=torch.float64)

    def sampled_value(weights, key):
        logits = x @ weights
        labels = random.bernoulli(key, torch.sigmoid(logits).detach()).to(logits.dtype)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)

    def estimate(key):
        return optim.gauss_newton_bartlett_diagonal(
            key, weights, sampled_value_fn=sampled_value, batch_size=8
        )

    estimates = pf.vmap(estimate)(random.split(random.key(0), 4000))
    p = torch.sigmoid(x @ weights)
    expected = (p * (1 - p))[:, None].mul(x**2).mean(0)
    error = estimates.std(0) / 4000**0.5
    assert torch.all((estimates.mean(0) - expected).abs() < 4 * error)


def run(update, state, params, steps=12):
    for _ in range(steps):
        grads = pf.grad(quadratic)(params)
        updates, state = update(grads, state, params)
        params = optim.apply_updates(params, updates)
    return params, state


@pytest.mark.slow  # the kernel of normal numbers is compiled
def test_jit_and_eager_agree_and_estimate_at_the_same_steps():
    optimizer = optim.sophia(lr=0.05, key=5, update_interval=4)

    def update(grads, state, params):
        return optimizer.update(grads, state, params, value_fn=quadratic)

    step = pf.jit(update, backend="eager")
    eager = run(update, optimizer.init(PARAMS), PARAMS)
    jitted = run(step, optimizer.init(PARAMS), PARAMS)
    assert step.trace_count == 1
    for left, right in zip(tree.leaves(eager), tree.leaves(jitted), strict=True):
        if left.dtype.is_floating_point:
            torch.testing.assert_close(left, right, rtol=1e-12, atol=0)
        else:
            assert torch.equal(left, right)
    key = random.key(5)
    for _ in range(3):  # at steps 1, 5 and 9
        key = random.split(key)[0]
    assert torch.equal(optim.get(eager[1], "key"), key)


def test_vmap_runs_many_keys_at_once():
    keys = random.split(random.key(0), 3)

    def last(key):
        optimizer = optim.sophia(lr=0.05, key=key, update_interval=2)
        return run(
            lambda *args: optimizer.update(*args, value_fn=quadratic),
            optimizer.init(PARAMS),
            PARAMS,
            steps=4,
        )[0]

    batched = pf.vmap(last)(keys)
    for index, key in enumerate(keys):
        torch.testing.assert_close(
            tree.map(lambda leaf, i=index: leaf[i], batched), last(key), rtol=1e-12, atol=0
        )


def test_updates_are_bounded_by_the_learning_rate():
    optimizer = optim.sophia(lr=0.5, weight_decay=0, key=0, estimator=exact)
    params = {"w": torch.tensor([-1.0, 0.0, 1e30, 1e-30])}
    grads = {"w": torch.tensor([1e30, 0.0, -1e-30, 1.0])}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    assert torch.all(updates["w"].abs() <= 0.5)
    assert updates["w"].tolist() == [-0.5, -0.0, 0.0, -0.5]


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (optim.hutchinson_diagonal, "hutchinson_diagonal needs the loss as a function of the"),
        (optim.gauss_newton_bartlett_diagonal, "needs the loss with sampled labels, and the size"),
    ],
)
def test_what_the_estimator_needs_is_named(estimator, message):
    optimizer, x = optim.sophia(key=0, estimator=estimator), torch.ones(2)
    with pytest.raises(ValueError, match=message):
        optimizer.update(x, optimizer.init(x), x)


def test_an_estimate_that_does_not_fit_is_refused():
    optimizer = optim.sophia(key=0, estimator=lambda key, params: params[:1])
    x = torch.ones(2)
    with pytest.raises(ValueError, match=r"estimate is a tensor of shape \(1,\)"):
        optimizer.update(x, optimizer.init(x), x)


def test_complex_parameters_are_refused():
    with pytest.raises(TypeError, match=r"sophia: params is a tensor of torch\.complex64"):
        optim.sophia(key=0).init(torch.ones(1, dtype=torch.complex64))
