"""jacfwd, jacrev and hessian."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import purefn.functional as pf
from purefn.functional import tree

# torch warns about its own use of torch.jit.script when forward mode is first used.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")

F64 = torch.float64


@tree.dataclass
class Point:
    x: object
    y: object


def randn(*shape, seed=0):
    return torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


both = pytest.mark.parametrize("jacobian", [pf.jacfwd, pf.jacrev])
shapes = st.lists(st.integers(1, 3), max_size=2).map(tuple)


@both
@given(shapes, shapes, st.integers(0, 99))
def test_each_block_is_that_of_autograd(jacobian, left, right, seed):
    point = Point(randn(*left, seed=seed), {"inner": randn(*right, seed=seed + 1)})

    def f(point):
        mixed = torch.sin(point.x)[(..., *(None,) * len(right))] * point.y["inner"]
        return [mixed, {"scalar": (point.x**2).sum() + point.y["inner"].sum(), "none": None}]

    def flat(x, y):
        mixed, rest = f(Point(x, {"inner": y}))
        return mixed, rest["scalar"]

    expected = torch.autograd.functional.jacobian(flat, (point.x, point.y["inner"]))
    mixed, rest = jacobian(f)(point)
    assert rest["none"] is None
    for found, (x_block, y_block) in zip((mixed, rest["scalar"]), expected, strict=True):
        assert isinstance(found, Point)
        torch.testing.assert_close(found.x, x_block, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found.y["inner"], y_block, rtol=1e-12, atol=1e-12)
        assert not found.x.requires_grad


@both
def test_blocks_have_the_output_axes_first(jacobian):
    out = jacobian(lambda p, x: {"out": x @ p["w"]})({"w": randn(3, 4)}, randn(2, 3))
    assert out["out"]["w"].shape == (2, 4, 3, 4)


@both
def test_blocks_of_empty_leaves_have_their_shapes(jacobian):
    p = {"empty": torch.zeros(0, 2), "x": torch.ones(3)}
    found = jacobian(lambda p: {"e": p["empty"] * 2, "x": p["x"] * 2})(p)
    shapes = tree.map(lambda block: tuple(block.shape), found)
    assert shapes == {
        "e": {"empty": (0, 2, 0, 2), "x": (0, 2, 3)},
        "x": {"empty": (3, 0, 2), "x": (3, 3)},
    }


@both
def test_argnums_nests_a_tuple_in_each_output(jacobian):
    x, y = torch.tensor([1.0, 2.0]), torch.tensor(3.0)
    found = jacobian(lambda x, y: {"xy": x * y}, argnums=(0, -1))(x, y)
    assert isinstance(found["xy"], tuple)
    assert found["xy"][0].tolist() == [[3.0, 0.0], [0.0, 3.0]]
    assert found["xy"][1].tolist() == [1.0, 2.0]
    single = jacobian(lambda x, y: x * y, argnums=(1,))(x, y)
    assert isinstance(single, tuple)
    assert single[0].tolist() == [1.0, 2.0]


@both
def test_aux_comes_out_as_it_is(jacobian):
    def f(x, scale=1.0):
        return x**2 * scale, {"name": "square", "x": x, "n": 3, "label": torch.tensor(7)}

    found, aux = jacobian(f, has_aux=True)(torch.tensor([1.0, 2.0]), scale=3.0)
    assert found.tolist() == [[6.0, 0.0], [0.0, 12.0]]
    assert (aux["name"], aux["n"], aux["x"].tolist(), aux["label"]) == ("square", 3, [1.0, 2.0], 7)
    assert not aux["x"].requires_grad
    assert aux["x"].shape == (2,)


@both
def test_numbers_and_empty_trees(jacobian):
    assert jacobian(lambda x, y: x * y)(3.0, torch.tensor(2.0)) == 2.0
    assert jacobian(lambda x: {"c": 2.0})(3.0) == {"c": 0.0}
    assert jacobian(lambda p: torch.ones(2))({}) == {}
    assert jacobian(lambda p: [])(torch.ones(2)) == []
    assert jacobian(lambda p: torch.ones(2))(None) is None


def test_hessian_of_a_tree_is_symmetric_and_right():
    a, b = randn(2), randn(3, seed=1)
    coupling = randn(2, 3, seed=2)

    def f(p):
        return p["a"] @ coupling @ p["b"] + (p["a"] ** 3).sum() + (p["b"] ** 4).sum()

    found = pf.hessian(f)({"a": a, "b": b})
    expected = {
        "a": {"a": torch.diag(6 * a), "b": coupling},
        "b": {"a": coupling.T, "b": torch.diag(12 * b**2)},
    }
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_hessian_of_several_outputs_and_arguments():
    x, y = torch.tensor(2.0), torch.tensor(3.0)
    found = pf.hessian(lambda x, y: {"p": x**2 * y, "q": x * y**3}, argnums=(0, 1))(x, y)
    assert found == {
        "p": ((2 * y, 2 * x), (2 * x, torch.tensor(0.0))),
        "q": ((torch.tensor(0.0), 3 * y**2), (3 * y**2, 6 * x * y)),
    }


def test_hessian_with_aux():
    found, aux = pf.hessian(lambda x: (x**3, {"x": x, "s": "a"}), has_aux=True)(torch.tensor(2.0))
    assert found == 12
    assert aux == {"x": torch.tensor(2.0), "s": "a"}


def test_hessian_times_a_vector_is_hvp():
    x, v = {"x": randn(3)}, {"x": randn(3, seed=1)}

    def f(p):
        return torch.logsumexp(p["x"] ** 2, 0)

    matrix = pf.hessian(f)(x)["x"]["x"]
    torch.testing.assert_close(pf.hvp(f, (x,), (v,))["x"], matrix @ v["x"])


@both
def test_composes_with_vmap_and_grad(jacobian):
    x = randn(4, 3)
    expected = torch.diag_embed(torch.cos(x))
    torch.testing.assert_close(pf.vmap(jacobian(torch.sin))(x), expected)
    whole = jacobian(pf.vmap(lambda row: torch.sin(row).sum()))(x)
    torch.testing.assert_close(
        whole, torch.einsum("ni,nm->nmi", torch.cos(x), torch.eye(4).to(F64))
    )
    trace = pf.grad(lambda x: jacobian(torch.sin)(x).trace())(x[0])
    torch.testing.assert_close(trace, -torch.sin(x[0]))
    twice = jacobian(jacobian(lambda x: (x**3).sum()))(x[0])
    torch.testing.assert_close(twice, torch.diag(6 * x[0]))


@both
class TestRefusals:
    def test_outputs_without_derivative_are_named(self, jacobian):
        with pytest.raises(
            TypeError, match=r"output\['top'\] is int64 of shape \(\).*has_aux=True"
        ):
            jacobian(lambda x: {"x": x, "top": x.argmax()})(torch.ones(2))
        with pytest.raises(TypeError, match=r"output is complex64"):
            jacobian(lambda x: x * 1j)(torch.ones(2))
        with pytest.raises(TypeError, match=r"output\[1\] = 'sgd'"):
            jacobian(lambda x: (x, "sgd"))(torch.ones(2))

    def test_inputs_without_derivative_are_named(self, jacobian):
        with pytest.raises(TypeError, match=r"ids\[0\] is int64 of shape \(2,\)"):
            jacobian(lambda x, ids: x, argnums=1)(1.0, [torch.tensor([1, 2])])

    def test_argnums(self, jacobian):
        with pytest.raises(ValueError, match="called with 1 positional"):
            jacobian(lambda x: x, argnums=1)(1.0)
        with pytest.raises(TypeError, match="for argnums, got 'x'"):
            jacobian(lambda x: x, argnums="x")


def test_hessian_names_itself():
    with pytest.raises(TypeError, match="hessian: ids is int64"):
        pf.hessian(lambda ids: 0.0)(torch.tensor(1))
