"""The algebra: chain, apply_updates, identity, and what they refuse."""

import pytest
import torch

import purefn.functional as pf
from purefn import optim
from purefn.functional import tree


@pytest.fixture
def params():
    return {
        "conv": {"weight": torch.full((2, 3), 2.0), "bias": torch.tensor(1.0)},
        "none": None,
        "empty": [torch.zeros(0, 4)],
    }


def test_chain_applies_parts_in_order(params):
    decay_then_scale = optim.chain(optim.add_decayed_weights(0.5), optim.scale(10.0))
    scale_then_decay = optim.chain(optim.scale(10.0), optim.add_decayed_weights(0.5))
    for optimizer, expected in ((decay_then_scale, 20.0), (scale_then_decay, 11.0)):
        grads = tree.ones_like(params)
        updates, state = optimizer.update(grads, optimizer.init(params), params)
        assert updates["conv"]["weight"].tolist() == [[expected] * 3] * 2
        assert state == (optim.EmptyState(), optim.EmptyState())


def test_chain_of_chains_and_of_nothing(params):
    nested = optim.chain(optim.chain(optim.trace(0.9), optim.chain()), optim.scale(-0.1))
    flat = optim.sgd(lr=0.1, momentum=0.9)
    nested_state, flat_state = nested.init(params), flat.init(params)
    for _ in range(3):
        grads = tree.map(torch.randn_like, params)
        ours, nested_state = nested.update(grads, nested_state, params)
        theirs, flat_state = flat.update(grads, flat_state, params)
        for leaf, expected in zip(tree.leaves(ours), tree.leaves(theirs), strict=True):
            assert torch.equal(leaf, expected)


def test_chain_passes_extra_arguments_on(params):
    def update(updates, state, params=None, *, value, **extra):
        return tree.map(lambda leaf: leaf * value, updates), state

    by_value = optim.GradientTransformation(lambda params: optim.EmptyState(), update)
    optimizer = optim.chain(optim.identity(), optim.adam(), by_value)
    state = optimizer.init(params)
    updates, _ = optimizer.update(tree.ones_like(params), state, params, value=0.0)
    assert not updates["conv"]["weight"].any()


def test_chain_refuses_what_is_no_transformation():
    with pytest.raises(TypeError, match=r"chain: argument 1 is 0\.1, expected a Gradient"):
        optim.chain(optim.identity(), 0.1)


def test_apply_updates_adds(params):
    result = optim.apply_updates(params, tree.ones_like(params))
    assert result["conv"]["weight"].tolist() == [[3.0] * 3] * 2
    assert result["conv"]["bias"].item() == 2.0
    assert result["none"] is None
    assert result["empty"][0].shape == (0, 4)


@pytest.mark.parametrize("shape", [(), (3,)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.complex64])
def test_apply_updates_keeps_dtypes_and_rounds_once(shape, dtype):
    params = torch.full(shape, 1.0, dtype=dtype)
    kind = torch.complex128 if dtype.is_complex else torch.float64
    updates = torch.full(shape, 2.0**-30, dtype=kind)
    result = optim.apply_updates(params, updates)
    assert result.dtype == dtype
    assert torch.equal(result, params)
    result = optim.apply_updates(params, torch.full(shape, 0.75, dtype=dtype))
    assert torch.equal(result, torch.full(shape, 1.75, dtype=dtype))


def test_apply_updates_names_the_path(params):
    updates = tree.ones_like(params)
    updates["conv"]["bias"] = torch.ones(1)
    with pytest.raises(
        ValueError, match=r"updates\['conv'\]\['bias'\] is a tensor of shape \(1,\)"
    ):
        optim.apply_updates(params, updates)
    del updates["conv"]["bias"]
    with pytest.raises(
        ValueError, match=r"updates\['conv'\] does not have the structure of params"
    ):
        optim.apply_updates(params, updates)
    updates["conv"]["bias"] = {"deeper": torch.tensor(1.0)}
    with pytest.raises(ValueError, match=r"updates\['conv'\]\['bias'\] is {'deeper': tensor"):
        optim.apply_updates(params, updates)


@pytest.mark.parametrize("kinds", [(torch.cfloat, torch.float), (torch.int64, torch.float)])
def test_apply_updates_refuses_another_kind_of_number(kinds):
    params, updates = (torch.ones(2, dtype=dtype) for dtype in kinds)
    with pytest.raises(ValueError, match=r"updates is a tensor of shape \(2,\), torch.float32"):
        optim.apply_updates(params, updates)


RECIPES = {
    "sgd": optim.sgd(),
    "momentum": optim.sgd(momentum=0.9),
    "adam": optim.adam(),
    "amsgrad": optim.adam(amsgrad=True),
    "adamw": optim.adamw(),
    "scheduled": optim.adam(lr=optim.schedules.constant(0.1)),
}
every_optimizer = pytest.mark.parametrize("optimizer", RECIPES.values(), ids=RECIPES)


