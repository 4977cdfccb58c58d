"""One mathematics however it runs: eager, compiled, batched, differentiated."""

import pytest
import torch

import purefn.functional as pf
from purefn import optim
from purefn.functional import tree

STEPS = 12


def sgd(lr):
    return optim.sgd(lr, momentum=0.9, dampening=0.3, weight_decay=0.1, maximize=True)


OPTIMIZERS = {
    "sgd": lambda lr: optim.sgd(lr),
    "momentum": sgd,
    "nesterov": lambda lr: optim.sgd(lr, momentum=0.9, nesterov=True),
    "adam": lambda lr: optim.adam(lr, weight_decay=0.1),
    "amsgrad": lambda lr: optim.adam(lr, amsgrad=True),
    "adamw": lambda lr: optim.adamw(lr),
    "clipped": lambda lr: optim.chain(
        optim.clip_by_global_norm(1.0), optim.clip(0.5), optim.adamw(lr)
    ),
}
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def make_params(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return {
        "z": {"w": torch.randn(3, 2, generator=generator).to(dtype), "none": None},
        "a": [torch.randn((), generator=generator).to(dtype), torch.zeros(0, dtype=dtype)],
    }


def mixed_params():
    return {
        "w": torch.arange(6.0).reshape(3, 2),
        "none": None,
        "a": [torch.tensor(2.0).double(), torch.ones(3, dtype=torch.half), torch.zeros(0)],
    }


def gradients(params, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        tree.map(lambda leaf: torch.randn(leaf.shape, generator=generator).to(leaf.dtype), params)
        for _ in range(STEPS)
    ]


def step_function(make):
    def step(params, state, grads, lr):
        optimizer = make(lr)
        updates, state = optimizer.update(grads, state, params)
        return optim.apply_updates(params, updates), state

    return step


def run(step, params, state, grads, rates):
    for grad, lr in zip(grads, rates, strict=True):
        params, state = step(params, state, grad, lr)
    return params, state


def assert_close(left, right, ulps):
    assert tree.structure(left) == tree.structure(right)
    for a, b in zip(tree.leaves(left), tree.leaves(right), strict=True):
        tolerance = ulps * torch.finfo(b.dtype).eps if b.is_floating_point() else 0
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@every_optimizer
def test_compiled_is_eager_and_a_new_rate_is_no_new_program(make):
    params = mixed_params()
    state, grads = make(0.1).init(params), gradients(params)
    rates = [0.1 / (1 + index) for index in range(STEPS)]
    step = step_function(make)
    compiled = pf.jit(step, backend="aot_eager")
    eager = run(step, params, state, grads, rates)
    assert_close(run(compiled, params, state, grads, rates), eager, ulps=4)
    assert compiled.trace_count == 1


def test_a_schedule_runs_compiled_in_one_program():
    schedule = optim.schedules.warmup(optim.schedules.cosine(0.1, T_max=8), total_iters=3)
    optimizer, params = optim.adamw(schedule), make_params()
    step = step_function(lambda lr: optimizer)
    compiled = pf.jit(step, backend="aot_eager")
    state, grads = optimizer.init(params), gradients(params)
    eager = run(step, params, state, grads, [0.0] * STEPS)
    assert_close(run(compiled, params, state, grads, [0.0] * STEPS), eager, ulps=4)
    assert compiled.trace_count == 1
    assert eager[1][-1].count.item() == STEPS


@pytest.mark.slow
def test_generated_code_is_eager():
    make = OPTIMIZERS["amsgrad"]
    params = make_params(torch.float32)
    step = step_function(make)
    compiled = pf.jit(step)
    state, grads = make(0.1).init(params), gradients(params)
    eager = run(step, params, state, grads, [0.1] * STEPS)
    assert_close(run(compiled, params, state, grads, [0.1] * STEPS), eager, ulps=8)


@every_optimizer
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_batch_of_runs_is_the_runs_one_by_one(make, dtype):
    """Each run of the batch has its own parameters, gradients and learning rate."""
    runs, rates = 3, torch.tensor([0.0, 0.01, 0.3], dtype=torch.float64)
    starts = [tree.map(lambda leaf, i=i: leaf + i, make_params(dtype)) for i in range(runs)]
    grads = [gradients(start, seed) for seed, start in enumerate(starts)]
    step = step_function(make)

    batched_params = tree.stack(starts)
    batched_state = pf.vmap(make(0.1).init)(batched_params)
    for leaf in tree.leaves(batched_state):
        assert leaf.shape[0] == runs
    batched = run(
        pf.vmap(step),
        batched_params,
        batched_state,
        map(tree.stack, zip(*grads, strict=True)),
        [rates] * STEPS,
    )
    for i in range(runs):
        single = run(step, starts[i], make(0.1).init(starts[i]), grads[i], [rates[i]] * STEPS)
        mine = tree.map(lambda leaf, i=i: leaf[i], batched)
        assert_close(mine, single, ulps=4)


def test_hyperparameters_are_batched_too():
    params, grads = torch.ones(4, dtype=torch.float64), torch.arange(4.0, dtype=torch.float64)

    def train(beta1, beta2, eps, decay):
        optimizer = optim.adamw(0.1, (beta1, beta2), eps, decay)
        state, moved = optimizer.init(params), params
        for index in range(5):
            updates, state = optimizer.update(grads + index, state, moved)
            moved = optim.apply_updates(moved, updates)
        return moved

    columns = [(0.0, 0.9, 0.5), (0.99, 0.999, 0.0), (1e-8, 1e-3, 1.0), (0.1, 0.0, 0.5)]
    tensors = [torch.tensor(column, dtype=torch.float64) for column in columns]
    expected = torch.stack([train(*row) for row in zip(*columns, strict=True)])
    torch.testing.assert_close(pf.vmap(train)(*tensors), expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", ["momentum", "adamw", "clipped"])
def test_the_learning_rate_has_a_gradient(name):
    """Differentiate through the steps, against central differences."""
    params = {"w": torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)}
    make = OPTIMIZERS[name]

    def final_loss(lr):
        state, moved = make(lr).init(params), params
        for _ in range(4):
            grads = tree.map(lambda leaf: leaf**3, moved)
            moved, state = step_function(make)(moved, state, grads, lr)
        return (moved["w"] ** 2).sum()

    lr, h = torch.tensor(0.01, dtype=torch.float64), 1e-6
    numeric = (final_loss(lr + h) - final_loss(lr - h)) / (2 * h)
    assert numeric.abs() > 0.1
    torch.testing.assert_close(pf.grad(final_loss)(lr), numeric, rtol=1e-7, atol=0)


@pytest.mark.cuda
@every_optimizer
def test_states_live_on_the_parameters_device(make):
    params = tree.map(lambda leaf: leaf.cuda(), make_params())
    optimizer = make(optim.schedules.constant(0.1))
    state = optimizer.init(params)
    updates, state = optimizer.update(tree.ones_like(params), state, params)
    assert all(leaf.is_cuda for leaf in tree.leaves((updates, state)))
