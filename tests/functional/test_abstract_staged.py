"""eval_shape while jit traces: nothing of it is recorded, and it sees the tensors traced."""

import pytest
import torch

import purefn.functional as pf
from purefn.functional import ShapeDtype


def rows_times(x):
    found = pf.eval_shape(lambda y: torch.sin(y @ x), ShapeDtype((7, 3)))
    return x.sum() * found.shape[0]


def test_nothing_is_recorded():
    graph = pf.make_graph(rows_times)(ShapeDtype((3,)))
    assert graph.operators == ("aten.sum", "aten.mul")
    assert pf.jit(rows_times, backend="eager")(torch.ones(3)).item() == 21


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (pf.vmap, [21.0, 21.0]),
        (lambda f: pf.vmap(pf.grad(f)), [[7.0] * 3] * 2),
        (lambda f: pf.vmap(pf.jacfwd(f)), [[7.0] * 3] * 2),
    ],
    ids=["vmap", "vmap grad", "vmap jacfwd"],
)
def test_under_transforms_inside_jit(transform, expected, backend):
    fun = pf.jit(transform(rows_times), backend=backend)
    assert fun(torch.ones(2, 3)).tolist() == expected


def test_transforms_inside_of_it():
    def fun(x):
        def loss(y):
            return (y * x).sum()

        found = pf.eval_shape(pf.vmap(pf.grad(loss)), ShapeDtype((5, 3)))
        return torch.zeros(found.shape, dtype=found.dtype) + x

    assert pf.jit(fun, backend="eager")(torch.ones(3)).shape == (5, 3)


def test_an_argument_that_is_traced():
    seen = []

    def fun(x):
        seen.append(pf.eval_shape(lambda y: y[0], x))
        return x + 1

    pf.make_graph(lambda x: pf.vmap(fun)(x))(ShapeDtype((2, 3, 4)))
    assert seen == [ShapeDtype((4,))]


def test_inside_itself_inside_jit():
    def fun(x):
        def inner(y):
            return torch.zeros(pf.eval_shape(lambda z: z @ x, ShapeDtype((2, 3))).shape) + y.sum()

        return x.sum() + len(pf.eval_shape(inner, ShapeDtype((9,))).shape)

    assert pf.jit(fun, backend="eager")(torch.ones(3)).item() == 4


def test_a_value_that_is_looked_at_is_refused():
    def fun(x):
        return pf.eval_shape(lambda y: y if y.sum() + x.sum() > 0 else -y, x).shape[0] * x

    with pytest.raises(pf.TraceError, match="needs the value of a traced tensor"):
        pf.jit(fun, backend="eager")(torch.ones(3))


def test_loops_and_choices_outside_of_jit():
    def fun(x):
        y = pf.cond(x.sum() > 0, lambda x: x, lambda x: -x, x)
        return pf.while_loop(lambda c: c.sum() < 9, lambda c: c + 1, y)

    assert pf.eval_shape(fun, ShapeDtype((3,))) == ShapeDtype((3,))
