"""Arithmetic of trees against torch on their leaves, and against numbers of optax."""

import math
import re

import pytest
import torch

import purefn.functional as pf
from purefn import optim
from purefn.functional import random, tree

arithmetic = optim.tree

X = {"b": torch.tensor(3.0), "w": torch.tensor([[1.0, -2.0]]), "none": None}
Y = {"b": torch.tensor(-2.0), "w": torch.tensor([[4.0, 8.0]]), "none": None}


def same(found, expected):
    assert tree.structure(found) == tree.structure(expected)
    for a, b in zip(tree.leaves(found), tree.leaves(expected), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert torch.equal(a, b)


CALCULATIONS = {
    "add": (lambda x, y: arithmetic.add(x, y), 1.0, [[5.0, 6.0]]),
    "add of several": (lambda x, y: arithmetic.add(x, y, y, x), 2.0, [[10.0, 12.0]]),
    "sub": (lambda x, y: arithmetic.sub(x, y), 5.0, [[-3.0, -10.0]]),
    "mul": (lambda x, y: arithmetic.mul(x, y), -6.0, [[4.0, -16.0]]),
    "div": (lambda x, y: arithmetic.div(x, y), -1.5, [[0.25, -0.25]]),
    "scale": (lambda x, y: arithmetic.scale(0.5, x), 1.5, [[0.5, -1.0]]),
    "add_scale": (lambda x, y: arithmetic.add_scale(x, 0.5, y), 2.0, [[3.0, 2.0]]),
    "where": (lambda x, y: arithmetic.where(x["b"] > 2, x, y), 3.0, [[1.0, -2.0]]),
    "where not": (lambda x, y: arithmetic.where(x["b"] < 2, x, y), -2.0, [[4.0, 8.0]]),
    "where by a number": (lambda x, y: arithmetic.where(False, x, y), -2.0, [[4.0, 8.0]]),
    "clip": (lambda x, y: arithmetic.clip(x, -1.0, 2.0), 2.0, [[1.0, -1.0]]),
    "clip below": (lambda x, y: arithmetic.clip(x, y["b"] + 1), 3.0, [[1.0, -1.0]]),
    "clip above": (lambda x, y: arithmetic.clip(x, max_value=0.5), 0.5, [[0.5, -2.0]]),
    "clip nowhere": (lambda x, y: arithmetic.clip(x), 3.0, [[1.0, -2.0]]),
    "full_like": (lambda x, y: arithmetic.full_like(x, 7.0), 7.0, [[7.0, 7.0]]),
    "full_like of a tensor": (lambda x, y: arithmetic.full_like(x, y["b"]), -2.0, [[-2.0, -2.0]]),
    "first moment": (lambda x, y: arithmetic.update_moment(x, y, 0.75, 1), -0.75, [[3.25, 5.5]]),
    "second moment": (lambda x, y: arithmetic.update_moment(x, y, 0.75, 2), 0.75, [[3.25, 7.0]]),
    "infinity moment": (
        lambda x, y: arithmetic.update_infinity_moment(x, y, 0.25, 0.5),
        3.5,
        [[1.5, 2.5]],
    ),
    "bias_correction": (lambda x, y: arithmetic.bias_correction(x, 0.5, 2), 4.0, [[4 / 3, -8 / 3]]),
}


@pytest.mark.parametrize(
    ("function", "number", "matrix"), CALCULATIONS.values(), ids=list(CALCULATIONS)
)
def test_by_hand_however_it_is_run(function, number, matrix):
    expected = {"b": torch.tensor(number), "w": torch.tensor(matrix), "none": None}
    same(function(X, Y), expected)
    same(pf.jit(function, backend="eager")(X, Y), expected)
    batched = pf.vmap(function)(tree.stack([X, X]), tree.stack([Y, Y]))
    same(batched, tree.stack([expected, expected]))


def test_extremes_and_sums():
    same(arithmetic.max(X), torch.tensor(3.0))
    same(arithmetic.min(X), torch.tensor(-2.0))
    same(arithmetic.sum(X), torch.tensor(2.0))
    integers = {"count": torch.tensor([2, 5]), "w": torch.tensor([0.5])}
    same(arithmetic.max(integers), torch.tensor(5.0))
    same(arithmetic.sum({"count": torch.tensor([2, 5])}), torch.tensor(7))


def test_extremes_and_sums_of_nothing():
    for nothing in ({}, {"w": torch.zeros(0, 3)}):
        assert arithmetic.max(nothing).item() == -math.inf
        assert arithmetic.min(nothing).item() == math.inf
        assert arithmetic.sum(nothing).item() == 0
    same(arithmetic.max({"a": torch.zeros(0), "b": torch.tensor([-1.0])}), torch.tensor(-1.0))


def test_nan_is_not_hidden():
    leaves = {"a": torch.tensor([1.0, torch.nan]), "b": torch.tensor(2.0)}
    for function in (arithmetic.max, arithmetic.min, arithmetic.sum):
        assert function(leaves).isnan()


def test_half_precision_is_summed_in_float32():
    many = {"a": torch.ones(256, dtype=torch.bfloat16), "b": torch.ones(1, dtype=torch.bfloat16)}
    same(arithmetic.sum(many), torch.tensor(257.0))  # bfloat16 has 256 and 258


def test_complex_numbers():
    z = {"z": torch.tensor([1.0 + 2.0j]), "x": torch.tensor([3.0])}
    same(arithmetic.conj(z), {"z": torch.tensor([1.0 - 2.0j]), "x": torch.tensor([3.0])})
    assert not arithmetic.conj(z)["z"].is_conj()
    same(arithmetic.real(z), {"z": torch.tensor([1.0]), "x": torch.tensor([3.0])})
    same(arithmetic.mul(z, z), {"z": torch.tensor([-3.0 + 4.0j]), "x": torch.tensor([9.0])})
    squares = arithmetic.update_moment(z, tree.zeros_like(z), 0.5, 2)
    same(squares, {"z": torch.tensor([0.5 + 2.0j]), "x": torch.tensor([4.5])})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_a_number_in_a_tensor_widens_nothing(dtype):
    number = torch.tensor(0.5, dtype=torch.float64)
    x = tree.cast(X, dtype)
    for found in (
        arithmetic.scale(number, x),
        arithmetic.add_scale(x, number, x),
        arithmetic.clip(x, number, 2 * number),
        arithmetic.full_like(x, number),
        arithmetic.update_moment(x, x, number, 2),
        arithmetic.update_infinity_moment(x, x, number, number),
        arithmetic.bias_correction(x, number, torch.tensor(3)),
    ):
        assert {leaf.dtype for leaf in tree.leaves(found)} == {dtype}


def test_dtypes():
    like = {"b": torch.zeros((), dtype=torch.float64), "w": torch.zeros(1, 2, dtype=torch.bfloat16)}
    like["none"] = None
    cast = arithmetic.cast_like(X, like)
    assert (cast["b"].dtype, cast["w"].dtype) == (torch.float64, torch.bfloat16)
    assert arithmetic.add(X, cast)["w"].dtype == torch.float32  # as torch promotes them
    assert arithmetic.full_like(X, 1, dtype=torch.int64)["w"].dtype == torch.int64


def test_the_correction_keeps_its_digits():
    """The naive `1 - decay**count` has lost digits here."""
    decay, count = 1 - 1e-8, 50
    weight = -math.expm1(count * math.log1p(-(1 - decay)))
    assert abs((1 - decay**count) / weight - 1) > 5e-11
    moment = torch.tensor(weight, dtype=torch.float64)
    assert arithmetic.bias_correction(moment, decay, count).item() == pytest.approx(1, rel=1e-14)


def test_random_numbers_are_those_of_optax():
    """Printed by optax 0.2.8: `optax.tree.random_like(jax.random.key(7), tree[, uniform])`."""
    like = {"w": torch.zeros(2, 3), "b": torch.zeros(())}
    normal = arithmetic.random_like(random.key(7), like)
    assert normal["b"].item() == pytest.approx(1.1140471696853638, rel=1e-6)
    torch.testing.assert_close(
        normal["w"],
        torch.tensor(
            [
                [0.4541335105895996, 0.9391627907752991, -0.2689431309700012],
                [-0.19085364043712616, -0.807944118976593, 0.05828283354640007],
            ]
        ),
        rtol=1e-6,
        atol=0,
    )
    uniform = arithmetic.random_like(random.key(7), like, random.uniform)
    assert uniform["b"].item() == 0.8673704862594604
    assert uniform["w"][1].tolist() == [0.4243201017379761, 0.20956134796142578, 0.5232383012771606]
    wide = arithmetic.random_like(random.key(7), like, dtype=torch.float64)
    assert {leaf.dtype for leaf in tree.leaves(wide)} == {torch.float64}
    assert arithmetic.random_like(random.key(7), {}) == {}


def test_nothing_is_written():
    before = tree.map(torch.clone, (X, Y))
    for function, _, _ in CALCULATIONS.values():
        function(X, Y)
    same((X, Y), before)


PAIRS = {
    "add": arithmetic.add,
    "sub": arithmetic.sub,
    "mul": arithmetic.mul,
    "div": arithmetic.div,
    "add_scale": lambda x, y: arithmetic.add_scale(x, 2.0, y),
    "where": lambda x, y: arithmetic.where(True, x, y),
    "update_moment": lambda x, y: arithmetic.update_moment(y, x, 0.5, 2),
    "update_infinity_moment": lambda x, y: arithmetic.update_infinity_moment(y, x, 0.5, 0.0),
}
pairs = pytest.mark.parametrize("function", PAIRS.values(), ids=PAIRS)


@pairs
def test_other_shapes_are_refused(function):
    other = {**Y, "w": torch.tensor([4.0])}  # torch would broadcast it
    with pytest.raises(ValueError, match=r"(y|updates)\['w'\] is .*\(1,\).*(x|moments)\['w'\]"):
        function(X, other)


@pairs
@pytest.mark.parametrize("w", [None, [torch.ones(1, 2)], 1.0], ids=["none", "list", "number"])
def test_other_structures_are_refused(function, w):
    with pytest.raises(ValueError, match=re.escape("['w']")):
        function(X, {**Y, "w": w})
    with pytest.raises(ValueError, match="'w'"):
        function(X, {"b": Y["b"], "none": None})


def test_other_refusals():
    with pytest.raises(ValueError, match=r"others\[0\]\['w'\] is of shape \(2,\)"):
        arithmetic.add(X, Y, {**Y, "w": torch.ones(2)})
    with pytest.raises(ValueError, match="'w'"):
        arithmetic.cast_like(X, {"b": X["b"], "none": None})
    with pytest.raises(ValueError, match="step: expected at least 0"):
        arithmetic.bias_correction(X, 0.5, -1)
    with pytest.raises(TypeError, match=r"moments\['w'\] is a tensor of torch\.int64"):
        arithmetic.update_moment({"w": torch.ones(2).long()}, {"w": torch.ones(2).long()}, 0.5, 2)


def test_the_names_of_optax_are_there():
    assert {"add", "random_like", "max", "update_moment"} < set(arithmetic.__all__)
    assert not set(arithmetic.__all__) & set(tree.__all__)
