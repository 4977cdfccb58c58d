"""grad, value_and_grad and stop_gradient: values, structure, purity and refusals."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import purefn.functional as pf
from purefn.functional import tree

F64 = torch.float64


def coupled(params):
    """A smooth scalar in which every leaf meets every other."""
    parts = [torch.sin((k + 1) * leaf).sum() for k, leaf in enumerate(tree.leaves(params))]
    total = sum(parts, start=torch.zeros((), dtype=F64))
    return total + total**2


@given(data=st.data())
def test_gradient_of_any_tree_is_that_of_autograd(trees, data):
    params = data.draw(trees)
    plain, structure = tree.flatten(params)
    tracked = [leaf.clone().requires_grad_() for leaf in plain]
    value = coupled(tree.unflatten(structure, tracked))
    expected = torch.autograd.grad(value, tracked) if tracked else ()

    ours_value, ours = pf.value_and_grad(coupled)(params)

    assert tree.structure(ours) == structure
    torch.testing.assert_close(ours_value, value.detach(), rtol=1e-13, atol=1e-13)
    for left, right in zip(tree.leaves(ours), expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)
        assert not left.requires_grad
    assert not ours_value.requires_grad


@given(data=st.data())
def test_gradient_is_the_slope_of_a_finite_difference(trees, data):
    params = data.draw(trees.filter(tree.size))
    step = 1e-6
    direction = tree.map(lambda leaf: torch.cos(leaf + 1), params)
    ahead = coupled(tree.map(lambda p, d: p + step * d, params, direction))
    behind = coupled(tree.map(lambda p, d: p - step * d, params, direction))
    slope = tree.dot(pf.grad(coupled)(params), direction)
    torch.testing.assert_close(slope, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-6)


def polynomial(x, y, z):
    return x**2 * y**3 + z


@pytest.mark.parametrize(
    ("argnums", "expected"),
    [
        (0, 2 * 2.0 * 27.0),
        (1, 4.0 * 27.0),
        (-1, 1.0),
        (-3, 2 * 2.0 * 27.0),
        ((1,), (4.0 * 27.0,)),
        ((2, 0), (1.0, 2 * 2.0 * 27.0)),
        ((0, -2), (2 * 2.0 * 27.0, 4.0 * 27.0)),
        ([0, 1], (2 * 2.0 * 27.0, 4.0 * 27.0)),
        ((), ()),
    ],
)
def test_argnums_selects_and_shapes_the_result(argnums, expected):
    found = pf.grad(polynomial, argnums)(torch.tensor(2.0), torch.tensor(3.0), torch.tensor(5.0))
    assert tree.structure(found) == tree.structure(expected)
    assert tree.leaves(tree.map(float, found)) == tree.leaves(expected)


def test_other_arguments_are_passed_on_as_they_are():
    seen = []

    def loss(w, power, label, scale=1.0):
        seen.append((power, label, scale))
        return (w**power).sum() * scale

    gradient = pf.grad(loss)(torch.tensor([3.0]), 2, "cat", scale=0.5)
    assert gradient.tolist() == [3.0]
    assert seen == [(2, "cat", 0.5)]


def test_python_floats_count_as_zero_dim_tensors():
    gradient = pf.grad(lambda p: p["a"] * p["b"])({"a": 3.0, "b": torch.tensor(2.0, dtype=F64)})
    assert gradient["a"].dtype == F64, "of the widest floating dtype beside it"
    assert pf.grad(lambda x: x * x)(1.0).dtype == torch.get_default_dtype()
    assert gradient["a"].shape == ()
    assert gradient == {"a": 2.0, "b": 3.0}
    assert pf.grad(lambda x: 7.0)(1.0) == 0.0


def test_aux_may_be_any_tree_and_leaves_the_transform_undifferentiated(nodes):
    def loss(w):
        hidden = w * 2
        node = nodes.Affine(hidden[0], None, "n")
        return hidden.sum(), {"hidden": hidden, "name": "h", "count": 3, "node": node, "e": {}}

    w = torch.tensor([1.0, 2.0])
    (value, aux), gradient = pf.value_and_grad(loss, has_aux=True)(w)
    assert value == 6
    assert gradient.tolist() == [2.0, 2.0]
    assert aux["name"] == "h"
    assert aux["count"] == 3
    assert aux["e"] == {}
    assert aux["node"].name == "n"
    for leaf in (aux["hidden"], aux["node"].weight):
        assert not leaf.requires_grad
        assert not torch._C._functorch.is_gradtrackingtensor(leaf)
    gradient_alone, aux_alone = pf.grad(loss, has_aux=True)(w)
    assert torch.equal(gradient_alone, gradient)
    assert torch.equal(aux_alone["hidden"], w * 2)


def test_aux_of_an_inner_gradient_is_differentiated_by_the_outer_one():
    def inner(x):
        return x**2, x**3

    def outer(x):
        return pf.grad(inner, has_aux=True)(x)[1]

    assert pf.grad(outer)(torch.tensor(2.0)) == 12.0


def test_leaves_without_influence_have_zero_gradients():
    gradient = pf.grad(lambda p: p["used"].sum())({"used": torch.ones(2), "idle": torch.ones(3)})
    assert gradient["idle"].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("empty", [None, {}, [], (), {"relu": {}, "flat": None}])
def test_empty_trees_have_empty_gradients(empty):
    value, gradient = pf.value_and_grad(lambda p, x: x.sum())(empty, torch.ones(2))
    assert value == 2
    assert tree.structure(gradient) == tree.structure(empty)


def test_inputs_are_neither_written_nor_marked():
    params = {"w": torch.randn(3), "b": torch.randn(())}
    before = tree.map(torch.clone, params)
    versions = [leaf._version for leaf in tree.leaves(params)]
    pf.grad(lambda p: (p["w"] ** 2).sum() * p["b"])(params)
    assert [leaf._version for leaf in tree.leaves(params)] == versions
    for leaf, old in zip(tree.leaves(params), tree.leaves(before), strict=True):
        assert torch.equal(leaf, old)
        assert not leaf.requires_grad
        assert leaf.grad is None


def test_gradients_are_computed_under_no_grad():
    with torch.no_grad():
        assert pf.grad(torch.sin)(torch.tensor(0.0)) == 1.0
        assert pf.grad(pf.grad(lambda x: x**3))(torch.tensor(2.0)) == 12.0


def test_dtypes_of_gradients_are_those_of_the_leaves():
    params = {"h": torch.ones(2, dtype=torch.bfloat16), "d": torch.ones(2, dtype=F64)}
    gradient = pf.grad(lambda p: (p["h"].double() * p["d"]).sum())(params)
    assert {name: leaf.dtype for name, leaf in gradient.items()} == {
        "h": torch.bfloat16,
        "d": F64,
    }


def test_the_transformed_function_keeps_its_name_and_signature():
    def loss(params):
        """The loss."""

    assert pf.grad(loss).__name__ == "loss"
    assert pf.value_and_grad(loss).__doc__ == "The loss."


class TestComposition:
    def test_derivatives_of_every_order(self):
        derivative, x = torch.sin, torch.tensor(0.7, dtype=F64)
        for expected in (torch.cos, lambda x: -torch.sin(x), lambda x: -torch.cos(x), torch.sin):
            derivative = pf.grad(derivative)
            torch.testing.assert_close(derivative(x), expected(x), rtol=1e-14, atol=1e-15)

    def test_per_example_gradients(self):
        params, x, y = {"w": torch.randn(3, dtype=F64)}, torch.randn(5, 3, dtype=F64), torch.ones(5)

        def loss(params, x, y):
            return (params["w"] @ x - y) ** 2

        per_example = pf.vmap(pf.grad(loss), in_axes=(None, 0, 0))(params, x, y)
        expected = (2 * (x @ params["w"] - y))[:, None] * x
        torch.testing.assert_close(per_example["w"], expected, rtol=1e-13, atol=1e-13)

    def test_gradient_of_the_norms_of_per_example_gradients(self):
        x = torch.randn(4, 3, dtype=F64)

        def penalty(params):
            per_example = pf.vmap(pf.grad(lambda p, x: (p["w"] @ x) ** 2), in_axes=(None, 0))
            return (per_example(params, x)["w"] ** 2).sum()

        w = torch.randn(3, dtype=F64)
        expected = 8 * ((x @ w) * (x**2).sum(1)) @ x
        torch.testing.assert_close(pf.grad(penalty)({"w": w})["w"], expected)

    def test_outer_derivative_sees_a_closed_over_variable(self):
        def outer(a):
            return pf.grad(lambda b: a**2 * b**3)(torch.tensor(2.0))

        assert pf.grad(outer)(torch.tensor(5.0)) == 2 * 5 * 3 * 4


class TestStopGradient:
    def test_is_the_identity_on_values_of_any_tree(self, nodes):
        values = nodes.Affine(torch.ones(2), {"n": 3, "x": torch.tensor([1])}, "kept")
        stopped = pf.stop_gradient(values)
        assert torch.equal(stopped.weight, values.weight)
        assert stopped.bias["n"] == 3
        assert stopped.name == "kept"

    def test_is_constant_to_reverse_and_forward_mode_of_every_order(self):
        def f(x):
            return x**2 * pf.stop_gradient(x)

        x = torch.tensor(3.0)
        assert pf.grad(f)(x) == 2 * 9
        assert pf.grad(pf.grad(f))(x) == 2 * 3
        assert pf.vmap(pf.grad(f))(x[None]) == 18

    def test_stops_the_outer_variable_too(self):
        def outer(a):
            return pf.grad(lambda b: b * pf.stop_gradient(a * b))(a)

        assert pf.grad(outer)(torch.tensor(3.0)) == 0


class TestRefusals:
    @pytest.mark.parametrize(
        "transform", [pf.grad, pf.jacfwd, pf.jacrev, pf.hessian, pf.vmap, pf.vjp]
    )
    def test_a_value_where_a_function_belongs(self, transform):
        with pytest.raises(TypeError, match=r"expected a function, got float32 of shape \(3,\)"):
            transform(torch.ones(3))

    def test_a_loss_per_example(self):
        def losses(params):
            return params * torch.ones(4)

        with pytest.raises(TypeError, match=r"grad: losses returned float32 of shape \(4,\).*mean"):
            pf.grad(losses)(torch.tensor(1.0))

    @pytest.mark.parametrize(
        ("output", "message"),
        [
            (lambda x: (x, x), r"the tuple .*has_aux=True"),
            (lambda x: {"loss": x}, r"the dict .*has_aux=True"),
            (lambda x: None, r"expected one 0-d"),
            (lambda x: "nan", r"the str 'nan'"),
            (lambda x: x[None], r"float32 of shape \(1,\).*mean"),
            (lambda x: 3, r"the int 3"),
            (lambda x: x.long(), r"int64 of shape \(\).*cast them before"),
            (lambda x: x > 0, r"bool of shape \(\)"),
            (lambda x: x * 1j, r"complex64 of shape \(\).*real part"),
        ],
    )
    def test_anything_but_a_real_scalar(self, output, message):
        with pytest.raises(TypeError, match=message):
            pf.grad(output)(torch.tensor(1.0))

    @pytest.mark.parametrize("output", [lambda x: x, lambda x: (x, x, x), lambda x: {0: x, 1: x}])
    def test_has_aux_without_a_pair(self, output):
        with pytest.raises(TypeError, match=r"value_and_grad: with has_aux=True.*pair"):
            pf.value_and_grad(output, has_aux=True)(torch.tensor(1.0))

    @pytest.mark.parametrize(
        ("leaf", "given"),
        [
            (torch.tensor([1, 2]), r"int64 of shape \(2,\)"),
            (torch.tensor(True), r"bool of shape \(\)"),
            (torch.zeros(2, dtype=torch.uint32), r"uint32"),
            (3, r"the int 3"),
            (True, r"the bool True"),
            ("relu", r"the str 'relu'"),
            (torch.zeros(2, dtype=torch.complex64), r"complex64.*Use vjp or jvp"),
            (1j, r"the complex 1j.*Use vjp or jvp"),
        ],
    )
    def test_a_leaf_without_derivative_is_named(self, leaf, given):
        def loss(x, params):
            return x

        params = {"conv": {"weight": torch.ones(1)}, "fc": {"weight": leaf}}
        with pytest.raises(TypeError, match=r"grad: params\['fc'\]\['weight'\] is " + given):
            pf.grad(loss, argnums=1)(torch.tensor(1.0), params)

    def test_a_leaf_behind_varargs_and_builtins_is_named(self):
        with pytest.raises(TypeError, match=r"batch\[1\] is int64"):
            pf.grad(lambda params, *batch: params, argnums=2)(1.0, 2.0, torch.tensor(1))
        with pytest.raises(TypeError, match=r"args\[0\] is int64"):
            pf.grad(torch.sin)(torch.tensor(1))

    @pytest.mark.parametrize("argnums", [2, -3, (0, 2)])
    def test_argnums_out_of_range(self, argnums):
        with pytest.raises(ValueError, match=r"called with 2 positional arguments.*not by keyword"):
            pf.grad(lambda x, y, z=0.0: x, argnums=argnums)(1.0, 2.0, z=3.0)

    def test_argnums_that_repeats(self):
        with pytest.raises(ValueError, match="selects an argument twice"):
            pf.grad(lambda x, y: x, argnums=(0, -2))(1.0, 2.0)

    @pytest.mark.parametrize("argnums", ["params", 1.0, True, (0, "x"), None, (True,)])
    def test_argnums_of_the_wrong_type(self, argnums):
        with pytest.raises(TypeError, match="expected an int or a tuple of ints for argnums"):
            pf.grad(lambda x: x, argnums=argnums)
