"""Schedule-free learning against its three sequences in numpy, on losses and on given gradients."""

import functools
import math

import numpy as np
import pytest
import torch

import purefn.functional as pf
from purefn import optim
from purefn.functional import tree
from purefn.testing import check_optimizer


def sequences(theta, gradients, step, b1, lr_at, r, power):
    """The three sequences of arXiv:2405.15682; `step(t, lr, g, y)` is what the base moves z by."""
    x, y, z = theta, theta, theta
    rates, weights = [], []
    for t, g in enumerate(gradients, start=1):
        rates.append(lr_at(t))
        z = z + step(t, rates[-1], g, y)
        weights.append(t**r * max(rates) ** power)
        c = weights[-1] / sum(weights) if sum(weights) > 0 else 0.0
        x = (1 - c) * x + c * z
        y = (1 - b1) * z + b1 * x
        numbers = {"weight_sum": sum(weights), "max_lr": max(rates), "b1": b1}
        yield x, y, {"z": z, **numbers}


def sgd(
    theta,
    gradients,
    lr=1.0,
    momentum=0.9,
    weight_decay=0.0,
    warmup_steps=0,
    r=0.0,
    weight_lr_power=2.0,
    maximize=False,
):
    def lr_at(t):
        return float(lr) * (t / warmup_steps if t < warmup_steps else 1.0)

    def step(t, rate, g, y):
        return -rate * ((-g if maximize else g) + weight_decay * y)

    return sequences(theta, gradients, step, momentum, lr_at, r, weight_lr_power)


def adamw(
    theta,
    gradients,
    lr=0.0025,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    warmup_steps=0,
    r=0.0,
    weight_lr_power=2.0,
    maximize=False,
):
    v = np.zeros_like(theta)

    def lr_at(t):
        return float(lr) * (t / warmup_steps if t < warmup_steps else 1.0)

    def step(t, rate, g, y):
        nonlocal v
        g = -g if maximize else g
        v = betas[1] * v + (1 - betas[1]) * g**2
        direction = g / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
        return -rate * (direction + weight_decay * y)

    return sequences(theta, gradients, step, betas[0], lr_at, r, weight_lr_power)


CONFIGURATIONS = {
    "sgd": (optim.schedule_free_sgd, sgd, {"lr": 0.1}),
    "sgd_all": (
        optim.schedule_free_sgd,
        sgd,
        {"lr": 0.1, "momentum": 0.6, "weight_decay": 0.1, "warmup_steps": 7, "maximize": True},
    ),
    "sgd_weights": (
        optim.schedule_free_sgd,
        sgd,
        {"lr": 0.1, "warmup_steps": 5, "r": 1.5, "weight_lr_power": 0.5},
    ),
    "adamw": (optim.schedule_free_adamw, adamw, {"lr": 0.1}),
    "adamw_all": (
        optim.schedule_free_adamw,
        adamw,
        {
            "lr": 0.1,
            "betas": (0.95, 0.9),
            "eps": 1e-3,
            "weight_decay": 0.1,
            "warmup_steps": 7,
            "r": 1.0,
            "maximize": True,
        },
    ),
}
every_configuration = pytest.mark.parametrize(
    ("recipe", "reference", "hyperparameters"), CONFIGURATIONS.values(), ids=CONFIGURATIONS
)


@every_configuration
def test_given_gradients_move_it_as_the_three_sequences(recipe, reference, hyperparameters):
    params = torch.linspace(-2, 2, 6, dtype=torch.float64).reshape(2, 3)
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randn(2, 3, dtype=torch.float64, generator=generator) for _ in range(60)]
    run = reference(params.numpy(), [g.numpy() for g in grads], **hyperparameters)
    optimizer = recipe(**hyperparameters)
    state = optimizer.init(params)
    for grad, (x, y, expected) in zip(grads, run, strict=True):
        updates, state = optimizer.update(grad, state, params)
        params = optim.apply_updates(params, updates)
        averaged = optim.schedule_free_eval_params(state, params)
        for ours, theirs in (
            (params, y),
            (averaged, x),
            *((getattr(state, name), value) for name, value in expected.items()),
        ):
            np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-10, atol=1e-13)


def of_y(reference):
    """The same, of the parameters that are trained."""

    @functools.wraps(reference)
    def transcription(theta, gradients, **hyperparameters):
        for _, y, state in reference(theta, gradients, **hyperparameters):
            yield y, {"z": state["z"]}

    return transcription


@pytest.mark.parametrize("name", ["sgd_all", "adamw_all"])
def test_the_kit_agrees(name):
    recipe, reference, hyperparameters = CONFIGURATIONS[name]
    check_optimizer(recipe, of_y(reference), hyperparameters=hyperparameters, examples=2, steps=30)


GOAL = torch.linspace(-3, 5, 6, dtype=torch.float64)
SCALE = torch.linspace(0.1, 1, 6, dtype=torch.float64)


def gradient(params):
    return SCALE.to(params.dtype) * (params - GOAL.to(params.dtype))


