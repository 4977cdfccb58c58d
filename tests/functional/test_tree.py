"""Trees against plain Python, torch.nn.utils, torch's state dicts and numpy."""

import builtins
import collections
import dataclasses
import functools
import typing

import hypothesis.strategies as st
import numpy as np
import optree
import pytest
import torch
from hypothesis import assume, given

import purefn.functional as pf
from purefn.functional import tree


class Pair(typing.NamedTuple):
    x: typing.Any
    y: typing.Any


@tree.dataclass
class Dense:
    weight: typing.Any
    bias: typing.Any
    name: str = tree.static(default="dense")


class Box:
    """A node registered with optree itself, in this library's namespace."""

    def __init__(self, content, label):
        self.content, self.label = content, label

    def __eq__(self, other):
        return type(other) is Box and vars(self) == vars(other)


optree.register_pytree_node(
    Box,
    lambda box: ((box.content,), box.label, ("content",)),
    lambda label, children: Box(*children, label),
    path_entry_type=optree.GetAttrEntry,
    namespace=tree.NAMESPACE,
)

names = st.text("abcw_", min_size=1, max_size=3)


def containers(children):
    return st.one_of(
        st.lists(children, max_size=3),
        st.lists(children, max_size=3).map(tuple),
        st.dictionaries(names, children, max_size=3),
        st.dictionaries(names, children, max_size=3).map(collections.OrderedDict),
        st.builds(Pair, children, children),
        st.builds(Dense, children, children, name=names),
        st.builds(Box, children, names),
    )


def trees(leaves, max_leaves=8):
    return st.recursive(leaves | st.none(), containers, max_leaves=max_leaves)


integers = st.integers(-100, 100)
integer_trees = trees(integers)


def walk(node):
    """Yield `(path, leaf)` pairs, in plain Python: what the documentation says about order."""
    if node is None:
        return
    if isinstance(node, Pair):
        children = node._asdict().items()
    elif isinstance(node, Dense):
        children = [("weight", node.weight), ("bias", node.bias)]
    elif isinstance(node, Box):
        children = [("content", node.content)]
    elif isinstance(node, collections.OrderedDict):
        children = node.items()
    elif isinstance(node, dict):
        children = sorted(node.items())
    elif isinstance(node, (list, tuple)):
        children = enumerate(node)
    else:
        yield (), node
        return
    for key, child in children:
        for path, leaf in walk(child):
            yield (key, *path), leaf


def replace(original, place, leaf):
    values, structure = tree.flatten(original)
    return tree.unflatten(structure, [*values[:place], leaf, *values[place + 1 :]])


# --- taking apart and putting together -----------------------------------------------------------


@given(integer_trees)
def test_leaves_and_paths_are_those_of_a_walk(original):
    expected = list(walk(original))
    assert tree.leaves_with_path(original) == expected
    assert tree.leaves(original) == [leaf for _, leaf in expected]


@given(integer_trees)
def test_path_strings_are_expressions_that_reach_the_leaves(original):
    strings = tree.path_strings(original, "params")
    assert [eval(string, {"params": original}) for string in strings] == tree.leaves(original)


@given(integer_trees)
def test_unflatten_undoes_flatten(original):
    values, structure = tree.flatten(original)
    assert tree.unflatten(structure, iter(values)) == original
    assert tree.structure(original) == structure
    assert tree.structure(tree.unflatten(structure, range(len(values)))) == structure
    assert hash(structure) == hash(tree.structure(original))


@given(st.dictionaries(names, integer_trees, min_size=2))
def test_dicts_with_the_same_items_are_the_same_tree(original):
    turned = dict(reversed(original.items()))
    assert tree.leaves(turned) == tree.leaves(original)
    assert tree.structure(turned) == tree.structure(original)


def test_structures_differ_by_container_key_and_static_field():
    examples = [[0], (0,), {"a": 0}, {"b": 0}, [0, None], [[0]], 0, None, Pair(0, None)]
    examples += [Dense(0, None), Dense(0, None, name="other"), Box(0, "p"), Box(0, "q")]
    structures = [tree.structure(example) for example in examples]
    assert len(set(structures)) == len(structures)


