"""L-BFGS against torch.optim, iteration by iteration, and against dense BFGS."""

import copy
import inspect
import math
import pickle
import re
from typing import NamedTuple

import numpy as np
import pytest
import torch

import purefn.functional as pf
from purefn import optim
from purefn.functional import tree

SEARCHES = pytest.mark.parametrize("line_search_fn", [None, "strong_wolfe"])


class Problem(NamedTuple):
    loss: object
    params: object


def normal(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)


def quadratic(dtype=torch.float64):
    matrix = normal(6, 6, dtype=dtype)
    matrix = matrix @ matrix.T / 6 + 0.1 * torch.eye(6, dtype=dtype)

    def loss(p):
        x = torch.cat([p["a"], p["b"].reshape(-1)])
        return x @ matrix @ x / 2 - x.sum()

    return Problem(loss, {"a": normal(2, dtype=dtype), "b": normal(2, 2, seed=1, dtype=dtype)})


def rosenbrock(dtype=torch.float64):
    params = {"x": torch.tensor(-1.5, dtype=dtype), "y": torch.tensor(1.0, dtype=dtype)}
    return Problem(lambda p: (1 - p["x"]) ** 2 + 100 * (p["y"] - p["x"] ** 2) ** 2, params)


def perceptron(dtype=torch.float64):
    inputs = normal(20, 3, dtype=dtype)
    targets = torch.sin(inputs.sum(1, keepdim=True))
    shapes = {"w1": (8, 3), "b1": (8,), "w2": (1, 8), "b2": (1,)}
    params = {
        name: normal(*shape, seed=seed, dtype=dtype) / 2
        for seed, (name, shape) in enumerate(shapes.items())
    }

    def loss(p):
        hidden = torch.tanh(inputs @ p["w1"].T + p["b1"])
        return ((hidden @ p["w2"].T + p["b2"] - targets) ** 2).mean()

    return Problem(loss, params)


PROBLEMS = {"quadratic": quadratic, "Rosenbrock": rosenbrock, "perceptron": perceptron}


def autograd(loss, params):
    """Return the gradient, of complex leaves too."""
    leaves, structure = tree.flatten(params)
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    value = loss(tree.unflatten(structure, leaves))
    return tree.unflatten(structure, torch.autograd.grad(value, leaves))


def our_run(optimizer, problem, steps):
    params, state = problem.params, optimizer.init(problem.params)
    for _ in range(steps):
        grads = autograd(problem.loss, params)
        updates, state = optimizer.update(grads, state, params, value_fn=problem.loss)
        params = optim.apply_updates(params, updates)
        yield params, state


def torch_run(problem, steps, **options):
    leaves, structure = tree.flatten(problem.params)
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    optimizer = torch.optim.LBFGS(leaves, **options)

    def closure():
        optimizer.zero_grad()
        value = problem.loss(tree.unflatten(structure, leaves))
        value.backward()
        return value

    for _ in range(steps):
        optimizer.step(closure)
        params = [leaf.detach().clone() for leaf in leaves]
        yield tree.unflatten(structure, params), optimizer.state[leaves[0]]


