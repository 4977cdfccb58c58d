"""DoG, L-DoG and DoWG against their algorithms in numpy; sums that keep their digits."""

import functools

import numpy as np
import pytest
import torch

import purefn.functional as pf
from purefn import optim
from purefn.functional import tree
from purefn.testing import check_optimizer, whole_tree


def norm(leaves):
    return np.sqrt(sum((leaf**2).sum() for leaf in leaves))


@whole_tree
def dog(
    theta,
    gradients,
    lr=1.0,
    reps_rel=1e-6,
    eps=1e-8,
    init_eta=None,
    weight_decay=0.0,
    maximize=False,
):
    """Algorithm 1 of arXiv:2302.12022; maxima and sums are over all of the past."""
    x, x0 = list(theta), list(theta)
    distances, squares = [reps_rel * (1 + norm(x0)) if init_eta is None else 0.0], []
    for t, gs in enumerate(gradients, start=1):
        gs = [(-g if maximize else g) + weight_decay * p for g, p in zip(gs, x, strict=True)]
        distances.append(norm([p - start for p, start in zip(x, x0, strict=True)]))
        squares.append(norm(gs) ** 2)
        eta = max(distances) / np.sqrt(sum(squares) + eps)
        if init_eta is not None and t == 1:
            eta = init_eta
        x = [p - lr * eta * g for p, g in zip(x, gs, strict=True)]
        numbers = {"max_dist": max(distances), "sum_sq_norm_grads": sum(squares), "count": t}
        yield x, {"init_params": x0, **numbers}


def ldog(theta, gradients, **hyperparameters):
    """DoG of one leaf alone."""
    for (x,), state in dog([theta], [[g] for g in gradients], **hyperparameters):
        yield x, {**state, "init_params": state["init_params"][0]}


@whole_tree
def dowg(theta, gradients, lr=1.0, eps=1e-4, init_estim_sq_dist=None, maximize=False):
    """Algorithm 1 of arXiv:2305.16284, with the eps of the authors' program."""
    x, x0 = list(theta), list(theta)
    r_sq = eps if init_estim_sq_dist is None else init_estim_sq_dist
    v = 0.0
    for gs in gradients:
        gs = [-g if maximize else g for g in gs]
        r_sq = max(r_sq, norm([p - start for p, start in zip(x, x0, strict=True)]) ** 2)
        v = v + r_sq * norm(gs) ** 2
        x = [p - lr * r_sq / (np.sqrt(v) + eps) * g for p, g in zip(x, gs, strict=True)]
        yield x, {"init_params": x0, "estim_sq_dist": r_sq, "weighted_sq_norm_grads": v}


CONFIGURATIONS = [
    {"reps_rel": 1e-2},
    {"reps_rel": 0.1, "weight_decay": 0.1, "maximize": True, "lr": 0.5},
    {"init_eta": 0.1, "eps": 1e-3},
]


@pytest.mark.parametrize("hyperparameters", CONFIGURATIONS[1:])
def test_dog_is_the_algorithm(hyperparameters):
    check_optimizer(optim.dog, dog, hyperparameters=hyperparameters, examples=2, steps=30)


@pytest.mark.parametrize("hyperparameters", CONFIGURATIONS)
def test_ldog_is_the_algorithm_for_every_leaf(hyperparameters):
    def of_one_leaf(theta, gradients, **given):
        for x, state in ldog(theta, gradients, **given):
            yield x, {name: value for name, value in state.items() if name != "count"}

    params = {"w": torch.tensor([[1.0, -2.0]]).double(), "s": torch.tensor(3.0).double()}
    generator = torch.Generator().manual_seed(0)
    grads = [
        tree.map(lambda p: torch.randn(p.shape, dtype=p.dtype, generator=generator), params)
        for _ in range(60)
    ]
    runs = {
        name: ldog(params[name].numpy(), [g[name].numpy() for g in grads], **hyperparameters)
        for name in params
    }
    optimizer = optim.ldog(**hyperparameters)
    state = optimizer.init(params)
    for grad in grads:
        updates, state = optimizer.update(grad, state, params)
        params = optim.apply_updates(params, updates)
        for name, run in runs.items():
            x, expected = next(run)
            np.testing.assert_allclose(params[name].numpy(), x, rtol=1e-11)
            for part in ("max_dist", "sum_sq_norm_grads"):
                ours = optim.get(state, part)[name].item()
                assert ours == pytest.approx(expected[part], rel=1e-11)


@pytest.mark.parametrize(
    "hyperparameters",
    [{"init_estim_sq_dist": 1e-2}, {"eps": 1e-2, "lr": 0.5, "maximize": True}],
)
def test_dowg_is_the_algorithm(hyperparameters):
    check_optimizer(optim.dowg, dowg, hyperparameters=hyperparameters, examples=2, steps=30)


RECIPES = {
    "dog": functools.partial(optim.dog, reps_rel=1e-2),
    "ldog": functools.partial(optim.ldog, reps_rel=1e-2),
    "dowg": optim.dowg,
}
every_recipe = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


