"""Every recipe against torch.optim, step by step: parameters and states."""

import importlib
import inspect
from typing import NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from purefn import optim
from purefn.functional import tree

STEPS = 60


class Pair(NamedTuple):
    first: object
    second: object


class Recipe(NamedTuple):
    ours: object
    torch: object
    draw: st.SearchStrategy


# ------------------------------------------------------------------------------------ what is drawn

LEAF_SHAPES = st.sampled_from([(), (1,), (3,), (2, 3), (0,), (0, 4), (2, 1, 2)])
SHAPE_TREES = st.recursive(
    LEAF_SHAPES.map(lambda shape: torch.empty(shape)) | st.none(),
    lambda children: (
        st.lists(children, min_size=1, max_size=3)
        | st.dictionaries(st.sampled_from(["weight", "bias", "0", "z"]), children, min_size=1)
        | st.builds(Pair, children, children)
        | st.tuples(children, children)
    ),
    max_leaves=6,
).filter(lambda shapes: sum(leaf.numel() for leaf in tree.leaves(shapes)) > 0)

LEARNING_RATES = st.floats(1e-3, 1.0)
WEIGHT_DECAYS = st.just(0) | st.floats(1e-3, 0.5)
# With sqrt(b2) < b1 Adam's steps have no bound, and weight decay in the gradient feeds them back:
# rounding errors then grow exponentially, whoever computes.
BETAS = st.sampled_from([(0.9, 0.999), (0.0, 0.0), (0.0, 0.9), (0.9, 0.99)]) | st.tuples(
    st.floats(0.0, 0.95), st.floats(0.95, 0.999)
)


@st.composite
def sgd_hyperparameters(draw):
    momentum = draw(st.just(0) | st.floats(0.1, 0.99))
    nesterov = bool(momentum) and draw(st.booleans())
    return {
        "lr": draw(LEARNING_RATES),
        "momentum": momentum,
        "dampening": 0 if nesterov else draw(st.just(0) | st.floats(0.1, 0.99)),
        "weight_decay": draw(WEIGHT_DECAYS),
        "nesterov": nesterov,
        "maximize": draw(st.booleans()),
    }


ADAM_HYPERPARAMETERS = st.fixed_dictionaries(
    {
        "lr": LEARNING_RATES,
        "betas": BETAS,
        "eps": st.sampled_from([1e-8, 1e-3, 0.0]),
        "weight_decay": WEIGHT_DECAYS,
        "amsgrad": st.booleans(),
        "maximize": st.booleans(),
    }
)

RECIPES = {
    "sgd": Recipe(optim.sgd, torch.optim.SGD, sgd_hyperparameters()),
    "adam": Recipe(optim.adam, torch.optim.Adam, ADAM_HYPERPARAMETERS),
    "adam decoupled": Recipe(
        optim.adam,
        torch.optim.Adam,
        ADAM_HYPERPARAMETERS.map(lambda drawn: {**drawn, "decoupled_weight_decay": True}),
    ),
    "adamw": Recipe(optim.adamw, torch.optim.AdamW, ADAM_HYPERPARAMETERS),
}
every_recipe = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


def problem(shapes, seed, dtype):
    """Draw parameters, and gradients of scales 1e-8 to 1e2 with sign flips and zeros."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*size):
        return torch.rand(size, dtype=torch.float64, generator=generator)

    def gradient(leaf):
        scale = 10 ** (uniform() * 10 - 8)
        keep = (uniform(*leaf.shape) > 0.1) * (uniform() > 0.1)
        return ((uniform(*leaf.shape) * 2 - 1) * scale * keep).to(dtype)

    params = tree.map(lambda leaf: (uniform(*leaf.shape) - 0.5).to(dtype), shapes)
    return params, [tree.map(gradient, shapes) for _ in range(STEPS)]


# ---------------------------------------------------------------------------------------- both runs
# A run is a list with an entry for the start and one after each step: `{name: leaves}` for the
# parameters and the parts of the state, under torch's names.

TORCH_NAMES = {
    "trace": "momentum_buffer",
    "mu": "exp_avg",
    "nu": "exp_avg_sq",
    "nu_max": "max_exp_avg_sq",
}


def moments(state):
    """Return the fields of the one part of a recipe's state that has moments, if any has."""
    parts = [part for part in state if not isinstance(part, optim.EmptyState)]
    return {name: value for part in parts for name, value in part._asdict().items()}


def our_snapshot(params, state):
    named = {TORCH_NAMES[name]: value for name, value in moments(state).items() if name != "count"}
    return {name: tree.leaves(value) for name, value in {"params": params, **named}.items()}