def distance(left, right):
    pairs = zip(tree.leaves(left), tree.leaves(right), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


# ------------------------------------------------------------------------------------ against torch
# Errors of rounding grow from iteration to iteration, whoever computes. How much is seen from torch
# itself when the start is disturbed by a few ulps: where that is less than a thousandth of the
# movement, ours must be as near, up to a factor.


def assert_torchs(problem, steps, *, at_least, factor=100, **options):
    eps = torch.finfo(tree.leaves(problem.params)[0].dtype).eps
    disturbed = problem._replace(params=tree.map(lambda p: p * (1 + 4 * eps), problem.params))
    runs = (
        our_run(optim.lbfgs(**options), problem, steps),
        torch_run(problem, steps, **options),
        torch_run(disturbed, steps, **options),
    )
    drift, moved, compared = 4 * eps, 0.0, 0
    for step, rows in enumerate(zip(*runs, strict=True), start=1):
        (params, state), (expected, theirs), (again, _) = rows
        moved = max(moved, distance(expected, problem.params))
        drift = max(drift, distance(expected, again))
        if factor * drift < 1e-3 * moved:
            assert distance(params, expected) <= factor * drift, (step, drift)
            compared += 1
            if eps < 1e-10:
                counts = theirs["n_iter"], theirs["func_evals"]
                assert (state.iterations.item(), state.evaluations.item()) == counts, step
    assert compared >= at_least, compared


@SEARCHES
@pytest.mark.parametrize("options", [{}, {"max_iter": 5, "history_size": 3}], ids=str)
@pytest.mark.parametrize("name", PROBLEMS)
def test_whole_trees_move_as_in_torch(name, options, line_search_fn):
    if name == "Rosenbrock" and line_search_fn is None:
        options = {**options, "lr": 0.01}  # at 1 it diverges
    at_least = 5 if name == "perceptron" else 8
    assert_torchs(PROBLEMS[name](), 8, at_least=at_least, line_search_fn=line_search_fn, **options)


# torch/testing/_internal/common_optimizers.py; fewer iterations, so that 60 steps stay a path
CONFIGURATIONS = [
    {},
    {"lr": 0.01},
    {"lr": torch.tensor(0.001, dtype=torch.float64)},
    {"tolerance_grad": 1e-6},
    {"line_search_fn": "strong_wolfe"},
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("options", CONFIGURATIONS, ids=str)
def test_torchs_configurations_for_sixty_steps(options, dtype):
    small = "lr" in options
    options = {"max_iter": 3, **options} if small else options
    assert_torchs(quadratic(dtype), 60, at_least=60 if dtype is torch.float64 else 5, **options)


@SEARCHES
@pytest.mark.parametrize(
    "options",
    [
        {"tolerance_change": 1e-3, "lr": 1e-9},
        {"tolerance_change": 1e-3, "lr": 1e-3},
        {"tolerance_change": 10.0},
        {"tolerance_grad": 1e3},
        {"max_eval": 3},
        {"max_eval": 1},
    ],
    ids=str,
)
def test_it_ends_where_torchs_does(options, line_search_fn):
    gentle = quadratic()
    steep = gentle._replace(loss=lambda p: 1e5 * gentle.loss(p))
    options = {"max_iter": 6, "line_search_fn": line_search_fn, **options}
    runs = our_run(optim.lbfgs(**options), steep, 4), torch_run(steep, 4, **options)
    for (found, state), (expected, theirs) in zip(*runs, strict=True):
        counts = theirs["n_iter"], theirs["func_evals"]
        assert (state.iterations.item(), state.evaluations.item()) == counts
        assert distance(found, expected) < 1e-8


@SEARCHES
def test_the_state_is_torchs(line_search_fn):
    problem = perceptron()
    options = {"max_iter": 3, "history_size": 4, "line_search_fn": line_search_fn}
    runs = our_run(optim.lbfgs(**options), problem, 4), torch_run(problem, 4, **options)
    for (_, state), (_, theirs) in zip(*runs, strict=True):
        stored = len(theirs["old_dirs"])
        counterparts = {
            "direction": theirs["d"],
            "step_size": torch.as_tensor(theirs["t"], dtype=torch.float64),
            "gradient": theirs["prev_flat_grad"],
            "scale": torch.as_tensor(theirs["H_diag"], dtype=torch.float64),
        }
        for name, expected in counterparts.items():
            torch.testing.assert_close(getattr(state, name), expected, rtol=1e-8, atol=1e-10)
        for name, rows in (("differences", "old_dirs"), ("steps", "old_stps")):
            memory = getattr(state, name)
            torch.testing.assert_close(
                memory[4 - stored :], torch.stack(theirs[rows]), rtol=1e-8, atol=1e-10
            )
            assert not memory[: 4 - stored].any()
        curvatures = 1 / torch.stack(theirs["ro"])
        diagonal = state.products.diagonal()
        torch.testing.assert_close(diagonal[4 - stored :], curvatures, rtol=1e-7, atol=0)
    assert stored == 4


@SEARCHES
def test_leaves_of_two_dtypes_are_one_vector_in_the_wider(line_search_fn):
    def loss(p):
        return (
            ((p["a"].double() ** 2).sum() - p["b"]) ** 2 + (p["b"] - 2.0) ** 2 + p["a"].sum() ** 2
        )

    params = {"a": normal(3, dtype=torch.float32), "b": normal()}
    problem, options = Problem(loss, params), {"max_iter": 4, "line_search_fn": line_search_fn}
    runs = our_run(optim.lbfgs(**options), problem, 3), torch_run(problem, 3, **options)
    for (found, state), (expected, _) in zip(*runs, strict=True):
        assert (found["a"].dtype, found["b"].dtype) == (torch.float32, torch.float64)
        assert state.direction.dtype == torch.float64
        assert distance(found, expected) < 1e-5
        assert abs(found["b"] - expected["b"]) < 1e-5


@SEARCHES
def test_complex_leaves_are_pairs_of_real_numbers(line_search_fn):
    target = torch.complex(normal(3), normal(3, seed=1))

    def loss(z):
        return ((z**2 - target).abs() ** 2).sum()

    problem = Problem(loss, torch.complex(normal(3, seed=2), normal(3, seed=3)))
    options = {"max_iter": 6, "lr": 0.1, "line_search_fn": line_search_fn}
    runs = our_run(optim.lbfgs(**options), problem, 3), torch_run(problem, 3, **options)
    for (found, _), (expected, _) in zip(*runs, strict=True):
        assert found.dtype == torch.complex128
        assert (found - expected).abs().max() < 1e-10


def test_the_signature_is_torchs():
    theirs = dict(inspect.signature(torch.optim.LBFGS).parameters)
    del theirs["params"]
    ours = inspect.signature(optim.lbfgs).parameters
    expected = {name: (value.default, value.kind) for name, value in theirs.items()}
    assert {name: (value.default, value.kind) for name, value in ours.items()} == expected
    assert list(ours) == list(expected)


# --------------------------------------------------------------------------------- what it computes


def dense_direction(steps, differences, scale, gradient):
    """Return -H g with H by BFGS's formula (Nocedal & Wright, equation 6.17)."""
    identity = np.eye(len(gradient))
    h = scale * identity
    for s, y in zip(steps, differences, strict=True):
        rho = 1 / (y @ s)
        left = identity - rho * np.outer(s, y)
        h = left @ h @ left.T + rho * np.outer(s, s)
    return -h @ gradient


@pytest.mark.parametrize("pairs", [1, 3, 5])
def test_directions_are_those_of_dense_bfgs(pairs):
    problem = perceptron()
    optimizer = optim.lbfgs(lr=0.5, max_iter=1, history_size=5)
    run = our_run(optimizer, problem, pairs + 1)
    *_, (_, state) = run
    memory = [m[5 - pairs :].numpy() for m in (state.steps, state.differences)]
    y = memory[1][-1]
    assert state.scale.item() == pytest.approx(memory[0][-1] @ y / (y @ y), rel=1e-12)
    expected = dense_direction(*memory, state.scale.item(), state.gradient.numpy())
    np.testing.assert_allclose(state.direction.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_a_quadratic_is_solved():
    problem = quadratic()
    optimizer = optim.lbfgs(line_search_fn="strong_wolfe", tolerance_change=1e-14)
    *_, (params, _) = our_run(optimizer, problem, 2)
    gradient = pf.grad(problem.loss)(params)
    assert max(leaf.abs().max() for leaf in tree.leaves(gradient)) < 1e-7


def test_evaluations_are_as_few_as_torchs():
    problem, calls = rosenbrock(), []

    def counted(p):
        calls.append(None)
        return problem.loss(p)

    optimizer = optim.lbfgs(max_iter=4, line_search_fn="strong_wolfe")
    params, state = problem.params, optimizer.init(problem.params)
    grads, value = pf.grad(problem.loss)(params), problem.loss(params)
    _, after = optimizer.update(grads, state, params, value_fn=counted, value=value)
    assert len(calls) == after.evaluations - 1
    _, same = optimizer.update(grads, state, params, value_fn=counted)
    assert all(map(torch.equal, tree.leaves(after), tree.leaves(same)))


def test_one_iteration_without_a_search_needs_no_loss():
    problem = perceptron()
    optimizer = optim.lbfgs(max_iter=1, lr=0.1)
    params, state = problem.params, optimizer.init(problem.params)
    for expected, _ in torch_run(problem, 6, max_iter=1, lr=0.1):
        updates, state = optimizer.update(pf.grad(problem.loss)(params), state, params)
        params = optim.apply_updates(params, updates)
        assert distance(params, expected) < 1e-12


def test_a_minimum_is_left_alone():
    params = {"x": torch.zeros(3), "none": None}
    for search in (None, "strong_wolfe"):
        optimizer = optim.lbfgs(line_search_fn=search)
        state = optimizer.init(params)
        updates, after = optimizer.update(
            params, state, params, value_fn=lambda p: (p["x"] ** 2).sum()
        )
        assert torch.equal(updates["x"], torch.zeros(3))
        assert (after.count, after.iterations, after.evaluations) == (1, 0, 1)
        assert not any(leaf.isnan().any() for leaf in tree.leaves(after))


def test_an_empty_tree_is_no_trouble():
    optimizer = optim.lbfgs()
    updates, state = optimizer.update({}, optimizer.init({}), {}, value_fn=lambda p: torch.ones(()))
    assert updates == {}
    assert state.count == 1


# ------------------------------------------------------------------------------------ NaN, infinity


def test_the_search_comes_back_from_where_the_loss_is_nan():
    def loss(x):  # is NaN below 0; its minimum is at 0.25
        return (x - x.sqrt()).sum()

    problem = Problem(loss, torch.tensor([4.0, 9.0], dtype=torch.float64))
    *_, (theirs, _) = torch_run(problem, 3, line_search_fn="strong_wolfe", lr=100.0)
    *_, (found, _) = our_run(optim.lbfgs(100.0, line_search_fn="strong_wolfe"), problem, 6)
    assert theirs.isnan().any()
    torch.testing.assert_close(found, torch.full_like(found, 0.25), rtol=1e-4, atol=0)


def test_the_search_comes_back_from_infinity():
    def loss(x):  # infinite from 1 on
        return (-torch.log1p(-x) - 0.5 * x).sum()

    problem = Problem(loss, torch.tensor([-40.0], dtype=torch.float64))
    *_, (found, _) = our_run(optim.lbfgs(30.0, line_search_fn="strong_wolfe"), problem, 3)
    assert found.item() == pytest.approx(-1.0, rel=1e-4)


@SEARCHES
def test_a_gradient_that_is_nan_is_not_hidden(line_search_fn):
    params = {"x": torch.ones(2)}
    optimizer = optim.lbfgs(line_search_fn=line_search_fn, max_iter=3)
    grads = {"x": torch.tensor([math.nan, 1.0])}
    updates, _ = optimizer.update(
        grads, optimizer.init(params), params, value_fn=lambda p: (p["x"] ** 2).sum()
    )
    assert updates["x"].isnan().all()


# ------------------------------------------------------- transforms, schedules, purity, half floats


def stepper(optimizer, loss):
    def step(params, state):
        grads = pf.grad(loss)(params)
        updates, state = optimizer.update(grads, state, params, value_fn=loss)
        return optim.apply_updates(params, updates), state

    return step


@pytest.mark.parametrize(
    ("line_search_fn", "backend"), [(None, "aot_eager"), ("strong_wolfe", "eager")]
)
def test_jit_and_eager_agree(line_search_fn, backend):
    problem = perceptron()
    optimizer = optim.lbfgs(max_iter=4, history_size=3, line_search_fn=line_search_fn)
    step = stepper(optimizer, problem.loss)
    compiled = pf.jit(step, backend=backend)
    run = run_compiled = (problem.params, optimizer.init(problem.params))
    for _ in range(5):
        run, run_compiled = step(*run), compiled(*run_compiled)
    assert compiled.trace_count == 1
    for leaf, other in zip(tree.leaves(run), tree.leaves(run_compiled), strict=True):
        torch.testing.assert_close(other, leaf, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("line_search_fn", "staged"),
    [
        (None, False),
        ("strong_wolfe", False),
        pytest.param(None, True, marks=pytest.mark.slow),
    ],
)
def test_every_example_of_a_batch_goes_its_own_way(line_search_fn, staged):
    lr = 1.0 if line_search_fn else 0.01
    optimizer = optim.lbfgs(lr, max_iter=6, history_size=4, line_search_fn=line_search_fn)
    step = stepper(optimizer, rosenbrock().loss)
    batched = pf.jit(pf.vmap(step), backend="eager") if staged else torch.func.vmap(step)
    starts = {"x": normal(5), "y": normal(5, seed=1)}
    together = (starts, pf.vmap(optimizer.init)(starts))
    for _ in range(4):
        together = batched(*together)
    for place in range(5):
        start = tree.map(lambda leaf, place=place: leaf[place], starts)
        alone = (start, optimizer.init(start))
        for _ in range(4):
            alone = step(*alone)
        for leaf, other in zip(tree.leaves(together), tree.leaves(alone), strict=True):
            torch.testing.assert_close(leaf[place], other, rtol=1e-9, atol=1e-11)


@SEARCHES
def test_a_learning_rate_is_a_number_a_tensor_or_a_schedule(line_search_fn):
    problem, results = perceptron(), []
    for lr in (0.3, torch.tensor(0.3, dtype=torch.float64), lambda step: 0.3):
        optimizer = optim.lbfgs(lr, max_iter=3, line_search_fn=line_search_fn)
        *_, (params, _) = our_run(optimizer, problem, 3)
        results.append(params)
    assert distance(results[0], results[1]) == distance(results[0], results[2]) == 0.0


def test_a_schedule_counts_updates():
    problem, seen = quadratic(), []
    optimizer = optim.lbfgs(lambda step: seen.append(step.item()) or 0.1, max_iter=3)
    list(our_run(optimizer, problem, 4))
    assert seen == [0, 1, 2, 3]


@SEARCHES
def test_a_fresh_transformation_resumes_from_a_saved_state(line_search_fn):
    problem, options = perceptron(), {"max_iter": 3, "line_search_fn": line_search_fn}
    *_, whole = our_run(optim.lbfgs(**options), problem, 4)
    *_, half = our_run(optim.lbfgs(**options), problem, 2)
    restored = pickle.loads(pickle.dumps(half))
    for _ in range(2):
        restored = stepper(optim.lbfgs(**options), problem.loss)(*restored)
    assert all(map(torch.equal, tree.leaves(restored), tree.leaves(whole)))


@SEARCHES
def test_no_input_is_written_and_the_state_keeps_its_form(line_search_fn):
    problem = perceptron(torch.float32)
    optimizer = optim.lbfgs(max_iter=3, history_size=2, line_search_fn=line_search_fn)
    *_, (params, state) = our_run(optimizer, problem, 2)
    grads = pf.grad(problem.loss)(params)
    before = copy.deepcopy((grads, state, params))
    _, after = optimizer.update(grads, state, params, value_fn=problem.loss)
    assert all(map(torch.equal, tree.leaves((grads, state, params)), tree.leaves(before)))
    for old, new in zip(state, after, strict=True):
        assert (old.shape, old.dtype) == (new.shape, new.dtype)


@SEARCHES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_with_in_float32(line_search_fn, dtype):
    problem = quadratic(torch.float32)
    params = tree.map(lambda leaf: leaf.to(dtype), problem.params)

    def loss(p):
        return problem.loss(tree.map(lambda leaf: leaf.float(), p))

    optimizer = optim.lbfgs(lr=0.5, max_iter=5, line_search_fn=line_search_fn)
    *_, (found, state) = our_run(optimizer, Problem(loss, params), 3)
    assert state.direction.dtype == torch.float32
    assert {leaf.dtype for leaf in tree.leaves(found)} == {dtype}
    assert loss(found) < loss(params)


def test_it_may_stand_in_a_chain():
    problem = rosenbrock()
    optimizer = optim.chain(optim.lbfgs(line_search_fn="strong_wolfe"), optim.scale(0.5))
    alone = optim.lbfgs(line_search_fn="strong_wolfe")
    grads = pf.grad(problem.loss)(problem.params)
    given = {"params": problem.params, "value_fn": problem.loss}
    updates, _ = optimizer.update(grads, optimizer.init(problem.params), **given)
    expected, _ = alone.update(grads, alone.init(problem.params), **given)
    for leaf, other in zip(tree.leaves(updates), tree.leaves(expected), strict=True):
        assert torch.equal(leaf, other / 2)


# ----------------------------------------------------------------------------------------- refusals

REFUSALS = [
    (lambda: optim.lbfgs(lr=-1.0), ValueError, "lr: expected a number that is at least 0"),
    (lambda: optim.lbfgs(lr=torch.ones(2)), ValueError, "lr: expected a number or a 0-d"),
    (lambda: optim.lbfgs(max_iter=0), ValueError, "max_iter: expected at least 1, got 0"),
    (lambda: optim.lbfgs(max_iter=2.5), TypeError, "max_iter: expected an int"),
    (lambda: optim.lbfgs(max_eval=0), ValueError, "max_eval: expected at least 1"),
    (lambda: optim.lbfgs(history_size=0), ValueError, "history_size: expected at least 1"),
    (lambda: optim.lbfgs(tolerance_grad="x"), TypeError, "tolerance_grad: expected a number"),
    (lambda: optim.lbfgs(tolerance_change=None), TypeError, "tolerance_change: expected a number"),
    (
        lambda: optim.lbfgs(line_search_fn="backtracking"),
        ValueError,
        "line_search_fn: expected None or 'strong_wolfe', got 'backtracking'",
    ),
    (lambda: optim.lbfgs().init({"w": torch.ones(2).int()}), TypeError, "params['w'] is a tensor"),
]


@pytest.mark.parametrize(("make", "error", "message"), REFUSALS, ids=[row[2] for row in REFUSALS])
def test_refusals(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()


def test_what_update_refuses():
    problem, optimizer = quadratic(), optim.lbfgs()
    params, loss = problem.params, problem.loss
    state = optimizer.init(params)
    with pytest.raises(ValueError, match=r"lbfgs\.update needs the parameters"):
        optimizer.update(params, state, value_fn=loss)
    with pytest.raises(ValueError, match=r"needs the loss.*value_fn=loss"):
        optimizer.update(params, state, params)
    single = optim.lbfgs(max_iter=1, line_search_fn="strong_wolfe")
    with pytest.raises(ValueError, match="needs the loss"):
        single.update(params, state, params)
    with pytest.raises(TypeError, match="value_fn: expected a function"):
        optimizer.update(params, state, params, value_fn=3.0)
    with pytest.raises(TypeError, match=r"lbfgs\.update: expected the state"):
        optimizer.update(params, optim.adam().init(params), params, value_fn=loss)
    with pytest.raises(ValueError, match=r"vectors of 2 numbers, torch.float64, but .* have 6"):
        optimizer.update(params, optimizer.init(params["a"]), params, value_fn=loss)
    with pytest.raises(ValueError, match=r"updates\['a'\] is a tensor of shape \(3,\)"):
        optimizer.update({**params, "a": torch.ones(3)}, state, params, value_fn=loss)
    with pytest.raises(ValueError, match=r"lr\(step\): expected a number that is at least 0"):
        optim.lbfgs(lambda step: -1.0).update(params, state, params, value_fn=loss)