@every_configuration
def test_on_a_quadratic_it_is_the_three_sequences(recipe, reference, hyperparameters):
    hyperparameters = {**hyperparameters, "maximize": False}
    y = np.zeros(6)

    def gradients():
        while True:
            yield SCALE.numpy() * (y - GOAL.numpy())

    run = reference(y, gradients(), **hyperparameters)
    optimizer = recipe(**hyperparameters)
    params = torch.zeros(6, dtype=torch.float64)
    state = optimizer.init(params)
    for _ in range(60):
        x, y, _ = next(run)
        updates, state = optimizer.update(gradient(params), state, params)
        params = optim.apply_updates(params, updates)
    averaged = optim.schedule_free_eval_params(state, params)
    np.testing.assert_allclose(params.numpy(), y, rtol=1e-8)
    np.testing.assert_allclose(averaged.numpy(), x, rtol=1e-8)


def train(optimizer, params, steps, transform=lambda fun: fun):
    @transform
    def step(params, state):
        updates, state = optimizer.update(gradient(params), state, params)
        return optim.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def test_the_average_finds_the_minimum():
    params, state = train(optim.schedule_free_sgd(lr=1.0), torch.zeros(6).double(), 500)
    averaged = optim.schedule_free_eval_params(state, params)
    torch.testing.assert_close(averaged, GOAL, rtol=0, atol=1e-2)


def test_float32_keeps_its_digits_over_many_steps():
    for recipe in (optim.schedule_free_sgd, optim.schedule_free_adamw):
        optimizer = recipe(lr=0.1, warmup_steps=10)
        results = []
        for dtype in (torch.float32, torch.float64):
            params, state = train(optimizer, torch.zeros(6, dtype=dtype), 500)
            results.append((params, state.z, optim.schedule_free_eval_params(state, params)))
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=2e-5, atol=2e-5)


def test_eager_jit_and_vmap_agree():
    optimizer = optim.schedule_free_adamw(lr=0.1, warmup_steps=5, weight_decay=0.1)
    start = torch.zeros(6, dtype=torch.float64)
    eager = train(optimizer, start, 20)
    compiled = train(optimizer, start, 20, lambda fun: pf.jit(fun, backend="eager"))
    batched = pf.vmap(lambda params: train(optimizer, params, 20))(torch.stack([start, start + 1]))
    for other in (compiled, tree.map(lambda leaf: leaf[0], batched)):
        for ours, theirs in zip(tree.leaves(other), tree.leaves(eager), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_base_and_weights_see_the_same_learning_rate():
    """A learning rate of 0 moves and averages nothing: the weights of such steps are 0."""
    rates = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)

    def lr(step):
        return rates[step]

    optimizer = optim.schedule_free(optim.sgd(lr=lr), lr, b1=0.5)
    params = torch.tensor(1.0, dtype=torch.float64)
    state = optimizer.init(params)
    positions = []
    for _ in rates:
        updates, state = optimizer.update(torch.tensor(1.0).double(), state, params)
        params = optim.apply_updates(params, updates)
        positions.append(optim.schedule_free_eval_params(state, params).item())
    assert positions == pytest.approx([1.0, 0.5, 0.2 * 0.5 + 0.8 * -0.5])


def test_the_state_serves_any_chain_and_any_base():
    optimizer = optim.chain(
        optim.clip_by_global_norm(1.0), optim.schedule_free(optim.adam(1.0, betas=(0.0, 0.9)), 1.0)
    )
    params = {"w": torch.ones(2)}
    state = optimizer.init(params)
    updates, state = optimizer.update(params, state, params)
    params = optim.apply_updates(params, updates)
    averaged = optim.schedule_free_eval_params(state, params)["w"]
    torch.testing.assert_close(averaged, torch.zeros(2), rtol=0, atol=1e-6)
    with pytest.raises(KeyError, match="'z'"):
        optim.schedule_free_eval_params(optim.adam().init(params), params)


def test_z_is_a_copy_and_dtypes_are_stable():
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.complex64):
        params = {"w": torch.ones(2, dtype=dtype), "s": torch.ones((), dtype=dtype)}
        optimizer = optim.schedule_free_adamw()
        state = optimizer.init(params)
        assert state.z["w"].data_ptr() != params["w"].data_ptr()
        updates, new = optimizer.update(params, state, params)
        for old, leaf in zip(
            tree.leaves((params, state)), tree.leaves((updates, new)), strict=True
        ):
            assert (old.dtype, old.shape) == (leaf.dtype, leaf.shape)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.5, math.nan])
def test_momentum_lies_inside_the_unit_interval(value):
    with pytest.raises(ValueError, match="b1"):
        optim.schedule_free(optim.sgd(), 0.1, b1=value)
    with pytest.raises(ValueError, match="momentum"):
        optim.schedule_free_sgd(momentum=value)
    with pytest.raises(ValueError, match=r"betas\[0\]"):
        optim.schedule_free_adamw(betas=(value, 0.9))


@pytest.mark.parametrize("recipe", [optim.schedule_free_sgd, optim.schedule_free_adamw])
def test_what_is_refused(recipe):
    for name in ("lr", "weight_decay", "r", "weight_lr_power", "warmup_steps"):
        with pytest.raises(ValueError, match=name):
            recipe(**{name: -1})
    with pytest.raises(TypeError, match="warmup_steps"):
        recipe(warmup_steps=0.5)
    with pytest.raises(TypeError, match="base"):
        optim.schedule_free(0.1, 0.1)
    params = torch.ones(2)
    with pytest.raises(ValueError, match="needs the parameters"):
        recipe().update(params, recipe().init(params))
