"""apply_if_finite, skip_large_updates, conditionally_transform and _mask, against loops by hand."""

import math

import pytest
import torch

import purefn.functional as pf
from purefn import optim
from purefn.functional import tree

NAN, INF = math.nan, math.inf


@pytest.fixture
def params():
    return {"w": torch.tensor([1.0, -2.0]), "s": torch.tensor(3.0), "empty": torch.zeros(0)}


def gradient(params, value):
    """Return gradients of 1 everywhere but in one element."""
    ones = tree.ones_like(params)
    return ones | {"w": torch.tensor([1.0, value])}


def run(optimizer, params, values, transform=lambda f: f):
    """Yield updates and state for gradients that hold `values` one after the other."""
    update, state = transform(optimizer.update), optimizer.init(params)
    for value in values:
        updates, state = update(gradient(params, value), state, params)
        yield updates, state


def compiled(update):
    return pf.jit(update, backend="eager")


transforms = pytest.mark.parametrize("transform", [lambda f: f, compiled], ids=["eager", "jit"])


@transforms
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_steps_that_are_not_finite_are_skipped(params, bad, transform):
    values = [1.0, bad, bad, 2.0, bad, 3.0]
    finite = [value for value in values if math.isfinite(value)]
    alone = [updates for updates, _ in run(optim.adam(lr=0.1), params, finite)]
    optimizer = optim.apply_if_finite(optim.adam(lr=0.1), max_consecutive_errors=2)
    in_a_row, total = 0, 0
    for value, (updates, state) in zip(
        values, run(optimizer, params, values, transform), strict=True
    ):
        ok = math.isfinite(value)
        in_a_row, total = (0 if ok else in_a_row + 1), total + (not ok)
        expected = alone.pop(0) if ok else tree.zeros_like(params)
        for leaf, other in zip(tree.leaves(updates), tree.leaves(expected), strict=True):
            torch.testing.assert_close(leaf, other)
        assert state.last_finite.item() == ok
        assert (state.notfinite_count.item(), state.total_notfinite.item()) == (in_a_row, total)
    assert not alone
    assert optim.get(state, "count") == 3


def test_it_gives_up_after_the_errors_it_may_ignore(params):
    optimizer = optim.apply_if_finite(optim.sgd(lr=1.0), max_consecutive_errors=2)
    values = [NAN, NAN, NAN, NAN, 1.0, NAN]
    seen = [updates["w"][1].item() for updates, _ in run(optimizer, params, values)]
    assert [math.isnan(value) for value in seen] == [False, False, True, True, False, False]
    assert seen[4] == -1.0
    never = optim.apply_if_finite(optim.sgd(lr=1.0), max_consecutive_errors=0)
    assert next(run(never, params, [NAN]))[0]["w"][1].isnan()


def test_complex_and_empty_trees_are_looked_at():
    optimizer = optim.apply_if_finite(optim.identity(), 3)
    grads = torch.tensor([complex(1.0, NAN)])
    state = optimizer.init(grads)
    assert not optimizer.update(grads, state)[1].last_finite
    assert optimizer.update({}, optimizer.init({}))[1].last_finite


@transforms
def test_large_steps_are_skipped(params, transform):
    values = [1.0, 1e30, 2.0, NAN, INF, 3.0]
    small = [1.0, 2.0, 3.0]
    alone = [updates for updates, _ in run(optim.adam(lr=0.1), params, small)]
    optimizer = optim.skip_large_updates(optim.adam(lr=0.1), max_squared_norm=12.0)
    total = 0
    for value, (updates, state) in zip(
        values, run(optimizer, params, values, transform), strict=True
    ):
        skipped = value not in small
        total += skipped
        expected = tree.zeros_like(params) if skipped else alone.pop(0)
        for leaf, other in zip(tree.leaves(updates), tree.leaves(expected), strict=True):
            torch.testing.assert_close(leaf, other)
        assert state.should_skip.item() == skipped
        assert state.total_skipped.item() == total
        if not skipped:
            assert state.norm_squared.item() == pytest.approx(2 + value**2)
    assert not alone


