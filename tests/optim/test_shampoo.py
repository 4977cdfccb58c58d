"""Shampoo against the paper's algorithms 1 and 2 (arXiv:1802.09568), written in numpy."""

import copy
import math
import re

import numpy as np
import pytest
import torch

import purefn.functional as pf
from purefn import optim
from purefn.functional import tree

STEPS = 60
SHAPES = {"matrix": (4, 3), "wide": (2, 5), "tensor": (2, 3, 4), "b": (5,), "s": ()}


def power(matrix, exponent):
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(values**exponent) @ vectors.T


def unfolded(g, dim):
    """Return the matricization of the paper's section 2.1: slices along `dim` are its rows."""
    return np.moveaxis(g, dim, 0).reshape(g.shape[dim], -1)


def mode_product(g, matrix, dim):
    return np.moveaxis(np.tensordot(matrix, g, axes=(1, dim)), 0, dim)


def shampoo(theta, gradients, lr, eps, weight_decay=0.0, frequency=1, maximize=False):
    """Algorithm 2; for `frequency > 1` the roots are kept for as many steps."""
    shape = theta.shape or (1,)
    k = len(shape)
    h = [eps * np.eye(n) for n in shape]
    for t, g in enumerate(gradients):
        g = (-g if maximize else g) + weight_decay * theta
        g = g.reshape(shape)
        for i in range(k):
            h[i] = h[i] + unfolded(g, i) @ unfolded(g, i).T
        if t % frequency == 0:
            roots = [power(m, -1 / (2 * k)) for m in h]
        for i in range(k):
            g = mode_product(g, roots[i], i)
        theta = theta - lr * g.reshape(theta.shape)
        yield theta, h


