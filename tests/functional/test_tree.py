"""Trees against plain Python, and torch's state dicts."""

import builtins
import collections
import dataclasses
import typing

import hypothesis.strategies as st
import optree
import pytest
import torch
from hypothesis import assume, given

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


@given(trees(st.builds(torch.ones, st.integers(0, 3)), max_leaves=5))
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
