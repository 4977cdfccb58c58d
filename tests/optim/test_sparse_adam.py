"""Lazy Adam against torch.optim.SparseAdam, given the same gradients in a sparse layout."""

import copy
import inspect
import math
import re

import pytest
import torch

import purefn.functional as pf
from purefn import optim
from purefn.functional import tree

STEPS = 60


def problem(dtype, *, rows, steps=STEPS):
    """Return parameters, and gradients that are zero in most rows, or elements."""
    generator = torch.Generator().manual_seed(0)

    def uniform(shape):
        return torch.rand(shape, dtype=torch.float64, generator=generator)

    def gradient(leaf):
        mask = uniform(leaf.shape[:1] + (1,) * (leaf.ndim - 1) if rows else leaf.shape) < 0.3
        scale = 10 ** (uniform(()) * 10 - 8)
        return ((uniform(leaf.shape) * 2 - 1) * scale * mask * (uniform(()) < 0.9)).to(dtype)

    shapes = {"embedding": (7, 3), "bias": (6,), "kernel": (4, 2, 3)}
    params = {name: (uniform(shape) - 0.5).to(dtype) for name, shape in shapes.items()}
    return params, [tree.map(gradient, params) for _ in range(steps)]


def our_run(optimizer, params, gradients):
    state = optimizer.init(params)
    for grads in gradients:
        updates, state = optimizer.update(grads, state, params)
        params = optim.apply_updates(params, updates)
        yield params, state


def torch_run(params, gradients, *, sparse_dim=None, **options):
    theirs = {name: leaf.clone() for name, leaf in params.items()}
    optimizer = torch.optim.SparseAdam(theirs.values(), **options)
    for grads in gradients:
        for name, leaf in theirs.items():
            leaf.grad = grads[name].to_sparse(sparse_dim or leaf.ndim)
        optimizer.step()
        yield theirs, {name: optimizer.state[leaf] for name, leaf in theirs.items()}


def rowwise(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, maximize=False):
    return optim.chain(
        *([optim.scale(-1)] if maximize else []),
        optim.scale_by_sparse_adam(*betas, eps, sparse_dim=1),
        optim.scale_by_learning_rate(lr),
    )