def problem(dtype=torch.float64, steps=STEPS, shapes=SHAPES):
    generator = torch.Generator().manual_seed(0)

    def normal(shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    def gradient(shape):
        scale = 10 ** (torch.rand((), dtype=torch.float64, generator=generator) * 4 - 2)
        return (normal(shape) * scale).to(dtype)

    params = {name: normal(shape).to(dtype) for name, shape in shapes.items()}
    return params, [tree.map(lambda p: gradient(p.shape), params) for _ in range(steps)]


def our_run(optimizer, params, gradients):
    state = optimizer.init(params)
    for grads in gradients:
        updates, state = optimizer.update(grads, state, params)
        params = optim.apply_updates(params, updates)
        yield params, state


CONFIGURATIONS = [
    {},
    {"lr": 0.01, "eps": 1.0},
    {"weight_decay": 0.1, "maximize": True},
    {"precondition_frequency": 7, "eps": 1e-2},
]


@pytest.mark.parametrize("options", CONFIGURATIONS, ids=str)
def test_parameters_and_statistics_are_the_papers_at_every_step(options):
    start, gradients = problem()
    given = {"lr": 0.1, "eps": 1e-4, **options}
    given["frequency"] = given.pop("precondition_frequency", 1)
    transcriptions = {
        name: shampoo(leaf.numpy(), [grads[name].numpy() for grads in gradients], **given)
        for name, leaf in start.items()
    }
    moved = dict.fromkeys(start, 0.0)
    for step, (params, state) in enumerate(our_run(optim.shampoo(**options), start, gradients)):
        for name, transcription in transcriptions.items():
            expected, statistics = next(transcription)
            moved[name] = max(moved[name], abs(expected - start[name].numpy()).max())
            assert abs(params[name].numpy() - expected).max() <= 1e-8 * moved[name], (step, name)
            found = optim.get(state, "statistics")[name]
            for matrix, reference in zip(found, statistics, strict=True):
                np.testing.assert_allclose(matrix.numpy(), reference, rtol=1e-11, atol=1e-13)
    assert min(moved.values()) > 0.01


def test_a_number_is_divided_as_by_adagrad():
    params = torch.tensor(1.0, dtype=torch.float64)
    gradients = [torch.tensor(g, dtype=torch.float64) for g in (3.0, -0.5, 0.0, 2.0)]
    total, expected = 0.04, 1.0
    run = our_run(optim.shampoo(lr=0.5, eps=0.04), params, gradients)
    for g, (moved, _) in zip((3.0, -0.5, 0.0, 2.0), run, strict=True):
        total += g**2
        expected -= 0.5 * g / math.sqrt(total)
        assert moved.item() == pytest.approx(expected, rel=1e-13)


def test_a_rotation_of_the_problem_rotates_the_updates():
    rotation = torch.linalg.qr(
        torch.randn(4, 4, generator=torch.Generator().manual_seed(1)).double()
    )[0]
    params, gradients = problem(shapes={"w": (4, 3)}, steps=5)
    rescale = optim.scale_by_shampoo()
    state = turned = rescale.init(params)
    for grads in gradients:
        updates, state = rescale.update(grads, state)
        other, turned = rescale.update({"w": rotation @ grads["w"]}, turned)
        torch.testing.assert_close(other["w"], rotation @ updates["w"], rtol=1e-8, atol=1e-10)


def test_long_dimensions_keep_the_diagonal_alone():
    params, gradients = problem(shapes={"w": (2, 5)}, steps=4)
    rescale = optim.scale_by_shampoo(max_precond_dim=2)
    state = rescale.init(params)
    left, right = 1e-4 * np.eye(2), np.full(5, 1e-4)
    for grads in gradients:
        g = grads["w"].numpy()
        left, right = left + g @ g.T, right + (g**2).sum(0)
        updates, state = rescale.update(grads, state)
        expected = power(left, -0.25) @ g @ np.diag(right**-0.25)
        np.testing.assert_allclose(updates["w"].numpy(), expected, rtol=1e-10)
    assert state.statistics["w"][1].shape == (5,)


def test_zero_gradients_move_nothing():
    params = {**problem()[0], "empty": torch.ones(0, 3)}
    for lr in (0.0, 1e-20, 0.1):
        *_, (moved, state) = our_run(optim.shampoo(lr=lr), params, [tree.zeros_like(params)] * 3)
        assert tree.all(tree.map(torch.equal, moved, params))
        assert not any(leaf.isnan().any() for leaf in tree.leaves(state))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_spoils_its_leaf_alone(bad):
    params, (grads, later) = problem(steps=2)
    grads = {**grads, "wide": torch.full((2, 5), bad).double()}
    for moved, _ in our_run(optim.shampoo(), params, [grads, later]):
        assert {name for name, leaf in moved.items() if leaf.isnan().any()} == {"wide"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_dtypes_are_near_float64(dtype):
    params, gradients = problem(dtype, steps=4)
    wide = tree.map(lambda leaf: leaf.double(), params)
    wide_gradients = [tree.map(lambda leaf: leaf.double(), grads) for grads in gradients]
    rescale = optim.scale_by_shampoo(eps=1e-2)
    state, wide_state = rescale.init(params), rescale.init(wide)
    for grads, wide_grads in zip(gradients, wide_gradients, strict=True):
        updates, state = rescale.update(grads, state)
        expected, wide_state = rescale.update(wide_grads, wide_state)
        for leaf, other in zip(tree.leaves(updates), tree.leaves(expected), strict=True):
            assert leaf.dtype == dtype
            torch.testing.assert_close(
                leaf.double(), other, rtol=0, atol=0.01 if dtype != torch.float32 else 1e-3
            )
    assert {leaf.dtype for leaf in tree.leaves(state.roots)} == {torch.float32}


def test_jit_vmap_and_eager_agree():
    params, gradients = problem(steps=4)
    optimizer = optim.shampoo(weight_decay=0.1, precondition_frequency=2)

    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optim.apply_updates(params, updates), state

    compiled, batched = pf.jit(step, backend="aot_eager"), pf.vmap(step)
    run = run_compiled = (params, optimizer.init(params))
    run_batched = tree.map(lambda leaf: torch.stack([leaf, leaf]), run)
    for grads in gradients:
        run, run_compiled = step(*run, grads), compiled(*run_compiled, grads)
        both = tree.map(lambda leaf: torch.stack([leaf, leaf]), grads)
        run_batched = batched(*run_batched, both)
    assert compiled.trace_count == 1
    for leaf, other, two in zip(*map(tree.leaves, (run, run_compiled, run_batched)), strict=True):
        torch.testing.assert_close(other, leaf, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(two[1], leaf, rtol=1e-9, atol=1e-11)


def test_a_schedule_gives_what_its_rates_do():
    params, gradients = problem(steps=3)
    rates = [0.3, 0.1, 0.2]
    scheduled = optim.shampoo(lr=lambda step: torch.tensor(rates, dtype=torch.float64)[step])
    *_, (moved, _) = our_run(scheduled, params, gradients)
    state = optim.shampoo().init(params)
    for rate, grads in zip(rates, gradients, strict=True):
        updates, state = optim.shampoo(lr=rate).update(grads, state, params)
        params = optim.apply_updates(params, updates)
    torch.testing.assert_close(moved, params, rtol=1e-13, atol=0)


def test_no_input_is_written():
    params, gradients = problem(steps=3)
    optimizer = optim.shampoo()
    *_, (params, state) = our_run(optimizer, params, gradients)
    inputs = (gradients[0], state, params)
    before = copy.deepcopy(inputs)
    optimizer.update(*inputs)
    assert all(map(torch.equal, tree.leaves(inputs), tree.leaves(before)))


REFUSALS = [
    (lambda: optim.shampoo(lr=-1.0), ValueError, "lr: expected a number that is at least 0"),
    (lambda: optim.shampoo(eps=0.0), ValueError, "eps: expected a number greater than 0"),
    (lambda: optim.shampoo(weight_decay=-1.0), ValueError, "weight_decay: expected"),
    (lambda: optim.shampoo(maximize=1), TypeError, "maximize: expected True or False"),
    (
        lambda: optim.shampoo(precondition_frequency=0),
        ValueError,
        "precondition_frequency: expected at least 1",
    ),
    (lambda: optim.shampoo(max_precond_dim=0), ValueError, "max_precond_dim: expected at least 1"),
    (
        lambda: optim.shampoo().init({"w": torch.ones(2, dtype=torch.complex64)}),
        TypeError,
        "params['w'] is a tensor of torch.complex64",
    ),
]


@pytest.mark.parametrize(("make", "error", "message"), REFUSALS, ids=[row[2] for row in REFUSALS])
def test_refusals(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()


def test_what_update_refuses():
    optimizer, params = optim.shampoo(), {"w": torch.ones(2, 3)}
    state = optimizer.init(params)
    with pytest.raises(ValueError, match=r"updates\['w'\] is a tensor of shape \(3, 2\)"):
        optimizer.update({"w": torch.ones(3, 2)}, state)
    with pytest.raises(TypeError, match=r"scale_by_shampoo\.update: expected the state"):
        optimizer.update(params, (optim.EmptyState(), *state[1:]), params)
