"""What holds of every recipe that torch lacks: what it keeps, numerics, refusals.

How each runs under transforms and in which dtypes is for the registry and for `check_optimizer`.
"""

import copy
import re

import pytest
import torch

from purefn import optim
from purefn.functional import tree


def doubled(key, params, **extra):
    """Stand for an estimate of the Hessian."""
    return tree.map(lambda leaf: 2 * leaf, params)


RECIPES = {
    "adabelief": lambda **options: optim.adabelief(**{"lr": 0.1, "weight_decay": 0.1, **options}),
    "adan": lambda **options: optim.adan(**{"lr": 0.1, "weight_decay": 0.1, **options}),
    "ademamix": lambda **options: optim.ademamix(
        **{"lr": 0.1, "weight_decay": 0.1, "alpha_warmup": 3, "beta3_warmup": 4, **options}
    ),
    "adopt": lambda **options: optim.adopt(**{"lr": 0.1, "weight_decay": 0.1, **options}),
    "fromage": lambda **options: optim.fromage(**{"lr": 0.1, **options}),
    "lamb": lambda **options: optim.lamb(**{"lr": 0.1, "weight_decay": 0.1, **options}),
    "lars": lambda **options: optim.lars(**{"lr": 10.0, "weight_decay": 0.1, **options}),
    "lion": lambda **options: optim.lion(**{"lr": 0.1, "weight_decay": 0.1, **options}),
    "noisy_sgd": lambda **options: optim.noisy_sgd(**{"lr": 0.1, "key": 3, **options}),
    "novograd": lambda **options: optim.novograd(**{"lr": 0.1, "weight_decay": 0.1, **options}),
    "optimistic_adam": lambda **options: optim.optimistic_adam(**{"lr": 0.1, **options}),
    "optimistic_gradient_descent": lambda **options: optim.optimistic_gradient_descent(
        **{"lr": 0.1, **options}
    ),
    "polyak_sgd": lambda **options: optim.polyak_sgd(**{"lr": 0.1, **options}),
    "sign_sgd": lambda **options: optim.sign_sgd(**{"lr": 0.1, "weight_decay": 0.1, **options}),
    "signum": lambda **options: optim.signum(**{"lr": 0.1, "weight_decay": 0.1, **options}),
    "sm3": lambda **options: optim.sm3(**{"lr": 0.1, **options}),
    "sophia": lambda **options: optim.sophia(
        **{"lr": 0.1, "key": 3, "estimator": doubled, "update_interval": 2, **options}
    ),
    "yogi": lambda **options: optim.yogi(**{"lr": 0.1, "weight_decay": 0.1, **options}),
}
every_recipe = pytest.mark.parametrize("name", RECIPES)
UNDECAYED = {
    name
    for name in RECIPES
    if name in ("fromage", "noisy_sgd", "polyak_sgd", "sm3") or name.startswith("optimistic")
}
EXTRA = {"value": 0.7}


