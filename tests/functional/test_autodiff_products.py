"""jvp, vjp and hvp."""

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
class Affine:
    weight: object
    bias: object


def randn(*shape, seed=0):
    return torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def layer(params, x):
    hidden = torch.tanh(x @ params.weight + params.bias)
    return {"hidden": hidden, "norms": [(hidden**2).sum(-1), None]}


sizes = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))


def primals_and_tangents(size):
    batch, width, out, seed = size
    trees = [
        (Affine(randn(width, out, seed=s), randn(out, seed=s + 1)), randn(batch, width, seed=s + 2))
        for s in (seed, seed + 3)
    ]
    return trees[0], trees[1]


@given(sizes)
def test_jvp_is_the_slope_along_the_tangents(size):
    primals, tangents = primals_and_tangents(size)
    step = 1e-6
    ahead = layer(*tree.map(lambda p, t: p + step * t, primals, tangents))
    behind = layer(*tree.map(lambda p, t: p - step * t, primals, tangents))
    output, tangent = pf.jvp(layer, primals, tangents)
    expected = tree.map(lambda a, b: (a - b) / (2 * step), ahead, behind)
    assert tree.structure(tangent) == tree.structure(output) == tree.structure(expected)
    for found, value, slope in zip(*map(tree.leaves, (tangent, output, expected)), strict=True):
        torch.testing.assert_close(found, slope, rtol=1e-7, atol=1e-8)
        assert not found.requires_grad
        assert not value.requires_grad


@given(sizes)
def test_vjp_is_the_transpose_of_jvp(size):
    primals, tangents = primals_and_tangents(size)
    output, tangent = pf.jvp(layer, primals, tangents)
    cotangents = tree.map(torch.cos, output)
    same_output, vjp_fun = pf.vjp(layer, *primals)
    pulled = vjp_fun(cotangents)
    assert tree.structure(pulled) == tree.structure(primals)
    torch.testing.assert_close(tree.dot(pulled, tangents), tree.dot(cotangents, tangent))
    for left, right in zip(tree.leaves(output), tree.leaves(same_output), strict=True):
        assert torch.equal(left, right)
    again = vjp_fun(tree.map(lambda c: 2 * c, cotangents))
    for left, right in zip(tree.leaves(again), tree.leaves(pulled), strict=True):
        torch.testing.assert_close(left, 2 * right)
        assert not left.requires_grad


@given(sizes)
def test_vjp_is_that_of_autograd(size):
    (params, x), _ = primals_and_tangents(size)
    tracked = [leaf.clone().requires_grad_() for leaf in (params.weight, params.bias, x)]
    outputs = tree.leaves(layer(Affine(tracked[0], tracked[1]), tracked[2]))
    expected = torch.autograd.grad(outputs, tracked, [torch.cos(leaf.detach()) for leaf in outputs])
    output, vjp_fun = pf.vjp(layer, params, x)
    found = tree.leaves(vjp_fun(tree.map(torch.cos, output)))
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-13, atol=1e-13)


def test_hvp_is_the_hessian_times_the_vector():
    matrix = randn(4, 4)
    x, v = randn(4, seed=1), randn(4, seed=2)

    def f(p):
        return (p["x"] @ matrix @ p["x"]) + (p["x"] ** 3).sum()

    product = pf.hvp(f, ({"x": x},), ({"x": v},))
    expected = (matrix + matrix.T) @ v + 6 * x * v
    torch.testing.assert_close(product, {"x": expected}, rtol=1e-12, atol=1e-12)


def test_hvp_differentiates_the_first_gradient_along_all_tangents():
    x, y = torch.tensor(2.0), torch.tensor(3.0)
    product = pf.hvp(lambda x, y: x**2 * y, (x, y), (torch.tensor(1.0), torch.tensor(10.0)))
    assert product == 2 * y * 1 + 2 * x * 10


