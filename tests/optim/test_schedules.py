"""Schedules of an int, of a tensor, staged, batched and differentiated; what they refuse.

Their values are judged in test_schedules_torch.py and test_schedules_optax.py.
"""

import inspect
import re

import pytest
import torch

import purefn.functional as pf
from purefn import optim
from purefn.functional import tree
from purefn.optim import schedules
from purefn.optim.pieces import scaling

STEPS = [0, 1, 4, 5, 49, 50, 51, 299, 300, 301, 2999, 10**7]

SCHEDULES = {
    "constant": schedules.constant(0.1),
    "constant_factor": schedules.constant_factor(0.1),
    "linear": schedules.linear(0.1, total_iters=300),
    "polynomial": schedules.polynomial(0.1, 300, power=1.5, end_lr=0.01),
    "exponential": schedules.exponential(0.1, 0.999),
    "step": schedules.step(0.1, 50, 0.7),
    "multi_step": schedules.multi_step(0.1, [50, 300]),
    "piecewise_constant": schedules.piecewise_constant(0.1, {50: 0.5, 300: 3.0}),
    "piecewise_interpolate": schedules.piecewise_interpolate(0.1, {50: 0.5, 300: 3.0}, "cosine"),
    "cosine": schedules.cosine(0.1, 300, 0.01),
    "cosine_decay": schedules.cosine_decay(0.1, 300, 0.01, 1.5),
    "cosine_warm_restarts": schedules.cosine_warm_restarts(0.1, 5, 2),
    "one_cycle": schedules.one_cycle(0.1, 300, three_phase=True),
    "one_cycle_momentum": schedules.one_cycle_momentum(300, anneal_strategy="linear"),
    "cyclic": schedules.cyclic(0.1, 0.2, 49, 12, mode="triangular2"),
    "join": schedules.join([schedules.constant(0.1), schedules.cosine(0.2, 50)], [50]),
    "product": schedules.product(schedules.cosine(0.1, 300), schedules.step(1.0, 50)),
    "warmup": schedules.warmup(schedules.cosine(0.1, 2500), total_iters=300),
    "bounded": schedules.bounded(schedules.cosine(0.1, 300), 0.02, 0.09),
}
every_schedule = pytest.mark.parametrize("name", SCHEDULES)


def test_all_are_here():
    functions = {name for name, value in vars(schedules).items() if inspect.isfunction(value)}
    assert functions == set(SCHEDULES)


@every_schedule
def test_an_int_a_tensor_and_a_traced_step_give_the_same(name):
    schedule = SCHEDULES[name]
    curve = schedule(torch.tensor(STEPS))
    assert curve.dtype == torch.float64
    traced = pf.jit(schedule, backend="eager")
    for step, value in zip(STEPS, curve, strict=True):
        assert torch.equal(schedule(torch.tensor(step, dtype=torch.int32)), schedule(step))
        for result in (schedule(step), schedule(torch.tensor(step)), traced(torch.tensor(step))):
            assert result.shape == ()
            assert result.dtype == torch.float64
            torch.testing.assert_close(result, value, rtol=1e-15, atol=1e-16)
    assert traced.trace_count == 1


@every_schedule
def test_a_batch_of_steps(name):
    steps = torch.tensor(STEPS).reshape(3, 4)
    curve = SCHEDULES[name](steps)
    assert curve.shape == (3, 4)
    assert torch.equal(curve.flatten(), SCHEDULES[name](steps.flatten()))
    torch.testing.assert_close(pf.vmap(SCHEDULES[name])(steps), curve, rtol=1e-15, atol=1e-16)


@every_schedule
def test_the_step_is_not_written_and_the_result_is_new(name):
    step = torch.tensor(3)
    result = SCHEDULES[name](step)
    assert step.item() == 3
    assert result.untyped_storage().data_ptr() != step.untyped_storage().data_ptr()


def test_a_compiled_schedule():
    steps = torch.tensor(STEPS)
    for name in ("cosine_warm_restarts", "multi_step"):
        traced = pf.jit(SCHEDULES[name], backend="aot_eager")
        torch.testing.assert_close(traced(steps), SCHEDULES[name](steps), rtol=1e-15, atol=1e-16)


@pytest.mark.slow
def test_machine_code_gives_the_same():
    def curves(steps):
        return {name: schedule(steps) for name, schedule in SCHEDULES.items()}

    steps = torch.tensor(STEPS)
    for name, curve in pf.jit(curves)(steps).items():
        torch.testing.assert_close(curve, SCHEDULES[name](steps), rtol=1e-14, atol=1e-16)


# ----------------------------------------------------------------- hyperparameters that are tensors

