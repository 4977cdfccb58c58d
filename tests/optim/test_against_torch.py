"""Every elementwise recipe of torch.optim against torch's: parameters and states, step by step."""

import contextlib
import inspect
from typing import NamedTuple

import pytest
import torch

from purefn import optim
from purefn.functional import tree
from purefn.testing import check_optimizer

STEPS = 60


class Recipe(NamedTuple):
    """A recipe, torch's class, and the parts of our state by torch's names."""

    ours: object
    torch: object
    states: dict


MOMENTS = {"exp_avg": "mu", "exp_avg_sq": "nu"}
RECIPES = {
    "adadelta": Recipe(
        optim.adadelta, torch.optim.Adadelta, {"square_avg": "e_g", "acc_delta": "e_x"}
    ),
    "adagrad": Recipe(optim.adagrad, torch.optim.Adagrad, {"sum": "sum_of_squares"}),
    "adam": Recipe(optim.adam, torch.optim.Adam, {**MOMENTS, "max_exp_avg_sq": "nu_max"}),
    "adamax": Recipe(optim.adamax, torch.optim.Adamax, {"exp_avg": "mu", "exp_inf": "nu"}),
    "adamw": Recipe(optim.adamw, torch.optim.AdamW, {**MOMENTS, "max_exp_avg_sq": "nu_max"}),
    "asgd": Recipe(optim.asgd, torch.optim.ASGD, {"ax": "ax", "eta": "eta"}),
    "nadam": Recipe(optim.nadam, torch.optim.NAdam, {**MOMENTS, "mu_product": "mu_product"}),
    "radam": Recipe(optim.radam, torch.optim.RAdam, MOMENTS),
    "rmsprop": Recipe(
        optim.rmsprop,
        torch.optim.RMSprop,
        {"grad_avg": "mu", "square_avg": "nu", "momentum_buffer": "trace"},
    ),
    "rprop": Recipe(optim.rprop, torch.optim.Rprop, {"prev": "prev", "step_size": "step_size"}),
    "sgd": Recipe(optim.sgd, torch.optim.SGD, {"momentum_buffer": "trace"}),
}
every_recipe = pytest.mark.parametrize("name", RECIPES)

#: How torch runs an update, which here is for `jit` to decide, not what it computes.
IMPLEMENTATION_SWITCHES = {"foreach", "fused", "capturable", "differentiable"}
#: What torch does not have: by keyword only, and off.
OURS_ALONE = {"mu_dtype"}
#: Properties in which a recipe differs: to an infinite parameter ASGD adds infinite decay, where
#: torch multiplies.
WITHOUT = {"asgd": ["infinities"]}
#: How many cases, where not the default: among the sixteen of ASGD is one with a float32 average
#: of terms that cancel, which is off by a little more than the check allows for.
EXAMPLES = {"asgd": 4}
#: What torch keeps in its state and we compute from the number of steps.
WITHOUT_COUNTERPART = {"step", "mu"}


@every_recipe
def test_every_step_is_torchs(name):
    recipe = RECIPES[name]
    states = {ours: theirs for theirs, ours in recipe.states.items()}
    options = {"without": WITHOUT.get(name, ()), "examples": EXAMPLES.get(name)}
    check_optimizer(recipe.ours, recipe.torch, states=states, **options)


@every_recipe
def test_signatures_are_torchs(name):
    ours = dict(inspect.signature(RECIPES[name].ours).parameters)
    added = [ours.pop(key) for key in OURS_ALONE & set(ours)]
    assert all(value.kind is value.KEYWORD_ONLY and value.default is None for value in added)
    theirs = dict(inspect.signature(RECIPES[name].torch).parameters)
    expected = {
        key: (parameter.default, parameter.kind)
        for key, parameter in theirs.items()
        if key not in IMPLEMENTATION_SWITCHES | {"params"}
    }
    assert list(ours) == list(expected)
    assert {key: (value.default, value.kind) for key, value in ours.items()} == expected


# ------------------------------------------------------------------------ torch's configurations
# Those of `optim_inputs_func_*` in torch 2.13's torch/testing/_internal/common_optimizers.py.
# Implementation switches are left out, and what then is there twice. Tensors of one element are
# 0-d and float64: torch computes `lr / (1 - beta**step)` in their dtype.


def tensor(value):
    return torch.tensor(value, dtype=torch.float64)


