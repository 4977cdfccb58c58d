"""Muon against torch.optim, and the iteration that makes matrices orthogonal."""

import copy
import inspect
import math
import re

import numpy as np
import pytest
import torch

import purefn.functional as pf
from purefn import optim
from purefn.functional import tree

STEPS = 60
SHAPES = {"square": (8, 8), "twin": (8, 8), "wide": (3, 5), "tall": (20, 9), "row": (1, 4)}


def problem(dtype, steps=STEPS):
    """Return parameters, and gradients of scales 1e-8 to 1e2 with zeros."""
    generator = torch.Generator().manual_seed(0)

    def normal(shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    def gradient(shape):
        scale = 10 ** (torch.rand((), dtype=torch.float64, generator=generator) * 10 - 8)
        return (normal(shape) * scale * (normal(shape) > -1.5)).to(dtype)

    params = {name: normal(shape).to(dtype) for name, shape in SHAPES.items()}
    grads = [{name: gradient(shape) for name, shape in SHAPES.items()} for _ in range(steps)]
    return params, grads


def our_run(optimizer, params, gradients):
    state = optimizer.init(params)
    for grads in gradients:
        updates, state = optimizer.update(grads, state, params)
        params = optim.apply_updates(params, updates)
        yield params, state


def torch_run(params, gradients, **options):
    theirs = {name: leaf.clone() for name, leaf in params.items()}
    optimizer = torch.optim.Muon(theirs.values(), **options)
    for grads in gradients:
        for name, leaf in theirs.items():
            leaf.grad = grads[name].clone()
        optimizer.step()
        momenta = {name: optimizer.state[leaf]["momentum_buffer"] for name, leaf in theirs.items()}
        yield theirs, momenta


# torch/testing/_internal/common_optimizers.py, and more
CONFIGURATIONS = [
    {},
    {"lr": 0.01},
    {"lr": torch.tensor(0.001, dtype=torch.float64)},
    {"weight_decay": 0.2},
    {"momentum": 0.8},
    {"ns_steps": 6},
    {"ns_coefficients": (3.4, -4.7, 2.0)},
    {"nesterov": False, "adjust_lr_fn": "match_rms_adamw", "weight_decay": 0},
    {"adjust_lr_fn": "original", "eps": 1e-3, "ns_steps": 1, "momentum": 0.0},
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("options", CONFIGURATIONS, ids=str)
def test_parameters_and_momenta_are_torchs_at_every_step(options, dtype):
    start, gradients = problem(dtype)
    ours = our_run(optim.muon(**options), start, gradients)
    theirs = torch_run(start, gradients, **options)
    tolerance = 1e-11 if dtype is torch.float64 else 1e-3
    moved = dict.fromkeys(start, 0.0)
    pairs = enumerate(zip(ours, theirs, strict=True), start=1)
    for step, ((params, state), (expected, momenta)) in pairs:
        for name, leaf in expected.items():
            moved[name] = max(moved[name], (leaf - start[name]).abs().max().item())
            assert torch.equal(optim.get(state, "mu")[name], momenta[name]), (step, name)
            assert (params[name] - leaf).abs().max() <= tolerance * moved[name], (step, name)
    assert min(moved.values()) > 0


def test_the_signature_is_torchs():
    theirs = dict(inspect.signature(torch.optim.Muon).parameters)
    del theirs["params"]
    ours = inspect.signature(optim.muon).parameters
    expected = {name: (value.default, value.kind) for name, value in theirs.items()}
    assert {name: (value.default, value.kind) for name, value in ours.items()} == expected
    assert list(ours) == list(expected)


# ------------------------------------------------------------------------------ orthogonalization


def quintic(singular_values, rounds, a=3.4445, b=-4.7750, c=2.0315):
    """Return what the iteration makes of singular values: they alone change."""
    s = singular_values / np.linalg.norm(singular_values)
    for _ in range(rounds):
        s = a * s + b * s**3 + c * s**5
    return s


@pytest.mark.parametrize("shape", [(6, 6), (3, 9), (9, 3), (1, 5), (40, 30)])
@pytest.mark.parametrize("rounds", [0, 1, 5, 7])
def test_only_the_singular_values_change(shape, rounds):
    matrix = torch.randn(
        shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape))
    )
    left, values, right = np.linalg.svd(matrix.numpy(), full_matrices=False)
    expected = left * quintic(values, rounds) @ right
    found = optim.orthogonalize(matrix, ns_steps=rounds).numpy()
    assert np.linalg.norm(found - expected) <= 0.05 * np.linalg.norm(expected)  # it is bfloat16