def make_params(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = {"w": (3, 2), "v": (3, 2), "s": (), "empty": (0,)}
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
        updates, state = optimizer.update(grad, state, params, **EXTRA)
        params = optim.apply_updates(params, updates)
    return params, state


def assert_same(left, right, rtol=0.0):
    assert tree.structure(left) == tree.structure(right)
    for a, b in zip(tree.leaves(left), tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        if a.is_floating_point() and rtol:
            torch.testing.assert_close(a, b, rtol=rtol, atol=rtol)
        else:
            assert torch.equal(a, b)


# ------------------------------------------------------------------------------------------- purity


@every_recipe
def test_no_input_is_written_and_no_gradient_is_kept(name):
    optimizer, params = RECIPES[name](), make_params()
    _, state = train(optimizer, params, optimizer.init(params), gradients(params, 3))
    (grads,) = gradients(params, 1, seed=1)
    before = copy.deepcopy((params, state, grads))
    updates, new_state = optimizer.update(grads, state, params, **EXTRA)
    assert_same((params, state, grads), before)
    held = {leaf.data_ptr() for leaf in tree.leaves((params, grads)) if leaf.numel()}
    assert not held & {leaf.data_ptr() for leaf in tree.leaves((updates, new_state))}


@pytest.mark.parametrize("name", sorted(RECIPES.keys() - {"sm3", "sophia", "noisy_sgd"}))
def test_complex_parameters_are_pairs_of_real_ones(name):
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(6, 2, 3, dtype=torch.complex128, generator=generator)
    optimizer = RECIPES[name]()
    pairs = list(torch.view_as_real(numbers))
    params, _ = train(optimizer, numbers[0], optimizer.init(numbers[0]), list(numbers[1:]))
    expected, _ = train(optimizer, pairs[0], optimizer.init(pairs[0]), pairs[1:])
    assert_same(torch.view_as_real(params), expected, rtol=1e-13)


# ----------------------------------------------------------------------------------------- numerics


@every_recipe
def test_zero_gradients_move_nothing(name):
    options = {} if name in UNDECAYED else {"weight_decay": 0}
    options |= {"eta": 0.0} if name == "noisy_sgd" else {}
    for lr in (0.0, 1e-20, 0.1):
        optimizer, params = RECIPES[name](lr=lr, **options), make_params()
        result, state = train(
            optimizer, params, optimizer.init(params), [tree.zeros_like(params)] * 3
        )
        if name == "fromage":  # shrinks by itself
            assert_same(result, tree.map(lambda p, lr=lr: p / (1 + lr**2) ** 1.5, params), 1e-14)
        else:
            assert_same(result, params)
        assert not any(leaf.isnan().any() for leaf in tree.leaves(state))


@every_recipe
def test_no_step_without_a_learning_rate(name):
    optimizer, params = RECIPES[name](lr=0.0), make_params(torch.float32)
    assert_same(train(optimizer, params, optimizer.init(params), gradients(params, 4))[0], params)


@every_recipe
@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e15])
def test_extreme_gradients_in_float32_are_no_trouble(name, scale):
    optimizer, params = RECIPES[name](), make_params(torch.float32)
    grads = [tree.map(lambda leaf: leaf * scale, grad) for grad in gradients(params, 4)]
    result, state = train(optimizer, params, optimizer.init(params), grads)
    assert all(leaf.isfinite().all() for leaf in tree.leaves((result, state)))


@every_recipe
def test_nan_is_not_hidden(name):
    optimizer, params = RECIPES[name](), make_params()
    bad = tree.ones_like(params) | {"w": torch.full((3, 2), torch.nan, dtype=torch.float64)}
    grads = [tree.ones_like(params), bad, tree.ones_like(params)]
    result, _ = train(optimizer, params, optimizer.init(params), grads)
    assert result["w"].isnan().all()


@every_recipe
def test_an_empty_tree_is_no_trouble(name):
    optimizer = RECIPES[name]()
    assert train(optimizer, {}, optimizer.init({}), [{}, {}])[0] == {}


# ----------------------------------------------------------------------------------------- refusals