def our_run(optimizer, params, gradients):
    state = optimizer.init(params)
    run = [our_snapshot(params, state)]
    for grads in gradients:
        updates, state = optimizer.update(grads, state, params)
        params = optim.apply_updates(params, updates)
        run.append(our_snapshot(params, state))
    return run


def torch_run(make, params, gradients, **hyperparameters):
    leaves = [leaf.clone() for leaf in tree.leaves(params)]
    optimizer = make(leaves, foreach=False, **hyperparameters)
    run = [{"params": tree.leaves(params)}]
    for grads in gradients:
        for leaf, grad in zip(leaves, tree.leaves(grads), strict=True):
            leaf.grad = grad.clone()
        optimizer.step()
        states = [optimizer.state[leaf] for leaf in leaves]
        names = [name for name in TORCH_NAMES.values() if states[0].get(name) is not None]
        snapshot = {name: [state[name].clone() for state in states] for name in names}
        run.append({"params": [leaf.clone() for leaf in leaves], **snapshot})
    return run


def magnitudes(run):
    """Return the run with every element replaced by the largest magnitude it has had so far."""
    result, largest = [], {}
    for snapshot in run:
        for name, leaves in snapshot.items():
            now = [leaf.double().nan_to_num().abs() for leaf in leaves]
            before = largest.get(name, now)
            largest[name] = [torch.maximum(*pair) for pair in zip(before, now, strict=True)]
        result.append(dict(largest))
    return result


def assert_agree(ours, theirs, scales, tolerance):
    """Require `|ours - theirs| <= tolerance * scale` of every element of two snapshots."""
    assert ours.keys() == theirs.keys()
    for name in theirs:
        rows = zip(ours[name], theirs[name], scales[name], strict=True)
        for index, (our_leaf, their_leaf, scale) in enumerate(rows):
            what = f"{name}, leaf {index}"
            assert (our_leaf.dtype, our_leaf.shape) == (their_leaf.dtype, their_leaf.shape), what
            assert torch.equal(our_leaf.isnan(), their_leaf.isnan()), what
            error = (our_leaf.double() - their_leaf.double()).nan_to_num().abs()
            assert torch.all(error <= tolerance * scale), f"{what}: off by {error / scale}"


def assert_runs_agree(ours, theirs, tolerance):
    for snapshots in zip(ours[1:], theirs[1:], magnitudes(theirs)[1:], strict=True):
        assert_agree(*snapshots, tolerance)


def assert_moved(run, tolerance):
    """Require that every leaf moved more than a thousand times the tolerance."""
    for index, scale in enumerate(magnitudes(run)[-1]["params"]):
        path = torch.stack([snapshot["params"][index] for snapshot in run])
        moved = (path - path[0]).abs().amax(0)
        assert not moved.numel() or not torch.all(moved <= 1000 * tolerance * scale)


# ---------------------------------------------------------------------------------------- the tests


def draws(examples):
    suppressed = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    return settings(max_examples=examples, suppress_health_check=suppressed)


@every_recipe
@draws(40)
@given(data=st.data(), shapes=SHAPE_TREES, seed=st.integers(0, 2**32))
def test_float64_follows_torch(recipe, data, shapes, seed):
    hyperparameters = data.draw(recipe.draw)
    params, gradients = problem(shapes, seed, torch.float64)
    theirs = torch_run(recipe.torch, params, gradients, **hyperparameters)
    assert_moved(theirs, 1e-12)
    assert_runs_agree(our_run(recipe.ours(**hyperparameters), params, gradients), theirs, 1e-12)


@every_recipe
@draws(25)
@given(data=st.data(), shapes=SHAPE_TREES, seed=st.integers(0, 2**32))
def test_float32_steps_are_within_ulps_of_torch(recipe, data, shapes, seed):
    """Each step begins where torch's began, so that nothing but the step is judged."""
    hyperparameters = data.draw(recipe.draw)
    params, gradients = problem(shapes, seed, torch.float32)
    theirs = torch_run(recipe.torch, params, gradients, **hyperparameters)
    scales = magnitudes(theirs)
    optimizer, spec = recipe.ours(**hyperparameters), tree.structure(params)
    state = optimizer.init(params)
    for step, grads in enumerate(gradients):
        start = tree.unflatten(spec, theirs[step]["params"])
        if step:
            state = resumed(state, theirs[step], step, spec)
        updates, new_state = optimizer.update(grads, state, start)
        ours = our_snapshot(optim.apply_updates(start, updates), new_state)
        scale = dict(scales[step + 1])
        pairs = zip(scale["params"], tree.leaves(updates), strict=True)
        scale["params"] = [leaf + update.abs().nan_to_num() for leaf, update in pairs]
        assert_agree(ours, theirs[step + 1], scale, 3 * torch.finfo(torch.float32).eps)


