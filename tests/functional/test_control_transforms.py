"""Loops and choices under every nesting of transforms, against the same written out in Python."""

from types import SimpleNamespace

import pytest
import torch

import purefn.functional as pf
from purefn.functional import tree

float64 = torch.float64


def python_scan(f, init, xs=None, length=None, reverse=False, unroll=1):
    length = len(tree.leaves(xs)[0]) if length is None else length
    carry, ys = init, [None] * length
    for i in reversed(range(length)) if reverse else range(length):
        carry, ys[i] = f(carry, tree.map(lambda x: x[i], xs))  # noqa: B023 - used at once
    return carry, tree.map(lambda *leaves: torch.stack(leaves), *ys)


def python_fori_loop(lower, upper, body_fun, init_val):
    for i in range(int(lower), int(upper)):
        init_val = body_fun(torch.tensor(i), init_val)
    return init_val


#: The vocabulary as this library has it, and as plain Python, which torch.func unrolls.
OURS = SimpleNamespace(
    scan=pf.scan, fori_loop=pf.fori_loop, map=pf.map, cond=pf.cond, switch=pf.switch, remat=pf.remat
)
PLAIN = SimpleNamespace(
    scan=python_scan,
    fori_loop=python_fori_loop,
    map=lambda f, xs: tree.map(lambda *ys: torch.stack(ys), *map(f, xs)),
    cond=lambda pred, yes, no, *operands: tree.map(
        lambda a, b: torch.where(pred, a, b), yes(*operands), no(*operands)
    ),
    switch=lambda i, branches, *operands: sum(
        torch.where(i.clamp(0, len(branches) - 1) == number, branch(*operands), 0)
        for number, branch in enumerate(branches)
    ),
    remat=lambda fun: fun,
)


def rnn(c, w, x):
    def step(carry, x):
        h = torch.tanh(w["a"] * carry["h"] + w["b"] * x)
        return {"h": h, "n": carry["n"] + 1}, (h * carry["n"], {"twice": 2 * h})

    carry, (weighted, twice) = c.scan(step, {"h": x[0], "n": torch.tensor(1)}, x)
    return carry["h"] + weighted.sum() + (twice["twice"] ** 3).sum()


def reversed_cumulative(c, w, x):
    def step(carry, inputs):
        product = carry * torch.cos(inputs["x"]) + w["a"]
        return product, product * inputs["y"]

    last, ys = c.scan(step, w["b"], {"x": x, "y": x**2}, reverse=True)
    return last * ys.sum() + ys[0]


def recurrence_without_inputs(c, w, x):
    def step(carry, _):
        return (carry[1], torch.sin(carry[0] * w["a"]) + x.sum()), carry[0]

    (first, _), ys = c.scan(step, (w["b"], x[1]), None, length=4)
    return first * ys.prod()


def power(c, w, x):
    return c.fori_loop(1, 5, lambda i, y: torch.sin(y * w["a"]) * i + x[0], w["b"])


def mapped_rows(c, w, x):
    rows = c.map(lambda row: torch.exp(row * w["a"]) * w["b"], x)
    return (rows * rows.flip(0)).sum()


def scan_in_scan(c, w, x):
    def outer(carry, row):
        def inner(carry, element):
            carry = torch.tanh(carry * w["a"] + element * row)
            return carry, carry * w["b"]

        last, ys = c.scan(inner, carry, x)
        return last + ys.sum(), ys

    last, ys = c.scan(outer, w["b"], x[:2])
    return last + (ys**2).sum()


def branch_in_scan(c, w, x):
    def step(carry, element):
        carry = c.cond(
            element > 0, lambda v: torch.sin(v) * w["a"], lambda v: v * v * element, carry + element
        )
        return carry, carry

    last, ys = c.scan(step, w["b"], x)
    return last * ys.sum()


def choice_by_data(c, w, x):
    return c.cond(
        (x.sum() * w["a"]) > 0,
        lambda v: {"r": torch.sin(v * w["a"]).sum()},
        lambda v: {"r": torch.exp(w["b"] * v).sum()},
        x,
    )["r"]


def choice_of_three(c, w, x):
    branches = [
        lambda v: torch.sin(v * w["a"]),
        lambda v: torch.exp(w["b"] * v),
        lambda v: v * v * x[0],
    ]
    return c.switch((x[1] * 4).to(torch.int64), branches, x).prod()


def gradient_in_a_step(c, w, x):
    """Gradient descent; the inner gradients are of the carry and of what the step closes over."""

    def loss(p, element):
        return (torch.tanh(p * w["a"]) - element) ** 2

    def step(p, element):
        p = p - 0.3 * pf.grad(loss)(p, element) - 0.1 * pf.grad(loss, argnums=1)(w["b"], element)
        return p, pf.grad(lambda a: torch.sin(a * p))(w["a"])

    last, ys = c.scan(step, w["b"], x)
    return last + (ys**2).sum()


