"""inject_hyperparams: numbers from the state, changed between steps without a new trace."""

import pytest
import torch

import purefn.functional as pf
from purefn import optim
from purefn.functional import tree

RECIPES = {
    "sgd": (optim.sgd, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "dampening": 0.5}),
    "nesterov": (optim.sgd, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "adam": (optim.adam, {"lr": 0.1, "betas": (0.8, 0.99), "eps": 1e-6, "amsgrad": True}),
    "adamw": (optim.adamw, {"lr": 0.1, "weight_decay": 0.2, "maximize": True}),
}
every_recipe = pytest.mark.parametrize(("recipe", "options"), RECIPES.values(), ids=RECIPES)


@pytest.fixture
def params():
    generator = torch.Generator().manual_seed(0)
    return {
        "w": torch.randn(3, 2, generator=generator, dtype=torch.float64),
        "b": torch.randn(3, generator=generator, dtype=torch.float64),
    }


def make_gradients(params, steps=8):
    generator = torch.Generator().manual_seed(1)
    return [
        tree.map(lambda p: torch.randn(p.shape, generator=generator, dtype=p.dtype), params)
        for _ in range(steps)
    ]


def assert_close(left, right):
    for leaf, other in zip(tree.leaves(left), tree.leaves(right), strict=True):
        torch.testing.assert_close(leaf, other, rtol=1e-12, atol=1e-14)


@every_recipe
def test_numbers_in_the_state_are_the_numbers(params, recipe, options):
    plain, injected = recipe(**options), optim.inject_hyperparams(recipe)(**options)
    plain_state, state = plain.init(params), injected.init(params)
    numbers = {n: v for n, v in options.items() if not isinstance(v, bool)}
    assert set(state.hyperparams) == set(numbers)
    for grads in make_gradients(params):
        expected, plain_state = plain.update(grads, plain_state, params)
        updates, state = injected.update(grads, state, params)
        assert_close(updates, expected)
    for name, value in numbers.items():
        held = optim.get(state, name)
        assert all(h.dtype == torch.float64 and h.ndim == 0 for h in tree.leaves(held))
        assert tree.map(torch.Tensor.item, held) == value
    assert state.count.item() == 8


@every_recipe
def test_they_change_between_steps_without_a_new_trace(params, recipe, options):
    injected = optim.inject_hyperparams(recipe)(**options)
    step = pf.jit(injected.update, backend="eager")
    state = injected.init(params)
    moments = recipe(**options).init(params)
    changes = [{}, {"lr": 0.02}, {}, {"lr": torch.tensor(0.3, dtype=torch.float64)}]
    if "betas" in options:
        changes.append({"betas": (0.5, 0.7), "lr": 1.0})
    now = dict(options)
    for grads, change in zip(make_gradients(params, len(changes)), changes, strict=True):
        now |= change
        expected, moments = recipe(**now).update(grads, moments, params)
        state = optim.replace(state, **change)
        updates, state = step(grads, state, params)
        assert_close(updates, expected)
        assert optim.get(state, "lr") == now["lr"]
    assert step.trace_count == 1


def test_a_torch_scheduler_by_hand(params):
    """What a learning rate set from outside does to torch's optimizer."""
    leaves = {name: leaf.clone() for name, leaf in params.items()}
    reference = torch.optim.Adam(leaves.values(), lr=0.1)
    optimizer = optim.inject_hyperparams(optim.adam)(lr=0.1)
    state = optimizer.init(params)
    for step, grads in enumerate(make_gradients(params)):
        lr = 0.1 / (step + 1)
        reference.param_groups[0]["lr"] = lr
        for name, leaf in leaves.items():
            leaf.grad = grads[name]
        reference.step()
        updates, state = optimizer.update(grads, optim.replace(state, lr=lr), params)
        params = optim.apply_updates(params, updates)
    for name, leaf in params.items():
        torch.testing.assert_close(leaf, leaves[name], rtol=1e-12, atol=1e-14)


def test_schedules_are_evaluated_at_each_step(params):
    def schedule(step):
        return 0.5 / (step.double() + 1)

    plain = optim.sgd(lr=schedule, momentum=0.9)
    injected = optim.inject_hyperparams(optim.sgd)(lr=schedule, momentum=0.9)
    plain_state, state = plain.init(params), injected.init(params)
    assert optim.get(state, "lr") == 0.5
    step = pf.jit(injected.update, backend="eager")
    for index, grads in enumerate(make_gradients(params)):
        expected, plain_state = plain.update(grads, plain_state, params)
        updates, state = step(grads, state, params)
        assert_close(updates, expected)
        assert optim.get(state, "lr") == 0.5 / (index + 1)
    assert step.trace_count == 1
    with pytest.raises(ValueError, match="lr: a schedule sets it at every step"):
        optim.replace(state, lr=0.1)


