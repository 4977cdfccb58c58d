"""SOAP against the authors' algorithm (arXiv:2409.11321, algorithm 3), written in numpy."""

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
# An eigenbasis is unique where eigenvalues differ. After one gradient of shape (3, 6) those of the
# longer side do not, so that such a side is left as it is in what is compared with numpy.
SHAPES = {"square": (4, 4), "wide": (3, 6), "long": (7, 2), "b": (5,), "s": ()}
LONGEST = 5


def rotate(x, bases, back=False):
    """Return `P^T x Q`, or `P x Q^T`; a side without a basis stays."""
    for dim, basis in enumerate(bases):
        if basis is not None:
            matrix = basis if back else basis.T
            x = np.moveaxis(np.tensordot(matrix, x, axes=(1, dim)), 0, dim)
    return x


def soap(
    theta,
    gradients,
    lr=3e-3,
    betas=(0.95, 0.95),
    shampoo_beta=None,
    eps=1e-8,
    weight_decay=0.01,
    precondition_frequency=10,
    precondition_1d=False,
    normalize_grads=False,
    correct_bias=True,
    maximize=False,
):
    b1, b2 = betas
    s = b2 if shampoo_beta is None else shampoo_beta
    sides = [n <= LONGEST and (theta.ndim > 1 or precondition_1d) for n in theta.shape]
    mu, nu = np.zeros_like(theta), np.zeros_like(theta)
    statistics = [
        np.zeros((n, n)) if used else None for n, used in zip(theta.shape, sides, strict=True)
    ]
    bases = []
    for t, g in enumerate(gradients):
        g = -g if maximize else g
        u = np.zeros_like(g)
        if t > 0:
            mu = b1 * mu + (1 - b1) * g
            nu = b2 * nu + (1 - b2) * rotate(g, bases) ** 2
            u = rotate(rotate(mu, bases) / (np.sqrt(nu) + eps), bases, back=True)
            if correct_bias:
                u = u * np.sqrt(1 - b2**t) / (1 - b1**t)
            if normalize_grads:
                u = u / (1e-30 + np.sqrt(np.mean(u**2)))
        theta = theta - lr * (u + weight_decay * theta)
        for dim, matrix in enumerate(statistics):
            if matrix is not None:
                m = np.moveaxis(g, dim, 0).reshape(g.shape[dim], -1)
                statistics[dim] = s * matrix + (1 - s) * m @ m.T
        if t == 0:
            bases = [None if m is None else np.linalg.eigh(m)[1][:, ::-1] for m in statistics]
        elif t % precondition_frequency == 0:
            for dim, matrix in enumerate(statistics):
                if matrix is not None:
                    order = np.argsort(-np.diag(bases[dim].T @ matrix @ bases[dim]))
                    nu = np.take(nu, order, axis=dim)
                    bases[dim] = np.linalg.qr(matrix @ bases[dim][:, order])[0]
        yield theta, mu, nu, statistics


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
    {"lr": 0.1, "betas": (0.9, 0.99), "precondition_frequency": 1, "weight_decay": 0},
    {"shampoo_beta": 0.5, "eps": 1e-3, "precondition_frequency": 3, "maximize": True},
    {"normalize_grads": True, "correct_bias": False, "precondition_1d": True, "lr": 0.01},
]


@pytest.mark.parametrize("options", CONFIGURATIONS, ids=str)
def test_parameters_and_states_are_the_papers_at_every_step(options):
    shapes = {**SHAPES, "b": (1,)} if options.get("precondition_1d") else SHAPES
    start, gradients = problem(shapes=shapes)
    transcriptions = {
        name: soap(leaf.numpy(), [grads[name].numpy() for grads in gradients], **options)
        for name, leaf in start.items()
    }
    moved = dict.fromkeys(start, 0.0)
    optimizer = optim.soap(**options, max_precond_dim=LONGEST)
    for step, (params, state) in enumerate(our_run(optimizer, start, gradients)):
        for name, transcription in transcriptions.items():
            expected, mu, nu, statistics = next(transcription)
            moved[name] = max(moved[name], abs(expected - start[name].numpy()).max())
            assert abs(params[name].numpy() - expected).max() <= 1e-8 * moved[name], (step, name)
            np.testing.assert_allclose(
                optim.get(state, "mu")[name].numpy(), mu, rtol=1e-10, atol=1e-12
            )
            np.testing.assert_allclose(
                optim.get(state, "nu")[name].numpy(), nu, rtol=1e-7, atol=1e-9
            )
            for matrix, other in zip(optim.get(state, "statistics")[name], statistics, strict=True):
                reference = np.zeros((0, 0)) if other is None else other
                np.testing.assert_allclose(matrix.numpy(), reference, rtol=1e-10, atol=1e-12)
    assert min(moved.values()) > 1e-3


