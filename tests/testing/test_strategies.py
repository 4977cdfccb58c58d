"""What is drawn is what was asked for, and shrinks to what one would write by hand."""

import collections
import inspect

import pytest
import torch
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st

from purefn import optim, testing
from purefn.functional import tree

TORCH = [kind for kind in vars(torch.optim).values() if isinstance(kind, type)]
TORCH.remove(torch.optim.Optimizer)


def draws(strategy, count=100):
    """Return values that a strategy draws, the same in every run."""
    drawn = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(value):
        drawn.append(value)

    collect()
    return drawn


# --- tensors and trees ---------------------------------------------------------------------------


@given(testing.shapes(min_dims=1, max_dims=2, min_side=0, max_side=3))
def test_a_shape_has_the_sides_asked_for(shape):
    assert 1 <= len(shape) <= 2
    assert all(0 <= side <= 3 for side in shape)


def test_dtypes_are_those_asked_for():
    assert set(draws(testing.dtypes())) == {
        torch.float64,
        torch.float32,
        torch.bfloat16,
        torch.float16,
    }
    assert set(draws(testing.dtypes(half=False))) == {torch.float64, torch.float32}
    assert torch.complex64 in draws(testing.dtypes(complex=True))
    assert torch.uint8 in draws(testing.dtypes(integer=True))


@given(st.data())
def test_a_tensor_has_the_shape_and_dtype_asked_for(data):
    dtype = data.draw(testing.dtypes(complex=True, integer=True))
    tensor = data.draw(testing.tensors(shape=(2, 3), dtype=dtype))
    assert tensor.shape == (2, 3)
    assert tensor.dtype is dtype
    assert tensor.to(torch.complex128).abs().max() <= 15


def test_a_tensor_shrinks_to_one_element_that_matters():
    smallest = find(testing.tensors(), lambda x: (x > 1).any())
    assert smallest.shape == ()
    assert smallest == 2


@given(testing.trees(st.integers(), min_leaves=2, max_leaves=4))
def test_a_tree_has_the_number_of_leaves_asked_for(drawn):
    assert isinstance(drawn, dict)
    assert 2 <= len(tree.leaves(drawn)) <= 4


def test_trees_nest_and_hold_empty_subtrees():
    drawn = draws(testing.trees(st.just(0)))
    kinds = {type(child) for each in drawn for child in each.values()}
    assert {dict, list, tuple, type(None), int} <= kinds


# --- gradients -----------------------------------------------------------------------------------

PARAMS = {
    "w": torch.zeros(2, 3),
    "b": torch.zeros((), dtype=torch.float64),
    "empty": torch.zeros(0),
}


@given(testing.gradient_sequences(PARAMS, steps=25))
def test_gradients_fit_the_parameters_and_move_them(grads):
    assert len(grads) == 25
    for step in grads:
        testing.assert_trees_all_equal_shapes_and_dtypes(step, PARAMS)
        testing.assert_tree_all_finite(step)
    assert (grads[0]["w"] != 0).any()
    assert grads[0]["b"] != 0
    largest = max(step["w"].abs().max() for step in grads)
    assert 0 < largest <= 100


def test_gradients_have_every_course():
    drawn = draws(testing.gradient_sequences({"w": torch.zeros(2)}), 100)
    runs = collections.Counter(run.kind for each in drawn for run in each.runs["grads['w']"])
    kinds = {"constant", "flipping", "decreasing", "zero", "spike", "noisy"}
    assert set(runs) == kinds
    exponents = {run.exponent for each in drawn for run in each.runs["grads['w']"]}
    assert {-8, 2} <= exponents
    assert len(exponents) > 6


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("constant", [1, 1, 1]),
        ("flipping", [1, -1, 1]),
        ("decreasing", [1, 0.7, 0.49]),
        ("zero", [0, 0, 0]),
        ("spike", [1, 1e-3, 1e-3]),
    ],
)
def test_a_run_takes_its_course(kind, expected):
    leaf = torch.zeros((), dtype=torch.float64)
    grads = testing.GradientSequence(leaf, 6, 0, [[testing.Run(kind, -2, 3)]])
    torch.testing.assert_close(
        torch.stack(list(grads)), torch.tensor(expected * 2, dtype=torch.float64) / 100
    )