def test_is_leaf_keeps_a_subtree_whole():
    nested = {"a": Pair(1, 2), "b": [Pair(3, 4)]}

    def is_pair(node):
        return isinstance(node, Pair)

    assert tree.leaves(nested, is_leaf=is_pair) == [Pair(1, 2), Pair(3, 4)]
    assert tree.map(sum, nested, is_leaf=is_pair) == {"a": 3, "b": [7]}
    assert tree.path_strings(nested, is_leaf=is_pair) == ["tree['a']", "tree['b'][0]"]
    paths = tree.map_with_path(lambda path, _: path, nested, is_leaf=is_pair)
    assert paths == {"a": ("a",), "b": [("b", 0)]}


@pytest.mark.parametrize("count", [1, 3])
def test_unflatten_wants_one_leaf_for_each_place(count):
    with pytest.raises(ValueError, match="leaves"):
        tree.unflatten(tree.structure([0, 0]), [1] * count)


# --- map -----------------------------------------------------------------------------------------


@given(integer_trees)
def test_map_applies_to_each_leaf_in_order(original):
    seen = []
    doubled = tree.map(lambda leaf: seen.append(leaf) or 2 * leaf, original)
    assert seen == tree.leaves(original)
    assert tree.leaves(doubled) == [2 * leaf for leaf in tree.leaves(original)]
    assert tree.structure(doubled) == tree.structure(original)


@given(integer_trees)
def test_map_pairs_leaves_of_equal_trees(original):
    plus, times = tree.map(lambda x: x + 1, original), tree.map(lambda x: x * 3, original)
    mapped = tree.map(lambda x, y, z: x + y * z, original, plus, times)
    assert tree.leaves(mapped) == [x + (x + 1) * 3 * x for x in tree.leaves(original)]


@given(integer_trees)
def test_map_with_path_gives_the_path_first(original):
    marked = tree.map_with_path(lambda path, x, y: (path, x, y), original, original)
    expected = [(path, leaf, leaf) for path, leaf in walk(original)]
    assert tree.leaves(marked, is_leaf=lambda node: node in expected) == expected


@given(integer_trees, integer_trees)
def test_a_leaf_of_the_first_tree_receives_a_whole_subtree(original, subtree):
    deeper = tree.map(lambda _: subtree, original)
    received = []
    tree.map(lambda _, node: received.append(node), original, deeper)
    assert received == [subtree] * len(tree.leaves(original))


@given(trees(integers).filter(tree.leaves), st.data())
def test_a_mismatch_names_its_path(original, data):
    place = data.draw(st.integers(0, len(tree.leaves(original)) - 1))
    expected = replace(original, place, {"deep": 0})
    path = tree.path_strings(original, "")[place]
    with pytest.raises(ValueError, match="does not have the structure of") as error:
        tree.map(lambda p, g: p, expected, original, names=("params", "grads"))
    assert str(error.value).startswith(
        f"grads{path} does not have the structure of params{path}: "
        "expected dict with entries ['deep'], found a leaf ("
    )


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"a": 1}, {"b": 1}, "expected entries ['a'], found entries ['b']"),
        ({"a": 1}, {"a": 1, "b": 1}, "expected entries ['a'], found entries ['a', 'b']"),
        ([1, 2], [1], "expected entries [0, 1], found entries [0]"),
        ([1], (1,), "expected list with entries [0], found tuple with entries [0]"),
        (Pair(1, 2), (1, 2), "expected Pair with entries [0, 1], found tuple with"),
        ([1], None, "expected list with entries [0], found None"),
        (None, 1, "expected None, found a leaf (1)"),
        ([1], torch.ones(2, 3), "found a leaf of shape (2, 3)"),
        (Dense(1, 2), Dense(1, 2, name="other"), "'other'"),
        (Box(1, "p"), Box(1, "q"), "'q'"),
    ],
)
def test_a_mismatch_says_what_was_expected_and_found(first, second, message):
    first, second = {"net": [0, first]}, {"net": [0, second]}
    with pytest.raises(ValueError, match="structure") as error:
        tree.map(lambda *leaves: leaves, first, first, second)
    assert str(error.value).startswith("tree 3['net'][1] does not have the structure of tree 1['ne")
    assert message in str(error.value)


