"""`reduce_on_plateau` and `scale_by_running_product` against the schedulers of torch."""

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

import purefn.functional as pf
from purefn import optim
from purefn.functional import tree

GRADS = {"w": torch.ones(2, dtype=torch.float64), "b": torch.ones((), dtype=torch.float64)}


def torchs(values, lr, **arguments):
    """Yield the scheduler of torch, and its learning rate, after each value."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=lr)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, **arguments)
    for value in values:
        scheduler.step(value)
        yield scheduler, optimizer.param_groups[0]["lr"]


def require_torchs(values, lr, **arguments):
    piece = optim.reduce_on_plateau(**arguments, lr=lr)
    state = piece.init(GRADS)
    scales = []
    for value, (theirs, rate) in zip(values, torchs(values, lr, **arguments), strict=True):
        updates, state = piece.update(GRADS, state, value=value)
        assert state.scale.item() == rate
        assert state.best_value.item() == theirs.best
        assert state.plateau_count.item() == theirs.num_bad_epochs
        assert state.cooldown_count.item() == theirs.cooldown_counter
        assert all(
            torch.equal(leaf, state.scale * torch.ones_like(leaf)) for leaf in tree.leaves(updates)
        )
        scales.append(rate)
    return scales


metrics = st.lists(
    st.sampled_from([0.0, 1.0, 0.9999, 1.0001, 0.5, -1.0, 2.0, math.inf, -math.inf, math.nan])
    | st.floats(-3, 3),
    max_size=60,
)


@given(
    values=metrics,
    mode=st.sampled_from(["min", "max"]),
    factor=st.floats(0, 0.99),
    patience=st.integers(0, 4),
    threshold=st.sampled_from([0.0, 1e-4, 0.3, 1.0]),
    threshold_mode=st.sampled_from(["rel", "abs"]),
    cooldown=st.integers(0, 4),
    min_lr=st.sampled_from([0.0, 1e-3, 0.05, 0.2]),
    eps=st.sampled_from([0.0, 1e-8, 1e-2]),
)
def test_any_values_give_torchs_rates_and_counts(values, **arguments):
    require_torchs(values, 0.1, **arguments)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("cooldown", [0, 7])
def test_a_noisy_curve(mode, cooldown):
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(300, generator=generator, dtype=torch.float64)
    sign = 1 if mode == "min" else -1
    values = (sign * (1 / torch.arange(1, 301) + 0.1 * noise)).tolist()
    rates = require_torchs(
        values, 0.3, mode=mode, factor=0.7, patience=5, cooldown=cooldown, min_lr=1e-4
    )
    assert rates[-1] < 0.05 < rates[0]


def test_defaults_are_torchs():
    assert require_torchs([1.0] * 40, 1.0)[-1] == pytest.approx(1e-3)


def test_a_reduction_by_just_eps_is_left_out():
    assert require_torchs([1.0] * 3, 0.5, factor=0.5, patience=0, eps=0.25) == [0.5, 0.5, 0.5]


def test_averaged_values_are_judged_as_one():
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(40, 5, generator=generator, dtype=torch.float64)
    arguments = {"factor": 0.5, "patience": 2, "cooldown": 1}
    averaged = optim.reduce_on_plateau(**arguments, accumulation_size=5)
    single = optim.reduce_on_plateau(**arguments)
    state, expected = averaged.init(GRADS), single.init(GRADS)
    for row in values:
        for place, value in enumerate(row):
            assert state.count == place
            before = state.scale
            _, state = averaged.update(GRADS, state, value=value)
            assert place == 4 or state.scale == before
        _, expected = single.update(GRADS, expected, value=row.mean())
        assert state.scale == expected.scale
        assert state.plateau_count == expected.plateau_count
        assert state.best_value.item() == pytest.approx(expected.best_value.item(), rel=1e-14)
    assert expected.scale < 0.01


def test_after_a_recipe_it_is_the_learning_rate():
    values = [1.0, 0.5, 0.6, 0.7, 0.8, 0.4, 0.4, 0.4, 0.4]
    arguments = {"factor": 0.3, "patience": 1, "min_lr": 1e-3}
    parameter = torch.ones(3, dtype=torch.float64, requires_grad=True)
    theirs = torch.optim.Adam([parameter], lr=0.1)
    scheduler = lr_scheduler.ReduceLROnPlateau(theirs, **arguments)
    ours = optim.chain(optim.adam(lr=1.0), optim.reduce_on_plateau(**arguments, lr=0.1))
    params = torch.ones(3, dtype=torch.float64)
    state = ours.init(params)
    generator = torch.Generator().manual_seed(0)
    for value in values:
        grads = torch.randn(3, generator=generator, dtype=torch.float64)
        scheduler.step(value)  # the value is of the parameters before the step
        parameter.grad = grads
        theirs.step()
        updates, state = ours.update(grads, state, params, value=value)
        params = optim.apply_updates(params, updates)
        torch.testing.assert_close(params, parameter.detach(), rtol=1e-13, atol=1e-13)
    assert optim.get(state, "scale").item() == theirs.param_groups[0]["lr"] < 0.05


def test_staged_and_batched():
    piece = optim.reduce_on_plateau(factor=0.5, patience=1, cooldown=1, lr=0.1)
    traced = pf.jit(lambda state, value: piece.update(GRADS, state, value=value), backend="eager")
    values = torch.tensor([[3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0], [3, 4, 5, 6, 1, 0, 7]]).double()
    runs = []
    for row in values:
        state = staged = piece.init(GRADS)
        for value in row:
            _, state = piece.update(GRADS, state, value=value)
            updates, staged = traced(staged, value)
            assert all(torch.equal(a, b) for a, b in zip(state, staged, strict=True))
            assert torch.equal(updates["b"], state.scale)
        runs.append(state)
    assert traced.trace_count == 1
    assert len({run.scale.item() for run in runs}) == 2

    def run(row):
        state = piece.init(GRADS)
        for value in row:
            _, state = piece.update(GRADS, state, value=value)
        return tuple(state)

    for batched, *alone in zip(pf.vmap(run)(values), *runs, strict=True):
        assert torch.equal(batched, torch.stack(alone))


def test_no_input_is_written_and_no_state_is_shared():
    piece = optim.reduce_on_plateau(patience=0)
    state = piece.init(GRADS)
    for _ in range(3):
        versions = [leaf._version for leaf in state]
        kept = [leaf.clone() for leaf in state]
        _, new_state = piece.update(GRADS, state, value=torch.tensor(1.0))
        assert [leaf._version for leaf in state] == versions
        assert all(torch.equal(a, b) for a, b in zip(state, kept, strict=True))
        addresses = [leaf.data_ptr() for leaf in (*state, *new_state)]
        assert len(set(addresses)) == len(addresses)
        assert [leaf.dtype for leaf in new_state] == [leaf.dtype for leaf in state]
        state = new_state


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_updates_keep_their_dtype(dtype):
    grads = tree.cast(GRADS, dtype)
    piece = optim.reduce_on_plateau(lr=0.1)
    state = piece.init(grads)
    for value in (1, 1.0, torch.tensor(1, dtype=torch.bfloat16), torch.tensor(2)):
        updates, state = piece.update(grads, state, value=value)
        assert {leaf.dtype for leaf in tree.leaves(updates)} == {dtype}
        assert state.scale.dtype == state.best_value.dtype == torch.float64


# ---------------------------------------------------------------------------------- running product


@given(factors=st.lists(st.floats(0.5, 1.5), min_size=1, max_size=50))
def test_the_running_product_is_torchs(factors):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    theirs = lr_scheduler.MultiplicativeLR(optimizer, lambda epoch: factors[epoch - 1])
    piece = optim.chain(
        optim.scale_by_running_product(lambda step: factors[int(step) - 1]), optim.scale(0.1)
    )
    grads = torch.ones(2, dtype=torch.float64)
    state = piece.init(grads)
    for _ in factors[:-1]:
        updates, state = piece.update(grads, state)
        assert updates[0].item() == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-13)
        optimizer.step()
        theirs.step()


def test_the_running_product_is_staged():
    piece = optim.scale_by_running_product(lambda step: 1 - 1 / (1 + step.double()))
    traced = pf.jit(piece.update, backend="eager")
    state = piece.init(GRADS)
    for step in range(6):
        updates, state = traced(GRADS, state)
        assert updates["b"].item() == pytest.approx(1 / (step + 1), rel=1e-14)
    assert traced.trace_count == 1


ONE_VALUE = "value: expected one real number"
REFUSALS = [
    (lambda: optim.reduce_on_plateau("low"), ValueError, "mode: expected one of 'min', 'max'"),
    (lambda: optim.reduce_on_plateau(factor=1.0), ValueError, "factor: expected a number in [0, 1"),
    (lambda: optim.reduce_on_plateau(factor=-0.1), ValueError, "factor: expected a number in [0,"),
    (lambda: optim.reduce_on_plateau(patience=-1), ValueError, "patience: expected at least 0"),
    (lambda: optim.reduce_on_plateau(patience=1.5), TypeError, "patience: expected an int"),
    (lambda: optim.reduce_on_plateau(threshold=-1), ValueError, "threshold: expected a number"),
    (
        lambda: optim.reduce_on_plateau(threshold_mode="relative"),
        ValueError,
        "threshold_mode: expected one of 'rel', 'abs', got 'relative'",
    ),
    (lambda: optim.reduce_on_plateau(cooldown=-1), ValueError, "cooldown: expected at least 0"),
    (lambda: optim.reduce_on_plateau(min_lr=[0.1]), TypeError, "min_lr: expected a number or"),
    (lambda: optim.reduce_on_plateau(eps=-1), ValueError, "eps: expected a number that is at"),
    (lambda: optim.reduce_on_plateau(lr=-1), ValueError, "lr: expected a number that is at least"),
    (
        lambda: optim.reduce_on_plateau(accumulation_size=0),
        ValueError,
        "accumulation_size: expected at least 1, got 0",
    ),
    (lambda: update(), ValueError, "reduce_on_plateau.update needs the value"),
    (lambda: update(value=torch.ones(2)), ValueError, ONE_VALUE),
    (lambda: update(value=torch.tensor(1j)), ValueError, ONE_VALUE),
    (lambda: update(value=True), TypeError, "value: expected a number or a 0-d tensor, got True"),
    (lambda: update(value="1"), TypeError, "value: expected a number or a 0-d tensor, got '1'"),
    (
        lambda: optim.reduce_on_plateau().update(GRADS, optim.EmptyState(), value=1.0),
        TypeError,
        "expected the state that its init returned, ReduceOnPlateauState",
    ),
    (
        lambda: optim.scale_by_running_product(0.5),
        TypeError,
        "factor: expected a function of the step, got 0.5",
    ),
]


def update(**extra):
    piece = optim.reduce_on_plateau()
    return piece.update(GRADS, piece.init(GRADS), **extra)


@pytest.mark.parametrize(("make", "error", "message"), REFUSALS, ids=[row[2] for row in REFUSALS])
def test_refusals(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()