ADAM_CONFIGURATIONS = [
    {},
    {"lr": 0.01},
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "maximize": True},
    {"weight_decay": 0.1, "amsgrad": True},
    {"lr": tensor(0.001), "amsgrad": True},
    {"lr": tensor(0.001), "betas": (tensor(0.9), tensor(0.99)), "amsgrad": False},
    {"lr": tensor(0.001), "betas": (tensor(0.9), tensor(0.99)), "amsgrad": True},
]
CONFIGURATIONS = {
    "adadelta": [
        {},
        {"lr": 0.01},
        {"weight_decay": 0.1},
        {"maximize": True},
        {"weight_decay": 0.1, "maximize": True},
        {"rho": 0.95, "weight_decay": 0.9},
        {"lr": tensor(0.001)},
    ],
    "adagrad": [
        {},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "maximize": True},
        {"lr": 0.1},
        {"initial_accumulator_value": 0.1, "weight_decay": 0.1},
        {"lr": 0.1, "lr_decay": 0.5, "weight_decay": 0.1},
        {"lr": tensor(0.001)},
    ],
    "adam": ADAM_CONFIGURATIONS,
    "adamax": [
        {},
        {"lr": 0.1},
        {"weight_decay": 0.1},
        {"maximize": True},
        {"weight_decay": 0.1, "maximize": True},
        {"weight_decay": 0.9, "maximize": True},
        {"weight_decay": 0.9, "maximize": False},
        {"lr": tensor(0.001), "weight_decay": 0.9, "maximize": False},
    ],
    "adamw": ADAM_CONFIGURATIONS,
    "asgd": [
        {},
        {"lambd": 0.1},
        {"lr": 0.02},
        {"t0": 100},
        {"t0": 10},  # torch's own never begins to average within 60 steps
        {"maximize": True},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "maximize": True},
        {"lr": tensor(0.001), "weight_decay": 0.1, "maximize": True},
    ],
    "nadam": [
        {},
        {"lr": 1e-3},
        {"momentum_decay": 6e-3},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "momentum_decay": 6e-3},
        {"weight_decay": 0.1, "momentum_decay": 6e-3, "decoupled_weight_decay": True},
        {"weight_decay": 0.1, "maximize": True},
        {"weight_decay": 0.9, "momentum_decay": 6e-3},
        {"weight_decay": 0.9, "momentum_decay": 6e-3, "decoupled_weight_decay": True},
        {"lr": tensor(0.001), "weight_decay": 0.9, "decoupled_weight_decay": True},
    ],
    "radam": [
        {},
        {"lr": 2e-3},
        {"eps": 1e-6},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "decoupled_weight_decay": True},
        {"weight_decay": 0.1, "maximize": True},
        {"lr": tensor(0.001), "weight_decay": 0.1, "decoupled_weight_decay": True},
    ],
    "rmsprop": [
        {},
        {"lr": 1e-3},
        {"weight_decay": 0.1},
        {"maximize": True},
        {"weight_decay": 0.1, "centered": True},
        {"maximize": True, "weight_decay": 0.1},
        {"weight_decay": 0.1, "centered": True, "momentum": 0.1},
        {"weight_decay": 0.1, "centered": True, "momentum": 0.1, "maximize": True},
        {"lr": tensor(0.001)},
    ],
    "rprop": [
        {},
        {"lr": 2e-4},
        {"etas": (0.5, 1.5)},
        {"step_sizes": (2e-6, 100)},
        {"maximize": True},
        {"lr": tensor(0.001)},
    ],
    "sgd": [
        {},
        {"lr": 1e-2},
        {"lr": tensor(0.001)},
        {"weight_decay": 0.5},
        {"momentum": 0.9},
        {"weight_decay": 0.1, "maximize": True},
        {"momentum": 0.9, "dampening": 0.5},
        {"momentum": 0.9, "weight_decay": 0.1},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    ],
}
EVERY = [(name, options) for name, several in CONFIGURATIONS.items() for options in several]
FIRST_AND_LAST = [
    (name, options)
    for name, (first, *_, last) in CONFIGURATIONS.items()
    for options in (first, last)
]