@every_optimizer
@pytest.mark.parametrize(
    "bias",
    [
        torch.ones(1),
        torch.tensor(1.0, dtype=torch.float64),
        torch.tensor(1),
        torch.empty((), device="meta"),
        1.0,
        (torch.tensor(1.0),),
    ],
    ids=["shape", "dtype", "integer", "device", "number", "subtree"],
)
def test_gradients_unlike_their_parameters_are_refused(optimizer, bias, params):
    grads = tree.ones_like(params)
    grads["conv"]["bias"] = bias
    with pytest.raises(
        ValueError, match=r"updates\['conv'\]\['bias'\] is .*, but params\['conv'\]"
    ):
        optimizer.update(grads, optimizer.init(params), params)


@every_optimizer
def test_a_missing_gradient_is_refused(optimizer, params):
    grads = tree.ones_like(params)
    grads["conv"]["bias"] = None
    with pytest.raises(ValueError, match=r"updates\['conv'\]\['bias'\] is None"):
        optimizer.update(grads, optimizer.init(params), params)


PIECES = {
    "trace": optim.trace(0.9),
    "scale_by_adam": optim.scale_by_adam(),
    "scale_by_amsgrad": optim.scale_by_amsgrad(),
    "scale_by_schedule": optim.scale_by_schedule(optim.schedules.constant(0.1)),
    "identity": optim.identity(),
    "scale": optim.scale(1.0),
    "add_decayed_weights": optim.add_decayed_weights(0.1),
    "clip": optim.clip(1.0),
    "clip_by_global_norm": optim.clip_by_global_norm(1.0),
    "chain": optim.chain(optim.identity(), optim.identity()),
}


@pytest.mark.parametrize("name", PIECES)
def test_the_state_of_another_transformation_is_refused(name, params):
    for other in PIECES:
        state = PIECES[other].init(params)
        if type(state) is type(PIECES[name].init(params)):
            continue
        with pytest.raises(TypeError, match=f"{name}.update: expected the state that its init"):
            PIECES[name].update(tree.ones_like(params), state, params)


def test_the_state_of_a_longer_chain_is_refused(params):
    state = optim.sgd(momentum=0.9).init(params)
    with pytest.raises(TypeError, match=r"expected .* a tuple of 1 states, got 2"):
        optim.sgd().update(tree.ones_like(params), state, params)


@pytest.mark.parametrize("name", ["trace", "scale_by_adam", "scale_by_amsgrad"])
def test_state_of_other_parameters_is_refused(name, params):
    state = PIECES[name].init({"other": torch.ones(1)})
    with pytest.raises(ValueError, match="does not have the structure of state"):
        PIECES[name].update(tree.ones_like(params), state)


@pytest.mark.parametrize("name", PIECES)
@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (torch.tensor(3), r"params\['step'\] is a tensor of torch.int64; an optimizer moves"),
        (3.0, r"params\['step'\] is 3.0"),
    ],
)
def test_parameters_that_cannot_move_are_refused(name, leaf, message):
    with pytest.raises(TypeError, match=message):
        PIECES[name].init({"weight": torch.ones(1), "step": leaf})


@pytest.mark.parametrize("leaf", [torch.tensor([3, 4]), 3, 3.0], ids=["integers", "int", "float"])
@pytest.mark.parametrize("name", ["scale", "scale_by_schedule", "clip", "clip_by_global_norm"])
def test_updates_that_would_be_truncated_are_refused(name, leaf):
    state = PIECES[name].init({})
    with pytest.raises(TypeError, match=r"updates\['n'\] is .*; an optimizer moves floating-point"):
        PIECES[name].update({"w": torch.ones(1), "n": leaf}, state)


def test_updates_of_a_trace_may_be_donated():
    momentum = optim.trace(0.9)
    update = pf.jit(momentum.update, donate_argnums=1, backend="aot_eager")
    apply = pf.jit(optim.apply_updates, donate_argnums=1, backend="aot_eager")
    params = {"w": torch.zeros(2)}
    state = momentum.init(params)
    for total, moved in ((1.0, 1.0), (1.9, 2.9), (2.71, 5.61)):
        updates, state = update({"w": torch.ones(2)}, state)
        params = apply(params, updates)
        torch.testing.assert_close(state.trace["w"], torch.full((2,), total))
        torch.testing.assert_close(params["w"], torch.full((2,), moved))


@pytest.mark.parametrize(
    "optimizer",
    [optim.add_decayed_weights(0.1), optim.sgd(weight_decay=0.1), optim.adamw()],
)
def test_decay_needs_parameters(optimizer, params):
    with pytest.raises(ValueError, match=r"add_decayed_weights\.update needs the parameters"):
        optimizer.update(tree.ones_like(params), optimizer.init(params))