def test_the_result_is_about_orthogonal():
    matrix = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(optim.orthogonalize(matrix))
    assert values.min() > 0.6
    assert values.max() < 1.25


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_stacks_of_matrices_are_taken_one_by_one(dtype):
    stack = torch.randn(2, 3, 9, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = optim.orthogonalize(stack)
    assert (found.dtype, found.shape) == (dtype, stack.shape)
    for index in np.ndindex(2, 3):
        torch.testing.assert_close(
            found[index], optim.orthogonalize(stack[index]), rtol=0, atol=0.02
        )


def test_matrices_of_zeros_and_of_no_elements_stay():
    for shape in [(3, 2), (0, 4), (4, 0)]:
        assert torch.equal(optim.orthogonalize(torch.zeros(shape)), torch.zeros(shape))


def test_a_nan_is_not_hidden():
    params = {"a": torch.eye(2), "b": torch.eye(2)}
    optimizer = optim.muon()
    grads = {"a": torch.tensor([[1.0, math.nan], [0.0, 1.0]]), "b": torch.eye(2)}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    assert updates["a"].isnan().all()
    assert not updates["b"].isnan().any()


@pytest.mark.parametrize("shape", [(2, 8), (8, 2)])
@pytest.mark.parametrize(
    ("adjust_lr_fn", "factor"),
    [
        (None, lambda m, n: max(1, m / n) ** 0.5),
        ("match_rms_adamw", lambda m, n: 0.2 * max(m, n) ** 0.5),
    ],
)
def test_how_steps_grow_with_the_shape(shape, adjust_lr_fn, factor):
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    direction = optim.scale_by_muon(0.0, adjust_lr_fn=adjust_lr_fn)
    update, _ = direction.update(gradient, direction.init(gradient))
    torch.testing.assert_close(update, factor(*shape) * optim.orthogonalize(gradient))


# --------------------------------------------------------------- momentum, decay, schedules


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_momentum_is_an_average(nesterov):
    direction = optim.scale_by_muon(0.75, nesterov, ns_steps=0)
    state = direction.init(torch.zeros(1, 2))
    average = torch.zeros(1, 2)
    for gradient in (torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, -8.0]])):
        update, state = direction.update(gradient, state)
        average = 0.75 * average + 0.25 * gradient
        assert torch.equal(state.mu, average)
        ahead = 0.25 * gradient + 0.75 * average if nesterov else average
        torch.testing.assert_close(update, ahead / ahead.norm(), rtol=0, atol=0.01)


def test_zero_gradients_leave_parameters_to_decay_alone():
    params, _ = problem(torch.float64)
    zeros = [tree.zeros_like(params)] * 4
    for lr in (0.0, 1e-20, 0.1):
        *_, (moved, _) = our_run(optim.muon(lr=lr, weight_decay=0), params, zeros)
        assert tree.all(tree.map(torch.equal, moved, params))
    *_, (moved, _) = our_run(optim.muon(lr=0.1, weight_decay=0.3), params, zeros)
    for leaf, start in zip(tree.leaves(moved), tree.leaves(params), strict=True):
        torch.testing.assert_close(leaf, start * 0.97**4, rtol=1e-14, atol=0)


def test_a_schedule_gives_what_its_rates_do():
    params, gradients = problem(torch.float64, steps=3)
    rates = [0.3, 0.1, 0.2]
    scheduled = optim.muon(lr=lambda step: torch.tensor(rates, dtype=torch.float64)[step])
    *_, (moved, state) = our_run(scheduled, params, gradients)
    (by_hand, *_), expected = optim.muon().init(params), params
    for rate, grads in zip(rates, gradients, strict=True):
        optimizer = optim.muon(lr=rate)
        updates, (by_hand, *_) = optimizer.update(
            grads, (by_hand, *optimizer.init(params)[1:]), expected
        )
        expected = optim.apply_updates(expected, updates)
    assert tree.all(tree.map(torch.equal, state[0].mu, by_hand.mu))
    torch.testing.assert_close(moved, expected, rtol=1e-14, atol=0)


