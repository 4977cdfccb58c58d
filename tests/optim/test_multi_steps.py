"""multi_steps: a batch in parts is the whole batch."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import purefn.functional as pf
from purefn import optim
from purefn.functional import tree

EXAMPLES = 12


def make_params(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return {
        "weight": torch.randn(2, 3, generator=generator, dtype=torch.float64).to(dtype),
        "bias": torch.randn(2, generator=generator, dtype=torch.float64).to(dtype),
    }


def make_batches(steps):
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(EXAMPLES, 3, generator=generator, dtype=torch.float64) for _ in range(steps)
    ]


def loss(params, x):
    return (x @ params["weight"].T + params["bias"]).tanh().square().sum(1).mean()


def train(optimizer, params, microbatches, weighted):
    state = optimizer.init(params)
    for x in microbatches:
        grads = pf.grad(loss)(params, x)
        extra = {"weight": len(x)} if weighted else {}
        updates, state = optimizer.update(grads, state, params, **extra)
        params = optim.apply_updates(params, updates)
    return params, state


def assert_close(left, right):
    for leaf, other in zip(tree.leaves(left), tree.leaves(right), strict=True):
        torch.testing.assert_close(leaf, other, rtol=1e-11, atol=1e-13)


RULES = {
    "adam": lambda: optim.adam(lr=0.1, weight_decay=0.01),
    "clipped": lambda: optim.chain(optim.clip_by_global_norm(0.05), optim.sgd(0.3, momentum=0.9)),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("k", [1, 2, 3, 12])
def test_equal_microbatches_are_the_whole_batch(rule, k):
    batches = make_batches(5)
    expected, inner_state = train(rule(), make_params(), batches, weighted=False)
    parts = [part for x in batches for part in x.chunk(k)]
    result, state = train(optim.multi_steps(rule(), k), make_params(), parts, weighted=False)
    assert_close(result, expected)
    assert_close(state.inner_state, inner_state)
    assert (state.mini_step.item(), state.gradient_step.item(), state.weight.item()) == (0, 5, 0.0)
    assert not any(leaf.any() for leaf in tree.leaves(state.acc_grads))


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.lists(st.integers(0, EXAMPLES), max_size=4), min_size=3, max_size=3))
def test_any_split_with_weights_is_the_whole_batch(cuts):
    """Also with a number of microbatches that differs from step to step, and with empty ones."""
    batches = make_batches(3)
    bounds = [[0, *sorted(own), EXAMPLES] for own in cuts]
    counts = torch.tensor([len(own) - 1 for own in bounds])
    parts = [
        x[a:b] for x, own in zip(batches, bounds, strict=True) for a, b in itertools.pairwise(own)
    ]
    expected, _ = train(RULES["adam"](), make_params(), batches, weighted=False)
    optimizer = optim.multi_steps(RULES["adam"](), lambda step: counts[step])
    result, state = train(optimizer, make_params(), parts, weighted=True)
    assert_close(result, expected)
    assert state.gradient_step.item() == 3


def test_unequal_microbatches_without_weights_are_something_else():
    x = make_batches(1)[0]
    expected, _ = train(optim.sgd(0.3), make_params(), [x], weighted=False)
    for weighted in (True, False):
        result, _ = train(
            optim.multi_steps(optim.sgd(0.3), 2), make_params(), [x[:2], x[2:]], weighted
        )
        assert torch.allclose(result["weight"], expected["weight"], rtol=1e-9) == weighted


def test_the_sum_instead_of_the_mean():
    params = make_params()
    optimizer = optim.multi_steps(optim.identity(), 2, use_grad_mean=False)
    state = optimizer.init(params)
    one = tree.ones_like(params)
    _, state = optimizer.update(one, state, weight=3)
    updates, _ = optimizer.update(one, state, weight=torch.tensor(0.5))
    assert all((leaf == 3.5).all() for leaf in tree.leaves(updates))


def test_nothing_moves_until_the_last():
    calls = []

    def update(updates, state, params=None, **extra):
        calls.append(extra)
        return updates, state

    spy = optim.GradientTransformation(lambda params: optim.EmptyState(), update)
    params = make_params()
    optimizer = optim.chain(optim.scale(2.0), optim.multi_steps(spy, 3))
    state = optimizer.init(params)
    assert not optim.has_updated(state)
    for step in range(1, 10):
        updates, state = optimizer.update(tree.ones_like(params), state, params, value=step)
        last = step % 3 == 0
        assert optim.has_updated(state).item() == last
        assert all((leaf == (2 if last else 0)).all() for leaf in tree.leaves(updates))
    assert calls == [{"value": 3}, {"value": 6}, {"value": 9}]


def test_one_accumulator_is_all_that_it_holds():
    params = make_params()
    state = optim.multi_steps(optim.adam(), 4).init(params)
    own = tree.nbytes(state) - tree.nbytes(state.inner_state)
    assert own == tree.nbytes(params) + 3 * 8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype):
    params = make_params(dtype)
    optimizer = optim.multi_steps(optim.identity(), 1000)
    state = optimizer.init(params)
    assert {leaf.dtype for leaf in tree.leaves(state.acc_grads)} == {torch.float32}
    grads = tree.map(lambda p: torch.full_like(p, 0.1), params)
    for _ in range(1000):
        updates, state = optimizer.update(grads, state, params)
    assert all(map(torch.equal, tree.leaves(updates), tree.leaves(grads)))


def test_a_microbatch_of_nobody_changes_nothing():
    params = make_params()
    optimizer = optim.multi_steps(optim.identity(), 2)
    nan = tree.map(lambda p: torch.full_like(p, torch.nan), params)
    for weights in ((0, 5), (5, 0), (0, 0)):
        state = optimizer.init(params)
        for weight in weights:
            updates, state = optimizer.update(params if weight else nan, state, weight=weight)
        assert_close(updates, params if any(weights) else tree.zeros_like(params))


def test_nan_is_not_hidden():
    params = {"w": torch.ones(2)}
    optimizer = optim.multi_steps(optim.identity(), 2)
    _, state = optimizer.update({"w": torch.tensor([1.0, torch.nan])}, optimizer.init(params))
    updates, state = optimizer.update(params, state)
    assert updates["w"].isnan().tolist() == [False, True]
    assert not state.acc_grads["w"].any()


@pytest.mark.parametrize("donate", [(), (0, 1)])
def test_compiled_once(donate):
    optimizer = optim.multi_steps(optim.adam(lr=0.1), 3)
    batches = [x[:size] for x, size in zip(make_batches(7), (1, 5, 2, 7, 3, 3, 9), strict=True)]
    expected, expected_state = train(optimizer, make_params(), batches, weighted=True)

    @pf.jit(backend="eager", donate_argnums=donate)
    def step(params, state, grads, weight):
        updates, state = optimizer.update(grads, state, params, weight=weight)
        return optim.apply_updates(params, updates), state, optim.has_updated(state)

    params, state, updated = make_params(), optimizer.init(make_params()), []
    for x in batches:
        params, state, has = step(params, state, pf.grad(loss)(params, x), len(x))
        updated.append(has.item())
    assert step.trace_count == 1
    assert updated == [False, False, True, False, False, True, False]
    assert_close((params, state), (expected, expected_state))


def test_batched():
    """Runs side by side, whose numbers of microbatches differ."""
    params = tree.map(lambda p: torch.stack([p, p]), make_params())
    ks = torch.tensor([1, 2])

    def run(params, k):
        optimizer = optim.multi_steps(optim.adam(lr=0.1), lambda step: k)
        state = optimizer.init(params)
        for _ in range(3):
            updates, state = optimizer.update(params, state, params)
            params = optim.apply_updates(params, updates)
        return params, state.gradient_step

    result, steps = pf.vmap(run)(params, ks)
    assert steps.tolist() == [3, 1]
    for index in range(2):
        assert_close(tree.unstack(result)[index], run(make_params(), ks[index])[0])


def test_it_resumes_in_the_middle():
    optimizer = optim.multi_steps(optim.adam(lr=0.1), 3)
    batches = make_batches(7)
    expected, _ = train(optimizer, make_params(), batches, weighted=False)
    params, state = train(optimizer, make_params(), batches[:4], weighted=False)
    fresh = optim.multi_steps(optim.adam(lr=0.1), 3)
    for x in batches[4:]:
        updates, state = fresh.update(pf.grad(loss)(params, x), state, params)
        params = optim.apply_updates(params, updates)
    assert_close(params, expected)


def test_what_is_refused():
    params = make_params()
    for k, kind in ((0, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(kind, match="every_k"):
            optim.multi_steps(optim.sgd(), k)
    with pytest.raises(TypeError, match="multi_steps: inner: expected a GradientTransformation"):
        optim.multi_steps(3, 2)
    optimizer = optim.multi_steps(optim.sgd(), 2)
    state = optimizer.init(params)
    with pytest.raises(ValueError, match="weight: expected a number that is at least 0, got -1"):
        optimizer.update(params, state, params, weight=-1)
    with pytest.raises(TypeError, match=r"multi_steps\.update: expected the state"):
        optimizer.update(params, state.inner_state, params)
    with pytest.raises(ValueError, match=r"updates\['bias'\] is a tensor of shape \(7,\)"):
        optimizer.update(params | {"bias": torch.ones(7, dtype=torch.float64)}, state, params)
    with pytest.raises(KeyError, match="'mini_step' names 0 entries"):
        optim.has_updated(optim.sgd().init(params))
    wide = optim.multi_steps(optim.in_dtype(optim.sgd(), torch.float64), 1)
    half = make_params(torch.bfloat16)
    with pytest.raises(ValueError, match=r"the inner transformation\['bias'\].*torch.float64"):
        wide.update(half, wide.init(half), half)
