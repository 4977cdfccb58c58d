"""Every transform inside torch.compile and under jit, without a graph break, equals eager."""

import pytest
import torch

import purefn.functional as pf
from purefn.functional import tree

# torch warns about its own use of torch.jit.script when forward mode is first used.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")

F64 = torch.float64


def as_dict(weight, bias):
    return {"weight": weight, "bias": bias, "relu": {}, "none": None}


def parts(p):
    return (p["weight"], p["bias"]) if isinstance(p, dict) else (p.weight, p.bias)


def predict(p, x):
    weight, bias = parts(p)
    return torch.tanh(x @ weight + bias)


def loss(p, x):
    return (predict(p, x) ** 2).sum()


def loss_and_aux(p, x):
    hidden = predict(p, x)
    return (hidden**2).sum(), {"hidden": hidden, "rows": 3, "name": "h", "empty": {}}


def outputs(p, x):
    hidden = predict(p, x)
    return {"hidden": hidden, "top": hidden.max(), "count": 2.0}


def vjp_twice(p, x):
    output, vjp_fun = pf.vjp(lambda p, x: {"y": predict(p, x)}, p, x)
    return output, vjp_fun(tree.map(torch.cos, output)), vjp_fun(output)


def jvp(p, x):
    return pf.jvp(lambda p: outputs(p, x), (p,), (tree.map(torch.cos, p),))


def jvp_aux(p, x):
    return pf.jvp(lambda p: loss_and_aux(p, x), (p,), (p,), has_aux=True)


def hvp(p, x):
    return pf.hvp(lambda p: loss(p, x), (p,), (tree.map(torch.cos, p),))


def per_example(p, x):
    return pf.vmap(pf.value_and_grad(loss), in_axes=(None, 0))(p, x)


def penalty(p, x):
    grads = pf.vmap(pf.grad(loss), in_axes=(None, 0), chunk_size=2)(p, x)
    return sum((leaf**2).sum() for leaf in tree.leaves(grads))


def vmap_over_models(p, x):
    ensemble = tree.map(lambda leaf: torch.stack([leaf, 2 * leaf]), p)
    return pf.vmap(outputs, in_axes=(0, None), out_axes={"hidden": 1, "top": 0, "count": None})(
        ensemble, x
    )


def vmap_axis_of_each_leaf(p, x):
    weight, bias = parts(p)
    both = {"weight": torch.stack([weight, -weight], -1), "bias": bias}
    return pf.vmap(predict, in_axes=({"weight": -1, "bias": None}, None))(both, x)


def vmap_over_models_with_size(p, x):
    return pf.vmap(predict, in_axes=None, axis_size=2)(p, x)


CASES = {
    "grad": pf.grad(loss),
    "grad_of_both": pf.grad(loss, argnums=(0, -1)),
    "grad_aux": pf.grad(loss_and_aux, has_aux=True),
    "value_and_grad": pf.value_and_grad(loss),
    "grad_made_inside": lambda p, x: pf.value_and_grad(loss_and_aux, has_aux=True)(p, x),
    "grad_of_a_number": lambda p, x: pf.grad(lambda s, p: loss(p, x * s))(2.0, p),
    "stop_gradient": pf.grad(lambda p, x: loss(p, x) * pf.stop_gradient(loss(p, x))),
    "vjp": vjp_twice,
    "jvp": jvp,
    "jvp_aux": jvp_aux,
    "hvp": hvp,
    "jacfwd": pf.jacfwd(outputs),
    "jacrev": pf.jacrev(outputs, argnums=(1, 0)),
    "jacrev_aux": pf.jacrev(lambda p, x: (predict(p, x), {"p": p, "n": 1}), has_aux=True),
    "hessian": pf.hessian(loss),
    "vmap_of_grad": per_example,
    "grad_of_vmap_of_grad": pf.grad(penalty),
    "jvp_of_grad": lambda p, x: pf.jvp(lambda x: pf.grad(loss)(p, x), (x,), (x,)),
    "jacfwd_of_vmap": pf.jacfwd(lambda p, x: pf.vmap(predict, in_axes=(None, 0))(p, x)),
    "vmap_over_models": vmap_over_models,
    "vmap_axis_of_each_leaf": vmap_axis_of_each_leaf,
    "vmap_axis_size": vmap_over_models_with_size,
}


def example(container):
    generator = torch.Generator().manual_seed(0)
    p = container(
        torch.randn(2, 3, dtype=F64, generator=generator),
        torch.randn(3, dtype=F64, generator=generator),
    )
    return p, torch.randn(4, 2, dtype=F64, generator=generator)


def compile_whole(fun, backend="eager"):
    torch._dynamo.reset()
    return torch.compile(fun, fullgraph=True, backend=backend, dynamic=False)


def assert_equal(found, expected):
    assert tree.structure(found) == tree.structure(expected)
    for left, right in zip(tree.leaves(found), tree.leaves(expected), strict=True):
        if isinstance(right, torch.Tensor):
            assert left.abs().sum() > 0 or right.abs().sum() == 0
            torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-14)
        else:
            assert left == right


@pytest.mark.parametrize("name", CASES)
def test_traced_whole_is_eager(name):
    args = example(as_dict)
    assert_equal(compile_whole(CASES[name])(*args), CASES[name](*args))


@pytest.mark.parametrize("name", ["grad_aux", "vjp", "hvp", "jacrev", "vmap_over_models"])
def test_compiled_is_eager(name):
    args = example(as_dict)
    assert_equal(compile_whole(CASES[name], backend="aot_eager")(*args), CASES[name](*args))


@pytest.mark.parametrize("node", ["Pair", "Affine", "Ours", "Anyones"])
@pytest.mark.parametrize("name", ["vjp", "vmap_over_models"])
def test_traced_whole_is_eager_for_every_kind_of_node(nodes, node, name):
    args = example(getattr(nodes, node))
    found, expected = compile_whole(CASES[name])(*args), CASES[name](*args)
    assert len(tree.leaves(found)) >= 2
    assert_equal(found, expected)


@pytest.mark.parametrize("node", ["dict", "Affine", "Anyones"])
@pytest.mark.parametrize("name", ["value_and_grad", "hessian"])
def test_jit_is_eager(nodes, node, name):
    args = example(getattr(nodes, node, as_dict))
    assert_equal(pf.jit(CASES[name], backend="aot_eager")(*args), CASES[name](*args))


@pytest.mark.parametrize("transform", [pf.grad, pf.vmap, pf.jacfwd, pf.jacrev])
def test_a_jitted_function_can_be_transformed(transform):
    p, x = example(as_dict)
    axes = {"in_axes": (None, 0)} if transform is pf.vmap else {}
    found = transform(pf.jit(loss, backend="aot_eager"), **axes)(p, x)
    assert_equal(found, transform(loss, **axes)(p, x))


@pytest.mark.parametrize(
    ("fun", "message"),
    [
        (lambda x: pf.grad(lambda x: x)(x), "expected one 0-d floating-point tensor"),
        (lambda x: pf.grad(lambda i: x.sum())(x.long()), "is int64 of shape"),
        (lambda x: pf.vmap(torch.add)(x, x[1:]), "the mapped axes differ in size"),
        (lambda x: pf.vmap(lambda x: x, out_axes=None)(x), "depends on mapped arguments"),
    ],
)
def test_refusals_are_readable_in_what_the_compiler_raises(fun, message):
    with pytest.raises(Exception, match=message):
        compile_whole(fun)(torch.ones(3))