def problem(dtype, seed=0):
    """Return parameters, and gradients of scales 1e-8 to 1e2 with sign flips and zeros."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.complex128 if dtype.is_complex else torch.float64

    def uniform(shape=()):
        real = torch.rand((*shape, 2), dtype=torch.float64, generator=generator)
        return torch.view_as_complex(real) if numbers.is_complex else real[..., 0]

    def around_zero(leaf):
        return uniform(leaf.shape) * 2 - (1 + 1j if numbers.is_complex else 1)

    def gradient(leaf):
        scale = 10 ** (uniform().real * 10 - 8)
        keep = (uniform(leaf.shape).real > 0.1) * (uniform().real > 0.1)
        return (around_zero(leaf) * scale * keep).to(dtype)

    shapes = {"weight": torch.empty(5, 3), "bias": torch.empty(5), "scale": torch.empty(())}
    params = tree.map(lambda leaf: around_zero(leaf).to(dtype) / 2, shapes)
    return params, [tree.map(gradient, shapes) for _ in range(STEPS)]


# A run is a dict of lists: for the parameters and each part of the state the leaves, which have a
# row for the start (of the parameters alone) and for each step.


def our_run(recipe, hyperparameters, params, gradients, states):
    optimizer = recipe.ours(**hyperparameters)
    state = optimizer.init(params)
    rows = [{"params": tree.leaves(params)}]
    for grads in gradients:
        updates, state = optimizer.update(grads, state, params)
        params = optim.apply_updates(params, updates)
        parts = {name: tree.leaves(optim.get(state, name)) for name in states}
        rows.append({"params": tree.leaves(params)} | parts)
    return stacked(rows)


def torch_run(recipe, hyperparameters, params, gradients):
    leaves = [leaf.clone() for leaf in tree.leaves(params)]
    optimizer = recipe.torch(leaves, foreach=False, **hyperparameters)
    rows = [{"params": [leaf.clone() for leaf in leaves]}]
    for grads in gradients:
        for leaf, grad in zip(leaves, tree.leaves(grads), strict=True):
            leaf.grad = grad.clone()
        optimizer.step()
        held = [optimizer.state[leaf] for leaf in leaves]
        parts = {part for part, value in held[0].items() if value is not None}
        named = {recipe.states[part]: part for part in parts - WITHOUT_COUNTERPART}
        rows.append(
            {"params": [leaf.clone() for leaf in leaves]}
            | {ours: [state[part].clone() for state in held] for ours, part in named.items()}
        )
    return stacked(rows)


def stacked(rows):
    columns = {name: [row[name] for row in rows if name in row] for name in rows[-1]}
    return {
        name: [torch.stack(leaf) for leaf in zip(*leaves, strict=True)]
        for name, leaves in columns.items()
    }


@contextlib.contextmanager
def scalars_in(dtype):
    """Let torch.optim keep what it has one of (`mu_product`, `eta`) in `dtype`, the default one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def errors(run, truth):
    """Yield the largest error of each leaf of a run, relative to the largest value in it."""
    assert run.keys() == truth.keys()
    for name, leaves in truth.items():
        for index, exact in enumerate(leaves):
            leaf = run[name][index if len(run[name]) > 1 else 0]  # one number serves all leaves
            assert leaf.shape == exact.shape
            error = (leaf.to(exact.dtype) - exact).abs().max() / exact.abs().max()
            yield (name, index), error.item()


@pytest.mark.parametrize(("name", "hyperparameters"), EVERY, ids=str)
def test_torchs_own_configurations(name, hyperparameters):
    recipe = RECIPES[name]
    params, gradients = problem(torch.float64)
    with scalars_in(torch.float64):
        theirs = torch_run(recipe, hyperparameters, params, gradients)
    ours = our_run(recipe, hyperparameters, params, gradients, theirs.keys() - {"params"})
    for place, error in errors(ours, theirs):
        assert error <= 1e-12, place
    for leaf in theirs["params"]:
        assert (leaf - leaf[0]).abs().max() > 1e-9 * leaf.abs().max()


@pytest.mark.parametrize(
    ("name", "hyperparameters", "dtype"),
    [(*row, torch.float32) for row in EVERY] + [(*row, torch.bfloat16) for row in FIRST_AND_LAST],
    ids=str,
)
def test_low_precision_is_as_near_the_truth_as_torchs(name, hyperparameters, dtype):
    """Compare whole runs with torch's in float64 on the same numbers.

    Not with torch's in the same dtype: its AdamW multiplies by `1 - lr * weight_decay` rounded to
    the parameters' dtype, the same error in every step, which adds up.
    """
    recipe = RECIPES[name]
    params, gradients = problem(dtype)
    wide = tree.cast(params, torch.float64), tree.cast(gradients, torch.float64)
    with scalars_in(torch.float64):
        truth = torch_run(recipe, hyperparameters, *wide)
    ours = our_run(recipe, hyperparameters, params, gradients, truth.keys() - {"params"})
    theirs = dict(errors(torch_run(recipe, hyperparameters, params, gradients), truth))
    for place, error in errors(ours, truth):
        assert error <= 1.5 * theirs[place] + 2 * torch.finfo(dtype).eps, place


# ----------------------------------------------------------------------------------- complex leaves


@pytest.mark.parametrize(("name", "hyperparameters"), FIRST_AND_LAST, ids=str)
def test_complex_parameters_are_torchs(name, hyperparameters):
    recipe = RECIPES[name]
    params, gradients = problem(torch.complex128)
    with scalars_in(torch.float64):
        theirs = torch_run(recipe, hyperparameters, params, gradients)
    ours = our_run(recipe, hyperparameters, params, gradients, theirs.keys() - {"params"})
    for place, error in errors(ours, theirs):
        assert error <= 1e-12, place