# --------------------------------------------------------------- dtypes and transforms


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_jit_vmap_and_eager_agree(dtype):
    params, gradients = problem(dtype, steps=4)
    optimizer = optim.muon(lr=0.1)

    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optim.apply_updates(params, updates), state

    compiled, batched = pf.jit(step, backend="eager"), pf.vmap(step)
    run = run_compiled = (params, optimizer.init(params))
    run_batched = tree.map(lambda leaf: torch.stack([leaf, leaf]), run)
    for grads in gradients:
        run, run_compiled = step(*run, grads), compiled(*run_compiled, grads)
        both = tree.map(lambda leaf: torch.stack([leaf, leaf]), grads)
        run_batched = batched(*run_batched, both)
    assert compiled.trace_count == 1
    for leaf, other, two in zip(*map(tree.leaves, (run, run_compiled, run_batched)), strict=True):
        assert leaf.dtype == other.dtype == two.dtype == dtype
        assert torch.equal(leaf, other)
        torch.testing.assert_close(two[1].float(), leaf.float(), rtol=0.02, atol=0.02)


def test_hyperparameters_may_be_tensors():
    params, gradients = problem(torch.float64, steps=3)
    numbers = {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.3, "eps": 1e-6}
    tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in numbers.items()}
    *_, (moved, state) = our_run(optim.muon(**numbers), params, gradients)
    *_, (other, other_state) = our_run(optim.muon(**tensors), params, gradients)
    torch.testing.assert_close(state, other_state, rtol=1e-13, atol=0)
    torch.testing.assert_close(moved, other, rtol=0, atol=0.02)


def test_no_input_is_written():
    params, gradients = problem(torch.float32, steps=3)
    optimizer = optim.muon()
    *_, (params, state) = our_run(optimizer, params, gradients)
    inputs = (gradients[0], state, params)
    before = copy.deepcopy(inputs)
    optimizer.update(*inputs)
    assert all(map(torch.equal, tree.leaves(inputs), tree.leaves(before)))


# ---------------------------------------------------------------------------------------- refusals

REFUSALS = [
    (lambda: optim.muon(lr=-1.0), ValueError, "lr: expected a number that is at least 0"),
    (lambda: optim.muon(lr=torch.ones(2)), ValueError, "lr: expected a number or a 0-d"),
    (lambda: optim.muon(momentum=-0.1), ValueError, "momentum: expected"),
    (lambda: optim.muon(weight_decay=-0.1), ValueError, "weight_decay: expected"),
    (lambda: optim.muon(nesterov=1), TypeError, "nesterov: expected True or False"),
    (
        lambda: optim.muon(adjust_lr_fn="arbitrary"),
        ValueError,
        "adjust_lr_fn: expected None or one of 'original', 'match_rms_adamw', got 'arbitrary'",
    ),
    (lambda: optim.muon(ns_steps=100), ValueError, "ns_steps: expected 0 to 99, got 100"),
    (lambda: optim.muon(ns_steps=2.0), TypeError, "ns_steps: expected an int"),
    (lambda: optim.muon(ns_coefficients=(1.0, 2.0)), ValueError, "ns_coefficients: expected three"),
    (
        lambda: optim.muon(ns_coefficients=(1.0, "2", 0.5)),
        TypeError,
        "ns_coefficients[1]: expected a number",
    ),
    (
        lambda: optim.muon(ns_coefficients=(1.0, torch.ones(()), 0.5)),
        TypeError,
        "ns_coefficients[1]: expected a number, got a tensor",
    ),
    (lambda: optim.muon(eps=-1.0), ValueError, "eps: expected"),
    (
        lambda: optim.muon().init({"w": torch.ones(2, 3, 4)}),
        ValueError,
        "params['w'] has shape (2, 3, 4), and this is for matrices only",
    ),
    (lambda: optim.muon().init([torch.ones(2)]), ValueError, "params[0] has shape (2,)"),
    (
        lambda: optim.muon().init({"w": torch.ones(2, 2, dtype=torch.complex64)}),
        TypeError,
        "params['w'] is a tensor of torch.complex64",
    ),
    (lambda: optim.orthogonalize(torch.ones(3)), ValueError, "expected real matrices"),
    (lambda: optim.orthogonalize(torch.ones(3, 3).cfloat()), ValueError, "expected real matrices"),
]


@pytest.mark.parametrize(("make", "error", "message"), REFUSALS, ids=[row[2] for row in REFUSALS])
def test_refusals(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()


def test_what_update_refuses():
    optimizer, params = optim.muon(), {"w": torch.ones(2, 2)}
    state = optimizer.init(params)
    with pytest.raises(ValueError, match="needs the parameters"):
        optimizer.update(params, state)
    with pytest.raises(ValueError, match=r"\['w'\] is a tensor of shape \(2,\)"):
        optimizer.update({"w": torch.ones(2)}, state, params)
    with pytest.raises(TypeError, match=r"scale_by_muon\.update: expected the state"):
        optimizer.update(params, (optim.EmptyState(), *state[1:]), params)
