"""Functions of trees in a graph, and under `grad` and `vmap`."""

import typing

import pytest
import torch

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