def resumed(state, snapshot, step, spec):
    """Return `state` with what torch's optimizer holds after `step` steps."""

    def field(name, value):
        if name == "count":
            return torch.full_like(value, step)
        return tree.unflatten(spec, snapshot[TORCH_NAMES[name]])

    return tuple(
        type(part)(**{name: field(name, value) for name, value in part._asdict().items()})
        for part in state
    )


@every_recipe
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@draws(10)
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_low_precision_runs_are_as_near_the_truth_as_torch(recipe, dtype, data, seed):
    """Compare whole runs with the float64 run on the same numbers.

    Not with torch's own: its AdamW multiplies by `1 - lr * weight_decay` rounded to the
    parameters' dtype, the same error in every step, which adds up. Not with small betas either:
    Adam is then nearly a sign, whose errors are all or nothing.
    """
    hyperparameters = data.draw(recipe.draw)
    if "betas" in hyperparameters:
        hyperparameters["betas"] = (0.9, 0.999)
    params, gradients = problem({"w": torch.empty(64), "s": torch.empty(())}, seed, dtype)
    wide = tree.cast(params, torch.float64), tree.cast(gradients, torch.float64)
    truth = torch_run(recipe.torch, *wide, **hyperparameters)
    ours = our_run(recipe.ours(**hyperparameters), params, gradients)
    theirs = torch_run(recipe.torch, params, gradients, **hyperparameters)
    for name in ours[-1]:
        assert worst_error(ours, truth, name) <= 1.5 * worst_error(theirs, truth, name) + 2 * (
            torch.finfo(dtype).eps
        )


def worst_error(run, truth, name):
    """Return the largest error of the run, relative to the largest value in the leaf."""
    scales = magnitudes(truth)[-1][name]
    return max(
        ((leaf.double() - true).abs().max() / scale.max()).nan_to_num().item()
        for snapshot, exact in zip(run[1:], truth[1:], strict=True)
        for leaf, true, scale in zip(snapshot[name], exact[name], scales, strict=True)
    )


# ------------------------------------------------------------------------ torch's configurations
# Those of `optim_inputs_func_sgd` and `optim_inputs_func_adam` in torch 2.13's
# torch/testing/_internal/common_optimizers.py, implementation switches left out, and tensors of
# one element made 0-d and, where torch computes `lr / (1 - beta**step)` in their dtype, float64.

SGD_CONFIGURATIONS = [
    {},
    {"lr": 1e-2},
    {"lr": torch.tensor(0.001)},
    {"weight_decay": 0.5},
    {"momentum": 0.9},
    {"weight_decay": 0.1, "maximize": True},
    {"momentum": 0.9, "dampening": 0.5},
    {"momentum": 0.9, "weight_decay": 0.1},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
]
LR, BETA1, BETA2 = (torch.tensor(value, dtype=torch.float64) for value in (0.001, 0.9, 0.99))
ADAM_CONFIGURATIONS = [
    {},
    {"lr": 0.01},
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "maximize": True},
    {"weight_decay": 0.1, "amsgrad": True},
    {"lr": LR, "amsgrad": True},
    {"lr": LR, "betas": (BETA1, BETA2), "amsgrad": True},
    {"lr": LR, "betas": (BETA1, BETA2), "amsgrad": False},
]
TORCH_CONFIGURATIONS = [
    *[("sgd", configuration) for configuration in SGD_CONFIGURATIONS],
    *[("adam", configuration) for configuration in ADAM_CONFIGURATIONS],
    *[("adamw", configuration) for configuration in ADAM_CONFIGURATIONS],
]


@pytest.mark.parametrize(("name", "hyperparameters"), TORCH_CONFIGURATIONS, ids=str)
def test_torchs_own_configurations(name, hyperparameters):
    """Run the configurations with which torch tests its optimizers."""
    recipe = RECIPES[name]
    shapes = {"weight": torch.empty(5, 3), "bias": torch.empty(5), "scale": torch.empty(())}
    params, gradients = problem(shapes, 0, torch.float64)
    theirs = torch_run(recipe.torch, params, gradients, **hyperparameters)
    assert_moved(theirs, 1e-12)
    assert_runs_agree(our_run(recipe.ours(**hyperparameters), params, gradients), theirs, 1e-12)


# -------------------------------------------------------------- the comparison sees what is wrong

ADAM = importlib.import_module("purefn.optim.algorithms.adam")
SGD = importlib.import_module("purefn.optim.algorithms.sgd")