def test_the_first_gradient_moves_nothing():
    params, (grads, later) = problem(steps=2)
    rescale = optim.scale_by_soap()
    updates, state = rescale.update(grads, rescale.init(params))
    assert not any(leaf.any() for leaf in tree.leaves((updates, state.mu, state.nu)))
    updates, _ = rescale.update(later, state)
    assert all(leaf.any() for leaf in tree.leaves(updates))


def test_bases_are_orthogonal_and_become_eigenvectors():
    params, (grads, *_) = problem(shapes={"w": (3, 5)})
    rescale = optim.scale_by_soap(precondition_frequency=1)
    state = rescale.init(params)
    for _ in range(30):
        _, state = rescale.update(grads, state)
    for matrix, basis in zip(state.statistics["w"], state.bases["w"], strict=True):
        identity = torch.eye(len(basis), dtype=torch.float64)
        torch.testing.assert_close(basis.T @ basis, identity, rtol=0, atol=1e-12)
        turned = basis.T @ matrix @ basis
        torch.testing.assert_close(turned, turned.diagonal().diag(), rtol=0, atol=1e-8)
        assert (turned.diagonal().diff() <= 1e-12).all()


def test_a_rotation_of_the_problem_rotates_the_updates():
    generator = torch.Generator().manual_seed(1)
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=generator))[0]
    params, gradients = problem(shapes={"w": (4, 4)}, steps=12)
    rescale = optim.scale_by_soap(precondition_frequency=4)
    state = turned = rescale.init(params)
    for grads in gradients:
        updates, state = rescale.update(grads, state)
        other, turned = rescale.update({"w": rotation @ grads["w"]}, turned)
        torch.testing.assert_close(other["w"], rotation @ updates["w"], rtol=1e-7, atol=1e-9)


def test_vectors_are_adams_one_step_late():
    params, gradients = problem(shapes={"b": (5,)}, steps=6)
    soap_run = our_run(optim.soap(lr=0.1, eps=1e-300, weight_decay=0), params, gradients)
    adam = optim.adam(lr=0.1, betas=(0.95, 0.95), eps=1e-300)
    next(soap_run)
    for (moved, _), (expected, _) in zip(
        soap_run, our_run(adam, params, gradients[1:]), strict=True
    ):
        torch.testing.assert_close(moved, expected, rtol=1e-13, atol=0)


