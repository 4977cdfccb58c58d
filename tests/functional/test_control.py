"""Loops: what they return, what they trace, what they refuse."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import purefn.functional as pf
from purefn.functional import tree
from purefn.functional.staging import tracing


def plain(fun):
    return fun


def staged(fun):
    return pf.jit(fun, backend="eager")


HOW = pytest.mark.parametrize("how", [plain, staged])


def nodes(fun, *args):
    """Count the nodes of a traced function, those of bodies included."""

    def count(graph):
        inner = [body.graph for node in graph.nodes for body in bodies_of(node.target)]
        return len(graph.nodes) + sum(map(count, inner))

    def bodies_of(target):
        fields = getattr(target, "__dataclass_fields__", {})
        values = [getattr(target, name) for name in fields]
        flat = [
            v for value in values for v in (value.values() if isinstance(value, dict) else [value])
        ]
        flat = [v for value in flat for v in (value if type(value) is list else [value])]
        return [value for value in flat if isinstance(value, tracing.Trace)]

    return count(tracing.trace(lambda leaves: fun(*leaves), list(args)).graph)


# --- scan ----------------------------------------------------------------------------------------

leaf_shapes = st.lists(st.lists(st.integers(0, 3), max_size=2).map(tuple), min_size=1, max_size=3)


@HOW
@settings(max_examples=15)
@given(
    shapes=leaf_shapes,
    length=st.integers(0, 7),
    reverse=st.booleans(),
    unroll=st.sampled_from([1, 2, 3, 10, True, False]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.int64]),
)
def test_scan_is_the_loop(how, shapes, length, reverse, unroll, dtype):
    torch.manual_seed(0)
    draw = lambda shape: (10 * torch.randn(shape)).to(dtype)  # noqa: E731
    xs = {"x": [draw((length, *shape)) for shape in shapes], "none": None}
    init = ({"c": [draw(shape) for shape in shapes]}, torch.tensor(0))

    def f(carry, x):
        sums = [c - 2 * v for c, v in zip(carry[0]["c"], x["x"], strict=True)]
        return ({"c": sums}, carry[1] + 1), {"y": sums[0] * carry[1], "i": (carry[1],)}

    carry, ys = how(lambda init, xs: pf.scan(f, init, xs, reverse=reverse, unroll=unroll))(init, xs)
    expected, rows = init, [None] * length
    for i in reversed(range(length)) if reverse else range(length):
        expected, rows[i] = f(expected, {"x": [x[i] for x in xs["x"]], "none": None})
    assert tree.structure((carry, ys)) == tree.structure((init, {"y": 0, "i": (0,)}))
    for a, b in zip(tree.leaves(carry), tree.leaves(expected), strict=True):
        assert torch.equal(a, b)
        assert a.dtype == b.dtype
    assert ys["y"].shape == (length, *shapes[0])
    assert ys["y"].dtype == dtype
    for i, row in enumerate(rows):
        assert torch.equal(ys["y"][i], row["y"])
        assert torch.equal(ys["i"][0][i], row["i"][0])


@HOW
def test_a_scan_without_inputs_takes_a_length(how):
    powers = how(lambda x: pf.scan(lambda c, _: (2 * c, c), x, length=4))
    last, ys = powers(torch.tensor(1))
    assert (last.item(), ys.tolist()) == (16, [1, 2, 4, 8])
    assert how(lambda x: pf.scan(lambda c, _: (2 * c, None), x, length=0))(last) == (last, None)


@HOW
def test_a_carry_that_passes_through_and_one_twice_have_memory_of_their_own(how):
    def f(carry, x):
        return (carry[0], x, x), carry[1]

    a, b = torch.tensor([1.0]), torch.tensor([2.0])
    xs = torch.tensor([[3.0], [4.0]])
    carry, ys = how(lambda a, b, xs: pf.scan(f, (a, b, b), xs))(a, b, xs)
    assert [leaf.item() for leaf in carry] == [1.0, 4.0, 4.0]
    assert ys.flatten().tolist() == [2.0, 3.0]


def test_donated_state_survives_a_loop_that_hands_it_through():
    def f(a, b):
        (a, b), _ = pf.scan(lambda c, _: ((c[0], c[1] + c[0]), None), (a, b), length=3)
        return b, a

    a, b = torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0])
    expected = f(a, b)
    result = pf.jit(f, donate_argnums=(0, 1), backend="eager")(a.clone(), b.clone())
    assert torch.equal(result[0], expected[0])
    assert torch.equal(result[1], expected[1])


def test_a_number_carried_takes_the_dtype_of_the_tensors():
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        last, _ = pf.scan(lambda c, x: (c + x, None), 0.0, torch.ones(3, dtype=dtype))
        assert last.dtype == dtype


@pytest.mark.parametrize("transform", ["itself", "grad", "hessian", "vmap"])
def test_a_trace_does_not_grow_with_the_length(transform):
    def last(w, xs):
        return pf.scan(lambda c, x: (torch.tanh(w * c + x), c), torch.tensor(0.0), xs)[0]

    fun = {
        "itself": last,
        "grad": pf.grad(last, (0, 1)),
        "hessian": pf.hessian(last),
        "vmap": pf.vmap(last, (None, 1)),
    }[transform]
    shape = (2,) if transform == "vmap" else ()
    w = torch.tensor(0.5)
    short, long = (nodes(fun, w, torch.zeros(length, *shape)) for length in (3, 300))
    assert short == long


def test_unrolled_steps_are_traced_together():
    def last(xs, unroll):
        return pf.scan(lambda c, x: (torch.sin(c + x), c), 0.0, xs, unroll=unroll)[0]

    counts = [nodes(lambda xs, n=n: last(xs, n), torch.zeros(8)) for n in (1, 4)]
    assert counts[0] < counts[1] < 3 * counts[0] + 20
    xs = torch.randn(11)
    for unroll in (1, 2, 4, True):
        assert torch.equal(staged(lambda xs, n=unroll: last(xs, n))(xs), last(xs, 1))


def test_outputs_that_nobody_reads_are_not_stacked():
    stacked = []
    original = torch.empty

    def f(w, xs):
        def step(c, x):
            return torch.tanh(c * w + x), {"big": x * torch.ones(50), "y": c}

        return pf.scan(step, torch.tensor(0.0), xs)[1]["y"].sum()

    fun = pf.jit(pf.grad(f), backend="eager")
    xs = torch.randn(5)
    fun(torch.tensor(0.3), xs)
    try:
        torch.empty = lambda *size, **options: stacked.append(size[0]) or original(*size, **options)
        fun(torch.tensor(0.3), xs)
    finally:
        torch.empty = original
    assert stacked
    assert (5, 50) not in stacked


@HOW
def test_ten_thousand_steps(how):
    def f(c, x):
        return c * 0.5 + x, None

    xs = torch.ones(10_000 if how is staged else 100, dtype=torch.float64)
    last, _ = how(lambda xs: pf.scan(f, 0.0, xs))(xs)
    assert last.item() == pytest.approx(2.0)


@HOW
@pytest.mark.parametrize(
    ("f", "init", "message"),
    [
        (lambda c, x: ({"a": c["a"]}, x), {"a": 1.0, "b": 2.0}, r"f\(carry, x\)\[0\].*structure"),
        (lambda c, x: ({"a": c["a"].double()}, x), {"a": torch.ones(2)},
         r"carry\['a'\] is float32 of shape \(2,\), but f\(carry, x\)\[0\]\['a'\] is float64"),
        (lambda c, x: ([c[0], c[1].sum()], x), [torch.ones(2), torch.ones(2)],
         r"carry\[1\] is float32 of shape \(2,\), but .*\[1\] is float32 of shape \(\)"),
        (lambda c, x: ((c, c), x), torch.ones(2), "structure"),
    ],
)  # fmt: skip
def test_a_carry_that_changes_is_refused(how, f, init, message):
    with pytest.raises(ValueError, match=message):
        how(lambda init: pf.scan(f, init, torch.ones(3)))(init)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: pf.scan(3, 0.0, torch.ones(2)), TypeError, "function for f, got the int 3"),
        (lambda: pf.scan(lambda c, x: c, 0.0, torch.ones(2)), TypeError, r"pair \(carry, y\)"),
        (lambda: pf.scan(lambda c, x: (c, x), 0.0, {"a": torch.ones(2), "b": torch.ones(3)}),
         ValueError, r"xs\['a'\] has 2, xs\['b'\] has 3"),
        (lambda: pf.scan(lambda c, x: (c, x), 0.0, torch.ones(2), length=3),
         ValueError, "length is 3, but xs has 2"),
        (lambda: pf.scan(lambda c, x: (c, x), 0.0), ValueError, "give length"),
        (lambda: pf.scan(lambda c, x: (c, x), 0.0, torch.tensor(1.0)), ValueError, "no axis"),
        (lambda: pf.scan(lambda c, x: (c, x), 0.0, length=-1), ValueError, "length >= 0"),
        (lambda: pf.scan(lambda c, x: (c, x), 0.0, length=2.0), TypeError, "int or None"),
        (lambda: pf.scan(lambda c, x: (c, x), "a", torch.ones(2)), TypeError, "init"),
        (lambda: pf.scan(lambda c, x: (c, "y"), 0.0, torch.ones(2)), TypeError, "output of f"),
        (lambda: pf.scan(lambda c, x: (c, x), 0.0, torch.ones(2), unroll=0), ValueError, "unroll"),
        (lambda: pf.map(lambda x: x, torch.ones(2), batch_size=0), ValueError, "batch_size"),
        (lambda: pf.fori_loop(0.5, 2, lambda i, v: v, 0.0), TypeError, "integer for lower"),
        (lambda: pf.fori_loop(0, torch.ones(2).long(), lambda i, v: v, 0.0), ValueError, "upper"),
        (lambda: pf.fori_loop(0, 2, lambda i, v: v.double(), torch.ones(2)), ValueError,
         r"val is float32 .* body_fun\(i, val\) is float64"),
        (lambda: pf.while_loop(lambda v: v, lambda v: v, 1.0), TypeError, "boolean .* cond_fun"),
        (lambda: pf.while_loop(lambda v: v > 0, lambda v: v, torch.ones(2)), ValueError, r"\.any"),
        (lambda: pf.while_loop(lambda v: v["a"] > 0, lambda v: {"a": v["a"] > 0}, {"a": 1.0}),
         ValueError, r"val\['a'\] is float32"),
        (lambda: pf.cond(1.0, torch.sin, torch.cos, 1.0), TypeError, "boolean for pred"),
        (lambda: pf.cond(torch.tensor([True]), torch.sin, torch.cos, 1.0), ValueError, "where"),
        (lambda: pf.switch(1.0, [torch.sin], 1.0), TypeError, "integer for index"),
        (lambda: pf.switch(0, [], 1.0), ValueError, "at least one"),
        (lambda: pf.switch(0, [torch.sin, 3], 1.0), TypeError, r"branches\[1\], got the int 3"),
        (lambda: pf.cond(True, lambda x: "a", torch.cos, 1.0), TypeError, "output of true_fun"),
    ],
)  # fmt: skip
@HOW
def test_refusals(how, call, error, message):
    with pytest.raises(error, match=message):
        how(call)()


@HOW
def test_writing_into_what_it_got_is_refused(how):
    def f(c, x):
        c.add_(x)
        return c, None

    if how is staged:
        with pytest.raises(ValueError, match="scan: the function writes"):
            how(lambda xs: pf.scan(f, torch.zeros(()), xs))(torch.ones(3))


# --- map, fori_loop ------------------------------------------------------------------------------


@HOW
@settings(max_examples=10)
@given(length=st.integers(0, 7), batch_size=st.none() | st.integers(1, 9))
def test_map_is_vmap(how, length, batch_size):
    xs = {"a": torch.randn(length, 2), "b": torch.randn(length)}

    def f(x):
        return {"r": (x["a"] * x["b"]).sum(), "s": x["a"].sin()}

    ours = how(lambda xs: pf.map(f, xs, batch_size=batch_size))(xs)
    expected = {"r": (xs["a"] * xs["b"][:, None]).sum(1), "s": xs["a"].sin()}
    tree.map(torch.testing.assert_close, ours, expected)


@HOW
@pytest.mark.parametrize("bounds", [(0, 5), (-2, 3), (3, 3), (4, 1)])
@pytest.mark.parametrize("kind", [int, torch.tensor])
def test_fori_loop_counts(how, bounds, kind):
    def digits(start):
        lower, upper = map(kind, bounds)
        return pf.fori_loop(lower, upper, lambda i, v: 10 * v + i, start)

    expected = 7
    for i in range(*bounds):
        expected = 10 * expected + i
    assert how(digits)(torch.tensor(7)).item() == expected


# --- while_loop ----------------------------------------------------------------------------------


def newton(a):
    """Return the square root of a positive number."""

    def far(state):
        return (state[0] ** 2 - a).abs() > 1e-12 * a

    def improve(state):
        return (state[0] + a / state[0]) / 2, state[1] + 1

    return pf.while_loop(far, improve, (a, torch.tensor(0)))


@HOW
def test_while_loop_by_closed_forms(how):
    a = torch.tensor([2.0, 9.0, 1e-3, 1e5], dtype=torch.float64)
    close = {"rtol": 1e-9, "atol": 0.0}
    for value in a:
        torch.testing.assert_close(how(newton)(value)[0], value.sqrt(), **close)
    roots, steps = how(pf.vmap(newton))(a)
    torch.testing.assert_close(roots, a.sqrt(), **close)
    assert steps.tolist() == [newton(value)[1].item() for value in a]
    assert len(set(steps.tolist())) > 2
    slope = how(pf.jacfwd(lambda a: newton(a)[0]))(a[1])
    torch.testing.assert_close(slope, torch.tensor(1 / 6, dtype=torch.float64), **close)
    slopes = how(pf.vmap(pf.jacfwd(lambda a: newton(a)[0])))(a)
    torch.testing.assert_close(slopes, 0.5 / a.sqrt(), **close)
    grid = how(pf.vmap(pf.vmap(newton)))(a.view(2, 2))[0]
    torch.testing.assert_close(grid, a.view(2, 2).sqrt(), **close)
    curve = how(
        lambda a: pf.jvp(lambda a: pf.jvp(lambda a: newton(a)[0], (a,), (1.0,))[1], (a,), (1.0,))
    )
    torch.testing.assert_close(
        curve(a[1])[1], torch.tensor(-0.25 * 9**-1.5, dtype=torch.float64), rtol=1e-6, atol=0.0
    )


@HOW
def test_a_loop_that_closes_over_what_is_batched_alone(how):
    def first_power_above(limit, factor):
        return pf.while_loop(lambda v: v <= limit, lambda v: v * factor, 1.0)

    limits = torch.tensor([3.0, 100.0, 0.5])
    over = how(pf.vmap(lambda limit: first_power_above(limit, torch.tensor(2.0))))
    assert over(limits).tolist() == [4.0, 128.0, 1.0]
    factors = torch.tensor([2.0, 3.0, 10.0])
    grown = how(pf.vmap(lambda factor: first_power_above(torch.tensor(9.0), factor)))
    assert grown(factors).tolist() == [16.0, 27.0, 10.0]


@HOW
@pytest.mark.parametrize("transform", [pf.grad, pf.jacrev, lambda f: pf.vmap(pf.grad(f))])
def test_the_reverse_derivative_of_a_while_loop_is_refused(how, transform):
    fun = transform(lambda a: newton(a)[0])
    with pytest.raises(RuntimeError, match=r"use|Use `scan`, or `fori_loop` with Python integers"):
        how(fun)(torch.tensor([4.0] if "lambda" in str(transform) else 4.0))


@HOW
def test_what_is_not_differentiated_may_run_in_a_while_loop(how):
    def f(x):
        steps = newton(pf.stop_gradient(x))[1]
        return x * steps

    assert how(pf.grad(f))(torch.tensor(9.0)) == newton(torch.tensor(9.0))[1]


def test_shapes_are_found_without_values():
    x = pf.ShapeDtype((2,))
    shape = pf.eval_shape(lambda x: pf.while_loop(lambda v: v.sum() > 0, lambda v: v - 1, x), x)
    assert shape == x
    assert pf.eval_shape(lambda x: pf.cond(x.sum() > 0, torch.sin, torch.cos, x), x) == x
    assert pf.eval_shape(lambda x: pf.scan(lambda c, v: (c + v, v), 0.0, x)[1], x) == x
