"""Schedules against the scheduler objects of torch.optim.lr_scheduler, step by step."""

import decimal
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from purefn.optim import schedules

STEPS = 3000
LR = 0.37


def run(make, steps, lr=LR):
    """Return the learning rates and momenta that a torch scheduler gives at steps 0, 1, ..."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr, momentum=0.5)
    scheduler = make(optimizer)
    rates, momenta = [], []
    for step in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        momenta.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        if step < steps - 1:
            scheduler.step()
    return torch.tensor(rates, dtype=torch.float64), torch.tensor(momenta, dtype=torch.float64)


def torchs(name, **arguments):
    return lambda optimizer: getattr(lr_scheduler, name)(optimizer, **arguments)


def sequential(*makes, milestones):
    return lambda optimizer: lr_scheduler.SequentialLR(
        optimizer, [make(optimizer) for make in makes], milestones=milestones
    )


def chained(*makes):
    return lambda optimizer: lr_scheduler.ChainedScheduler([make(optimizer) for make in makes])


COSINE = {"T_max": 217, "eta_min": 0.01}
RESTARTS = {"T_0": 7, "T_mult": 3, "eta_min": 0.02}
CYCLE = {"base_lr": 0.1, "max_lr": 0.7, "step_size_up": 130, "step_size_down": 41}
HALF_CYCLE = {"base_lr": 0.1, "max_lr": 0.7, "step_size_up": 33}
ONE = {"max_lr": 0.7, "total_steps": STEPS}

SCHEDULES = {
    "constant": (
        schedules.constant(LR),
        torchs("LambdaLR", lr_lambda=lambda epoch: 1.0),
    ),
    "a function": (
        lambda step: LR * 0.999 ** step.double(),
        torchs("LambdaLR", lr_lambda=lambda epoch: 0.999**epoch),
    ),
    "constant factor": (
        schedules.constant_factor(LR, 0.3, 1000),
        torchs("ConstantLR", factor=0.3, total_iters=1000),
    ),
    "constant factor, defaults": (schedules.constant_factor(LR), torchs("ConstantLR")),
    "linear": (
        schedules.linear(LR, 0.25, 0.75, 1000),
        torchs("LinearLR", start_factor=0.25, end_factor=0.75, total_iters=1000),
    ),
    "linear, defaults": (schedules.linear(LR), torchs("LinearLR")),
    "polynomial": (
        schedules.polynomial(LR, 2900, 1.7),
        torchs("PolynomialLR", total_iters=2900, power=1.7),
    ),
    "polynomial, defaults": (schedules.polynomial(LR), torchs("PolynomialLR")),
    "exponential": (schedules.exponential(LR, 0.998), torchs("ExponentialLR", gamma=0.998)),
    "step": (
        schedules.step(LR, step_size=70, gamma=0.7),
        torchs("StepLR", step_size=70, gamma=0.7),
    ),
    "step, default": (schedules.step(LR, 500), torchs("StepLR", step_size=500)),
    "multi-step": (
        schedules.multi_step(LR, [3, 700, 50, 700, 2999], gamma=0.7),
        torchs("MultiStepLR", milestones=[3, 700, 50, 700, 2999], gamma=0.7),
    ),
    "multi-step from 0, default": (
        schedules.multi_step(LR, [0, 9]),
        torchs("MultiStepLR", milestones=[0, 9]),
    ),
    "cosine": (schedules.cosine(LR, STEPS - 1), torchs("CosineAnnealingLR", T_max=STEPS - 1)),
    "cosine, several periods": (
        schedules.cosine(LR, **COSINE),
        torchs("CosineAnnealingLR", **COSINE),
    ),
    "warm restarts": (
        schedules.cosine_warm_restarts(LR, **RESTARTS),
        torchs("CosineAnnealingWarmRestarts", **RESTARTS),
    ),
    "warm restarts of one length": (
        schedules.cosine_warm_restarts(LR, 97),
        torchs("CosineAnnealingWarmRestarts", T_0=97),
    ),
    "one cycle": (schedules.one_cycle(**ONE), torchs("OneCycleLR", **ONE)),
    "one cycle, linear in three phases": (
        schedules.one_cycle(0.7, STEPS, 0.2, "linear", 10.0, 50.0, True),
        torchs(
            "OneCycleLR",
            **ONE,
            pct_start=0.2,
            anneal_strategy="linear",
            div_factor=10.0,
            final_div_factor=50.0,
            three_phase=True,
        ),
    ),
    "cyclic": (schedules.cyclic(**CYCLE), torchs("CyclicLR", **CYCLE)),
    "cyclic, defaults": (
        schedules.cyclic(0.1, 0.7),
        torchs("CyclicLR", base_lr=0.1, max_lr=0.7),
    ),
    "cyclic, triangular2": (
        schedules.cyclic(**HALF_CYCLE, mode="triangular2"),
        torchs("CyclicLR", **HALF_CYCLE, mode="triangular2"),
    ),
    "cyclic, exp_range": (
        schedules.cyclic(**CYCLE, mode="exp_range", gamma=0.999),
        torchs("CyclicLR", **CYCLE, mode="exp_range", gamma=0.999),
    ),
    "cyclic, a function of the cycle": (
        schedules.cyclic(**CYCLE, scale_fn=lambda cycle: 1 / cycle),
        torchs("CyclicLR", **CYCLE, scale_fn=lambda cycle: 1 / cycle),
    ),
    "cyclic, a function of the step": (
        schedules.cyclic(**CYCLE, scale_fn=lambda t: 1 / (1 + t / 100), scale_mode="iterations"),
        torchs("CyclicLR", **CYCLE, scale_fn=lambda t: 1 / (1 + t / 100), scale_mode="iterations"),
    ),
    "warm-up and cosine": (
        schedules.warmup(schedules.cosine(LR, T_max=2500), total_iters=300, start_factor=0.01),
        sequential(
            torchs("LinearLR", start_factor=0.01, total_iters=300),
            torchs("CosineAnnealingLR", T_max=2500),
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
        sequential(
            torchs("LambdaLR", lr_lambda=lambda epoch: 1.0),
            torchs("StepLR", step_size=100, gamma=0.5),
            torchs("CosineAnnealingLR", T_max=900, eta_min=1e-3),
            milestones=[50, 1000],
        ),
    ),
    "chained": (
        schedules.product(
            schedules.exponential(LR, 0.999),
            schedules.constant_factor(1.0, 0.1, 40),
            schedules.step(1.0, 900, 0.5),
        ),
        chained(
            torchs("ExponentialLR", gamma=0.999),
            torchs("ConstantLR", factor=0.1, total_iters=40),
            torchs("StepLR", step_size=900, gamma=0.5),
        ),
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_thousands_of_steps_are_torchs(name):
    schedule, make = SCHEDULES[name]
    theirs, _ = run(make, STEPS)
    assert name == "constant" or theirs.max() - theirs.min() > 1e-2
    # torch multiplies its way from step to step: each adds half an ulp, its cosine's bottom more.
    ours = schedule(torch.arange(STEPS))
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def agree(ours, make, steps, rtol=1e-11, atol=1e-13):
    theirs, _ = run(make, steps)
    torch.testing.assert_close(ours(torch.arange(steps)), theirs, rtol=rtol, atol=atol)


rates = st.floats(1e-5, 10)
lengths = st.integers(1, 60)
factors = st.floats(0.01, 1)


@given(factor=factors, total_iters=lengths)
def test_constant_factor(factor, total_iters):
    agree(
        schedules.constant_factor(LR, factor, total_iters),
        torchs("ConstantLR", factor=factor, total_iters=total_iters),
        150,
    )


@given(start=factors, end=factors, total_iters=lengths)
def test_linear(start, end, total_iters):
    arguments = {"start_factor": start, "end_factor": end, "total_iters": total_iters}
    agree(schedules.linear(LR, **arguments), torchs("LinearLR", **arguments), 150)


@given(power=st.floats(0, 4), total_iters=lengths)
def test_polynomial(power, total_iters):
    arguments = {"power": power, "total_iters": total_iters}
    agree(schedules.polynomial(LR, **arguments), torchs("PolynomialLR", **arguments), 150)


@given(gamma=st.floats(0, 1.1))
def test_exponential(gamma):
    agree(schedules.exponential(LR, gamma), torchs("ExponentialLR", gamma=gamma), 150)


@given(gamma=st.floats(0, 1.1), step_size=lengths)
def test_step(gamma, step_size):
    arguments = {"gamma": gamma, "step_size": step_size}
    agree(schedules.step(LR, **arguments), torchs("StepLR", **arguments), 150)


@given(gamma=st.floats(0.01, 1.1), milestones=st.lists(st.integers(0, 140), max_size=8))
def test_multi_step(gamma, milestones):
    arguments = {"gamma": gamma, "milestones": milestones}
    agree(schedules.multi_step(LR, **arguments), torchs("MultiStepLR", **arguments), 150)


@given(T_max=lengths, eta_min=st.floats(0, 1))
def test_cosine(T_max, eta_min):  # noqa: N803
    # In one descent: at its bottom torch divides by almost nothing, and what follows is rounding.
    arguments = {"T_max": T_max, "eta_min": eta_min}
    agree(schedules.cosine(LR, **arguments), torchs("CosineAnnealingLR", **arguments), T_max + 1)


@given(T_max=lengths, eta_min=st.floats(0, 1), lr=rates, step=st.integers(0, 1000))
def test_cosine_is_its_closed_form(T_max, eta_min, lr, step):  # noqa: N803
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=lr)
    theirs = lr_scheduler.CosineAnnealingLR(optimizer, T_max=T_max, eta_min=eta_min)
    theirs.last_epoch = step
    (expected,) = theirs._get_closed_form_lr()
    ours = schedules.cosine(lr, T_max, eta_min)(step)
    assert ours.item() == pytest.approx(expected, rel=1e-11, abs=1e-12)


@given(T_0=st.integers(1, 20), T_mult=st.integers(1, 5), eta_min=st.floats(0, 1))
def test_warm_restarts(T_0, T_mult, eta_min):  # noqa: N803
    arguments = {"T_0": T_0, "T_mult": T_mult, "eta_min": eta_min}
    agree(
        schedules.cosine_warm_restarts(LR, **arguments),
        torchs("CosineAnnealingWarmRestarts", **arguments),
        400,
    )


one_cycles = st.fixed_dictionaries(
    {
        "total_steps": st.integers(2, 150),
        "pct_start": st.floats(0.0, 1.0),
        "anneal_strategy": st.sampled_from(["cos", "linear"]),
        "three_phase": st.booleans(),
    }
).filter(lambda case: abs(case["pct_start"] * case["total_steps"] - 1) > 1e-6)  # torch: 1 / 0


@given(case=one_cycles, max_lr=rates, div=st.floats(1, 50), final_div=st.floats(1, 1e5))
def test_one_cycle(case, max_lr, div, final_div):
    arguments = {**case, "max_lr": max_lr, "div_factor": div, "final_div_factor": final_div}
    # A phase of almost no length makes torch's rate and ours anything between its ends.
    agree(
        schedules.one_cycle(**arguments),
        torchs("OneCycleLR", **arguments),
        case["total_steps"],
        rtol=1e-8,
    )


@given(case=one_cycles, low=st.floats(0, 0.9), high=st.floats(0, 0.99))
def test_the_momentum_of_one_cycle(case, low, high):
    arguments = {**case, "base_momentum": low, "max_momentum": high}
    steps = case["total_steps"]
    _, theirs = run(torchs("OneCycleLR", max_lr=0.1, **arguments), steps)
    ours = schedules.one_cycle_momentum(**arguments)(torch.arange(steps))
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_a_rise_of_one_step():  # torch divides by zero
    rate = schedules.one_cycle(1.0, total_steps=5, pct_start=0.2)
    torch.testing.assert_close(rate(torch.tensor([0, 4])), torch.tensor([1 / 25, 4e-6]).double())
    assert rate(torch.arange(5)).isfinite().all()


def test_after_its_steps_one_cycle_stays_where_it_ended():
    rate = schedules.one_cycle(1.0, total_steps=50)
    assert rate(49) == rate(50) == rate(10**9)


@given(
    up=lengths,
    down=lengths | st.none(),
    rates=st.tuples(rates, rates),
    mode=st.sampled_from(["triangular", "triangular2", "exp_range"]),
    gamma=st.floats(0.9, 1),
)
def test_cyclic(up, down, rates, mode, gamma):
    shared = {"step_size_up": up, "step_size_down": down, "mode": mode, "gamma": gamma}
    arguments = {"base_lr": rates[0], "max_lr": rates[1], **shared}
    theirs, momenta = run(torchs("CyclicLR", **arguments), 300)
    steps = torch.arange(300)
    tolerance = {"rtol": 1e-11, "atol": 1e-12}
    torch.testing.assert_close(schedules.cyclic(**arguments)(steps), theirs, **tolerance)
    ours = schedules.cyclic(0.9, 0.8, **shared)(steps)
    torch.testing.assert_close(ours, momenta, **tolerance)


# --------------------------------------------------------------------------------------- late steps


@pytest.mark.parametrize("late", [10**7, 10**7 + 1, 123456789012])
def test_late_steps_keep_their_digits(late):
    def half_cosine(part, whole):
        return (1 + math.cos(math.pi * part / whole)) / 2

    expected = {
        schedules.cosine(1.0, 217): half_cosine(late % 434, 217),
        schedules.cosine_warm_restarts(1.0, 13): half_cosine(late % 13, 13),
        schedules.cyclic(0.0, 1.0, 300, 11): min(late % 311 / 300, (311 - late % 311) / 11),
        schedules.exponential(1.0, 0.999999): float(decimal.Decimal.from_float(0.999999) ** late),
        schedules.step(1.0, late // 3, 0.5): 0.125,
        schedules.step(1.0, (late + 3) // 3, 0.5): 0.25,
        schedules.multi_step(1.0, [late - 1, late, late + 1], 0.5): 0.25,
        schedules.polynomial(1.0, 2 * late, end_lr=0.5): 0.75,
        schedules.join([schedules.constant(1.0), schedules.cosine(1.0, 5)], [late - 2]): (
            half_cosine(2, 5)
        ),
    }
    for schedule, value in expected.items():
        assert schedule(late).item() == pytest.approx(value, rel=1e-13, abs=1e-15)
        assert schedule(torch.tensor(late)).item() == schedule(late).item()


@pytest.mark.parametrize("T_0", [1, 3, 10])
@pytest.mark.parametrize("T_mult", [2, 3, 7, 10])
def test_every_restart_is_at_its_step(T_0, T_mult):  # noqa: N803
    rate = schedules.cosine_warm_restarts(1.0, T_0, T_mult)
    start, length = 0, T_0
    while start < 10**14:
        assert rate(start).item() == 1.0
        if start:
            before = length // T_mult
            value = (1 + math.cos(math.pi * (before - 1) / before)) / 2
            assert rate(start - 1).item() == pytest.approx(value, rel=1e-12, abs=1e-15)
        start, length = start + length, length * T_mult