def wrong_direction(denominator):
    """Return Adam's `_direction` with another denominator, a function of (v, correction, eps)."""

    def at_step(count, b1, b2, eps):
        correction1, correction2 = 1 - b1 ** count.double(), 1 - b2 ** count.double()
        return lambda m, v: (m / correction1) / denominator(v, correction2, eps)

    return at_step


def lossy_bias_correction(decay, count):
    return (1 - torch.tensor(decay) ** count).double()


def maximum_of_corrected(b1, b2, eps):
    """Return AMSGrad as optax has it."""
    correct = optim.scale_by_amsgrad(b1, b2, eps)

    def update(updates, state, params=None):
        before, now = (1 - b2 ** (state.count + offset).double() for offset in (0, 1))
        rescaled = tree.map(lambda leaf: leaf * now / before.clamp(min=1e-300), state.nu_max)
        return correct.update(updates, state._replace(nu_max=rescaled), params)

    return optim.GradientTransformation(correct.init, update)


#: For each bug: the recipe it belongs to, hyperparameters that reach it, where it is planted, and
#: what is planted there. All of them have been seen in optimizers that people use.
BUGS = {
    "eps scaled by the root of the correction": (
        "adam",
        {"eps": 1e-3},
        (ADAM, "_direction"),
        wrong_direction(lambda v, correction, eps: (v.sqrt() + eps) / correction.sqrt()),
    ),
    "eps inside the root": (
        "adam",
        {"eps": 1e-8},
        (ADAM, "_direction"),
        wrong_direction(lambda v, correction, eps: (v / correction + eps).sqrt()),
    ),
    "second moment not corrected": (
        "adam",
        {},
        (ADAM, "_direction"),
        wrong_direction(lambda v, correction, eps: v.sqrt() + eps),
    ),
    "bias correction in float32": ("adam", {}, (ADAM, "bias_correction"), lossy_bias_correction),
    "betas swapped": (
        "adam",
        {},
        (ADAM, "scale_by_adam"),
        lambda b1, b2, eps: optim.scale_by_adam(b2, b1, eps),
    ),
    "largest second moment taken after correction": (
        "adam",
        {"amsgrad": True},
        (ADAM, "scale_by_amsgrad"),
        maximum_of_corrected,
    ),
    "decoupled decay not scaled by lr": (
        "adamw",
        {"weight_decay": 0.1},
        (ADAM, "add_decayed_weights"),
        lambda weight_decay: optim.add_decayed_weights(weight_decay / 1e-3),
    ),
    "decay forgotten": (
        "sgd",
        {"weight_decay": 0.1},
        (SGD, "add_decayed_weights"),
        lambda weight_decay: optim.identity(),
    ),
    "maximize ignored": ("sgd", {"maximize": True}, (SGD, "scale"), lambda sign: optim.scale(1)),
    "first gradient dampened": (
        "sgd",
        {"momentum": 0.9, "dampening": 0.5},
        (SGD, "_weight_of_gradient"),
        lambda count, dampening: 1 - dampening,
    ),
    "nesterov without look-ahead": (
        "sgd",
        {"momentum": 0.9, "nesterov": True},
        (SGD, "trace"),
        lambda momentum, nesterov, dampening: optim.trace(momentum),
    ),
    "lr in the momentum buffer": (
        "sgd",
        {"momentum": 0.9},
        (SGD, "chain"),
        lambda momentum, step: optim.chain(step, momentum),
    ),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug, monkeypatch):
    name, hyperparameters, place, wrong = BUGS[bug]
    recipe = RECIPES[name]
    params, gradients = problem({"w": torch.empty(4)}, 0, torch.float64)
    theirs = torch_run(recipe.torch, params, gradients, **hyperparameters)
    assert_runs_agree(our_run(recipe.ours(**hyperparameters), params, gradients), theirs, 1e-12)
    monkeypatch.setattr(*place, wrong)
    with pytest.raises(AssertionError, match="leaf 0: off by"):
        assert_runs_agree(our_run(recipe.ours(**hyperparameters), params, gradients), theirs, 1e-12)


# ----------------------------------------------------------------------------------- the signatures

#: How torch runs an update, which here is for `jit` to decide, not what it computes.
IMPLEMENTATION_SWITCHES = {"foreach", "fused", "capturable", "differentiable"}


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_signatures_are_torchs(name):
    ours = inspect.signature(RECIPES[name].ours).parameters
    theirs = dict(inspect.signature(RECIPES[name].torch).parameters)
    expected = {
        key: (parameter.default, parameter.kind)
        for key, parameter in theirs.items()
        if key not in IMPLEMENTATION_SWITCHES | {"params"}
    }
    assert list(ours) == list(expected)
    assert {key: (value.default, value.kind) for key, value in ours.items()} == expected