def train(optimizer, params, steps, transform=lambda fun: fun):
    """Descend on half the squared distance from 3."""

    @transform
    def step(params, state):
        grads = tree.map(lambda x: x - 3, params)
        updates, state = optimizer.update(grads, state, params)
        return optim.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def start(dtype=torch.float64):
    return {
        "w": torch.linspace(-1, 1, 6).reshape(2, 3).to(dtype),
        "s": torch.zeros((), dtype=dtype),
    }


@every_recipe
def test_it_finds_the_minimum(recipe):
    optimizer = optim.chain(recipe(), optim.polynomial_average_params())
    params, state = train(optimizer, start(), 500)
    for leaf in tree.leaves((params, optim.get(state, "average"))):
        torch.testing.assert_close(leaf, torch.full_like(leaf, 3.0), rtol=0, atol=0.05)


@every_recipe
def test_float32_keeps_its_digits_over_many_steps(recipe):
    for steps in (30, 300):
        wide, wide_state = train(recipe(), start(), steps)
        params, state = train(recipe(), start(torch.float32), steps)
        for ours, theirs in zip(
            tree.leaves((params, state)), tree.leaves((wide, wide_state)), strict=True
        ):
            torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-4, atol=1e-6)


def test_a_sum_of_squares_goes_on_where_float32_stands_still():
    optimizer, params = optim.dog(), torch.zeros(1)
    (state, *rest) = optimizer.init(params)
    state = state._replace(sum_sq_norm_grads=state.sum_sq_norm_grads + 2.0**30)
    for _ in range(4):
        _, (state, *rest) = optimizer.update(params + 0.5, (state, *rest), params)
    assert state.sum_sq_norm_grads.item() == 2.0**30 + 1


@every_recipe
def test_eager_jit_and_vmap_agree(recipe):
    optimizer = recipe(weight_decay=0.01)
    eager = train(optimizer, start(), 30)
    compiled = train(optimizer, start(), 30, lambda fun: pf.jit(fun, backend="eager"))
    batch = tree.map(lambda leaf: torch.stack([leaf, leaf + 1]), start())
    batched = pf.vmap(lambda params: train(optimizer, params, 30))(batch)
    for other in (compiled, tree.map(lambda leaf: leaf[0], batched)):
        for ours, theirs in zip(tree.leaves(other), tree.leaves(eager), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@every_recipe
def test_zero_gradients_no_learning_rate_and_nothing_to_move(recipe):
    params = {"w": torch.ones(3), "empty": torch.ones(0), "none": None}
    for lr, grads in ((1.0, tree.zeros_like(params)), (0.0, tree.ones_like(params))):
        optimizer = recipe(lr=lr)
        updates, state = optimizer.update(grads, optimizer.init(params), params)
        assert not updates["w"].any()
        assert not any(leaf.isnan().any() for leaf in tree.leaves(state))
    optimizer = recipe()
    assert optimizer.update({}, optimizer.init({}), {})[0] == {}


@every_recipe
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.complex64])
def test_dtypes_are_stable(recipe, dtype):
    params = start(dtype)
    optimizer = recipe()
    state = optimizer.init(params)
    updates, new = optimizer.update(params, state, params)
    for old, leaf in zip(tree.leaves((params, state)), tree.leaves((updates, new)), strict=True):
        assert (old.dtype, old.shape) == (leaf.dtype, leaf.shape)


def test_a_complex_number_is_two_real_ones():
    z = torch.tensor([1 + 2j, -3 + 0.5j], dtype=torch.complex128)
    params, _ = train(optim.dog(reps_rel=0.1), {"z": z}, 5)
    optimizer = optim.dog(reps_rel=0.1)
    real = torch.view_as_real(z)
    state = optimizer.init(real)
    for _ in range(5):
        grads = real - torch.tensor([3.0, 0.0])
        updates, state = optimizer.update(grads, state, real)
        real = real + updates
    torch.testing.assert_close(torch.view_as_real(params["z"]), real)


def test_the_first_distance_is_as_asked():
    params = {"w": torch.tensor([3.0, 4.0])}
    for init_step, distance in ((("distance", 0.5), 0.5), (("heuristic", 0.5), 3.0)):
        state = optim.scale_by_dog(init_step).init(params)
        assert state.max_dist.item() == distance


@pytest.mark.parametrize("recipe", [optim.dog, optim.ldog])
@pytest.mark.parametrize("name", ["reps_rel", "eps", "init_eta"])
def test_what_is_refused(recipe, name):
    with pytest.raises(ValueError, match=name):
        recipe(**{name: 0.0})
    with pytest.raises(ValueError, match="lr"):
        recipe(lr=-1.0)


def test_pieces_refuse_too():
    with pytest.raises(ValueError, match="one of distance, heuristic, learning_rate"):
        optim.scale_by_dog(("length", 1.0))
    with pytest.raises(ValueError, match="pair"):
        optim.scale_by_dog("heuristic")
    with pytest.raises(ValueError, match="init_estim_sq_dist"):
        optim.scale_by_dowg(-1.0)
    for piece in (optim.scale_by_dog(), optim.scale_by_dowg()):
        params = {"w": torch.ones(2)}
        with pytest.raises(ValueError, match="needs the parameters"):
            piece.update(params, piece.init(params))
        with pytest.raises(ValueError, match=r"\['w'\]"):
            piece.update({"w": torch.ones(3)}, piece.init(params), params)