TENSOR_HYPERPARAMETERS = {
    "constant": lambda lr: schedules.constant(lr),
    "constant_factor": lambda x: schedules.constant_factor(x, x),
    "linear": lambda x: schedules.linear(x, x, x / 2),
    "polynomial": lambda x: schedules.polynomial(x, 5, x, x / 2),
    "exponential": lambda x: schedules.exponential(x, x),
    "step": lambda x: schedules.step(x, 2, x),
    "multi_step": lambda x: schedules.multi_step(x, [2], x),
    "piecewise_constant": lambda x: schedules.piecewise_constant(x, {2: x}),
    "piecewise_interpolate": lambda x: schedules.piecewise_interpolate(x, {2: x, 7: x}),
    "cosine": lambda x: schedules.cosine(x, 5, x / 2),
    "cosine_decay": lambda x: schedules.cosine_decay(x, 5, x / 2, 1 + x),
    "cosine_warm_restarts": lambda x: schedules.cosine_warm_restarts(x, 2, 2, x / 2),
    "one_cycle": lambda x: schedules.one_cycle(x, 10, 0.3, "cos", 1 + x, 2 + x),
    "one_cycle_momentum": lambda x: schedules.one_cycle_momentum(10, 0.3, "cos", x, x / 2),
    "cyclic": lambda x: schedules.cyclic(x, 2 * x, 4, None, "exp_range", x),
    "warmup": lambda x: schedules.warmup(schedules.constant(x), 5, x),
    "bounded": lambda x: schedules.bounded(schedules.constant(1.0), x / 2, x),
}


@pytest.mark.parametrize("name", TENSOR_HYPERPARAMETERS)
def test_hyperparameters_may_be_traced_batched_and_differentiated(name):
    def rate(x):
        return TENSOR_HYPERPARAMETERS[name](x)(torch.tensor(3))

    values = torch.tensor([0.3, 0.7], dtype=torch.float64)
    expected = torch.stack([rate(value.item()) for value in values])
    torch.testing.assert_close(pf.vmap(rate)(values), expected)
    torch.testing.assert_close(pf.jit(rate, backend="eager")(values[0]), expected[0])
    assert torch.autograd.gradcheck(rate, (values[0].clone().requires_grad_(),))


def test_functions_that_return_numbers_are_schedules():
    joined = schedules.join([lambda step: 0.1, lambda step: 0.3], [2])
    expected = torch.tensor([0.1, 0.1, 0.3], dtype=torch.float64)
    assert torch.equal(joined(torch.arange(3)), expected)
    assert torch.equal(joined(2), expected[2])
    assert torch.equal(
        schedules.product(lambda step: 0.1, lambda step: 3)(torch.arange(3)),
        torch.full((3,), 0.1 * 3, dtype=torch.float64),
    )
    assert schedules.bounded(lambda step: 0.1, max_lr=0.05)(2) == 0.05
    assert schedules.warmup(lambda step: 0.1, 4, 0.0)(2).item() == 0.05


def test_there_is_one_type_of_schedules():
    assert scaling.Schedule is schedules.Schedule


# -------------------------------------------------------------------------- schedules in optimizers


def recipes():
    """Yield the names of the recipes whose learning rate may be a schedule."""
    for name, recipe in vars(optim).items():
        parameters = inspect.signature(recipe).parameters if inspect.isfunction(recipe) else {}
        annotation = parameters["lr"].annotation if "lr" in parameters else ""
        required = [each for each in parameters.values() if each.default is each.empty]
        if "Schedule" in annotation and required in ([], [parameters["lr"]]):
            yield name


def test_the_recipes_are_found():
    assert {"sgd", "adam", "adamw", "scale_by_learning_rate"} <= set(recipes())


@pytest.mark.parametrize("name", sorted(recipes()))
def test_a_schedule_is_a_learning_rate_and_compiles_once(name):
    rate = schedules.warmup(schedules.cosine_decay(0.1, 8), total_iters=3)
    optimizer = getattr(optim, name)(lr=rate)
    generator = torch.Generator().manual_seed(0)
    params = {"w": torch.randn(4, 3, generator=generator)}
    grads = [tree.map(lambda p: torch.randn(p.shape, generator=generator), params)] * 6

    def step(params, state, grads):
        extra = {"value": torch.tensor(1.0), "value_fn": lambda params: params["w"].square().sum()}
        updates, state = optimizer.update(grads, state, params, **extra)
        return optim.apply_updates(params, updates), state

    traced = pf.jit(step, backend="eager")
    ours = theirs = params, optimizer.init(params)
    for grad in grads:
        ours, theirs = traced(*ours, grad), step(*theirs, grad)
        torch.testing.assert_close(ours[0]["w"], theirs[0]["w"], rtol=1e-5, atol=1e-6)
    assert traced.trace_count == 1
    assert not torch.equal(ours[0]["w"], params["w"])


