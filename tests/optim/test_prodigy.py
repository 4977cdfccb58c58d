"""Prodigy against its algorithm in numpy, and what it is for: a learning rate out of nothing."""

import math

import numpy as np
import pytest
import torch

import purefn.functional as pf
from purefn import optim
from purefn.functional import tree
from purefn.testing import check_optimizer, whole_tree


@whole_tree
def prodigy(
    theta,
    gradients,
    lr=1.0,
    betas=(0.9, 0.999),
    beta3=None,
    eps=1e-8,
    weight_decay=0.0,
    decoupled_weight_decay=True,
    use_bias_correction=False,
    safeguard_warmup=False,
    d0=1e-6,
    d_coef=1.0,
    growth_rate=math.inf,
    maximize=False,
):
    """Algorithm 4 of arXiv:2306.06101, with the options of the authors' program."""
    b1, b2 = betas
    b3 = math.sqrt(b2) if beta3 is None else beta3
    x0 = [x.copy() for x in theta]
    x, m, v, s = (list(theta), *([0 * leaf for leaf in theta] for _ in range(3)))
    d = d_max = d0
    r = 0.0
    for t, gs in enumerate(gradients, start=1):
        if maximize:
            gs = [-g for g in gs]
        if not decoupled_weight_decay:
            gs = [g + weight_decay * p for g, p in zip(gs, x, strict=True)]
        correction = math.sqrt(1 - b2**t) / (1 - b1**t) if use_bias_correction else 1.0
        gamma = lr * correction
        m = [b1 * a + (1 - b1) * d * g for a, g in zip(m, gs, strict=True)]
        v = [b2 * a + (1 - b2) * d**2 * g**2 for a, g in zip(v, gs, strict=True)]
        inner = sum((g * (start - p)).sum() for g, start, p in zip(gs, x0, x, strict=True))
        r = b3 * r + gamma * d**2 / d0 * inner
        weight = d**2 / d0 * (1 if safeguard_warmup else gamma)
        s = [b3 * a + weight * g for a, g in zip(s, gs, strict=True)]
        length = sum(np.abs(a).sum() for a in s)
        d_hat = d_coef * r / length if length > 0 else d
        d_next = max(d, d_hat) if d == d0 else d
        d_max = max(d_max, d_hat)
        d_next = min(d_max, d_next * growth_rate)
        decay = weight_decay if decoupled_weight_decay else 0.0
        x = [
            p - gamma * d * a / (np.sqrt(b) + d_next * eps) - gamma * d * decay * p
            for p, a, b in zip(x, m, v, strict=True)
        ]
        d = d_next
        numbers = {"estim_lr": d, "max_estim_lr": d_max, "numerator": r, "count": t}
        yield x, {"mu": m, "nu": v, "grad_sum": s, "params0": x0, **numbers}


#: Gradients that are given go on however far one walks along them, and `d` grows without an end.
CONFIGURATIONS = [
    {
        "d0": 1e-2,
        "growth_rate": 1.1,
        "weight_decay": 0.1,
        "use_bias_correction": True,
        "d_coef": 2.0,
    },
    {
        "d0": 1e-2,
        "growth_rate": 1.1,
        "weight_decay": 0.1,
        "decoupled_weight_decay": False,
        "maximize": True,
    },
    {"d0": 1e-2, "growth_rate": 1.02, "lr": 0.5, "safeguard_warmup": True, "beta3": 0.9},
]


@pytest.mark.parametrize("hyperparameters", CONFIGURATIONS)
def test_it_is_the_algorithm(hyperparameters):
    check_optimizer(optim.prodigy, prodigy, hyperparameters=hyperparameters, examples=2, steps=30)


def target(dtype=torch.float64):
    return {"w": torch.linspace(-3, 5, 6).reshape(2, 3).to(dtype), "b": torch.tensor(2.0).to(dtype)}


def gradient(params):
    """Of half the squared distance from the target, badly scaled."""
    goal = target()
    return tree.map(lambda x, y: (x - y.to(x.dtype)) * (1 + y.to(x.dtype).abs()), params, goal)


def train(optimizer, params, steps, transform=lambda fun: fun):
    @transform
    def step(params, state):
        updates, state = optimizer.update(gradient(params), state, params)
        return optim.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def zeros(dtype=torch.float64):
    return tree.zeros_like(target(dtype))


@pytest.mark.parametrize(
    "hyperparameters",
    [
        {},
        {"growth_rate": 1.5, "weight_decay": 0.01, "decoupled_weight_decay": False},
        {"use_bias_correction": True, "weight_decay": 0.01, "d_coef": 2.0},
        {"safeguard_warmup": True, "lr": 0.5, "beta3": 0.9},
    ],
)
def test_it_is_the_algorithm_while_it_grows(hyperparameters):
    """On a quadratic the estimate grows by three orders of magnitude."""
    options = {**hyperparameters, "d0": 1e-4}
    goals = [leaf.numpy() for leaf in tree.leaves(target())]
    x = [np.zeros(y.shape) for y in goals]

    def gradients():
        while True:
            yield [(a - y) * (1 + np.abs(y)) for a, y in zip(x, goals, strict=True)]

    run = prodigy([leaf.copy() for leaf in x], gradients(), **options)
    optimizer, params = optim.prodigy(**options), zeros()
    state = optimizer.init(params)
    for _ in range(150):
        x, expected = next(run)
        updates, state = optimizer.update(gradient(params), state, params)
        params = optim.apply_updates(params, updates)
        for ours, theirs in zip(tree.leaves(params), x, strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-9, atol=1e-12)
        assert optim.get(state, "estim_lr").item() == pytest.approx(expected["estim_lr"], rel=1e-9)
    assert expected["estim_lr"] > 0.5


