"""Finding and replacing parts of trees by name."""

import collections
import copy
from typing import NamedTuple

import optree
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import purefn.functional as pf
from purefn import optim
from purefn.functional import nn, random, tree


class Pair(NamedTuple):
    left: object
    right: object


class Box:
    """A container that only optree knows."""

    def __init__(self, content):
        self.content = content


optree.register_pytree_node(
    Box,
    lambda box: ((box.content,), None, ("content",)),
    lambda _, children: Box(*children),
    namespace=tree.NAMESPACE,
)

PARAMS = {
    "stem": {"weight": 1, "bias": 2},
    "blocks": [{"conv1": {"weight": 3}, "norm": {"bias": 4}}, {"conv1": {"weight": 5}}],
    "head": Pair({"weight": 6}, None),
}


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("stem", ["stem"]),
        ("stem.bias", ["stem.bias"]),
        ("*.bias", ["stem.bias"]),
        ("**.bias", ["blocks.0.norm.bias", "stem.bias"]),
        ("blocks.*.conv1", ["blocks.0.conv1", "blocks.1.conv1"]),
        ("blocks.[1-9]", ["blocks.1"]),
        ("blocks.[!0].**", ["blocks.1"]),
        ("blocks.**.weight", ["blocks.0.conv1.weight", "blocks.1.conv1.weight"]),
        ("**", ["blocks", "head", "stem"]),
        ("*", ["blocks", "head", "stem"]),
        ("s?em", ["stem"]),
        ("head.left.weight", ["head.left.weight"]),
        ("head.right", ["head.right"]),
        ("**.conv?.**", ["blocks.0.conv1", "blocks.1.conv1"]),
        (lambda name: name.endswith("weight") and "blocks" not in name,
         ["head.left.weight", "stem.weight"]),
    ],
)  # fmt: skip
def test_patterns_are_those_of_a_shell_by_entry(pattern, names):
    assert tree.at(PARAMS, pattern).names == names


def test_several_patterns_are_united_and_the_outer_place_stands_for_the_inner():
    assert tree.at(PARAMS, "**.bias", "stem").names == ["blocks.0.norm.bias", "stem"]


def test_a_name_means_itself_whatever_it_contains():
    odd = {"a.b": 1, "x[0]": 2, "*": 3, "c": 4}
    assert tree.at(odd, "a.b").get() == 1
    assert tree.at(odd, "x[0]").set(0) == {**odd, "x[0]": 0}
    assert tree.mask(odd, "x[0]", "a.b") == {"a.b": True, "x[0]": True, "*": False, "c": False}


def test_get_set_and_apply_reach_into_every_node():
    nodes = {
        "list": [1, 2],
        "named": Pair(1, (2,)),
        "deque": collections.deque([1, 2]),
        "ordered": collections.OrderedDict(b=1, a=2),
        "box": Box({"deep": 1}),
    }
    assert tree.at(nodes, "named.right.0").set(5)["named"] == Pair(1, (5,))
    assert tree.at(nodes, "deque.1").set(5)["deque"] == collections.deque([1, 5])
    assert tree.at(nodes, "ordered.a").apply(lambda a: a + 1)["ordered"] == {"b": 1, "a": 3}
    changed = tree.at(nodes, "box.content.deep").set([7])
    assert isinstance(changed["box"], Box)
    assert changed["box"].content == {"deep": [7]}
    assert tree.at(nodes, "list.*").get_all() == {"list.0": 1, "list.1": 2}
    assert nodes["box"].content == {"deep": 1}


def test_what_was_none_can_be_set_and_what_is_set_can_be_a_subtree():
    assert tree.at(PARAMS, "head.right").set({"bias": 7})["head"] == Pair(
        {"weight": 6}, {"bias": 7}
    )
    assert tree.at(PARAMS, "stem").set(None)["stem"] is None