def test_the_bound_itself_is_large(params):
    grads = params | {"w": torch.tensor([0.0, 4.0])}
    for bound, skipped in ((24.9, True), (25.0, True), (25.1, False)):
        optimizer = optim.skip_large_updates(optim.identity(), max_squared_norm=bound)
        state = optimizer.update(grads, optimizer.init(params))[1]
        assert (state.norm_squared.item(), state.should_skip.item()) == (25.0, skipped)


def test_single_microbatches_are_skipped_around_multi_steps(params):
    optimizer = optim.skip_large_updates(optim.multi_steps(optim.sgd(lr=1.0), 2), 50.0)
    moved = [updates["w"][1].item() for updates, _ in run(optimizer, params, [1.0, 1e3, 3.0, 5.0])]
    assert moved == [0.0, 0.0, -2.0, 0.0]


@transforms
def test_conditionally_transform_and_mask(params, transform):
    def sometimes(step):
        return step % 3 != 1

    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    applied = [value for step, value in enumerate(values) if step % 3 != 1]
    for wrapper, kept in ((optim.conditionally_transform, 1), (optim.conditionally_mask, 0)):
        alone = [updates for updates, _ in run(optim.trace(0.9), params, applied)]
        optimizer = wrapper(optim.trace(0.9), sometimes)
        for step, (updates, state) in enumerate(run(optimizer, params, values, transform)):
            own = gradient(params, values[step] * kept) if kept else tree.zeros_like(params)
            expected = alone.pop(0) if step % 3 != 1 else own
            for leaf, other in zip(tree.leaves(updates), tree.leaves(expected), strict=True):
                torch.testing.assert_close(leaf, other)
            assert state.step.item() == step + 1


def test_a_condition_may_ask_for_extra_arguments(params):
    optimizer = optim.conditionally_mask(
        optim.identity(), lambda step, value: value > 0, forward_extra_args=True
    )
    state = optimizer.init(params)
    for value in (1.0, -1.0):
        updates, state = optimizer.update(params, state, params, value=torch.tensor(value))
        assert bool(updates["s"]) == (value > 0)


def test_each_run_of_a_batch_decides_for_itself(params):
    optimizer = optim.apply_if_finite(optim.adam(lr=0.1), 10)
    grads = tree.stack([gradient(params, 1.0), gradient(params, NAN)])
    state = pf.vmap(lambda _: optimizer.init(params))(torch.zeros(2))
    updates, state = pf.vmap(lambda g, s: optimizer.update(g, s, params))(grads, state)
    assert state.last_finite.tolist() == [True, False]
    assert optim.get(state, "count").tolist() == [1, 0]
    first, second = tree.unstack(updates)
    assert not any(leaf.any() for leaf in tree.leaves(second))
    alone, _ = next(run(optim.adam(lr=0.1), params, [1.0]))
    assert all(map(torch.equal, tree.leaves(first), tree.leaves(alone)))


def test_what_is_refused(params):
    with pytest.raises(TypeError, match=r"max_consecutive_errors: expected an int, got 1\.5"):
        optim.apply_if_finite(optim.sgd(), 1.5)
    with pytest.raises(ValueError, match="max_consecutive_errors: expected at least 0, got -1"):
        optim.apply_if_finite(optim.sgd(), -1)
    with pytest.raises(ValueError, match="max_squared_norm: expected a number greater than 0"):
        optim.skip_large_updates(optim.sgd(), 0.0)
    with pytest.raises(TypeError, match="should_transform_fn: expected a function of the step"):
        optim.conditionally_mask(optim.sgd(), True)
    for make in (optim.conditionally_mask, optim.conditionally_transform):
        wrapper = make(optim.sgd(), lambda step: step)
        with pytest.raises(TypeError, match="expected a boolean for pred"):
            wrapper.update(params, wrapper.init(params), params)
    for wrapper in (
        optim.apply_if_finite(optim.sgd(), 1),
        optim.skip_large_updates(optim.sgd(), 1),
    ):
        with pytest.raises(TypeError, match="expected the state that its init returned"):
            wrapper.update(params, optim.sgd().init(params), params)
        with pytest.raises(TypeError, match="inner: expected a GradientTransformation"):
            optim.apply_if_finite("adam", 1)