def test_a_schedule_gives_the_steps_of_its_rates():
    rate = schedules.one_cycle(0.1, 20)
    scheduled = optim.scale_by_learning_rate(rate)
    grads = torch.ones(3, dtype=torch.float64)
    state = scheduled.init(grads)
    for step in range(25):
        updates, state = scheduled.update(grads, state)
        assert torch.equal(updates, -rate(step) * grads)


# ----------------------------------------------------------------------------------------- refusals

ONE = schedules.constant(1.0)
AT_LEAST_0 = "expected a number that is at least 0"
REFUSALS = [
    (lambda: schedules.constant(-0.1), ValueError, f"lr: {AT_LEAST_0}"),
    (lambda: schedules.constant("0.1"), TypeError, "lr: expected a number or a 0-d tensor"),
    (lambda: schedules.constant(torch.ones(2)), ValueError, "lr: expected a number or a 0-d"),
    (lambda: schedules.constant_factor(1, 1.1), ValueError, "factor: expected a number in [0, 1]"),
    (lambda: schedules.constant_factor(1, -0.1), ValueError, "factor: expected a number in [0, 1"),
    (lambda: schedules.constant_factor(1, 1, -1), ValueError, "total_iters: expected at least 0"),
    (lambda: schedules.linear(1, 0), ValueError, "start_factor: expected a number greater than 0"),
    (lambda: schedules.linear(1, 1.1), ValueError, "start_factor: expected a number in [0, 1]"),
    (lambda: schedules.linear(1, 1, -0.1), ValueError, "end_factor: expected a number in [0, 1]"),
    (lambda: schedules.linear(1, 1, 1.1), ValueError, "end_factor: expected a number in [0, 1]"),
    (lambda: schedules.linear(1, total_iters=0), ValueError, "total_iters: expected at least 1"),
    (lambda: schedules.polynomial(1, 0), ValueError, "total_iters: expected at least 1, got 0"),
    (lambda: schedules.polynomial(1, 5, -1), ValueError, f"power: {AT_LEAST_0}"),
    (lambda: schedules.polynomial(1, 5, end_lr=-1), ValueError, f"end_lr: {AT_LEAST_0}"),
    (lambda: schedules.exponential(1, -0.5), ValueError, f"gamma: {AT_LEAST_0}"),
    (lambda: schedules.step(0.1, 0), ValueError, "step_size: expected at least 1, got 0"),
    (lambda: schedules.step(0.1, 2.5), TypeError, "step_size: expected an int, got 2.5"),
    (lambda: schedules.multi_step(1, [3, 0.5]), TypeError, "milestones[1]: expected an int"),
    (lambda: schedules.multi_step(1, [-3]), ValueError, "milestones[0]: expected at least 0"),
    (lambda: schedules.multi_step(1, 30), TypeError, "milestones: expected a sequence of steps"),
    (
        lambda: schedules.piecewise_constant(1, {0: 0.1}),
        ValueError,
        "boundaries_and_scales: a boundary: expected at least 1, got 0",
    ),
    (
        lambda: schedules.piecewise_constant(1, {5: -0.1}),
        ValueError,
        f"boundaries_and_scales[5]: {AT_LEAST_0}",
    ),
    (
        lambda: schedules.piecewise_constant(1, [5]),
        TypeError,
        "boundaries_and_scales: expected a dict from steps to factors",
    ),
    (
        lambda: schedules.piecewise_interpolate(1, {5: 0.1}, "cubic"),
        ValueError,
        "interpolate_type: expected one of 'linear', 'cosine', got 'cubic'",
    ),
    (lambda: schedules.cosine(0.1, T_max=-1), ValueError, "T_max: expected at least 1"),
    (lambda: schedules.cosine(0.1, 10, eta_min=-1), ValueError, f"eta_min: {AT_LEAST_0}"),
    (lambda: schedules.cosine_decay(1, 0), ValueError, "decay_steps: expected at least 1, got 0"),
    (lambda: schedules.cosine_decay(1, 5, -0.1), ValueError, f"alpha: {AT_LEAST_0}"),
    (lambda: schedules.cosine_warm_restarts(1, 0), ValueError, "T_0: expected at least 1, got 0"),
    (lambda: schedules.cosine_warm_restarts(1, 2.5), TypeError, "T_0: expected an int, got 2.5"),
    (lambda: schedules.cosine_warm_restarts(1, 5, 0), ValueError, "T_mult: expected at least 1"),
    (lambda: schedules.cosine_warm_restarts(1, 5, 1.5), TypeError, "T_mult: expected an int"),
    (lambda: schedules.cosine_warm_restarts(1, 5, 1, "0"), TypeError, "eta_min: expected a number"),
    (lambda: schedules.one_cycle(1, 0), ValueError, "total_steps: expected at least 1, got 0"),
    (lambda: schedules.one_cycle(1, 9.5), TypeError, "total_steps: expected an int, got 9.5"),
    (lambda: schedules.one_cycle(1, None), TypeError, "total_steps: expected an int, got None"),
    (lambda: schedules.one_cycle(1, 9, 1), TypeError, "pct_start: expected a float in [0, 1]"),
    (lambda: schedules.one_cycle(1, 9, 1.5), ValueError, "pct_start: expected a number in [0, 1]"),
    (lambda: schedules.one_cycle(1, 9, -0.5), ValueError, "pct_start: expected a number in"),
    (
        lambda: schedules.one_cycle(1, 9, anneal_strategy="sin"),
        ValueError,
        "anneal_strategy: expected one of 'cos', 'linear', got 'sin'",
    ),
    (lambda: schedules.one_cycle(1, 9, div_factor=0), ValueError, "div_factor: expected a number"),
    (lambda: schedules.one_cycle(1, 9, final_div_factor=0), ValueError, "final_div_factor: exp"),
    (lambda: schedules.one_cycle(1, 9, three_phase=1), TypeError, "three_phase: expected True or"),
    (lambda: schedules.one_cycle_momentum(9, base_momentum=1.0), ValueError, "base_momentum: exp"),
    (lambda: schedules.one_cycle_momentum(9, max_momentum=-1), ValueError, "max_momentum: expec"),
    (lambda: schedules.cyclic(0, 1, 0), ValueError, "step_size_up: expected at least 1, got 0"),
    (lambda: schedules.cyclic(0, 1, 9, 0), ValueError, "step_size_down: expected at least 1"),
    (lambda: schedules.cyclic(0, 1, mode="square"), ValueError, "mode: expected one of 'triang"),
    (lambda: schedules.cyclic(0, 1, scale_fn=0.5), TypeError, "scale_fn: expected a function or"),
    (lambda: schedules.cyclic(0, 1, scale_mode="step"), ValueError, "scale_mode: expected one of"),
    (
        lambda: schedules.join([ONE, 0.1], [3]),
        TypeError,
        "schedules[1]: expected a function of the step, got 0.1",
    ),
    (lambda: schedules.join([], []), ValueError, "join: expected at least one schedule, got none"),
    (
        lambda: schedules.join([ONE], [3]),
        ValueError,
        "milestones: expected one fewer than schedules, got 1 for 1",
    ),
    (
        lambda: schedules.join([ONE] * 3, [7, 7]),
        ValueError,
        "milestones: expected increasing steps, got [7, 7]",
    ),
    (lambda: schedules.product(), ValueError, "product: expected at least one schedule, got none"),
    (lambda: schedules.product(ONE, 0.1), TypeError, "schedules[1]: expected a function of the"),
    (lambda: schedules.warmup(0.1, 5), TypeError, "schedule: expected a function of the step"),
    (lambda: schedules.warmup(ONE, 0), ValueError, "total_iters: expected at least 1, got 0"),
    (lambda: schedules.warmup(ONE, 5, -1), ValueError, f"start_factor: {AT_LEAST_0}"),
    (lambda: schedules.bounded(0.1), TypeError, "schedule: expected a function of the step"),
    (lambda: schedules.bounded(ONE, -1), ValueError, f"min_lr: {AT_LEAST_0}"),
    (
        lambda: schedules.bounded(ONE, 2, 1),
        ValueError,
        "min_lr: expected at most max_lr=1, got 2",
    ),
]


@pytest.mark.parametrize(("make", "error", "message"), REFUSALS, ids=[row[2] for row in REFUSALS])
def test_refusals(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()


STEPS_REFUSED = [
    (1.5, TypeError, "step: expected an int or a tensor of integers, got 1.5 (float)"),
    (True, TypeError, "step: expected an int or a tensor of integers, got True (bool)"),
    ("1", TypeError, "step: expected an int or a tensor of integers, got '1' (str)"),
    (-1, ValueError, "step: expected at least 0, got -1"),
    (torch.tensor(1.5), TypeError, "step: expected a tensor of integers, got one of torch.float32"),
    (torch.tensor(True), TypeError, "step: expected a tensor of integers, got one of torch.bool"),
]


@every_schedule
@pytest.mark.parametrize(
    ("step", "error", "message"), STEPS_REFUSED, ids=[row[2] for row in STEPS_REFUSED]
)
def test_what_is_no_step_is_refused(name, step, error, message):
    with pytest.raises(error, match=re.escape(message)):
        SCHEDULES[name](step)
