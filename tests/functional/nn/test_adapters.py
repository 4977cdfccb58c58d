import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import purefn.functional as pf
from purefn.functional import nn, per_example, random, tree

KEY = random.key(0)
ALPHA = 3.0


def adapted_params(layer, x, seed=1):
    """Parameters of which no adapter is zero."""
    params = layer.init(KEY, x)
    adapters = tree.map(torch.zeros_like, params["adapters"])
    leaves = tree.leaves(adapters)
    keys = random.split(random.key(seed), len(leaves))
    drawn = [random.normal(one, leaf.shape) for one, leaf in zip(keys, leaves, strict=True)]
    adapters = tree.unflatten(tree.structure(adapters), drawn)
    return tree.cast({**params, "adapters": adapters}, x.dtype)


MODELS = {
    "linear": (nn.serial(nn.linear(4), nn.tanh, nn.linear(2)), torch.randn(3, 5).double()),
    "conv2d": (nn.conv2d(6, (2, 3), groups=2), torch.randn(3, 4, 5, 5).double()),
    "lstm": (nn.serial(nn.lstm(3), lambda out: out[0]), torch.randn(3, 4, 2).double()),
}
each_model = pytest.mark.parametrize(("model", "x"), MODELS.values(), ids=list(MODELS))


@each_model
def test_outputs_begin_as_those_of_the_base(model, x):
    layer = nn.lora(model, 2, alpha=ALPHA)
    params = tree.cast(layer.init(KEY, x), x.dtype)
    assert torch.equal(layer(params, x), model(params["base"], x))


@settings(max_examples=8, deadline=None)
@given(rank=st.integers(1, 6), alpha=st.floats(0.5, 8), bias=st.booleans())
def test_linear_is_the_sum_of_two_paths(rank, alpha, bias):
    x = torch.linspace(-1, 1, 15, dtype=torch.float64).reshape(3, 5)
    layer = nn.lora(nn.linear(4, bias=bias), rank, alpha=alpha)
    params = adapted_params(layer, x)
    a, b = (params["adapters"]["weight"][name] for name in "AB")
    assert (a.shape, b.shape) == ((rank, 5), (4, rank))
    expected = nn.linear(4, bias=bias)(params["base"], x) + alpha / rank * (x @ a.mT @ b.mT)
    torch.testing.assert_close(layer(params, x), expected, rtol=1e-12, atol=1e-12)


@each_model
def test_merging_and_back(model, x):
    layer = nn.lora(model, 2, alpha=ALPHA)
    params = adapted_params(layer, x)
    merged = nn.merge_lora(params, ALPHA)
    assert torch.equal(model(merged, x), layer(params, x))
    assert not torch.allclose(model(params["base"], x), layer(params, x))
    again = nn.unmerge_lora(merged, params["adapters"], ALPHA)
    torch.testing.assert_close(again, params, rtol=1e-12, atol=1e-12)


