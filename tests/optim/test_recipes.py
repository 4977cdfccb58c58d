"""What holds of the recipes of torch.optim by their equations; what they refuse."""

import copy
import pickle
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from purefn import optim
from purefn.functional import tree
from purefn.optim.moments import bias_correction

OPTIMIZERS = {
    "sgd": lambda **options: optim.sgd(**{"lr": 0.1, **options}),
    "momentum": lambda **options: optim.sgd(
        **{"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1, **options}
    ),
    "nesterov": lambda **options: optim.sgd(
        **{"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True, **options}
    ),
    "adam": lambda **options: optim.adam(**{"lr": 0.1, "weight_decay": 0.1, **options}),
    "amsgrad": lambda **options: optim.adam(**{"lr": 0.1, "amsgrad": True, **options}),
    "adamw": lambda **options: optim.adamw(**{"lr": 0.1, **options}),
    "scheduled": lambda **options: optim.adamw(
        **{"lr": optim.schedules.step(0.1, step_size=2), **options}
    ),
    "adadelta": lambda **options: optim.adadelta(**{"lr": 0.1, "weight_decay": 0.1, **options}),
    "adagrad": lambda **options: optim.adagrad(**{"lr": 0.1, "lr_decay": 0.1, **options}),
    "adamax": lambda **options: optim.adamax(**{"lr": 0.1, "weight_decay": 0.1, **options}),
    "asgd": lambda **options: optim.asgd(**{"lr": 0.1, "lambd": 0, "t0": 2, **options}),
    "nadam": lambda **options: optim.nadam(**{"lr": 0.1, "weight_decay": 0.1, **options}),
    "nadam decoupled": lambda **options: optim.nadam(
        **{"lr": 0.1, "weight_decay": 0.1, "decoupled_weight_decay": True, **options}
    ),
    "radam": lambda **options: optim.radam(**{"lr": 0.1, "weight_decay": 0.1, **options}),
    "rmsprop": lambda **options: optim.rmsprop(**{"lr": 0.1, "momentum": 0.5, **options}),
    "centered": lambda **options: optim.rmsprop(**{"lr": 0.1, "centered": True, **options}),
    "rprop": lambda **options: without_decay(
        optim.rprop, **{"lr": 0.1, "step_sizes": (0, 50), **options}
    ),
}


def without_decay(recipe, weight_decay=0, **options):
    assert weight_decay == 0
    return recipe(**options)


every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def make_params(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = {"w": (3, 2), "s": (), "empty": (0,)}
    return {
        name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()
    } | {"none": None}


def gradients(params, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        tree.map(lambda leaf: torch.randn(leaf.shape, generator=generator).to(leaf.dtype), params)
        for _ in range(steps)
    ]


def train(optimizer, params, state, grads):
    for grad in grads:
        updates, state = optimizer.update(grad, state, params)
        params = optim.apply_updates(params, updates)
    return params, state


def assert_same(left, right):
    assert tree.structure(left) == tree.structure(right)
    for a, b in zip(tree.leaves(left), tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


# ------------------------------------------------------------------------------------------- purity


@every_optimizer
def test_no_input_is_written(make):
    optimizer, params = make(), make_params()
    _, state = train(optimizer, params, optimizer.init(params), gradients(params, 3))
    (grads,) = gradients(params, 1, seed=1)
    before = copy.deepcopy((params, state, grads))
    versions = [leaf._version for leaf in tree.leaves((params, state, grads))]
    updates, _ = optimizer.update(grads, state, params)
    optim.apply_updates(params, updates)
    assert_same((params, state, grads), before)
    assert [leaf._version for leaf in tree.leaves((params, state, grads))] == versions


@every_optimizer
def test_two_runs_from_one_transformation_do_not_touch(make):
    optimizer, params = make(), make_params()
    first, second = gradients(params, 6, seed=1), gradients(params, 6, seed=2)
    alone = [train(make(), params, make().init(params), grads) for grads in (first, second)]
    runs = [(params, optimizer.init(params)), (params, optimizer.init(params))]
    for pair in zip(first, second, strict=True):
        runs = [train(optimizer, *run, [grad]) for run, grad in zip(runs, pair, strict=True)]
    assert_same(runs, alone)


@every_optimizer
def test_a_fresh_transformation_resumes_from_a_saved_state(make):
    params = make_params()
    grads = gradients(params, 10)
    whole = train(make(), params, make().init(params), grads)
    half = train(make(), params, make().init(params), grads[:5])
    restored = pickle.loads(pickle.dumps(half))
    assert_same(train(make(), *restored, grads[5:]), whole)


@every_optimizer
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    "lr", [0.1, torch.tensor(0.1, dtype=torch.float64)], ids=["float", "tensor"]
)
def test_dtypes_and_shapes_are_stable(make, dtype, lr):
    optimizer, params = make(lr=lr), make_params(dtype)
    state = optimizer.init(params)
    updates, new_state = optimizer.update(tree.ones_like(params), state, params)
    for before, after in ((state, new_state), (params, updates)):
        assert tree.structure(before) == tree.structure(after)
        for old, new in zip(tree.leaves(before), tree.leaves(after), strict=True):
            assert (old.shape, old.dtype, old.device) == (new.shape, new.dtype, new.device)


def test_a_tree_may_mix_dtypes():
    params = {
        "half": torch.ones(2, dtype=torch.bfloat16),
        "double": torch.ones((), dtype=torch.float64),
    }
    optimizer = optim.adam(lr=0.1)
    result, state = train(optimizer, params, optimizer.init(params), [tree.ones_like(params)])
    assert (result["half"].dtype, result["double"].dtype) == (torch.bfloat16, torch.float64)
    assert state[0].mu["half"].dtype == torch.bfloat16
    assert result["double"].item() == pytest.approx(0.9, abs=1e-8)


def test_an_empty_tree_is_no_trouble():
    for make in OPTIMIZERS.values():
        params, state = train(make(), {}, make().init({}), [{}, {}])
        assert params == {}
        counts = [leaf for leaf in tree.leaves(state) if leaf.dtype is torch.int64]
        assert all(count.item() == 2 for count in counts)


# ------------------------------------------------------------------------------------- closed forms


@given(
    gradient=st.floats(1e-6, 1e2) | st.floats(-1e2, -1e-6),
    eps=st.sampled_from([1e-8, 1e-3]),
    betas=st.tuples(st.floats(0, 0.999), st.floats(0, 0.9999)),
    amsgrad=st.booleans(),
)
def test_a_constant_gradient_moves_by_lr_at_every_step(gradient, eps, betas, amsgrad):
    params = torch.zeros((), dtype=torch.float64)
    grad = torch.tensor(gradient, dtype=torch.float64)
    optimizer = optim.adam(lr=0.5, betas=betas, eps=eps, amsgrad=amsgrad)
    state = optimizer.init(params)
    for _ in range(50):
        updates, state = optimizer.update(grad, state, params)
        assert updates.item() == pytest.approx(-0.5 * gradient / (abs(gradient) + eps), rel=1e-11)


@every_optimizer
def test_zero_gradients_leave_parameters_to_decay_alone(make):
    params = make_params(torch.float64)
    for lr in (0.0, 1e-20, 0.1):
        optimizer = make(lr=lr, weight_decay=0)
        result, state = train(
            optimizer, params, optimizer.init(params), [tree.zeros_like(params)] * 3
        )
        assert_same(result, params)
        assert not any(leaf.isnan().any() for leaf in tree.leaves(state))


@pytest.mark.parametrize("make", [OPTIMIZERS["sgd"], OPTIMIZERS["adamw"]])
def test_decay_alone_shrinks_by_the_learning_rate(make):
    params = make_params(torch.float64)
    optimizer = make(lr=0.1, weight_decay=0.3)
    result, _ = train(optimizer, params, optimizer.init(params), [tree.zeros_like(params)] * 7)
    for leaf, start in zip(tree.leaves(result), tree.leaves(params), strict=True):
        torch.testing.assert_close(leaf, start * (1 - 0.1 * 0.3) ** 7, rtol=1e-14, atol=0)


@every_optimizer
def test_no_step_without_a_learning_rate(make):
    params = make_params()
    optimizer = make(lr=0.0)
    result, _ = train(optimizer, params, optimizer.init(params), gradients(params, 5))
    assert_same(result, params)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_eps_survives_half_precision(dtype):
    params = {"w": torch.ones(2, dtype=dtype), "s": torch.ones((), dtype=dtype)}
    optimizer = optim.adam(lr=0.1)
    result, _ = train(optimizer, params, optimizer.init(params), [tree.zeros_like(params)] * 2)
    assert_same(result, params)


@pytest.mark.parametrize("beta", [0.9, 0.999, 0.9999999, 0.5, 0.0])
@pytest.mark.parametrize("step", [1, 2, 60, 10**7])
def test_bias_correction_keeps_its_digits(beta, step):
    from decimal import Decimal, localcontext

    with localcontext() as context:
        context.prec = 60
        expected = float(1 - Decimal(beta) ** step)
    for decay in (beta, torch.tensor(beta, dtype=torch.float64)):
        corrected = bias_correction(decay, torch.tensor(step))
        assert corrected.dtype == torch.float64
        assert corrected.item() == pytest.approx(expected, rel=1e-9 if beta > 0.9999 else 1e-13)


def test_counts_go_on_beyond_float32():
    optimizer, params = optim.adam(lr=1.0), torch.zeros((), dtype=torch.float32)
    moments, step = optimizer.init(params)
    moments = moments._replace(count=torch.tensor(2**24 + 5), mu=params + 1, nu=params + 1)
    updates, (moments, _) = optimizer.update(params + 1, (moments, step), params)
    assert moments.count.item() == 2**24 + 6
    assert updates.item() == -1.0


# ---------------------------------------------------------------------------------- learning rates


def test_the_state_counts_steps_only_for_a_schedule():
    params = make_params()
    for lr in (0.1, torch.tensor(0.1)):
        assert optim.sgd(lr=lr).init(params) == (optim.EmptyState(),)
    (state,) = optim.sgd(lr=optim.schedules.constant(0.1)).init(params)
    assert (state.count.dtype, state.count.shape, state.count.item()) == (torch.int64, (), 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_number_a_tensor_and_a_schedule_are_one_learning_rate(dtype):
    params = make_params(dtype)
    grads = gradients(params, 5)
    rates = [
        0.1,
        torch.tensor(0.1, dtype=torch.float64),
        optim.schedules.constant(0.1),
        lambda step: 0.1,
    ]
    results = [
        train(optim.adam(lr=lr), params, optim.adam(lr=lr).init(params), grads)[0] for lr in rates
    ]
    for result in results[1:]:
        for leaf, expected in zip(tree.leaves(result), tree.leaves(results[0]), strict=True):
            torch.testing.assert_close(leaf, expected, rtol=torch.finfo(dtype).eps, atol=0)


def test_a_schedule_acts_from_its_first_value_on():
    optimizer = optim.sgd(lr=lambda step: 10.0 ** -(step.double() + 1))
    params = torch.tensor(0.0, dtype=torch.float64)
    state, moves = optimizer.init(params), []
    for _ in range(3):
        updates, state = optimizer.update(torch.ones_like(params), state, params)
        moves.append(updates.item())
    assert moves == pytest.approx([-0.1, -0.01, -0.001], rel=1e-15)


def test_a_learning_rate_that_changes_leaves_the_buffer_alone():
    params = torch.zeros(3, dtype=torch.float64)
    states = []
    for rates in ([0.1, 0.1, 0.1], [0.1, 7.0, 0.01]):
        state = optim.sgd(momentum=0.9).init(params)
        for lr in rates:
            _, state = optim.sgd(lr=lr, momentum=0.9).update(params + 1, state, params)
        states.append(state)
    assert_same(*states)


@pytest.mark.parametrize("output", [torch.ones(1), "0.1", None, -0.1])
def test_a_schedule_must_return_a_number(output):
    optimizer = optim.sgd(lr=lambda step: output)
    params = torch.zeros(3)
    with pytest.raises((TypeError, ValueError), match=r"lr\(step\): expected a number"):
        optimizer.update(params, optimizer.init(params), params)


# ----------------------------------------------------------------------------------------- refusals

REFUSALS = [
    (lambda: optim.sgd(lr=-0.1), ValueError, "lr: expected a number that is at least 0, got -0.1"),
    (lambda: optim.sgd(lr=float("nan")), ValueError, "lr: expected a finite number, got nan"),
    (lambda: optim.sgd(lr="fast"), TypeError, "lr: expected a number or a 0-d tensor, got 'fast'"),
    (lambda: optim.sgd(lr=True), TypeError, "lr: expected a number or a 0-d tensor, got True"),
    (
        lambda: optim.sgd(lr=torch.ones(1)),
        ValueError,
        "lr: expected a number or a 0-d tensor, got a",
    ),
    (
        lambda: optim.sgd(lr=torch.tensor(1, dtype=torch.uint8)),
        TypeError,
        "lr: expected a real number, got a tensor of torch.uint8",
    ),
    (lambda: optim.sgd(lr=torch.tensor(True)), TypeError, "lr: expected a real number, got a"),
    (
        lambda: optim.sgd(momentum=-0.5),
        ValueError,
        "momentum: expected a number that is",
    ),
    (lambda: optim.sgd(dampening="x", momentum=0.9), TypeError, "dampening: expected a number"),
    (lambda: optim.sgd(weight_decay=-1), ValueError, "weight_decay: expected a number that is at"),
    (
        lambda: optim.sgd(nesterov=True),
        ValueError,
        "nesterov: needs momentum > 0 and",
    ),
    (
        lambda: optim.sgd(momentum=0.9, dampening=0.1, nesterov=True),
        ValueError,
        "got momentum=0.9 and dampening=0.1",
    ),
    (lambda: optim.sgd(momentum=0.9, nesterov=1), TypeError, "nesterov: expected True or False"),
    (lambda: optim.adam(lr=-1), ValueError, "lr: expected"),
    (
        lambda: optim.adam(betas=(1.0, 0.0)),
        ValueError,
        "betas[0]: expected a number in [0, 1)",
    ),
    (lambda: optim.adam(betas=(0.9, -0.1)), ValueError, "betas[1]: expected a number in [0, 1)"),
    (lambda: optim.adam(betas=0.9), ValueError, "betas: expected a pair of numbers, got 0.9"),
    (lambda: optim.adam(eps=-1e-8), ValueError, "eps: expected a number that is at least 0"),
    (lambda: optim.adam(weight_decay=-1), ValueError, "weight_decay: expected"),
    (lambda: optim.adam(amsgrad="yes"), TypeError, "amsgrad: expected True or False, got 'yes'"),
    (lambda: optim.adam(maximize=1), TypeError, "maximize: expected True or False"),
    (lambda: optim.adamw(weight_decay=-0.1), ValueError, "weight_decay: expected"),
    (lambda: optim.adamw(betas=(0.9, 2.0)), ValueError, "betas[1]: expected"),
    (
        lambda: optim.nadam(decoupled_weight_decay=1),
        TypeError,
        "decoupled_weight_decay: expected True or False, got 1",
    ),
    (lambda: optim.rmsprop(centered=None), TypeError, "centered: expected True or False"),
    (lambda: optim.rmsprop(alpha=1.5), ValueError, "alpha: expected a number in [0, 1], got 1.5"),
    (lambda: optim.adadelta(maximize=1), TypeError, "maximize: expected True or False"),
    (lambda: optim.rprop(lr=lambda step: 0.1), TypeError, "lr: got a schedule, but Rprop's steps"),
    (
        lambda: optim.scale_by_rprop(optim.schedules.constant(0.1)),
        TypeError,
        "learning_rate: got a schedule",
    ),
    (lambda: optim.rprop(etas=0.5), ValueError, "etas: expected a pair of numbers, got 0.5"),
    (lambda: optim.rprop(etas=("a", 2)), TypeError, "etas: expected a number or a 0-d tensor"),
    (lambda: optim.rprop(step_sizes=(1, 0.5)), ValueError, "step_sizes: expected the smaller one"),
    (lambda: optim.rprop(step_sizes=(-1, 1)), ValueError, "step_sizes: expected a number that is"),
    (lambda: optim.scale_by_rprop(eta_minus=2.0), ValueError, "eta_minus, eta_plus: expected"),
    (lambda: optim.asgd(lambd=-1.0), ValueError, "lambd: expected a number that is at least 0"),
    (lambda: optim.asgd(alpha="1"), TypeError, "alpha: expected a number or a 0-d tensor"),
    (lambda: optim.asgd(t0=-1.0), ValueError, "t0: expected a number that is at least 0"),
    (lambda: optim.average_params(t0=-1.0), ValueError, "t0: expected a number that is at least"),
    (lambda: optim.scale_by_adamax(b2=1.0), ValueError, "b2: expected a number in [0, 1)"),
    (lambda: optim.scale_by_nadam(momentum_decay=-1), ValueError, "momentum_decay: expected"),
    (lambda: optim.scale_by_radam(b1=-0.1), ValueError, "b1: expected a number in [0, 1)"),
    (lambda: optim.scale_by_rms(decay=2.0), ValueError, "decay: expected a number in [0, 1]"),
    (lambda: optim.scale_by_stddev(eps=-1.0), ValueError, "eps: expected a number that is"),
    (lambda: optim.scale_by_rss(-1.0), ValueError, "initial_accumulator_value: expected"),
    (lambda: optim.scale_by_adadelta(rho=1.1), ValueError, "rho: expected a number in [0, 1]"),
    (lambda: optim.scale_by_asgd(lr=-1.0), ValueError, "lr: expected a number that is at least 0"),
    (lambda: optim.scale_by_adam(b1=1.0), ValueError, "b1: expected a number in [0, 1)"),
    (lambda: optim.scale_by_amsgrad(b2=1.0), ValueError, "b2: expected a number in [0, 1)"),
    (lambda: optim.scale_by_adam(eps=-1.0), ValueError, "eps: expected"),
    (lambda: optim.trace(-1.0), ValueError, "decay: expected"),
    (lambda: optim.add_decayed_weights(-1.0), ValueError, "weight_decay: expected"),
    (lambda: optim.scale_by_learning_rate(-1.0), ValueError, "lr: expected"),
    (lambda: optim.scale("2"), TypeError, "factor: expected"),
    (lambda: optim.scale_by_schedule(0.1), TypeError, "expected a function of the step, got 0.1"),
    (
        lambda: optim.clip_by_global_norm(0.0),
        ValueError,
        "max_norm: expected a number greater",
    ),
    (lambda: optim.clip_by_global_norm(-1.0), ValueError, "max_norm: expected"),
    (lambda: optim.clip(0), ValueError, "max_delta: expected a number greater than 0, got 0"),
]


@pytest.mark.parametrize(("make", "error", "message"), REFUSALS, ids=[row[2] for row in REFUSALS])
def test_refusals(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()


#: What the classes of torch.optim refuse in `__init__`, by their names.
REFUSED_BY_TORCH = {
    "Adadelta": [{"lr": -1}, {"rho": 1.1}, {"rho": -0.1}, {"eps": -1}, {"weight_decay": -1}],
    "Adagrad": [
        {"lr": -1},
        {"lr_decay": -0.5},
        {"weight_decay": -1},
        {"initial_accumulator_value": -1},
        {"eps": -1},
    ],
    "Adam": [
        {"lr": -1},
        {"betas": (1.0, 0.0)},
        {"betas": (0.0, 1.0)},
        {"eps": -1},
        {"weight_decay": -1},
    ],
    "ASGD": [{"lr": -1}, {"weight_decay": -0.5}],
    "NAdam": [{"momentum_decay": -0.2}],
    "RMSprop": [
        {"lr": -1},
        {"eps": -1},
        {"momentum": -1.0},
        {"weight_decay": -1},
        {"alpha": -0.1},
    ],
    "Rprop": [{"lr": -1}, {"etas": (1.0, 0.5)}, {"etas": (0.5, 1.0)}, {"etas": (0.0, 1.2)}],
    "SGD": [{"lr": -1}, {"momentum": -0.5}, {"weight_decay": -1}, {"nesterov": True}],
}
for _name in ("Adamax", "AdamW", "NAdam", "RAdam"):
    REFUSED_BY_TORCH[_name] = REFUSED_BY_TORCH["Adam"] + REFUSED_BY_TORCH.get(_name, [])


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, {"lr": torch.ones(2)}) for name in REFUSED_BY_TORCH]
    + [(name, options) for name, several in REFUSED_BY_TORCH.items() for options in several],
    ids=str,
)
def test_what_torch_refuses_is_refused(name, options):
    with pytest.raises(ValueError, match=r"Invalid|1-element|requires"):
        getattr(torch.optim, name)([torch.zeros(1)], **options)
    (argument,) = options
    with pytest.raises(ValueError, match=rf"^{argument}(\[\d\])?: "):
        getattr(optim, name.lower())(**options)