def test_reduce_folds_from_the_left():
    nested = {"b": [3, 4], "a": 2}
    assert tree.reduce(lambda total, leaf: (total, leaf), nested) == ((2, 3), 4)
    assert tree.reduce(lambda total, leaf: (total, leaf), nested, 0) == (((0, 2), 3), 4)
    assert tree.reduce(max, [None], 7) == 7


@given(trees(st.booleans()))
def test_all_and_any_are_those_of_the_leaves(flags):
    assert tree.all(flags) is builtins.all(tree.leaves(flags))
    assert tree.any(flags) is builtins.any(tree.leaves(flags))


# --- transpose, partition, combine ---------------------------------------------------------------


@given(integer_trees, integer_trees)
def test_transpose_turns_outer_and_inner_around(outer, inner):
    outer_structure, inner_structure = tree.structure(outer), tree.structure(inner)
    nested = tree.map(lambda x: tree.map(lambda y: 1000 * x + y, inner), outer)
    turned = tree.transpose(outer_structure, inner_structure, nested)
    assert turned == tree.map(lambda y: tree.map(lambda x: 1000 * x + y, outer), inner)
    if tree.leaves(inner):
        assert tree.transpose(inner_structure, outer_structure, turned) == nested


def test_transpose_names_the_place_that_does_not_fit():
    outer, inner = tree.structure({"w": 0, "b": 0}), tree.structure((0, 0))
    with pytest.raises(ValueError, match=r"^tree does not have the structure of outer.*\['w'\]"):
        tree.transpose(outer, inner, {"w": (1, 2)})
    with pytest.raises(ValueError, match=r"^subtree does not .* inner.*\[0, 1\], found .*\[0\]"):
        tree.transpose(outer, inner, {"w": (1, 2), "b": (3,)})


@given(integer_trees, st.data())
def test_combine_undoes_partition(original, data):
    mask = tree.map(lambda _: data.draw(st.booleans()), original)
    selected, others = tree.partition(original, mask)
    pairs = list(zip(tree.leaves(original), tree.leaves(mask), strict=True))
    assert tree.leaves(selected) == [leaf for leaf, flag in pairs if flag]
    assert tree.leaves(others) == [leaf for leaf, flag in pairs if not flag]
    assert tree.combine(selected, others) == original
    assert tree.combine(others, selected) == original


@given(integer_trees)
def test_a_function_of_path_and_leaf_is_a_mask(original):
    flags = tree.map_with_path(lambda path, leaf: "a" in path or leaf > 0, original)
    by_tree = tree.partition(original, flags)
    assert tree.partition(original, lambda path, leaf: "a" in path or leaf > 0) == by_tree


def test_a_mask_may_stop_above_the_leaves():
    nested = {"body": {"w": 1, "b": [2]}, "head": 3}
    selected, others = tree.partition(nested, {"body": True, "head": False})
    assert selected == {"body": {"w": 1, "b": [2]}, "head": None}
    assert others == {"body": {"w": None, "b": [None]}, "head": 3}


def test_partition_and_combine_refuse_what_does_not_fit():
    with pytest.raises(TypeError, match="True or False for each leaf, got 1"):
        tree.partition({"a": 1}, {"a": 1})
    with pytest.raises(ValueError, match=r"tree\['a'\] does not have the structure of mask\['a'\]"):
        tree.partition({"a": 1}, {"a": {"b": True}})
    with pytest.raises(ValueError, match="expected at least one tree"):
        tree.combine()
    for first, second in (
        ({"z": None, "a": {"b": 1}}, {"z": 1, "a": {"c": 1}}),
        ({"a": {"b": 1}}, {"a": None}),
        ({"a": None}, {"a": {"b": 1}}),
    ):
        with pytest.raises(ValueError, match=r"tree.combine: tree .\['a'\] does not .*\['a'\]:"):
            tree.combine(first, second)


def test_combine_takes_the_first_leaf():
    assert tree.combine([None, 1, None], [None, 2, 3], [None, 4, 5]) == [None, 1, 3]


# --- dataclasses ---------------------------------------------------------------------------------


