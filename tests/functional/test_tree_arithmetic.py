"""Arithmetic on trees against numpy and torch.nn.utils, as on one long vector."""

import functools
import typing

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import assume, given

from purefn.functional import tree


class Pair(typing.NamedTuple):
    x: typing.Any
    y: typing.Any


def containers(children):
    return st.one_of(
        st.lists(children, max_size=3),
        st.lists(children, max_size=3).map(tuple),
        st.dictionaries(st.sampled_from("abcw"), children, max_size=3),
        st.builds(Pair, children, children),
    )


@st.composite
def tensors(draw, dtypes=(torch.float32, torch.float64)):
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    values = 8 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return values.to(draw(st.sampled_from(dtypes)))


def tensor_trees(*dtypes):
    leaves = tensors(dtypes) if dtypes else tensors()
    return st.recursive(leaves | st.none(), containers, max_leaves=5)


def as_vector(params, dtype=np.float64):
    return np.concatenate(
        [np.zeros(0), *[leaf.numpy().astype(dtype).ravel() for leaf in tree.leaves(params)]]
    )


@given(tensor_trees(torch.float64))
def test_norm_and_dot_are_those_of_the_vector(params):
    other = tree.map(lambda leaf: leaf.cos(), params)
    vector, other_vector = as_vector(params), as_vector(other)
    assert tree.norm(params).shape == tree.dot(params, other).shape == ()
    np.testing.assert_allclose(tree.norm(params), np.linalg.norm(vector), rtol=1e-6)
    if tree.leaves(params):
        norm, dot = tree.norm(params), tree.dot(params, other)
        assert norm.dtype == dot.dtype == torch.float64
        np.testing.assert_allclose(norm, np.linalg.norm(vector), rtol=1e-13)
        tolerance = 1e-14 * (1 + np.abs(vector).sum())
        np.testing.assert_allclose(dot, vector @ other_vector, rtol=0, atol=tolerance)


def test_norm_is_the_one_torch_clips_by():
    module = torch.nn.Linear(7, 5)
    params = dict(module.named_parameters())
    expected = torch.nn.utils.get_total_norm(module.parameters())
    torch.testing.assert_close(tree.norm(params), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.complex64])
def test_norm_and_dot_keep_the_dtype(dtype):
    params = {"a": torch.ones(2, dtype=dtype), "b": torch.ones((), dtype=dtype)}
    assert tree.dot(params, params).dtype == dtype
    assert tree.norm(params).dtype == torch.empty((), dtype=dtype).abs().dtype


def test_dot_conjugates_its_left_argument():
    left, right = [torch.tensor([1 + 2j, 3j])], [torch.tensor([2 - 1j, 1 + 1j])]
    expected = np.vdot(left[0].numpy(), right[0].numpy())
    np.testing.assert_allclose(tree.dot(left, right), expected)


def test_dot_of_integers_is_an_exact_integer():
    large = torch.tensor([2**40 + 1])
    assert tree.dot([large], [torch.tensor([3])]).item() == 3 * (2**40 + 1)


def test_dot_refuses_to_broadcast():
    params = {"w": torch.ones(3), "b": torch.ones(2, 1)}
    with pytest.raises(ValueError, match=r"right\['b'\] has shape \(2,\), left\['b'\] has"):
        tree.dot(params, {"w": torch.ones(3), "b": torch.ones(2)})
    with pytest.raises(ValueError, match=r"right\['w'\] is no tensor"):
        tree.dot(params, {"w": [torch.ones(3)], "b": torch.ones(2, 1)})
    with pytest.raises(ValueError, match=r"right does not have the structure of left"):
        tree.dot(params, {"w": torch.ones(3)})


def test_an_empty_tree_has_norm_dot_and_size_zero():
    for empty in (None, {}, [None, ()]):
        assert tree.norm(empty).item() == tree.dot(empty, empty).item() == 0
        assert tree.size(empty) == tree.nbytes(empty) == 0