@each_model
def test_gradients_by_the_adapters_alone(model, x):
    layer = nn.lora(model, 2, alpha=ALPHA)
    params = adapted_params(layer, x)
    trained, frozen = tree.partition(params, lambda path, leaf: path[0] == "adapters")

    def losses(trained, x):
        return layer(tree.combine(trained, frozen), x).square().flatten(1).sum(1)

    grads = pf.grad(lambda p: losses(p, x).sum())(trained)
    assert tree.leaves(grads["base"]) == []
    # W' = W + s B A, so that the gradients are s B^T G and s G A^T.
    by_weight = pf.grad(lambda p: model(p, x).square().sum())(nn.merge_lora(params, ALPHA))
    names = tree.to_state_dict(params["adapters"])
    found = tree.to_state_dict(grads["adapters"])
    for name, whole in tree.to_state_dict(by_weight).items():
        if whole.ndim >= 2:
            g, a, b = whole.flatten(1), names[f"{name}.A"], names[f"{name}.B"]
            for part, expected in ("A", b.mT @ g), ("B", g @ a.mT):
                torch.testing.assert_close(
                    found[f"{name}.{part}"], ALPHA / 2 * expected, rtol=1e-10, atol=1e-12
                )
    rows = tree.stack([pf.grad(lambda p, r=r: losses(p, r[None]).sum())(trained) for r in x])
    torch.testing.assert_close(per_example.grads(losses)(trained, x), rows, rtol=1e-9, atol=1e-12)
    norms = tree.leaves(per_example.norms(losses)(trained, x).parts)
    for norm, row in zip(norms, tree.leaves(rows), strict=True):
        torch.testing.assert_close(norm, row.flatten(1).square().sum(1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("where", "names"),
    [
        (["0.weight"], ["0.weight"]),
        ({"2.weight", "0.weight"}, ["0.weight", "2.weight"]),
        (lambda name, weight: weight.shape[0] == 2 and name.endswith("weight"), ["2.weight"]),
    ],
)
def test_which_weights_have_adapters(where, names):
    model, x = MODELS["linear"]
    params = nn.lora(model, 2, alpha=ALPHA, where=where).init(KEY, x)
    expected = [f"{name}.{part}" for name in names for part in "AB"]
    assert list(tree.to_state_dict(params["adapters"])) == expected


def test_a_state_passes_through():
    model = nn.serial(nn.linear(4), nn.batch_norm())
    x = torch.randn(6, 5)
    layer = nn.lora(model, 2, alpha=ALPHA)
    params, state = layer.init(KEY, x)
    y, new = layer(params, state, x, train=True)
    expected, expected_state = model(params["base"], state, x, train=True)
    assert torch.equal(y, expected)
    assert tree.all(tree.map(torch.equal, new, expected_state))


def test_parameters_that_do_not_fit():
    model, x = MODELS["linear"]
    layer = nn.lora(model, 2, alpha=ALPHA)
    params = tree.cast(layer.init(KEY, x), x.dtype)
    base, adapters = params["base"], params["adapters"]
    factors = adapters["0"]["weight"]

    def with_factors(**factors):
        return {"base": base, "adapters": {"0": factors}}

    for given_params, message in [
        (base, r"lora expected a dict of \['adapters', 'base'\], got a dict of \['0', '2'\]"),
        (x, r"lora expected a dict of .*, got a torch.float64 tensor"),
        ({"base": base["0"], "adapters": adapters}, "adapters A and B at the path of a weight"),
        (with_factors(weight={"A": x}), r"got a dict of \['0.weight.A'\]"),
        (with_factors(weight={**factors, "A": x}), r"A of shape \(rank, 5"),
        (
            with_factors(weight={"A": factors["A"][:0], "B": factors["B"][:, :0]}),
            r"A of shape \(rank, 5",
        ),
        (with_factors(bias=factors), r"\(rank, 1\) and B .* '0.bias'"),
    ]:
        with pytest.raises(nn.LayerError, match=message):
            layer(given_params, x)
    with pytest.raises(nn.LayerError, match=r"^model\['base'\]\['2'\]: linear expected"):
        layer({"base": {"0": base["0"]}, "adapters": {"0": adapters["0"]}}, x)


@pytest.mark.parametrize("alpha", [0, -1.0, float("inf")])
def test_merging_takes_the_alpha_of_the_layer(alpha):
    params = nn.lora(nn.linear(4), 2, alpha=ALPHA).init(KEY, torch.ones(3, 5))
    with pytest.raises(ValueError, match="merge_lora: expected a finite alpha > 0"):
        nn.merge_lora(params, alpha)
    with pytest.raises(ValueError, match="unmerge_lora: expected a finite alpha > 0"):
        nn.unmerge_lora(params["base"], params["adapters"], alpha)
    with pytest.raises(TypeError, match="merge_lora: expected a number for alpha, got None"):
        nn.merge_lora(params, None)
    traced = pf.jit(nn.merge_lora, backend="eager")(params, ALPHA)
    assert tree.all(tree.map(torch.equal, traced, nn.merge_lora(params, ALPHA)))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rank": 0}, ValueError, "lora: expected rank >= 1, got 0"),
        ({"rank": 1.5}, TypeError, "lora: expected an integer for rank, got 1.5"),
        ({"alpha": 0}, ValueError, "lora: expected a finite alpha > 0, got 0"),
        ({"alpha": "1"}, TypeError, "lora: expected a number for alpha, got '1'"),
        ({"where": "weight"}, TypeError, "names or a function for where, got 'weight'"),
        ({"where": 3}, TypeError, "names or a function for where, got 3"),
        ({"layer": torch.relu}, TypeError, "lora: expected a Layer or a StatefulLayer, got <built"),
        ({"where": []}, nn.LayerError, r"to name some of \['bias', 'weight'\], got \[\]"),
        ({"where": ["w"]}, nn.LayerError, r"to name some of \['bias', 'weight'\], got \['w'\]"),
        ({"where": ["bias"]}, nn.LayerError, r"two or more dimensions, got .*\(4,\) for 'bias'"),
    ],
)
def test_options_that_do_not_fit(options, error, message):
    with pytest.raises(error, match=message):
        nn.lora(**{"layer": nn.linear(4), "rank": 2, "alpha": 1.0, **options}).init(
            KEY, torch.ones(3, 5)
        )