def test_a_tree_dataclass_is_frozen_and_its_static_fields_are_structure():
    dense = Dense(torch.ones(2), bias=torch.zeros(1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        dense.weight = None
    assert tree.leaves(dense) == [dense.weight, dense.bias]
    doubled = tree.map(lambda leaf: 2 * leaf, dense)
    assert isinstance(doubled, Dense)
    assert doubled.name == "dense"
    assert [field.name for field in dataclasses.fields(Dense)] == ["weight", "bias", "name"]
    assert dataclasses.replace(dense, name="x").weight is dense.weight


def test_static_takes_the_options_of_a_field():
    @tree.dataclass
    class Config:
        value: float
        tags: tuple = tree.static(default_factory=tuple, repr=False)

    assert Config(1.0) == Config(1.0, ())
    assert "tags" not in repr(Config(1.0))
    assert tree.structure(Config(1.0)) != tree.structure(Config(1.0, ("a",)))


# --- arithmetic ----------------------------------------------------------------------------------


@st.composite
def tensors(draw, dtypes=(torch.float32, torch.float64)):
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    values = 8 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return values.to(draw(st.sampled_from(dtypes)))


def tensor_trees(*dtypes):
    return trees(tensors(dtypes) if dtypes else tensors(), max_leaves=5)


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


# --- torch's state dicts -------------------------------------------------------------------------


def network():
    return torch.nn.Sequential(
        collections.OrderedDict(
            conv=torch.nn.Conv2d(1, 2, 3),
            norm=torch.nn.BatchNorm2d(2),
            body=torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 3)),
        )
    )


def test_a_modules_state_dict_becomes_nested_dicts_and_comes_back():
    state = network().state_dict()
    params = tree.from_state_dict(state)
    assert params["body"]["1"]["weight"] is state["body.1.weight"]
    assert set(params) == {"conv", "norm", "body"}
    flat = tree.to_state_dict(params)
    assert flat.keys() == state.keys()
    assert builtins.all(flat[name] is state[name] for name in state)
    other = network()
    other.load_state_dict(flat)
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_a_module_computes_with_the_names():
    module, images = network().eval(), torch.randn(2, 1, 4, 4)
    params = tree.map(lambda leaf: leaf.clone(), tree.from_state_dict(module.state_dict()))
    output = torch.func.functional_call(module, tree.to_state_dict(params), (images,))
    assert torch.equal(output, module(images))


@given(tensor_trees())
def test_from_state_dict_with_like_undoes_to_state_dict(params):
    assume(params is not None)
    flat = tree.to_state_dict(params)
    assert list(flat) == [".".join(map(str, path)) for path, _ in walk(params)]
    restored = tree.from_state_dict(dict(reversed(flat.items())), like=params)
    assert tree.structure(restored) == tree.structure(params)
    for leaf, expected in zip(tree.leaves(restored), tree.leaves(params), strict=True):
        assert leaf is expected


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"fc.weight": torch.ones(2)}, r"missing names \['fc.bias'\], unknown names \[\]"),
        (
            {"fc.weight": torch.ones(2), "fc.bias": torch.ones(1), "x": torch.ones(1)},
            r"missing names \[\], unknown names \['x'\]",
        ),
        (
            {"fc.weight": torch.ones(2, 1), "fc.bias": torch.ones(1)},
            r"'fc.weight' has shape \(2, 1\).*expected \(2,\)",
        ),
        (
            {"fc.weight": torch.ones(2), "fc.bias": torch.ones(1).double()},
            r"'fc.bias' has .* torch.float64, expected \(1,\) and torch.float32",
        ),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused_by_name(state, message):
    with pytest.raises(ValueError, match=message):
        tree.from_state_dict(state, like={"fc": {"weight": torch.ones(2), "bias": torch.ones(1)}})


def test_ambiguous_names_are_refused():
    with pytest.raises(ValueError, match=r"two leaves would be called 'a\.b'"):
        tree.to_state_dict({"a.b": torch.ones(1), "a": {"b": torch.ones(1)}})
    with pytest.raises(ValueError, match=r"'a.b' lies below another leaf's name"):
        tree.from_state_dict({"a": torch.ones(1), "a.b": torch.ones(1)})
    with pytest.raises(ValueError, match="'a' is also the beginning of another name"):
        tree.from_state_dict({"a.b": torch.ones(1), "a": torch.ones(1)})


