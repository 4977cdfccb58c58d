"""Squared norms of every example's gradient: total, by parameter and by group."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import purefn.functional as pf
from purefn.functional import per_example, tree
from purefn.functional.per_example import norms

METHODS = ["auto", "ghost", "materialize"]


def normal(*shape):
    return torch.randn(shape, dtype=torch.float64)


def network():
    return {
        "table": normal(5, 3),
        "layer": {"weight": normal(4, 3), "bias": normal(4)},
        "scale": normal(),
        "unused": normal(2, 2),
    }


def losses(params, i):
    h = torch.tanh(params["table"][i] @ params["layer"]["weight"].T + params["layer"]["bias"])
    return h.sum((1, 2)) * params["scale"]


@settings(max_examples=12)
@given(
    examples=st.integers(0, 4),
    positions=st.integers(0, 4),
    chunk_size=st.none() | st.integers(1, 5),
    method=st.sampled_from(METHODS),
)
def test_norms_are_those_of_the_gradients(oracle, examples, positions, chunk_size, method):
    torch.manual_seed(0)
    params, i = network(), torch.randint(0, 5, (examples, positions))
    found = norms(losses, method=method, chunk_size=chunk_size)(params, i)
    expected = [oracle.square(leaf) for leaf in oracle.gradients(losses, params, i)]
    assert tree.structure(found.parts) == tree.structure(params)
    oracle.assert_equal(found.parts, expected, "parts")
    oracle.assert_equal(found.total, sum(expected), "total")


@pytest.mark.parametrize("method", METHODS)
def test_norms_by_group(oracle, method):
    torch.manual_seed(0)
    params, i = network(), torch.randint(0, 5, (3, 2))
    layer_bias, layer_weight, scale, table, unused = [
        oracle.square(leaf) for leaf in oracle.gradients(losses, dict(sorted(params.items())), i)
    ]
    by_layer = norms(losses, method=method, groups=per_example.by_layer)(params, i)
    oracle.assert_equal(by_layer.parts["params['layer']"], layer_bias + layer_weight)
    labels = {"layer": "deep", "scale": "deep", "table": "wide", "unused": "none"}
    found = norms(losses, method=method, groups=labels)(params, i)
    assert set(found.parts) == {"deep", "wide", "none"}
    oracle.assert_equal(found.parts["deep"], layer_bias + layer_weight + scale)
    oracle.assert_equal(found.parts["wide"], table)
    assert not found.parts["none"].any()
    oracle.assert_equal(found.total, layer_bias + layer_weight + scale + table + unused)


@pytest.mark.parametrize("method", METHODS)
def test_norms_in_programs(oracle, method):
    torch.manual_seed(0)
    models, i = [network() for _ in range(2)], torch.randint(0, 5, (3, 2))

    def of_models(stacked, i):
        return pf.vmap(norms(losses, method=method), (0, None))(stacked, i)

    found = pf.jit(of_models, backend="eager")(tree.stack(models), i)
    oracle.assert_equal(found, tree.stack([norms(losses)(model, i) for model in models]))


@pytest.mark.parametrize("method", METHODS)
def test_one_dtype_for_each_parameter(method):
    params = {"double": normal(3, 2), "single": torch.randn(3, 2)}

    def mixed(params, x):
        return (x.double() @ params["double"]).sum(1) + (x @ params["single"]).double().sum(1)

    found = norms(mixed, method=method)(params, torch.ones(4, 3))
    assert found.parts["double"].tolist() == found.parts["single"].tolist() == [6.0] * 4
    assert found.total.dtype == torch.float64


def test_no_parameters_have_norm_zero():
    for method in METHODS:
        assert not norms(lambda params, x: x.sum(1), method=method)({}, normal(4, 3)).total.any()
