"""Schedules against torch.optim.lr_scheduler, step by step."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

import purefn.functional as pf
from purefn.optim import schedules
from purefn.optim.pieces import scaling

STEPS = 3000
LR = 0.37


def torch_rates(make, steps=STEPS):
    """Return the learning rates that a torch scheduler gives at steps 0, 1, ..."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return torch.tensor(rates, dtype=torch.float64)


SCHEDULES = {
    "constant": (
        schedules.constant(LR),
        lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0),
    ),
    "step": (
        schedules.step(LR, step_size=70, gamma=0.7),
        lambda optimizer: lr_scheduler.StepLR(optimizer, step_size=70, gamma=0.7),
    ),
    "step, torch's default": (
        schedules.step(LR, 500),
        lambda optimizer: lr_scheduler.StepLR(optimizer, 500),
    ),
    "cosine": (
        schedules.cosine(LR, T_max=STEPS - 1),
        lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS - 1),
    ),
    "cosine, several periods": (
        schedules.cosine(LR, T_max=217, eta_min=0.01),
        lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=217, eta_min=0.01),
    ),
    "linear": (
        schedules.linear(LR, start_factor=0.25, end_factor=0.75, total_iters=1000),
        lambda optimizer: lr_scheduler.LinearLR(
            optimizer, start_factor=0.25, end_factor=0.75, total_iters=1000
        ),
    ),
    "linear, torch's defaults": (
        schedules.linear(LR),
        lambda optimizer: lr_scheduler.LinearLR(optimizer),
    ),
    "warm-up and cosine": (
        schedules.warmup(schedules.cosine(LR, T_max=2500), total_iters=300, start_factor=0.01),
        lambda optimizer: lr_scheduler.SequentialLR(
            optimizer,
            [
                lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=300),
                lr_scheduler.CosineAnnealingLR(optimizer, T_max=2500),
            ],
            milestones=[300],
        ),
    ),
    "three joined": (
        schedules.join(
            [
                schedules.constant(LR),
                schedules.step(LR, step_size=100, gamma=0.5),
                schedules.cosine(LR, T_max=900, eta_min=1e-3),
            ],
            milestones=[50, 1000],
        ),
        lambda optimizer: lr_scheduler.SequentialLR(
            optimizer,
            [
                lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0),
                lr_scheduler.StepLR(optimizer, step_size=100, gamma=0.5),
                lr_scheduler.CosineAnnealingLR(optimizer, T_max=900, eta_min=1e-3),
            ],
            milestones=[50, 1000],
        ),
    ),
}
every_schedule = pytest.mark.parametrize("name", SCHEDULES)


@every_schedule
def test_thousands_of_steps_are_torchs(name):
    schedule, make = SCHEDULES[name]
    theirs = torch_rates(make)
    assert name == "constant" or theirs.max() - theirs.min() > 1e-2
    # torch multiplies its way from step to step, so its cosine collects rounding errors.
    tolerance = {"rtol": 1e-9, "atol": 1e-12}
    ours = schedule(torch.arange(STEPS))
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, theirs, **tolerance)


@every_schedule
def test_an_int_a_tensor_and_a_traced_step_give_the_same(name):
    schedule, _ = SCHEDULES[name]
    expected = schedule(torch.tensor([0, 1, 49, 50, 299, 300, 301, 2999]))
    traced = pf.jit(schedule, backend="aot_eager")
    for step, value in zip([0, 1, 49, 50, 299, 300, 301, 2999], expected, strict=True):
        for result in (schedule(step), schedule(torch.tensor(step)), traced(torch.tensor(step))):
            assert result.shape == ()
            torch.testing.assert_close(result, value, rtol=1e-15, atol=1e-16)
        assert torch.equal(schedule(torch.tensor(step, dtype=torch.int32)), schedule(step))
    assert traced.trace_count == 1


@given(period=st.integers(1, 1000), low=st.floats(0, 1), high=st.floats(0, 1))
def test_cosine_is_its_closed_form(period, low, high):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=high)
    theirs = lr_scheduler.CosineAnnealingLR(optimizer, T_max=period, eta_min=low)
    schedule = schedules.cosine(high, T_max=period, eta_min=low)
    for step in (0, 1, period // 2, period, 2 * period):
        theirs.last_epoch = step
        (expected,) = theirs._get_closed_form_lr()
        assert schedule(step).item() == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_a_constant_may_be_differentiated_batched_and_traced():
    def rate(lr):
        return schedules.constant(lr)(torch.tensor(3))

    lr = torch.tensor(0.1, dtype=torch.float64)
    assert torch.equal(rate(lr), lr)
    assert pf.grad(rate)(lr) == 1
    lrs = torch.tensor([0.1, 0.2], dtype=torch.float64)
    assert torch.equal(pf.vmap(rate)(lrs), lrs)
    assert torch.equal(pf.jit(rate, backend="aot_eager")(lr), lr)


def test_joined_functions_that_return_numbers_give_float64():
    joined = schedules.join([lambda step: 0.1, lambda step: 0.3], [2])
    expected = torch.tensor([0.1, 0.1, 0.3], dtype=torch.float64)
    assert torch.equal(joined(torch.arange(3)), expected)
    assert torch.equal(joined(2), expected[2])


def test_there_is_one_type_of_schedules():
    assert scaling.Schedule is schedules.Schedule


REFUSALS = [
    (
        lambda: schedules.join([schedules.constant(0.1), 0.1], [3]),
        TypeError,
        "schedules[1]: expected a function of the step, got 0.1",
    ),
    (lambda: schedules.warmup(0.1, 5), TypeError, "schedule: expected a function of the step"),
    (lambda: schedules.constant(-0.1), ValueError, "lr: expected a number that is at least 0"),
    (lambda: schedules.constant("0.1"), TypeError, "lr: expected a number or a 0-d tensor"),
    (lambda: schedules.step(0.1, 0), ValueError, "step_size: expected at least 1, got 0"),
    (lambda: schedules.step(0.1, 2.5), TypeError, "step_size: expected an int, got 2.5"),
    (lambda: schedules.cosine(0.1, T_max=-1), ValueError, "T_max: expected at least 1"),
    (lambda: schedules.cosine(0.1, 10, eta_min=-1), ValueError, "eta_min: expected a number that"),
    (lambda: schedules.linear(0.1, start_factor=-1), ValueError, "start_factor"),
    (
        lambda: schedules.join([schedules.constant(0.1)], [3]),
        ValueError,
        "milestones: expected one fewer than schedules, got 1 for 1",
    ),
    (
        lambda: schedules.join([schedules.constant(0.1)] * 3, [7, 7]),
        ValueError,
        r"milestones: expected increasing steps, got [7, 7]",
    ),
    (lambda: schedules.constant(0.1)(1.5), TypeError, "step: expected an int or a tensor of"),
    (lambda: schedules.constant(0.1)(True), TypeError, "step: expected an int"),
    (lambda: schedules.constant(0.1)(-1), ValueError, "step: expected at least 0, got -1"),
    (
        lambda: schedules.join([schedules.constant(0.1)] * 2, [7])(torch.tensor(1.5)),
        TypeError,
        "step: expected a tensor of integers, got one of torch.float32",
    ),
]


@pytest.mark.parametrize(("make", "error", "message"), REFUSALS, ids=[row[2] for row in REFUSALS])
def test_refusals(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()