def test_forward_over_forward_and_jvp_of_grad():
    x, one = torch.tensor(0.3, dtype=F64), torch.tensor(1.0, dtype=F64)
    second = pf.jvp(lambda x: pf.jvp(torch.sin, (x,), (one,))[1], (x,), (one,))[1]
    torch.testing.assert_close(second, -torch.sin(x))
    torch.testing.assert_close(pf.jvp(pf.grad(torch.sin), (x,), (one,))[1], -torch.sin(x))


def test_stop_gradient_is_constant_to_forward_mode():
    x = torch.tensor(3.0)
    _, tangent = pf.jvp(lambda x: x**2 * pf.stop_gradient(x), (x,), (torch.tensor(1.0),))
    assert tangent == 18
    _, tangent = pf.jvp(pf.grad(lambda x: x * pf.stop_gradient(x)), (x,), (torch.tensor(1.0),))
    assert tangent == 0


def test_aux_comes_out_as_it_is():
    x = torch.ones(2)

    def f(x):
        return x.sum(), {"name": "f", "x": x}

    output, tangent, aux = pf.jvp(f, (x,), (x,), has_aux=True)
    assert (output, tangent, aux["name"]) == (2, 2, "f")
    output, vjp_fun, aux = pf.vjp(f, x, has_aux=True)
    assert vjp_fun(1.0)[0].tolist() == [1.0, 1.0]
    assert aux["name"] == "f"
    assert not aux["x"].requires_grad


def test_integer_outputs_have_no_derivative():
    x = torch.tensor([1.0, 5.0])

    def f(x):
        return {"max": x.max(), "where": x.argmax()}

    _, tangent = pf.jvp(f, (x,), (x,))
    assert tangent == {"max": 5.0, "where": 0}
    output, vjp_fun = pf.vjp(f, x)
    assert output == {"max": 5.0, "where": 1}
    for unused in (None, output["where"]):
        assert vjp_fun({"max": 2.0, "where": unused})[0].tolist() == [0.0, 2.0]
    output, vjp_fun = pf.vjp(lambda x: x.argmax(), x)
    assert vjp_fun(None)[0].tolist() == [0.0, 0.0]


def test_numbers_are_zero_dim_tensors():
    output, tangent = pf.jvp(lambda x, y: {"xy": x * y, "two": 2}, (2.0, 3.0), (1.0, 0.0))
    assert output == {"xy": 6.0, "two": 2}
    assert tangent == {"xy": 3.0, "two": 0}
    assert isinstance(tangent["xy"], torch.Tensor)
    output, vjp_fun = pf.vjp(lambda x: 3.0, 2.0)
    assert output == 3.0
    assert vjp_fun(1.0) == (0.0,)


def test_empty_trees():
    output, tangent = pf.jvp(lambda p: (p, None), ({},), ({},))
    assert output == tangent == ({}, None)
    output, vjp_fun = pf.vjp(lambda p, x: {}, None, torch.ones(2))
    assert output == {}
    none, x_bar = vjp_fun({})
    assert none is None
    assert x_bar.tolist() == [0.0, 0.0]
    assert pf.vjp(lambda: torch.ones(()))[1](1.0) == ()
    assert pf.jvp(lambda: torch.ones(()), (), ()) == (1.0, 0.0)


class TestComplex:
    z = torch.tensor([1.0 + 2.0j, -0.5 + 1.0j], dtype=torch.complex128)

    def test_vjp_pairs_without_a_conjugate_as_jax_does(self):
        cotangent = torch.tensor([2.0 - 1.0j, 1.0 + 3.0j], dtype=torch.complex128)
        _, vjp_fun = pf.vjp(lambda z: z**3, self.z)
        torch.testing.assert_close(vjp_fun(cotangent)[0], cotangent * 3 * self.z**2)

    def test_vjp_of_a_real_function_of_complex_numbers(self):
        # d|z|^2 = 2 Re(conj(z) dz), which is Re(c dz) for c = 2 conj(z).
        _, vjp_fun = pf.vjp(lambda z: z.real**2 + z.imag**2, self.z)
        (pulled,) = vjp_fun(torch.ones(2, dtype=F64))
        torch.testing.assert_close(pulled, 2 * self.z.conj())

    def test_jvp_is_holomorphic(self):
        tangent = torch.tensor([1.0j, 2.0 + 0j], dtype=torch.complex128)
        _, found = pf.jvp(torch.exp, (self.z,), (tangent,))
        torch.testing.assert_close(found, torch.exp(self.z) * tangent)