REFUSALS = [
    (lambda: optim.lion(betas=(0.9, 1.0)), "betas[1]: expected a number in [0, 1)"),
    (lambda: optim.lion(betas=0.9), "betas: expected a pair of numbers, got 0.9"),
    (lambda: optim.scale_by_lion(b1=-0.1), "b1: expected"),
    (lambda: optim.lamb(eps=-1.0), "eps: expected"),
    (lambda: optim.lars(lr=-1.0), "lr: expected"),
    (lambda: optim.lars(lr=1.0, momentum=-0.5), "momentum: expected"),
    (lambda: optim.lars(lr=1.0, trust_coefficient=-0.5), "trust_coefficient: expected"),
    (lambda: optim.fromage(min_norm=-1.0), "min_norm: expected"),
    (lambda: optim.scale_by_trust_ratio(eps=-1.0), "eps: expected"),
    (lambda: optim.adabelief(eps=-1e-8), "eps: expected"),
    (lambda: optim.scale_by_belief(eps_root=-1.0), "eps_root: expected"),
    (lambda: optim.yogi(initial_accumulator_value=-1.0), "initial_accumulator_value: expected"),
    (lambda: optim.novograd(betas=(0.5, 1.5)), "betas[1]: expected"),
    (lambda: optim.scale_by_layer_moment(b2=1.0), "b2: expected"),
    (lambda: optim.adan(betas=(0.9, 0.9)), "betas: expected 3 numbers, got (0.9, 0.9)"),
    (lambda: optim.adan(betas=(0.9, 0.9, 1.0)), "betas[2]: expected"),
    (lambda: optim.scale_by_adan(b3=2.0), "b3: expected"),
    (lambda: optim.ademamix(alpha=-1.0), "alpha: expected"),
    (lambda: optim.ademamix(alpha_warmup=0), "alpha_warmup: expected at least 1, got 0"),
    (lambda: optim.ademamix(beta3_warmup=-3), "beta3_warmup: expected at least 1, got -3"),
    (lambda: optim.scale_by_ademamix(b3=1.0), "b3: expected"),
    (lambda: optim.adopt(weight_decay=-1.0), "weight_decay: expected"),
    (lambda: optim.scale_by_adopt(b2=1.0), "b2: expected"),
    (lambda: optim.signum(momentum=1.0), "momentum: expected"),
    (lambda: optim.sign_sgd(lr=-1.0), "lr: expected"),
    (lambda: optim.sm3(lr=1.0, momentum=1.0), "momentum: expected"),
    (lambda: optim.scale_by_sm3(b2=1.1), "b2: expected"),
    (lambda: optim.polyak_sgd(max_lr=0.0), "max_lr: expected"),
    (lambda: optim.polyak_sgd(variant="sps++"), "variant: expected 'sps' or 'sps+', got 'sps++'"),
    (lambda: optim.optimistic_adam(betas=(2.0, 0.9)), "betas[0]: expected"),
    (lambda: optim.scale_by_optimistic_gradient(beta=float("inf")), "beta: expected a finite"),
    (lambda: optim.sophia(key=0, eps=0.0), "eps: expected a number greater than 0"),
    (lambda: optim.sophia(key=0, gamma=0.0), "gamma: expected a number greater than 0"),
    (lambda: optim.sophia(key=0, update_interval=0), "update_interval: expected at least 1"),
]


@pytest.mark.parametrize(("make", "message"), REFUSALS, ids=[row[1] for row in REFUSALS])
def test_refusals(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: optim.adan(no_prox=1),
        lambda: optim.adopt(use_clipping="yes"),
        lambda: optim.adabelief(decoupled_weight_decay=0),
        lambda: optim.lion(maximize=None),
        lambda: optim.sophia(key="seed"),
        lambda: optim.noisy_sgd(key=None),
    ],
)
def test_refusals_of_types(make):
    with pytest.raises(TypeError):
        make()


@every_recipe
def test_the_state_of_another_optimizer_is_refused(name):
    params = {"w": torch.ones(2)}
    other = optim.rprop().init(params)
    with pytest.raises(TypeError, match="expected the state that its init returned"):
        RECIPES[name]().update(params, other[0], params, **EXTRA)


@every_recipe
def test_gradients_that_do_not_fit_are_refused(name):
    optimizer, params = RECIPES[name](), {"w": torch.ones(2)}
    state = optimizer.init(params)
    for grads in ({"w": torch.ones(1)}, {"v": torch.ones(2)}, {"w": torch.ones(2).double()}):
        with pytest.raises(ValueError, match=r"\['w'\]|'w'|'v'"):
            optimizer.update(grads, state, params, **EXTRA)