def test_elements_leaves_and_seeds_differ():
    params = {"a": torch.zeros(3), "b": torch.zeros(3)}

    def first(seed, kind):
        runs = [testing.Run(kind, 0, 2)]
        return testing.GradientSequence(params, 2, seed, [runs, runs])[0]

    for kind in ("constant", "noisy"):
        grads = first(1, kind)
        assert len({*grads["a"].tolist(), *grads["b"].tolist()}) >= 5
    assert not torch.equal(first(1, "noisy")["a"], first(2, "noisy")["a"])
    assert torch.equal(first(1, "noisy")["a"], first(1, "noisy")["a"])


def test_some_noise_is_zero_but_never_the_first_element():
    runs = [[testing.Run("noisy", 0, 2)]]
    noise = torch.stack(list(testing.GradientSequence(torch.zeros(10), 100, 0, runs)))
    assert 0.05 < (noise == 0).float().mean() < 0.15
    assert (noise[:, 0] != 0).all()


def test_complex_parameters_have_complex_gradients():
    params = torch.zeros(3, dtype=torch.complex64)
    for grads in draws(testing.gradient_sequences(params, steps=3), 10):
        assert all(grad.dtype is torch.complex64 for grad in grads)
        assert any((grad.imag != 0).any() for grad in grads)


def test_gradients_shrink_to_few_words():
    drawn = find(testing.gradient_sequences(PARAMS, steps=60), lambda grads: grads[7]["b"] == 0)
    assert "2 x zero 1e0" in repr(drawn)
    assert drawn.runs["grads['w']"] == [testing.Run("constant", 0, 2)]


# --- hyperparameters -----------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", TORCH, ids=lambda recipe: recipe.__name__)
def test_torch_takes_whatever_is_drawn(recipe):
    drawn = draws(testing.hyperparameters(recipe))
    params = [torch.zeros(2, 2)]
    for values in drawn:
        recipe(params, **values)
    assert {} in drawn
    assert len({repr(values) for values in drawn}) > 4


def recipes():
    for name, recipe in vars(optim).items():
        if inspect.isfunction(recipe):
            parameters = inspect.signature(recipe).parameters
            required = [each for each in parameters.values() if each.default is each.empty]
            if "lr" in parameters and not required:
                yield pytest.param(recipe, id=name)


@pytest.mark.parametrize("recipe", list(recipes()))
def test_a_recipe_takes_whatever_is_drawn(recipe):
    drawn = draws(testing.hyperparameters(recipe), 40)
    for values in drawn:
        recipe(**values)
    assert {"lr"} <= set().union(*drawn)


@pytest.mark.parametrize("recipe", [optim.sgd, optim.adamw, optim.rmsprop])
def test_every_parameter_that_says_what_is_computed_is_drawn(recipe):
    names = set().union(*draws(testing.hyperparameters(recipe)))
    assert names == set(inspect.signature(recipe).parameters) - {"mu_dtype"}


def test_momentum_dampening_and_nesterov_are_all_combined():
    drawn = draws(testing.hyperparameters(optim.sgd))
    combinations = {
        tuple(bool(values.get(name)) for name in ("momentum", "dampening", "nesterov"))
        for values in drawn
    }
    assert {
        (False, False, False),
        (True, False, False),
        (True, True, False),
        (True, False, True),
    } <= combinations
    assert not any(nesterov and dampening for _, dampening, nesterov in combinations)


def test_all_defaults_are_the_simplest():
    assert find(testing.hyperparameters(optim.adamw), lambda values: True) == {}


def test_overrides_are_drawn_instead():
    def recipe(lr, temperature, *, unknown=3):
        if lr == 0.5:
            raise ValueError("lr: expected another")

    drawn = draws(testing.hyperparameters(recipe, temperature=st.just(2.5)), 30)
    assert all(values["temperature"] == 2.5 for values in drawn)
    assert all("lr" in values and "unknown" not in values for values in drawn)
    assert all(values["lr"] != 0.5 for values in drawn)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({}, "'temperature' has no default and no strategy is known"),
        ({"temperature": 2.0}, "expected a strategy for 'temperature', got 2.0"),
        ({"rate": st.just(1)}, "has no hyperparameter 'rate'; it has temperature"),
    ],
)
def test_what_cannot_be_drawn_is_refused(overrides, message):
    def recipe(temperature): ...

    with pytest.raises(TypeError, match=message):
        testing.hyperparameters(recipe, **overrides)
