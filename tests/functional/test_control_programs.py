"""Programs with loops: what lies around a loop, other compilers, generated code."""

import pytest
import torch

import purefn.functional as pf
from purefn.functional import tree


def staged(fun):
    return pf.jit(fun, backend="eager")


def test_a_program_with_loops_runs_in_pieces():
    def f(w, xs):
        scaled = xs * w
        first, ys = pf.scan(lambda c, x: (c + x, c * w), 0.0, scaled)
        middle = torch.exp(-first) + ys.sum()
        second = pf.fori_loop(0, 3, lambda i, v: v * middle + i, first)
        return {"second": second, "scaled": scaled, "w": w, "pair": (first, first)}

    w, xs = torch.tensor(0.5), torch.randn(4)
    tree.map(torch.testing.assert_close, staged(f)(w, xs), f(w, xs))


def test_writes_before_and_after_a_loop_stay_in_order():
    def f(xs):
        table = torch.zeros(3)
        before = table * 1
        table[0] = pf.scan(lambda c, x: (c + x, None), 0.0, xs)[0]
        between = table * 1
        table[1] = pf.scan(lambda c, x: (c * x, None), 1.0, xs + table[0])[0]
        return before, between, table

    xs = torch.tensor([1.0, 2.0, 3.0])
    tree.map(torch.testing.assert_close, staged(f)(xs), f(xs))


def test_loops_under_plain_compile_unroll():
    def f(w, xs):
        last, ys = pf.scan(lambda c, x: (torch.tanh(c * w + x), c), xs[0], xs)
        return (
            last
            + ys.sum()
            + pf.fori_loop(0, 3, lambda i, v: v * w, last)
            + pf.map(torch.sin, xs).sum()
        )

    w, xs = torch.tensor(0.5), torch.randn(4)
    compiled = torch.compile(f, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(w, xs), f(w, xs))


@pytest.mark.slow
def test_inductor_runs_loops_and_their_derivatives():
    def loss(params, xs):
        def step(h, x):
            h = torch.tanh(params["w"] @ h + x)
            return h, pf.cond(h.sum() > 0, torch.sin, torch.cos, h)

        h, ys = pf.scan(step, torch.zeros(8, dtype=torch.float64), xs)
        return (h**2).sum() + ys.mean()

    torch.manual_seed(0)
    params = {"w": torch.randn(8, 8, dtype=torch.float64) / 3}
    xs = torch.randn(5, 8, dtype=torch.float64)
    ours = pf.jit(pf.value_and_grad(loss))(params, xs)
    expected = pf.value_and_grad(loss)(params, xs)
    tree.map(torch.testing.assert_close, ours, expected)


@pytest.mark.slow
def test_inductor_runs_while_loops_over_a_batch():
    def root(a):
        """Newton's iteration for the square root."""
        return pf.while_loop(lambda x: (x**2 - a).abs() > 1e-12 * a, lambda x: (x + a / x) / 2, a)

    a = torch.tensor([2.0, 9.0, 1e-3, 1e5], dtype=torch.float64)
    roots = pf.jit(pf.vmap(root))(a)
    torch.testing.assert_close(roots, a.sqrt(), rtol=1e-9, atol=0.0)