@pytest.mark.parametrize("growth_rate", [math.inf, 1.5])
def test_it_finds_the_minimum_and_a_learning_rate(growth_rate):
    params, state = train(optim.prodigy(growth_rate=growth_rate), zeros(), 500)
    for ours, goal in zip(tree.leaves(params), tree.leaves(target()), strict=True):
        torch.testing.assert_close(ours, goal, rtol=0, atol=0.05)
    farthest = max(leaf.abs().max() for leaf in tree.leaves(target()))
    assert 0.1 < optim.get(state, "estim_lr") <= 2 * farthest


def test_float32_keeps_its_digits_over_many_steps():
    """Away from the minimum: at it the last digits decide which way a step goes."""
    optimizer = optim.prodigy(d0=1e-3)
    for steps in (10, 60):
        wide, wide_state = train(optimizer, zeros(), steps)
        params, state = train(optimizer, zeros(torch.float32), steps)
        for ours, theirs in zip(tree.leaves(params), tree.leaves(wide), strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=2e-5, atol=1e-6)
        estimate = optim.get(wide_state, "estim_lr")
        torch.testing.assert_close(optim.get(state, "estim_lr"), estimate, rtol=1e-5, atol=0)


def test_eager_jit_and_vmap_agree():
    optimizer = optim.prodigy(weight_decay=0.01, use_bias_correction=True, d0=1e-3)
    params, state = train(optimizer, zeros(), 40)
    compiled = train(optimizer, zeros(), 40, lambda fun: pf.jit(fun, backend="eager"))
    batch = tree.map(lambda leaf: torch.stack([leaf, leaf + 1]), zeros())
    step = pf.vmap(lambda p, s: optimizer.update(gradient(p), s, p))
    states = pf.vmap(optimizer.init)(batch)
    for _ in range(40):
        updates, states = step(batch, states)
        batch = optim.apply_updates(batch, updates)
    first = tree.map(lambda leaf: leaf[0], (batch, states))
    for other in (compiled, first):
        for ours, theirs in zip(tree.leaves(other), tree.leaves((params, state)), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_zero_gradients_and_no_learning_rate_change_nothing():
    params = {"w": torch.ones(3), "empty": torch.ones(0)}
    for lr, grads in ((1.0, tree.zeros_like(params)), (0.0, tree.ones_like(params))):
        optimizer = optim.prodigy(lr=lr)
        state = optimizer.init(params)
        for _ in range(3):
            updates, state = optimizer.update(grads, state, params)
            assert not updates["w"].any()
        assert optim.get(state, "estim_lr") == 1e-6
        assert not any(leaf.isnan().any() for leaf in tree.leaves(state))


def test_a_schedule_is_read_at_every_step():
    rates = torch.tensor([0.5, 0.0, 1.0, 0.25], dtype=torch.float64)
    optimizer = optim.prodigy(lr=lambda step: rates[step], d0=0.1)
    grads = [[np.array([3.0, -1.0])], [np.array([1.0, 2.0])], [np.array([2.0, 0.5])]]
    rate = np.array(rates[0].item())
    expected = prodigy([np.array([1.0, 2.0])], grads, lr=rate, d0=0.1)
    params = torch.tensor([1.0, 2.0], dtype=torch.float64)
    state = optimizer.init(params)
    for step, (g,) in enumerate(grads):
        rate[...] = rates[step].item()
        (x,), _ = next(expected)
        updates, state = optimizer.update(torch.tensor(g), state, params)
        params = optim.apply_updates(params, updates)
        np.testing.assert_allclose(params.numpy(), x, rtol=1e-13)


def test_the_first_parameters_are_a_copy():
    params = torch.ones(2)
    state = optim.prodigy().init(params)
    assert optim.get(state, "params0").data_ptr() != params.data_ptr()


def test_states_of_half_precision_are_kept_in_float32():
    params = {"w": torch.ones(2, dtype=torch.bfloat16)}
    optimizer = optim.prodigy(d0=0.1)
    state = optimizer.init(params)
    updates, new = optimizer.update({"w": params["w"] * 1e-3}, state, params)
    assert updates["w"].dtype == torch.bfloat16
    for before, after in zip(tree.leaves(state), tree.leaves(new), strict=True):
        assert (before.dtype, before.shape) == (after.dtype, after.shape)
    assert optim.get(new, "nu")["w"].dtype == torch.float32


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"lr": -1.0}, "lr"),
        ({"betas": (1.0, 0.9)}, r"betas\[0\]"),
        ({"beta3": 1.0}, "beta3"),
        ({"eps": 0.0}, "eps"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"d0": 0.0}, "d0"),
        ({"d_coef": 0.0}, "d_coef"),
        ({"growth_rate": 0.9}, "growth_rate"),
    ],
)
def test_what_is_refused(hyperparameters, message):
    with pytest.raises(ValueError, match=message):
        optim.prodigy(**hyperparameters)


def test_parameters_are_needed_and_must_match():
    optimizer, params = optim.prodigy(), {"w": torch.ones(2)}
    state = optimizer.init(params)
    with pytest.raises(ValueError, match="needs the parameters"):
        optimizer.update(params, state)
    with pytest.raises(ValueError, match=r"\['w'\]"):
        optimizer.update({"w": torch.ones(3)}, state, params)
    with pytest.raises(TypeError, match="expected the state"):
        optimizer.update(params, (optim.EmptyState(),), params)