def test_the_rest_is_shared_and_nothing_is_written():
    params = {"a": {"w": torch.ones(2)}, "b": {"w": torch.zeros(2)}}
    before = copy.deepcopy(params)
    after = tree.at(params, "a.w").apply(lambda w: w + 1)
    assert after["b"] is params["b"]
    assert torch.equal(after["a"]["w"], torch.full((2,), 2.0))
    assert tree.all(tree.map(torch.equal, params, before))


names = st.text("ab*?[]!.", min_size=1, max_size=4)


@settings(max_examples=50)
@given(st.dictionaries(names, st.integers(), min_size=1), st.data())
def test_every_leaf_is_found_by_its_own_name(values, data):
    name = data.draw(st.sampled_from(sorted(values)))
    assert tree.at(values, name).get_all()[name] == values[name]


@settings(max_examples=20)
@given(st.recursive(st.integers(), lambda inner: st.dictionaries(st.text("ab", min_size=1), inner)))
def test_all_leaves_match_the_widest_pattern(values):
    if not isinstance(values, dict) or not tree.leaves(values):
        return
    assert tree.all(tree.mask(values, "**"))
    tens = tree.at(values, lambda name: True).apply(lambda leaf: 10 * leaf)
    assert tens == tree.map(lambda leaf: 10 * leaf, values)


def test_a_mask_covers_what_lies_below():
    assert tree.mask(PARAMS, "blocks.0", "**.bias") == {
        "stem": {"weight": False, "bias": True},
        "blocks": [
            {"conv1": {"weight": True}, "norm": {"bias": True}},
            {"conv1": {"weight": False}},
        ],
        "head": Pair({"weight": False}, None),
    }


@pytest.mark.parametrize("function", [tree.at, tree.mask])
def test_what_is_refused(function):
    with pytest.raises(ValueError, match=r"nothing is called 'stem.wieght'.*'stem.weight'"):
        function(PARAMS, "stem.wieght")
    with pytest.raises(ValueError, match="nothing is called 'encoder'"):
        function(PARAMS, "stem", "encoder")
    with pytest.raises(ValueError, match="selects no leaf"):
        function(PARAMS, lambda name: False)
    with pytest.raises(ValueError, match="expected a pattern"):
        function(PARAMS)
    with pytest.raises(ValueError, match="nothing is called ''"):
        function(PARAMS, "")
    with pytest.raises(ValueError, match="nothing is called 'a'; there are no names"):
        function({}, "a")
    with pytest.raises(TypeError, match="expected a pattern"):
        function(PARAMS, 3)
    with pytest.raises(TypeError, match=r"expected True or False for 'blocks.0.conv1.weight'"):
        function(PARAMS, lambda name: 1)


def test_one_place_to_get():
    with pytest.raises(ValueError, match="get_all"):
        tree.at(PARAMS, "**.bias").get()


def test_two_places_of_one_name_are_not_taken_for_one():
    dotted, numbers = {"a.b": 1, "a": {"b": 2}}, collections.OrderedDict([(1, "x"), ("1", "y")])
    for twice, name in ((dotted, "a.b"), (numbers, "1")):
        places = tree.at(twice, name)
        for get in (places.get, places.get_all):
            with pytest.raises(ValueError, match=f"tree.at: two places are called '{name}'"):
                get()
        assert tree.leaves(places.set(0)) == [0, 0]


def test_surgery_inside_a_transform():
    params = {"a": {"w": torch.arange(3.0)}, "b": torch.ones(3)}

    def total(params):
        doubled = tree.at(params, "a.w").apply(lambda w: 2 * w)
        return (doubled["a"]["w"] * doubled["b"]).sum()

    expected = {"a": {"w": torch.full((3,), 2.0)}, "b": 2 * torch.arange(3.0)}
    for gradient in (pf.grad(total), pf.jit(pf.grad(total), backend="aot_eager")):
        assert tree.all(tree.map(torch.equal, gradient(params), expected))
    many = pf.vmap(pf.grad(total))(tree.stack([params, params]))
    assert tree.all(tree.map(torch.equal, tree.unstack(many)[1], expected))


