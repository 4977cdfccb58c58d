"""Empirical tangent kernels against Jacobians, and the closed form of a linear model."""

import pytest
import torch
from torch.nn import functional

import purefn.functional as pf
from purefn.functional import per_example, tree
from purefn.functional.per_example import tangent_kernel

METHODS = ["auto", "ghost", "materialize"]


def plain(fun):
    return fun


def staged(fun):
    return pf.jit(fun, backend="eager")


WAYS = pytest.mark.parametrize(
    ("how", "method"),
    [(plain, "auto"), (plain, "ghost"), (plain, "materialize"), (staged, "ghost")],
)


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def network(params, images):
    h = functional.conv2d(images, params["conv"], params["b"], padding=1).tanh().flatten(1)
    h = functional.linear(h, params["w"]).tanh()
    return functional.linear(h, params["v"])


def tied(params, tokens):
    """Logits of every position, by a table that is used at both ends."""
    return functional.embedding(tokens, params["table"]).tanh() @ params["w"] @ params["table"].T


def scalar(params, x):
    return (x @ params["w"]).tanh() @ params["v"]


torch.manual_seed(0)
CASES = {
    "network": (
        network,
        {"conv": randn(2, 1, 3, 3), "b": randn(2), "w": randn(6, 18), "v": randn(3, 6)},
        randn(4, 1, 3, 3),
    ),
    "tied": (tied, {"table": randn(5, 3), "w": randn(3, 3)}, torch.randint(0, 5, (3, 2))),
    "scalar": (scalar, {"w": randn(4, 3), "v": randn(3)}, randn(5, 4)),
}
EVERY = pytest.mark.parametrize("case", CASES)


def jacobian(model, params, x):
    """Return the rows of torch.func's Jacobian, (batch, outputs, parameters)."""
    leaves, structure = tree.flatten(params)

    def outputs(*leaves):
        return model(tree.unflatten(structure, leaves), x)

    outs = outputs(*leaves)
    parts = torch.func.jacrev(outputs, argnums=tuple(range(len(leaves))))(*leaves)
    return torch.cat([part.reshape(len(x), outs[0].numel(), -1) for part in parts], 2)


@WAYS
@EVERY
def test_full_kernel_is_the_product_of_jacobians(oracle, how, method, case):
    model, params, x = CASES[case]
    rows = jacobian(model, params, x)
    output = tuple(model(params, x).shape[1:])
    expected = torch.einsum("bop,cqp->bcoq", rows, rows)
    found = how(per_example.ntk(model, method=method))(params, x)
    assert found.shape == (len(x), len(x), *output, *output)
    oracle.assert_equal(found.reshape(expected.shape), expected)


@WAYS
@EVERY
def test_trace_is_over_the_outputs(oracle, how, method, case):
    model, params, x = CASES[case]
    rows = jacobian(model, params, x)
    found = how(per_example.ntk(model, outputs="trace", method=method))(params, x)
    oracle.assert_equal(found, torch.einsum("bop,cop->bc", rows, rows))


@pytest.mark.parametrize("method", METHODS)
@EVERY
def test_cross_kernel_is_between_two_batches(oracle, method, case):
    model, params, x = CASES[case]
    other = x[:2].flip(1)
    rows, columns = jacobian(model, params, x), jacobian(model, params, other)
    full = per_example.cross_ntk(model, method=method)(params, (x,), (other,))
    expected = torch.einsum("bop,cqp->bcoq", rows, columns)
    oracle.assert_equal(full.reshape(expected.shape), expected)
    trace = per_example.cross_ntk(model, method=method, outputs="trace")(params, (x,), (other,))
    oracle.assert_equal(trace, torch.einsum("bop,cop->bc", rows, columns))


def test_a_linear_model_has_the_gram_matrix_of_its_inputs(oracle):
    x = randn(6, 3)
    found = per_example.ntk(lambda params, x: x @ params["w"].T)({"w": randn(2, 3)}, x)
    oracle.assert_equal(found, torch.einsum("bc,op->bcop", x @ x.T, torch.eye(2).double()))


def test_structured_derivatives_are_used_where_a_layer_serves_all_outputs(monkeypatch):
    used = []
    structured = tangent_kernel._structured

    def counted(first, second):
        used.append(first[0].shape[3:] + first[1].shape[2:])
        return structured(first, second)

    monkeypatch.setattr(tangent_kernel, "_structured", counted)
    model, params, x = CASES["network"]
    per_example.ntk(model, method="ghost")(params, x)
    # Of the convolution nine positions of nine inputs, of the layers one of as many as they have.
    assert [(m, n) for m, *_, n in used] == [(2, 9), (3, 6), (6, 18)]


def test_several_models_by_vmap(oracle):
    model, params, x = CASES["scalar"]
    models = tree.map(lambda leaf: torch.stack([leaf, 2 * leaf]), params)
    found = pf.vmap(per_example.ntk(model), in_axes=(0, None))(models, x)
    for index in range(2):
        rows = jacobian(model, tree.map(lambda leaf: leaf[index], models), x)[:, 0]  # noqa: B023
        oracle.assert_equal(found[index], rows @ rows.T)


def test_refusals():
    model, params, x = CASES["scalar"]
    with pytest.raises(ValueError, match="expected 'full' or 'trace' for outputs, got 'mean'"):
        per_example.ntk(model, outputs="mean")
    with pytest.raises(ValueError, match="for method, got 'fast'"):
        per_example.ntk(model, method="fast")
    with pytest.raises(TypeError, match="expected a floating tensor with the examples"):
        per_example.ntk(lambda params, x: (model(params, x), x))(params, x)
    with pytest.raises(ValueError, match="mix examples"):
        per_example.ntk(lambda params, x: model(params, x - x.mean(0)))(params, x)
    with pytest.raises(TypeError, match="for inputs"):
        per_example.cross_ntk(model)(params, x, (x,))