def vmap_in_a_step(c, w, x):
    def step(carry, element):
        rows = pf.vmap(lambda v, a: torch.sin(v * a * carry), (0, None))(x, w["a"])
        return rows.sum() + element * w["b"], rows

    last, ys = c.scan(step, w["b"], x)
    return last + (ys**2).sum()


def recomputed(c, w, x):
    block = c.remat(lambda v: torch.tanh(v * w["a"]) * torch.sin(v))
    return (block(block(x)) * block(w["b"])).sum()


def recomputed_steps(c, w, x):
    @c.remat
    def step(carry, element):
        return torch.tanh(carry * w["a"] + element), carry * w["b"]

    last, ys = c.scan(step, w["b"], x)
    return last + (ys**2).sum()


FUNCTIONS = [
    rnn, reversed_cumulative, recurrence_without_inputs, power, mapped_rows, scan_in_scan,
    branch_in_scan, choice_by_data, choice_of_three, gradient_in_a_step, vmap_in_a_step, recomputed,
    recomputed_steps,
]  # fmt: skip


def directions(w, x):
    return (tree.map(lambda leaf: torch.cos(3 * leaf), w), torch.sin(2 * x))


def batched(w, x, size=3):
    scales = torch.linspace(-1.0, 1.2, size, dtype=float64)
    many_w = tree.map(lambda leaf: torch.stack([leaf * s for s in scales]), w)
    return many_w, torch.stack([x * s for s in scales])


TRANSFORMS = {
    "itself": lambda f, w, x: f(w, x),
    "grad": lambda f, w, x: pf.grad(f, (0, 1))(w, x),
    "jvp": lambda f, w, x: pf.jvp(f, (w, x), directions(w, x)),
    "jacfwd": lambda f, w, x: pf.jacfwd(f)(w, x),
    "hessian": lambda f, w, x: pf.hessian(f, argnums=1)(w, x),
    "grad of grad": lambda f, w, x: pf.grad(
        lambda w: sum(leaf.sum() for leaf in tree.leaves(pf.grad(f, (0, 1))(w, x)))
    )(w),
    "jvp of jvp": lambda f, w, x: pf.jvp(
        lambda w, x: pf.jvp(f, (w, x), directions(w, x))[1], (w, x), directions(w, x)
    ),
    "grad of jvp": lambda f, w, x: pf.grad(
        lambda w: pf.jvp(lambda x: f(w, x), (x,), (torch.sin(2 * x),))[1]
    )(w),
    "vmap": lambda f, w, x: pf.vmap(f)(*batched(w, x)),
    "vmap over x": lambda f, w, x: pf.vmap(f, (None, 0))(w, batched(w, x)[1]),
    "vmap over w": lambda f, w, x: pf.vmap(f, (0, None))(batched(w, x)[0], x),
    "vmap of vmap": lambda f, w, x: pf.vmap(pf.vmap(f, (None, 0)), (0, None))(*batched(w, x)),
    "vmap of grad": lambda f, w, x: pf.vmap(pf.grad(f, (0, 1)), (None, 0))(w, batched(w, x)[1]),
    "grad of vmap": lambda f, w, x: pf.grad(lambda w, x: pf.vmap(f, (None, 0))(w, x).sum(), (0, 1))(
        w, batched(w, x)[1]
    ),
    "vmap of hessian": lambda f, w, x: pf.vmap(pf.hessian(f), (0, None))(batched(w, x)[0], x),
    "vmap of jvp of grad": lambda f, w, x: pf.vmap(
        lambda w: pf.jvp(pf.grad(f, (0, 1)), (w, x), directions(w, x))
    )(batched(w, x)[0]),
}


def example():
    w = {"a": torch.tensor(0.7, dtype=float64), "b": torch.tensor(-0.4, dtype=float64)}
    return w, torch.tensor([0.3, -0.5, 0.9, 0.2], dtype=float64)


def assert_close(ours, expected):
    assert tree.structure(ours) == tree.structure(expected)
    for a, b in zip(tree.leaves(ours), tree.leaves(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_equals_the_loop_written_out(function, transform):
    apply = TRANSFORMS[transform]
    w, x = example()
    expected = apply(lambda w, x: function(PLAIN, w, x), w, x)
    assert_close(apply(lambda w, x: function(OURS, w, x), w, x), expected)
    staged = pf.jit(lambda w, x: apply(lambda w, x: function(OURS, w, x), w, x), backend="eager")
    assert_close(staged(w, x), expected)