class TestRefusals:
    def test_primals_and_tangents_that_are_no_tuples(self):
        with pytest.raises(TypeError, match=r"jvp: expected a tuple.*for primals, got Tensor"):
            pf.jvp(torch.sin, torch.ones(()), (torch.ones(()),))
        with pytest.raises(TypeError, match=r"jvp: expected a tuple.*for tangents, got dict"):
            pf.jvp(torch.sin, (torch.ones(()),), {})

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"b": torch.ones(2)}, ValueError, r"tangents\[0\]\['b'\] is float32 of shape \(2,\)"),
            (
                {"b": torch.ones(3, dtype=F64)},
                TypeError,
                r"tangents\[0\]\['b'\] is float64.*float32",
            ),
            ({"b": 1.0}, TypeError, r"tangents\[0\]\['b'\] is the float 1.0.*shape \(3,\)"),
            ({"c": torch.ones(1)}, ValueError, r"tangents\[0\].*entries \['b', 'c', 'w'\]"),
        ],
    )
    def test_tangents_unlike_the_primals(self, change, error, message):
        params = {"w": torch.ones(2, 3), "b": torch.ones(3)}
        with pytest.raises(error, match=message):
            pf.jvp(lambda p: p["w"].sum(), (params,), ({**params, **change},))

    def test_too_few_tangents(self):
        with pytest.raises(ValueError, match="tangents does not have the structure of primals"):
            pf.jvp(torch.add, (torch.ones(1), torch.ones(1)), (torch.ones(1),))

    @pytest.mark.parametrize(
        ("cotangents", "error", "message"),
        [
            ({"w": torch.ones(3, 2), "b": torch.ones(3)}, ValueError, r"cotangents\['w'\] is"),
            ({"w": torch.ones(2, 3).int(), "b": torch.ones(3)}, TypeError, r"cotangents\['w'\] is"),
            ({"w": torch.ones(2, 3), "b": None}, TypeError, r"cotangents\['b'\] is the NoneType"),
            ({"w": torch.ones(2, 3)}, ValueError, r"cotangents does not have the structure"),
        ],
    )
    def test_cotangents_unlike_the_output(self, cotangents, error, message):
        _, vjp_fun = pf.vjp(lambda p: p, {"w": torch.ones(2, 3), "b": torch.ones(3)})
        with pytest.raises(error, match=message):
            vjp_fun(cotangents)

    def test_integer_primals(self):
        def f(params, ids):
            return params

        with pytest.raises(TypeError, match=r"jvp: ids\[0\] is int64 of shape \(2,\).*close over"):
            pf.jvp(f, (1.0, [torch.tensor([1, 2])]), (1.0, [None]))
        with pytest.raises(TypeError, match=r"vjp: ids is the int 3"):
            pf.vjp(f, 1.0, 3)

    def test_outputs_that_are_no_tensors(self):
        with pytest.raises(TypeError, match=r"jvp: .*output\['name'\] = 'adam'"):
            pf.jvp(lambda x: {"x": x, "name": "adam"}, (1.0,), (1.0,))
        with pytest.raises(TypeError, match=r"vjp: .*output\[1\] = 'adam'"):
            pf.vjp(lambda x: (x, "adam"), 1.0)

    def test_has_aux_without_a_pair(self):
        with pytest.raises(TypeError, match=r"jvp: with has_aux=True, <lambda>.*float32"):
            pf.jvp(lambda x: x, (1.0,), (1.0,), has_aux=True)
        with pytest.raises(TypeError, match=r"vjp: with has_aux=True"):
            pf.vjp(lambda x: x, 1.0, has_aux=True)

    def test_hvp_of_a_function_that_is_no_scalar(self):
        with pytest.raises(TypeError, match=r"grad: <lambda> returned float32 of shape \(2,\)"):
            pf.hvp(lambda x: x, (torch.ones(2),), (torch.ones(2),))