def test_zero_gradients_move_nothing():
    params = {**problem()[0], "empty": torch.ones(0, 3)}
    zeros = [tree.zeros_like(params)] * 12
    for lr in (0.0, 1e-20, 0.1):
        *_, (moved, state) = our_run(optim.soap(lr=lr, weight_decay=0), params, zeros)
        assert tree.all(tree.map(torch.equal, moved, params))
        assert not any(leaf.isnan().any() for leaf in tree.leaves(state))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_spoils_its_leaf_alone(bad):
    params, (grads, *later) = problem(steps=4)
    spoiled = {**grads, "wide": torch.full((3, 6), bad).double()}
    *_, (moved, _) = our_run(optim.soap(precondition_frequency=1), params, [spoiled, *later])
    assert {name for name, leaf in moved.items() if leaf.isnan().any()} == {"wide"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_are_stable(dtype):
    params, gradients = problem(dtype, steps=12)
    *_, (moved, state) = our_run(optim.soap(lr=0.1), params, gradients)
    state = state[0]
    for leaf in tree.leaves((moved, state.mu, state.nu)):
        assert leaf.dtype == dtype
        assert leaf.isfinite().all()
    assert {leaf.dtype for leaf in tree.leaves((state.statistics, state.bases))} == {torch.float32}


def test_jit_vmap_and_eager_agree():
    params, gradients = problem(steps=4, shapes={"w": (4, 4), "b": (3,)})
    optimizer = optim.soap(lr=0.1, precondition_frequency=2)

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
    for leaf, other, two in zip(
        *map(tree.leaves, (run[0], run_compiled[0], run_batched[0])), strict=True
    ):
        torch.testing.assert_close(other, leaf, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(two[1], leaf, rtol=1e-9, atol=1e-11)


def test_a_schedule_gives_what_its_rates_do():
    params, gradients = problem(steps=4)
    rates = [0.3, 0.1, 0.2, 0.5]
    scheduled = optim.soap(lr=lambda step: torch.tensor(rates, dtype=torch.float64)[step])
    *_, (moved, _) = our_run(scheduled, params, gradients)
    state = optim.soap().init(params)
    for rate, grads in zip(rates, gradients, strict=True):
        updates, state = optim.soap(lr=rate).update(grads, state, params)
        params = optim.apply_updates(params, updates)
    torch.testing.assert_close(moved, params, rtol=1e-13, atol=0)


def test_no_input_is_written():
    params, gradients = problem(steps=3)
    optimizer = optim.soap(precondition_frequency=1)
    *_, (params, state) = our_run(optimizer, params, gradients)
    inputs = (gradients[0], state, params)
    before = copy.deepcopy(inputs)
    optimizer.update(*inputs)
    assert all(map(torch.equal, tree.leaves(inputs), tree.leaves(before)))


REFUSALS = [
    (lambda: optim.soap(lr=-1.0), ValueError, "lr: expected a number that is at least 0"),
    (lambda: optim.soap(betas=(1.0, 0.5)), ValueError, "betas[0]: expected a number in [0, 1)"),
    (lambda: optim.soap(betas=0.9), ValueError, "betas: expected a pair"),
    (lambda: optim.soap(shampoo_beta=1.0), ValueError, "shampoo_beta: expected a number in [0, 1)"),
    (lambda: optim.soap(eps=-1.0), ValueError, "eps: expected"),
    (lambda: optim.soap(weight_decay=-1.0), ValueError, "weight_decay: expected"),
    (lambda: optim.soap(precondition_frequency=0), ValueError, "precondition_frequency: expected"),
    (lambda: optim.soap(max_precond_dim=1.5), TypeError, "max_precond_dim: expected an int"),
    (lambda: optim.soap(precondition_1d=1), TypeError, "precondition_1d: expected True or False"),
    (lambda: optim.soap(normalize_grads=1), TypeError, "normalize_grads: expected True or False"),
    (lambda: optim.soap(correct_bias=1), TypeError, "correct_bias: expected True or False"),
    (lambda: optim.soap(maximize=1), TypeError, "maximize: expected True or False"),
    (
        lambda: optim.soap().init({"w": torch.ones(2, dtype=torch.complex64)}),
        TypeError,
        "params['w'] is a tensor of torch.complex64",
    ),
]


@pytest.mark.parametrize(("make", "error", "message"), REFUSALS, ids=[row[2] for row in REFUSALS])
def test_refusals(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()


def test_what_update_refuses():
    optimizer, params = optim.soap(), {"w": torch.ones(2, 3)}
    state = optimizer.init(params)
    with pytest.raises(ValueError, match="needs the parameters"):
        optimizer.update(params, state)
    with pytest.raises(ValueError, match=r"updates\['w'\] is a tensor of shape \(3, 2\)"):
        optimizer.update({"w": torch.ones(3, 2)}, state, {"w": torch.ones(3, 2)})
    with pytest.raises(TypeError, match=r"scale_by_soap\.update: expected the state"):
        optimizer.update(params, (optim.EmptyState(), *state[1:]), params)