# --- under a trace and under the transforms ------------------------------------------------------

PARAMS = {
    "z": {"weight": torch.tensor([1.0, 2.0]), "bias": torch.tensor([3.0])},
    "a": [torch.tensor([4.0]), None, (torch.tensor([[5.0, 6.0]]),)],
    "p": Pair(torch.tensor([7.0]), torch.tensor([8.0])),
    "d": Dense(torch.tensor([9.0]), torch.tensor([0.5])),
}


def mapped(params):
    return tree.map(lambda x, y: 2 * x + y, params, tree.ones_like(params))


def mapped_with_path(params):
    return tree.map_with_path(lambda path, x: -x if path[-1] == "weight" else x, params)


def partitioned(params):
    weights, others = tree.partition(params, lambda path, _: path[-1] == "weight")
    return tree.combine(tree.map(torch.neg, weights), others)


def partitioned_by_prefix(params):
    return tree.partition(params, {"z": True, "a": False, "p": True, "d": False})


def raveled(params):
    vector, unravel = tree.ravel(params)
    return vector, unravel(3 * vector)


def reduced(params):
    total = tree.reduce(lambda total, leaf: total + leaf.sum(), params, torch.zeros(()))
    return total, tree.norm(params), tree.dot(params, mapped(params))


def stacked(params):
    both = tree.stack([params, tree.zeros_like(params)])
    return both, tree.unstack(both)


def named(params):
    flat = tree.to_state_dict(params)
    return flat, tree.from_state_dict(flat, like=params)


def transposed(params):
    pairs = tree.map(lambda leaf: (leaf, leaf + 1), params)
    return tree.transpose(tree.structure(params), tree.structure((0, 0)), pairs)


def masked(params):
    matrices = tree.map(lambda leaf: leaf.ndim > 1, params)
    assert not tree.all(matrices)
    assert tree.any(matrices)
    return tree.partition(params, matrices)


def converted(params):
    return tree.cast(params, torch.float64), tree.size(params), tree.nbytes(params)


@pytest.mark.parametrize(
    "function",
    [
        mapped,
        mapped_with_path,
        partitioned,
        partitioned_by_prefix,
        raveled,
        reduced,
        stacked,
        named,
        transposed,
        masked,
        converted,
    ],
)
def test_one_graph_gives_what_eager_gives(function):
    expected, structure = tree.flatten(function(PARAMS))
    compiled = torch.compile(function, fullgraph=True, backend="eager", dynamic=False)
    values, compiled_structure = tree.flatten(compiled(PARAMS))
    assert compiled_structure == structure
    torch.testing.assert_close(values, expected, rtol=0, atol=0)


def test_a_traced_map_places_leaves_by_key_whatever_the_insertion_order():
    turned = dict(reversed(PARAMS.items()))
    compiled = torch.compile(mapped, fullgraph=True, backend="eager", dynamic=False)
    for key, value in mapped(PARAMS).items():
        torch.testing.assert_close(tree.leaves(compiled(turned)[key]), tree.leaves(value))


def test_norm_and_dot_have_the_gradients_of_the_vector():
    gradient = pf.grad(tree.norm)(PARAMS)
    norm = tree.norm(PARAMS)
    torch.testing.assert_close(tree.leaves(gradient), [x / norm for x in tree.leaves(PARAMS)])
    gradient = pf.grad(lambda params: tree.dot(params, params))(PARAMS)
    torch.testing.assert_close(tree.leaves(gradient), [2 * x for x in tree.leaves(PARAMS)])


def test_vmap_maps_the_leaves_of_a_stack():
    stack = tree.stack([PARAMS, mapped(PARAMS)])
    norms = pf.vmap(tree.norm)(stack)
    torch.testing.assert_close(norms, torch.stack([tree.norm(PARAMS), tree.norm(mapped(PARAMS))]))
    vectors = pf.vmap(lambda params: tree.ravel(params)[0])(stack)
    torch.testing.assert_close(vectors[1], tree.ravel(mapped(PARAMS))[0])