def test_frozen_leaves_do_not_move_and_cost_no_gradient():
    """As torch with `requires_grad=False`; the optimizers take the same mask."""
    model = nn.serial(
        stem=nn.conv2d(4, 3, padding=1),
        blocks=nn.serial(*[nn.serial(conv=nn.conv2d(4, 3, padding=1), act=nn.tanh)] * 3),
        pool=nn.global_avg_pool(),
        fc=nn.linear(3),
    )
    images = torch.randn(2, 3, 6, 6)
    params = model.init(random.key(0), images)
    mask = tree.mask(params, "fc", "blocks.2.**.weight")
    trainable, frozen = tree.partition(params, mask)

    def loss(trainable):
        return model(tree.combine(trainable, frozen), images).square().mean()

    grads = pf.grad(loss)(trainable)
    assert set(tree.to_state_dict(grads)) == {"fc.bias", "fc.weight", "blocks.2.conv.weight"}
    whole = pf.grad(lambda params: model(params, images).square().mean())(params)
    for name, leaf in tree.to_state_dict(grads).items():
        assert torch.equal(leaf, tree.at(whole, name).get())
    graphs = [pf.make_graph(pf.grad(loss))(part).operators for part in (trainable, params)]
    assert [operators.count("aten.convolution_backward") for operators in graphs] == [1, 4]

    optimizer = optim.selective_transform(
        optim.sgd(0.1, weight_decay=0.1), freeze_mask=tree.map(lambda flag: not flag, mask)
    )
    updates, _ = optimizer.update(whole, optimizer.init(params), params)
    moved = tree.map(lambda new, old: not torch.equal(new, old),
                     optim.apply_updates(params, updates), params)  # fmt: skip
    assert moved == mask


@pytest.mark.parametrize("weights", [None, [1, 2, 0.5]])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.complex64])
def test_the_mean_is_that_of_the_stacked_leaves(weights, dtype):
    trees = [{"w": torch.randn(4, 3).to(dtype), "b": [torch.randn(()).to(dtype)]} for _ in range(3)]
    found = tree.mean(trees, weights)
    shares = torch.tensor(weights or [1, 1, 1], dtype=torch.float64)
    shares = shares / shares.sum()
    wide = torch.complex128 if dtype.is_complex else torch.float64
    for actual, *leaves in zip(tree.leaves(found), *map(tree.leaves, trees), strict=True):
        expected = sum(share * leaf.to(wide) for share, leaf in zip(shares, leaves, strict=True))
        assert actual.dtype == dtype
        # A narrow leaf is rounded once: by half a unit in its last place.
        bound = torch.finfo(dtype).eps * (0.5 if dtype == torch.bfloat16 else 3)
        least = min(bound, 1e-6)
        torch.testing.assert_close(actual.to(wide), expected, rtol=bound, atol=least)


def test_the_mean_refuses():
    ones = {"w": torch.ones(2)}
    with pytest.raises(TypeError, match=r"\['count'\] is torch.int64"):
        tree.mean([{"count": torch.tensor(3)}])
    with pytest.raises(ValueError, match=r"tree.mean: expected at least one"):
        tree.mean([])
    for trees in (ones, iter([ones])):
        with pytest.raises(TypeError, match=r"tree.mean: expected a list or tuple of trees, got"):
            tree.mean(trees)
    for trees in ([{"w": 1.0}], [{"w": 1.0}, ones]):
        with pytest.raises(TypeError, match=r"trees\[0\]\['w'\] is 1.0"):
            tree.mean(trees)
    with pytest.raises(ValueError, match="shape"):
        tree.mean([ones, {"w": torch.ones(3)}])
    for weights in ([1], [1, -1], [0, 0], [1, float("inf")], [1, float("nan")]):
        with pytest.raises(ValueError, match="expected 2 finite weights"):
            tree.mean([ones, ones], weights)


def test_a_cast_is_to_a_dtype():
    for dtype in ("float16", torch.ones(1), float):
        with pytest.raises(TypeError, match=r"tree.cast: expected a torch.dtype for dtype, got"):
            tree.cast({"w": torch.ones(2)}, dtype)