@given(tensor_trees(torch.float32, torch.float64, torch.bfloat16, torch.int32, torch.uint8))
def test_size_and_nbytes_are_torchs(params):
    leaves = tree.leaves(params)
    assert tree.size(params) == sum(leaf.numel() for leaf in leaves)
    assert tree.nbytes(params) == sum(leaf.nbytes for leaf in leaves)


@given(tensor_trees(torch.float32, torch.int64), st.sampled_from([None, torch.float64, torch.int8]))
def test_zeros_and_ones_have_the_shapes_and_the_dtype(params, dtype):
    for make, value in ((tree.zeros_like, 0), (tree.ones_like, 1)):
        made = make(params, dtype=dtype)
        assert tree.structure(made) == tree.structure(params)
        for leaf, like in zip(tree.leaves(made), tree.leaves(params), strict=True):
            assert leaf.shape == like.shape
            assert leaf.dtype == (dtype or like.dtype)
            assert (leaf == value).all()


@given(tensor_trees(torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint8))
def test_cast_converts_floating_leaves_only(params):
    converted = tree.cast(params, torch.float64)
    for leaf, given_leaf in zip(tree.leaves(converted), tree.leaves(params), strict=True):
        floating = given_leaf.is_floating_point()
        assert leaf.dtype == (torch.float64 if floating else given_leaf.dtype)
        assert torch.equal(leaf, given_leaf.to(leaf.dtype))


@given(tensor_trees(torch.float32))
def test_ravel_is_torchs_parameters_to_vector(params):
    vector, _ = tree.ravel(params)
    assume(tree.leaves(params))
    assert torch.equal(vector, torch.nn.utils.parameters_to_vector(tree.leaves(params)))


@given(tensor_trees(torch.float32, torch.float64, torch.bfloat16, torch.int16))
def test_unravel_undoes_ravel_with_every_dtype(params):
    vector, unravel = tree.ravel(params)
    assert vector.shape == (tree.size(params),)
    dtypes = [leaf.dtype for leaf in tree.leaves(params)]
    assert vector.dtype == functools.reduce(torch.promote_types, dtypes or [torch.float32])
    restored = unravel(vector)
    assert tree.structure(restored) == tree.structure(params)
    for leaf, like in zip(tree.leaves(restored), tree.leaves(params), strict=True):
        assert leaf.dtype == like.dtype
        assert torch.equal(leaf, like)


def test_unravel_refuses_another_length():
    _, unravel = tree.ravel([torch.ones(2), torch.ones(3)])
    with pytest.raises(ValueError, match=r"expected a vector of shape \(5,\), got \(1, 5\)"):
        unravel(torch.ones(1, 5))


@given(tensor_trees(), st.integers(1, 4))
def test_unstack_undoes_stack(params, count):
    originals = [tree.map(lambda leaf, i=i: leaf + i, params) for i in range(count)]
    stacked = tree.stack(originals)
    rows = [tree.leaves(original) for original in originals]
    for leaf, *column in zip(tree.leaves(stacked), *rows, strict=True):
        np.testing.assert_array_equal(leaf, np.stack([row.numpy() for row in column]))
    assume(tree.leaves(params))
    restored = tree.unstack(stacked)
    assert len(restored) == count
    for tree_, original in zip(restored, originals, strict=True):
        assert tree.structure(tree_) == tree.structure(original)
        assert tree.all(tree.map(torch.equal, tree_, original))


def test_stack_and_unstack_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="expected at least one tree, got none"):
        tree.stack([])
    with pytest.raises(ValueError, match=r"trees\[1\]\['a'\] does not .* trees\[0\]\['a'\]"):
        tree.stack([{"a": [torch.ones(1)]}, {"a": torch.ones(1)}])
    with pytest.raises(ValueError, match=r"trees\[2\]\[0\] has shape \(2,\), trees\[0\]\[0\] has"):
        tree.stack([[torch.ones(1)], [torch.ones(1)], [torch.ones(2)]])
    for leaves in ([torch.ones(2), torch.ones(3)], [torch.ones(())], []):
        with pytest.raises(ValueError, match="one common leading length, got shapes"):
            tree.unstack(leaves)
