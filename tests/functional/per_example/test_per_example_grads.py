"""The gradient of every example: what it is with respect to, in which tree, dtype and chunks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import purefn.functional as pf
from purefn.functional import tree
from purefn.functional.per_example import grads


def normal(*shape):
    return torch.randn(shape, dtype=torch.float64)


def losses(params, x):
    return torch.tanh(x @ params["w"] + params["b"]).square().sum((1, 2))


def network():
    return {"w": normal(3, 4), "b": normal(4)}


@settings(max_examples=15)
@given(
    examples=st.integers(0, 5),
    positions=st.integers(0, 3),
    chunk_size=st.none() | st.integers(1, 6),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
)
def test_gradients_are_those_of_torch(oracle, examples, positions, chunk_size, dtype):
    torch.manual_seed(0)
    params, x = tree.cast(network(), dtype), normal(examples, positions, 3).to(dtype)
    found = grads(losses, chunk_size=chunk_size)(params, x)
    assert tree.structure(found) == tree.structure(params)
    oracle.assert_equal(
        found, oracle.gradients(losses, params, x), rtol=16 * torch.finfo(dtype).eps
    )

    def loss(params, x):
        return losses(params, x[None])[0]

    if examples:
        expected = torch.func.vmap(torch.func.grad(loss), (None, 0))(params, x)
        oracle.assert_equal(found, expected, rtol=16 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("staged", [False, True])
def test_trees_of_every_kind(oracle, staged):
    torch.manual_seed(0)
    params = {"layers": [(normal(3, 2), None), (normal(2, 2), normal(2))], "none": None}
    batch = {"x": normal(4, 3), "mask": (torch.rand(4, 2) > 0.5, None)}

    def of_trees(params, batch):
        h = batch["x"]
        for weight, bias in params["layers"]:
            h = (h @ weight if bias is None else h @ weight + bias).sin()
        return torch.where(batch["mask"][0], h, h.cos()).sum(1)

    of_examples = pf.jit(grads(of_trees), backend="eager") if staged else grads(of_trees)
    found = of_examples(params, batch)
    assert tree.structure(found) == tree.structure(params)
    oracle.assert_equal(found, oracle.gradients(of_trees, params, batch))


@pytest.mark.parametrize("argnums", [0, 2, -1, (0,), (2, 0), (0, -1)])
def test_argnums(oracle, argnums):
    torch.manual_seed(0)
    args = normal(3), normal(4, 3), {"scale": normal(3, 3)}

    def of_three(a, x, b):
        return (x * a).sin().sum(1) + (x @ b["scale"]).cos().sum(1)

    everything = oracle.gradients(lambda both, x: of_three(both[0], x, both[1]), args[::2], args[1])
    expected = {0: everything[0], 2: {"scale": everything[1]}}
    wanted = tuple(number % 3 for number in ([argnums] if isinstance(argnums, int) else argnums))
    batch = args[1]
    fixed = {number: args[number] for number in (0, 2) if number not in wanted}

    def of_wanted(*given):
        return of_three(*[fixed[n] if n in fixed else given[n] for n in range(3)])

    # An argument that is neither differentiated nor of the batch is closed over.
    given = [batch if number in fixed else args[number] for number in range(3)]
    found = grads(of_wanted, argnums=argnums)(*given)
    if isinstance(argnums, int):
        oracle.assert_equal(found, expected[wanted[0]])
    else:
        assert isinstance(found, tuple)
        oracle.assert_equal(found, tuple(expected[number] for number in wanted))


def test_has_aux(oracle):
    torch.manual_seed(0)
    params, x = network(), normal(4, 2, 3)

    def with_more(params, x):
        return losses(params, x), {"outputs": x @ params["w"], "none": None}

    found, aux = grads(with_more, has_aux=True)(params, x)
    oracle.assert_equal(found, oracle.gradients(losses, params, x))
    oracle.assert_equal(aux, {"outputs": x @ params["w"], "none": None})
    chunked = grads(with_more, has_aux=True, chunk_size=3)(params, x)
    oracle.assert_equal(chunked, (found, aux))


def test_a_frozen_subtree_has_zeros(oracle):
    torch.manual_seed(0)
    params, x = {"frozen": network(), "head": normal(2)}, normal(4, 2, 3)

    def with_frozen(params, x):
        h = x @ pf.stop_gradient(params["frozen"])["w"]
        return (h[:, :, :2] @ params["head"]).sin().sum(1)

    found = grads(with_frozen)(params, x)
    assert not found["frozen"]["w"].any()
    assert found["frozen"]["b"].shape == (4, 4)
    oracle.assert_equal(found, oracle.gradients(with_frozen, params, x))


def test_no_parameters():
    assert grads(lambda params, x: x.sum(1))({"none": None}, normal(4, 3)) == {"none": None}


def test_a_python_float_is_a_parameter():
    x = normal(4, 3)
    found = grads(lambda params, x: params["scale"] * x.sum(1))({"scale": 2.0}, x)
    torch.testing.assert_close(found["scale"], x.sum(1))


def test_inputs_are_left_as_they_are():
    params, x = network(), normal(4, 2, 3)
    before = tree.map(torch.clone, (params, x))

    def in_place(params, x):
        h = x @ params["w"]
        h.add_(params["b"]).mul_(2)
        return h.sin().sum((1, 2))

    grads(in_place)(params, x)
    assert all(map(torch.equal, tree.leaves(before), tree.leaves((params, x))))


def test_models_are_mapped_over(oracle):
    torch.manual_seed(0)
    models, x = [network() for _ in range(3)], normal(4, 2, 3)
    found = pf.vmap(grads(losses), (0, None))(tree.stack(models), x)
    oracle.assert_equal(found, tree.stack([grads(losses)(model, x) for model in models]))


def test_the_derivative_of_gradients(oracle):
    torch.manual_seed(0)
    x = normal(4, 3)
    found = pf.jacfwd(lambda w: grads(lambda w, x: (x @ w).sin())(w, x))(normal(3) * 0)
    # The Hessian of sin(x w) at zero vanishes; at one it is - sin(x 1) x x'.
    assert not found.any()
    found = pf.jacfwd(lambda w: grads(lambda w, x: (x @ w).sin())(w, x))(torch.ones(3).double())
    expected = -x.sum(1).sin()[:, None, None] * x[:, :, None] * x[:, None, :]
    oracle.assert_equal(found, expected)
