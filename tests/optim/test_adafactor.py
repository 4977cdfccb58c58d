"""Adafactor against torch.optim and against what its equations say."""

import copy
import inspect
import math
import re

import pytest
import torch

import purefn.functional as pf
from purefn import optim
from purefn.functional import tree

STEPS = 60
SHAPES = {
    "matrix": (5, 3),
    "twin": (5, 3),
    "column": (4, 1),
    "stack": (2, 3, 4),
    "b": (5,),
    "s": (),
}


def problem(dtype, shapes=SHAPES, steps=STEPS):
    """Return parameters, and gradients of scales 1e-8 to 1e2 with zeros."""
    generator = torch.Generator().manual_seed(0)

    def normal(shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    def gradient(shape):
        scale = 10 ** (torch.rand((), dtype=torch.float64, generator=generator) * 10 - 8)
        return (normal(shape) * scale * (normal(shape) > -1.5)).to(dtype)

    params = {name: normal(shape).to(dtype) for name, shape in shapes.items()}
    grads = [{name: gradient(shape) for name, shape in shapes.items()} for _ in range(steps)]
    return params, grads


def our_run(optimizer, params, gradients):
    state = optimizer.init(params)
    for grads in gradients:
        updates, state = optimizer.update(grads, state, params)
        params = optim.apply_updates(params, updates)
        yield params, state


def torch_run(params, gradients, **options):
    theirs = {name: leaf.clone() for name, leaf in params.items()}
    optimizer = torch.optim.Adafactor(theirs.values(), **options)
    for grads in gradients:
        for name, leaf in theirs.items():
            leaf.grad = grads[name].clone()
        optimizer.step()
        yield theirs, {name: optimizer.state[leaf] for name, leaf in theirs.items()}


# torch/testing/_internal/common_optimizers.py, and more
CONFIGURATIONS = [
    {},
    {"weight_decay": 0.1, "lr": 0.01},
    {"weight_decay": 0.1, "maximize": True},
    {"beta2_decay": -1.0},
    {"d": 1.5},
    {"lr": 0.9, "d": 3.0, "eps": (1e-3, 0.1), "beta2_decay": -0.3, "weight_decay": 0.05},
    {"lr": torch.tensor(0.03, dtype=torch.float64), "weight_decay": 0.5},
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("options", CONFIGURATIONS, ids=str)
def test_parameters_and_averages_are_torchs_at_every_step(options, foreach, dtype):
    start, gradients = problem(dtype)
    ours = our_run(optim.adafactor(**options), start, gradients)
    theirs = torch_run(start, gradients, foreach=foreach, **options)
    tolerance = 1e-12 if dtype is torch.float64 else 1e-4
    moved = dict.fromkeys(start, 0.0)
    pairs = enumerate(zip(ours, theirs, strict=True), start=1)
    for step, ((params, state), (expected, averages)) in pairs:
        for name, leaf in expected.items():
            moved[name] = max(moved[name], (leaf - start[name]).abs().max().item())
            assert (params[name] - leaf).abs().max() <= tolerance * moved[name], (step, name)
            for field in {"row_var", "col_var", "variance"} & set(averages[name]):
                average, found = averages[name][field], optim.get(state, field)[name]
                assert ((found - average).abs() <= tolerance * average).all(), (step, name, field)
    assert min(moved.values()) > 0
    assert optim.get(state, "row_var")["b"].numel() == 0


def test_the_signature_is_torchs():
    theirs = inspect.signature(torch.optim.Adafactor).parameters
    expected = {
        name: (parameter.default, parameter.kind)
        for name, parameter in theirs.items()
        if name not in {"params", "foreach"}
    }
    ours = inspect.signature(optim.adafactor).parameters
    assert {name: (value.default, value.kind) for name, value in ours.items()} == expected
    assert list(ours) == list(expected)


# ------------------------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_a_gradient_of_rank_one_gives_its_signs_times_the_size_of_the_leaf(scale):
    rows = torch.tensor([[-1.0], [2.0], [30.0]], dtype=torch.float64)
    gradient = {"w": scale * rows @ torch.tensor([[0.5, -4.0]], dtype=torch.float64)}
    params = {"w": torch.full((3, 2), 7.0, dtype=torch.float64)}
    for t, (moved, _) in enumerate(our_run(optim.adafactor(), params, [gradient] * 5), start=1):
        size = params["w"].square().mean().sqrt()
        expected = params["w"] - min(1e-2, t**-0.5) * size * gradient["w"].sign()
        torch.testing.assert_close(moved["w"], expected, rtol=1e-13, atol=0)
        params = moved


def test_the_relative_step_falls_like_the_root_of_the_step():
    params = torch.full((3,), 1e-5, dtype=torch.float64)
    optimizer = optim.adafactor(lr=1.0)
    run = our_run(optimizer, params, [torch.ones_like(params)] * 9)
    before = params
    for t, (moved, _) in enumerate(run, start=1):
        size = max(1e-3, before.square().mean().sqrt().item())
        torch.testing.assert_close(before - moved, torch.full_like(params, size / math.sqrt(t)))
        before = moved


def test_the_direction_is_bounded():
    step = optim.scale_by_relative_step(lr=0.5, d=2.0)
    params = torch.ones(4, dtype=torch.float64)
    for size, expected in ((1.0, 0.5), (2.0, 1.0), (50.0, 1.0)):
        update, _ = step.update(size * params, step.init(params), params)
        torch.testing.assert_close(update, -expected * params)


def test_zero_gradients_leave_parameters_to_decay_alone():
    params, _ = problem(torch.float64)
    zeros = [tree.zeros_like(params)] * 4
    for lr in (0.0, 1e-20, 0.1):
        *_, (moved, state) = our_run(optim.adafactor(lr=lr), params, zeros)
        assert tree.all(tree.map(torch.equal, moved, params))
        assert not any(leaf.isnan().any() for leaf in tree.leaves(state))
    *_, (moved, _) = our_run(optim.adafactor(lr=0.1, weight_decay=0.3), params, zeros)
    for leaf, start in zip(tree.leaves(moved), tree.leaves(params), strict=True):
        torch.testing.assert_close(leaf, start * 0.97**4, rtol=1e-14, atol=0)


def test_without_eps_a_leaf_of_zeros_becomes_nan_as_in_torch():
    params, zeros = {"w": torch.ones(2, 2)}, [{"w": torch.zeros(2, 2)}]
    ((moved, _),) = our_run(optim.adafactor(eps=(0, 1e-3)), params, zeros)
    ((theirs, _),) = torch_run(params, zeros, eps=(0, 1e-3))
    assert moved["w"].isnan().all()
    assert theirs["w"].isnan().all()


def test_an_infinite_gradient_spoils_its_leaf_alone():
    params, (grads, *_) = problem(torch.float32)
    grads = {**grads, "twin": torch.full((5, 3), math.inf)}
    ((moved, _),) = our_run(optim.adafactor(), params, [grads])
    spoiled = {name for name, leaf in moved.items() if not leaf.isfinite().all()}
    assert spoiled == {"twin"}


# ------------------------------------------------------------------ dtypes, schedules, transforms


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_float32_rounded(dtype):
    params, gradients = problem(dtype)
    gradients = [tree.map(lambda g: g.clamp(-10, 10), grads) for grads in gradients]

    def up(values):
        return tree.map(lambda leaf: leaf.float(), values)

    optimizer = optim.scale_by_factored_rms()
    state, wide = optimizer.init(params), optimizer.init(up(params))
    for grads in gradients[:5]:
        updates, state = optimizer.update(grads, state)
        expected, _ = optimizer.update(up(grads), wide)
        wide = type(state)(state.count, *map(up, state[1:]))
        for leaf, other in zip(tree.leaves(updates), tree.leaves(expected), strict=True):
            assert leaf.dtype == dtype
            torch.testing.assert_close(leaf, other.to(dtype))


def test_a_schedule_is_called_with_the_number_of_steps_before():
    params, gradients = problem(torch.float64, steps=3)
    rates = [0.03, 0.01, 0.02]
    scheduled = optim.adafactor(
        lr=lambda step: torch.tensor(rates, dtype=torch.float64)[step], weight_decay=0.1
    )
    *_, (moved, _) = our_run(scheduled, params, gradients)
    state = scheduled.init(params)
    for rate, grads in zip(rates, gradients, strict=True):
        updates, state = optim.adafactor(lr=rate, weight_decay=0.1).update(grads, state, params)
        params = optim.apply_updates(params, updates)
    torch.testing.assert_close(moved, params, rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_jit_vmap_and_eager_agree(dtype):
    params, gradients = problem(dtype, steps=4)
    optimizer = optim.adafactor(weight_decay=0.1)

    def step(params, state, grads, update=optimizer.update):
        updates, state = update(grads, state, params)
        return optim.apply_updates(params, updates), state

    compiled = pf.jit(step, backend="aot_eager")
    batched = pf.vmap(step)
    run = run_compiled = (params, optimizer.init(params))
    run_batched = tree.map(lambda leaf: torch.stack([leaf, leaf]), run)
    for grads in gradients:
        run, run_compiled = step(*run, grads), compiled(*run_compiled, grads)
        both = tree.map(lambda leaf: torch.stack([leaf, leaf]), grads)
        run_batched = batched(*run_batched, both)
    assert compiled.trace_count == 1
    tolerance = 8 * torch.finfo(dtype).eps
    for leaf, other, two in zip(*map(tree.leaves, (run, run_compiled, run_batched)), strict=True):
        assert leaf.dtype == other.dtype == two.dtype
        torch.testing.assert_close(other, leaf, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(two[1], leaf, rtol=tolerance, atol=tolerance)


def test_hyperparameters_may_be_batched():
    params, (grads, *_) = problem(torch.float64)

    def moved(lr, beta2_decay, d, weight_decay):
        optimizer = optim.adafactor(lr, beta2_decay, d=d, weight_decay=weight_decay)
        state = optimizer.init(params)
        for _ in range(2):
            updates, state = optimizer.update(grads, state, params)
        return updates

    rows = [(0.1, -0.8, 1.0, 0.0), (0.01, -0.5, 1.5, 0.2)]
    columns = [torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True)]
    together = pf.vmap(moved)(*columns)
    for place, row in enumerate(rows):
        alone = moved(*row)
        for leaf, other in zip(tree.leaves(together), tree.leaves(alone), strict=True):
            torch.testing.assert_close(leaf[place], other, rtol=1e-13, atol=0)


def test_no_input_is_written():
    params, gradients = problem(torch.float32, steps=3)
    optimizer = optim.adafactor(weight_decay=0.1, maximize=True)
    *_, (params, state) = our_run(optimizer, params, gradients)
    inputs = (gradients[0], state, params)
    before = copy.deepcopy(inputs)
    optimizer.update(*inputs)
    assert all(map(torch.equal, tree.leaves(inputs), tree.leaves(before)))


def test_empty_leaves_are_no_trouble():
    params = {"a": torch.ones(0, 4), "b": torch.ones(0), "c": None}
    *_, (moved, state) = our_run(optim.adafactor(weight_decay=0.1), params, [params] * 3)
    assert moved["a"].shape == (0, 4)
    assert not any(leaf.isnan().any() for leaf in tree.leaves(state))


# ----------------------------------------------------------------------------------------- refusals

REFUSALS = [
    (lambda: optim.adafactor(lr=-1.0), ValueError, "lr: expected a number that is at least 0"),
    (lambda: optim.adafactor(lr=torch.ones(2)), ValueError, "lr: expected a number or a 0-d"),
    (lambda: optim.adafactor(beta2_decay=0.8), ValueError, "beta2_decay: expected a number that"),
    (lambda: optim.adafactor(eps=(-1e-30, 1e-3)), ValueError, "eps[0]: expected"),
    (lambda: optim.adafactor(eps=(None, -1.0)), ValueError, "eps[1]: expected"),
    (lambda: optim.adafactor(eps=1e-3), ValueError, "eps: expected a pair"),
    (
        lambda: optim.adafactor(d=0.0),
        ValueError,
        "d: expected a number that is at least 1, got 0.0",
    ),
    (lambda: optim.adafactor(weight_decay=-1.0), ValueError, "weight_decay: expected"),
    (lambda: optim.adafactor(maximize=1), TypeError, "maximize: expected True or False"),
    (lambda: optim.scale_by_factored_rms(eps=-1.0), ValueError, "eps: expected"),
    (lambda: optim.scale_by_relative_step(min_scale=-1.0), ValueError, "min_scale: expected"),
    (
        lambda: optim.adafactor().init({"w": torch.arange(3)}),
        TypeError,
        "params['w'] is a tensor of torch.int64; an optimizer moves",
    ),
    (lambda: optim.adafactor().init({"w": 1.0}), TypeError, "params['w'] is 1.0; an optimizer"),
    (
        lambda: optim.scale_by_relative_step().init({"w": torch.arange(2)}),
        TypeError,
        "params['w'] is a tensor of torch.int64",
    ),
    (
        lambda: optim.adafactor().init({"w": torch.ones(2, dtype=torch.complex64)}),
        TypeError,
        "params['w'] is a tensor of torch.complex64",
    ),
]


@pytest.mark.parametrize(("make", "error", "message"), REFUSALS, ids=[row[2] for row in REFUSALS])
def test_refusals(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()


def test_what_update_refuses():
    optimizer, params = optim.adafactor(), {"w": torch.ones(2, 2)}
    state = optimizer.init(params)
    with pytest.raises(ValueError, match="needs the parameters"):
        optimizer.update(params, state)
    with pytest.raises(ValueError, match=r"\['w'\] is a tensor of shape \(2,\)"):
        optimizer.update({"w": torch.ones(2)}, state, params)
    with pytest.raises(TypeError, match="expected the state that its init returned"):
        optimizer.update(params, optim.adam().init(params), params)
    with pytest.raises(ValueError, match=r"state.row_var"):
        optimizer.update({"v": params["w"]}, state, {"v": params["w"]})


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (torch.ones(4, 5), r"state\.row_var\['w'\] is a tensor of shape \(4, 1\).*\(2, 1\)"),
        (torch.ones(2, 5), r"state\.col_var\['w'\] is a tensor of shape \(1, 5\).*\(1, 3\)"),
        (torch.ones(3), r"state\.row_var\['w'\] is a tensor of shape \(0,\).*\(2, 1\)"),
        (torch.ones(2, 3).double(), r"state\.row_var\['w'\] .*float64.*updates\['w'\].*float32"),
    ],
)
def test_a_state_of_other_parameters_is_refused(leaf, message):
    rescale, gradient = optim.scale_by_factored_rms(), {"w": torch.ones(2, 3)}
    with pytest.raises(ValueError, match=message):
        rescale.update(gradient, rescale.init({"w": leaf}))
    state = rescale.init(gradient)
    with pytest.raises(ValueError, match=r"state\.variance\['w'\] is 0\.0 \(float\)"):
        rescale.update(gradient, state._replace(variance={"w": 0.0}))