def test_anything_numeric_may_be_scheduled(params):
    decay = optim.inject_hyperparams(optim.add_decayed_weights)(lambda step: 0.1 * step.double())
    state = decay.init(params)
    zero = tree.zeros_like(params)
    for step in range(3):
        updates, state = decay.update(zero, state, params)
        assert_close(updates, tree.map(lambda p, s=step: 0.1 * s * p, params))


def test_what_is_static_stays():
    seen = {}

    def factory(k: int, name, flag, mask, lr, measure):
        seen.update(locals())
        return optim.sgd(lr)

    factory = optim.inject_hyperparams(factory, static_args="measure")
    optimizer = factory(3, "name", True, {"a": True}, lr=0.1, measure=len)
    state = optimizer.init({"w": torch.ones(1)})
    assert list(optim.get_all(state)) == ["state.count", "state.hyperparams['lr']"]
    assert isinstance(seen.pop("lr"), torch.Tensor)
    seen.pop("seen", None)
    assert seen == {"k": 3, "name": "name", "flag": True, "mask": {"a": True}, "measure": len}


def test_defaults_are_not_in_the_state(params):
    state = optim.inject_hyperparams(optim.sgd)(0.1).init(params)
    assert tree.nbytes(state) == 2 * 8  # count and lr: no buffer for a momentum that nobody named
    with pytest.raises(KeyError, match=r"'momentum' names 0 entries .*hyperparams\['lr'\]"):
        optim.get(state, "momentum")


def test_replace_and_update_write_nothing(params):
    lr = torch.tensor(0.1)
    optimizer = optim.inject_hyperparams(optim.sgd)(lr=lr)
    first = optimizer.init(params)
    second = optim.replace(first, lr=0.5)
    _, third = optimizer.update(params, second, params)
    assert [optim.get(state, "lr").item() for state in (second, third)] == [0.5, 0.5]
    assert optim.get(first, "lr") == lr
    assert optim.get(first, "lr") is not lr
    assert optim.get(first, "lr").dtype == torch.float32


def test_within_a_chain_and_within_multi_steps(params):
    injected = optim.inject_hyperparams(optim.sgd)(lr=0.5)
    for optimizer in (
        optim.chain(optim.clip(10.0), injected),
        optim.multi_steps(injected, 1),
        optim.masked(injected, True),
        optim.named_chain(("rule", injected)),
        optim.apply_if_finite(injected, 1),
    ):
        state = optim.replace(optimizer.init(params), lr=0.25)
        updates, state = optimizer.update(params, state, params)
        assert_close(updates, tree.map(lambda p: -0.25 * p, params))
        assert optim.get(state, "lr") == 0.25


def test_a_batch_of_learning_rates(params):
    optimizer = optim.inject_hyperparams(optim.adam)(lr=0.1)
    lrs = torch.tensor([0.1, 0.2], dtype=torch.float64)

    def run(lr):
        state = optim.replace(optimizer.init(params), lr=lr)
        return optimizer.update(params, state, params)[0]

    batched = pf.vmap(run)(lrs)
    for index, lr in enumerate(lrs):
        plain = optim.adam(lr=lr.item())
        assert_close(
            tree.unstack(batched)[index], plain.update(params, plain.init(params), params)[0]
        )


def test_a_learning_rate_has_a_derivative(params):
    optimizer = optim.inject_hyperparams(optim.sgd)(lr=0.1)

    def moved(lr):
        state = optim.replace(optimizer.init(params), lr=lr)
        updates, _ = optimizer.update(params, state, params)
        return sum(leaf.sum() for leaf in tree.leaves(updates))

    slope = pf.grad(moved)(torch.tensor(0.1, dtype=torch.float64))
    torch.testing.assert_close(slope, -sum(leaf.sum() for leaf in tree.leaves(params)))


def test_what_is_refused(params):
    with pytest.raises(
        ValueError, match=r"static_args: 'nope' names no argument of sgd, which has lr"
    ):
        optim.inject_hyperparams(optim.sgd, static_args=["nope"])
    with pytest.raises(ValueError, match="lr: expected a number that is at least 0, got -1"):
        optim.inject_hyperparams(optim.sgd)(lr=-1)
    with pytest.raises(ValueError, match=r"betas\[1\]: expected a number in \[0, 1\)"):
        optim.inject_hyperparams(optim.adam)(lr=0.1, betas=(0.9, 1.0))
    with pytest.raises(TypeError, match="momentum"):
        optim.inject_hyperparams(optim.sgd)(lr=0.1, momentumm=0.9)
    with pytest.raises(TypeError, match=r"lr\(step\): expected a number"):
        optim.inject_hyperparams(optim.sgd)(lr=lambda step: "fast")
    optimizer = optim.inject_hyperparams(optim.sgd)(lr=0.1)
    with pytest.raises(TypeError, match="expected the state that its init returned"):
        optimizer.update(params, optim.sgd().init(params), params)
    other = optim.inject_hyperparams(optim.sgd)(lr=0.1, momentum=0.9).init(params)
    with pytest.raises(TypeError, match=r"a dict with the keys \['lr'\], got \['lr', 'momentum'\]"):
        optimizer.update(params, other, params)