# torch/testing/_internal/common_optimizers.py, and more
CONFIGURATIONS = [
    {},
    {"lr": 0.01},
    {"lr": torch.tensor(0.001, dtype=torch.float64)},
    {"maximize": True},
    {"betas": (0.5, 0.9), "eps": 1e-3, "lr": 0.1},
    {"betas": (0.9, 0.99), "eps": 1e-5},
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("sparse_dim", [None, 1])
@pytest.mark.parametrize("options", CONFIGURATIONS, ids=str)
def test_parameters_and_moments_are_torchs_at_every_step(options, sparse_dim, dtype):
    start, gradients = problem(dtype, rows=sparse_dim == 1)
    recipe = optim.sparse_adam if sparse_dim is None else rowwise
    ours = our_run(recipe(**options), start, gradients)
    theirs = torch_run(start, gradients, sparse_dim=sparse_dim, **options)
    tolerance = 1e-12 if dtype is torch.float64 else 1e-4
    moved = dict.fromkeys(start, 0.0)
    largest = {field: dict.fromkeys(start, 0.0) for field in ("exp_avg", "exp_avg_sq")}
    pairs = enumerate(zip(ours, theirs, strict=True), start=1)
    for step, ((params, state), (expected, moments)) in pairs:
        assert optim.get(state, "count") == step
        for name, leaf in expected.items():
            moved[name] = max(moved[name], (leaf - start[name]).abs().max().item())
            assert (params[name] - leaf).abs().max() <= tolerance * moved[name], (step, name)
            for field, theirs_field in (("mu", "exp_avg"), ("nu", "exp_avg_sq")):
                moment, found = moments[name][theirs_field], optim.get(state, field)[name]
                largest[theirs_field][name] = max(
                    largest[theirs_field][name], moment.abs().max().item()
                )
                allowed = tolerance * largest[theirs_field][name]
                assert (found - moment).abs().max() <= allowed, (step, name, field)
    assert min(moved.values()) > 0


def test_an_embedding_learns_as_with_torchs_sparse_gradients():
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(10, 4, dtype=torch.float64, generator=generator)
    target = torch.randn(10, 4, dtype=torch.float64, generator=generator)
    batches = torch.randint(0, 10, (30, 3), generator=generator)

    theirs = torch.nn.Embedding(10, 4, sparse=True, _weight=table.clone())
    reference = torch.optim.SparseAdam(theirs.parameters(), lr=0.1)
    ours, optimizer = {"weight": table}, rowwise(lr=0.1)
    state = optimizer.init(ours)

    def loss(params, batch):
        return ((params["weight"][batch] - target[batch]) ** 2).sum()

    for batch in batches:
        reference.zero_grad()
        ((theirs(batch) - target[batch]) ** 2).sum().backward()
        reference.step()
        updates, state = optimizer.update(pf.grad(loss)(ours, batch), state, ours)
        ours = optim.apply_updates(ours, updates)
    torch.testing.assert_close(ours["weight"], theirs.weight.detach(), rtol=0, atol=1e-13)
    assert (ours["weight"] - table).abs().max() > 0.1


def test_the_signature_is_torchs():
    theirs = dict(inspect.signature(torch.optim.SparseAdam).parameters)
    del theirs["params"]
    ours = inspect.signature(optim.sparse_adam).parameters
    expected = {name: (value.default, value.kind) for name, value in theirs.items()}
    assert {name: (value.default, value.kind) for name, value in ours.items()} == expected
    assert list(ours) == list(expected)


# ------------------------------------------------------------------------------------ closed forms


def test_without_zeros_it_is_adam_but_for_eps():
    params = {"w": torch.ones(3, dtype=torch.float64)}
    grads = [{"w": torch.tensor([1.0, -2.0, 3.0]).double() * k} for k in (1.0, -0.5, 2.0)]
    *_, (lazy, _) = our_run(optim.sparse_adam(eps=1e-300), params, grads)
    *_, (adam, _) = our_run(optim.adam(eps=1e-300), params, grads)
    torch.testing.assert_close(lazy, adam, rtol=1e-14, atol=0)


@pytest.mark.parametrize("t", [1, 2, 10])
def test_eps_is_added_to_the_root_that_is_not_corrected(t):
    g, eps = 0.01, 1e-3
    params = torch.zeros((), dtype=torch.float64)
    *_, (before, _), (after, _) = our_run(
        optim.sparse_adam(lr=1.0, eps=eps), params, [params, *[params + g] * (t + 1)]
    )
    t = t + 2  # a step without a gradient counts
    mu, nu = (g * (1 - b ** (t - 1)) for b in (0.9, 0.999))
    expected = math.sqrt(1 - 0.999**t) / (1 - 0.9**t) * mu / (math.sqrt(g * nu) + eps)
    assert (before - after).item() == pytest.approx(expected, rel=1e-12)


def test_what_has_no_gradient_stays_while_steps_are_counted():
    params = torch.ones(2, dtype=torch.float64)
    optimizer = optim.sparse_adam(lr=0.1)
    updates, state = optimizer.update(torch.tensor([2.0, 2.0]).double(), optimizer.init(params))
    assert (updates != 0).all()
    for _ in range(5):
        updates, later = optimizer.update(torch.tensor([0.0, -0.0]).double(), state)
        assert torch.equal(updates, torch.zeros_like(updates))
        assert torch.equal(later[0].mu, state[0].mu)
        assert torch.equal(later[0].nu, state[0].nu)
        assert later[0].count == state[0].count + 1
        state = later


def test_a_row_takes_part_with_its_zeros():
    gradients = [torch.tensor([[1.0, 1.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]])]
    params = torch.zeros(2, 2)
    *_, (_, by_row) = our_run(rowwise(), params, gradients)
    *_, (_, by_element) = our_run(optim.sparse_adam(), params, gradients)
    once, again, decayed = 0.1, 0.19, 0.09
    torch.testing.assert_close(
        optim.get(by_row, "mu"), torch.tensor([[again, decayed], [once, once]])
    )
    torch.testing.assert_close(
        optim.get(by_element, "mu"), torch.tensor([[again, once], [once, once]])
    )


def test_a_nan_takes_part():
    params = torch.zeros(2)
    ((moved, _),) = our_run(optim.sparse_adam(), params, [torch.tensor([math.nan, 0.0])])
    assert moved.isnan().tolist() == [True, False]


# --------------------------------------------------------------- dtypes, schedules, transforms


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_its_dtype_and_eps(dtype):
    params, gradients = problem(dtype, rows=True, steps=5)
    *_, (moved, state) = our_run(optim.sparse_adam(lr=0.1), params, gradients)
    moments = [leaf for leaf in tree.leaves(state) if leaf.is_floating_point()]
    for leaf in [*tree.leaves(moved), *moments]:
        assert leaf.dtype == dtype
        assert leaf.isfinite().all()


def test_a_schedule_gives_what_its_rates_do():
    params, gradients = problem(torch.float64, rows=False, steps=3)
    rates = [0.3, 0.1, 0.2]
    scheduled = optim.sparse_adam(lr=lambda step: torch.tensor(rates, dtype=torch.float64)[step])
    *_, (moved, _) = our_run(scheduled, params, gradients)
    state = optim.sparse_adam().init(params)
    for rate, grads in zip(rates, gradients, strict=True):
        updates, state = optim.sparse_adam(lr=rate).update(grads, state, params)
        params = optim.apply_updates(params, updates)
    torch.testing.assert_close(moved, params, rtol=1e-14, atol=0)


@pytest.mark.parametrize("recipe", [optim.sparse_adam, rowwise])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_jit_vmap_and_eager_agree(recipe, dtype):
    params, gradients = problem(dtype, rows=True, steps=4)
    optimizer = recipe(lr=0.1, betas=(0.5, 0.9))

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
    tolerance = 8 * torch.finfo(dtype).eps
    for leaf, other, two in zip(*map(tree.leaves, (run, run_compiled, run_batched)), strict=True):
        torch.testing.assert_close(other, leaf, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(two[1], leaf, rtol=tolerance, atol=tolerance)


def test_no_input_is_written():
    params, gradients = problem(torch.float32, rows=True, steps=3)
    optimizer = optim.sparse_adam()
    *_, (params, state) = our_run(optimizer, params, gradients)
    inputs = (gradients[0], state, params)
    before = copy.deepcopy(inputs)
    optimizer.update(*inputs)
    assert all(map(torch.equal, tree.leaves(inputs), tree.leaves(before)))


# ---------------------------------------------------------------------------------------- refusals

COMPLEX = {"w": torch.ones(2, dtype=torch.complex64)}
REFUSALS = [
    (lambda: optim.sparse_adam(lr=0.0), ValueError, "lr: expected a number greater than 0"),
    (lambda: optim.sparse_adam(lr=torch.ones(2)), ValueError, "lr: expected a number or a 0-d"),
    (lambda: optim.sparse_adam(betas=(1.0, 0.0)), ValueError, "betas[0]: expected a number in"),
    (lambda: optim.sparse_adam(betas=(0.0, -1.0)), ValueError, "betas[1]: expected a number in"),
    (lambda: optim.sparse_adam(eps=0.0), ValueError, "eps: expected a number greater than 0"),
    (lambda: optim.sparse_adam(maximize=1), TypeError, "maximize: expected True or False"),
    (lambda: optim.sparse_adam().init(COMPLEX), TypeError, "params['w'] is a tensor of torch.comp"),
    (lambda: optim.scale_by_sparse_adam(b1=1.0), ValueError, "b1: expected"),
    (lambda: optim.scale_by_sparse_adam(b2=-1.0), ValueError, "b2: expected"),
    (lambda: optim.scale_by_sparse_adam(sparse_dim=0), ValueError, "sparse_dim: expected at least"),
    (lambda: optim.scale_by_sparse_adam(sparse_dim=True), TypeError, "sparse_dim: expected an int"),
    (
        lambda: optim.scale_by_sparse_adam(sparse_dim=2).init({"w": torch.ones(2)}),
        ValueError,
        "sparse_dim: params['w'] has shape (2,), fewer than 2 dimensions",
    ),
]


@pytest.mark.parametrize(("make", "error", "message"), REFUSALS, ids=[row[2] for row in REFUSALS])
def test_refusals(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()


def test_what_update_refuses():
    optimizer, params = optim.sparse_adam(), {"w": torch.ones(2)}
    with pytest.raises(ValueError, match=r"\['w'\] is a tensor of shape \(2,\)"):
        optimizer.update({"w": torch.ones(3)}, optimizer.init(params), params)
    with pytest.raises(TypeError, match=r"scale_by_sparse_adam\.update: expected the state"):
        optimizer.update(params, optim.adam().init(params), params)
