"""`remat`: values and derivatives of the function, without the memory of what it computed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile

import purefn.functional as pf
from purefn.functional import tree

DEPTH, BATCH, WIDTH = 6, 512, 32
LAYER_BYTES = 4 * BATCH * WIDTH


def peak_bytes(fun, *args):
    """Return the most bytes that the allocator had given out at a time, and not taken back."""
    fun(*args)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        fun(*args)
    events = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    total = peak = 0
    for _, nbytes in changes:
        total += nbytes
        peak = max(peak, total)
    return peak


def block(weights, x):
    """Compute much that a derivative keeps, and return little."""
    for weight in weights:
        x = torch.sin(torch.tanh(x @ weight) * 2.0)
    return x


def network(wrap):
    wrapped = wrap(block)

    def loss(params, x):
        for weights in params:
            x = wrapped(weights, x)
        return x.square().mean()

    return loss


def closing_network(wrap):
    def loss(params, x):
        for weights in params:
            x = wrap(lambda x, weights=weights: block(weights, x))(x)
        return x.square().mean()

    return loss


def example(dtype=torch.float32, batch=BATCH, width=WIDTH):
    generator = torch.Generator().manual_seed(0)
    params = [
        [torch.randn(width, width, generator=generator, dtype=dtype) / width**0.5 for _ in range(4)]
        for _ in range(DEPTH)
    ]
    return params, torch.randn(batch, width, generator=generator, dtype=dtype)


@pytest.mark.parametrize("make", [network, closing_network])
@pytest.mark.parametrize("how", ["eager", "jit"])
def test_gradients_are_equal_and_memory_is_saved(make, how):
    def gradient(wrap):
        fun = pf.grad(make(wrap))
        return pf.jit(fun, backend="eager") if how == "jit" else fun

    args = example()
    kept, recomputed = gradient(lambda f: f), gradient(pf.remat)
    tree.map(torch.testing.assert_close, recomputed(*args), kept(*args))
    # Of four layers a block, each with several intermediate results, one block's live at a time.
    assert peak_bytes(recomputed, *args) < 0.5 * peak_bytes(kept, *args)
    assert peak_bytes(kept, *args) > DEPTH * 8 * LAYER_BYTES


@pytest.mark.slow
def test_memory_is_saved_by_compiled_code():
    params, x = example()
    args = params[:4], x
    kept = pf.jit(pf.grad(network(lambda f: f)))
    recomputed = pf.jit(pf.grad(network(pf.remat)))
    tree.map(
        lambda a, b: torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6),
        recomputed(*args), kept(*args),
    )  # fmt: skip
    assert peak_bytes(recomputed, *args) < 0.7 * peak_bytes(kept, *args)


@settings(max_examples=10)
@given(rows=st.integers(1, 4), seed=st.integers(0, 2**31), jitted=st.booleans())
def test_derivatives_pass_through_trees_and_keywords(rows, seed, jitted):
    generator = torch.Generator().manual_seed(seed)
    x = {"a": torch.randn(rows, 3, generator=generator, dtype=torch.float64), "n": torch.tensor(2)}
    w = torch.randn(3, generator=generator, dtype=torch.float64)

    def f(x, *, scale, power=1):
        return {"r": torch.sin(x["a"] @ w * scale) ** power, "n": x["n"] + 1, "x": x["a"]}

    def loss(fun, a, scale):
        out = fun({**x, "a": a}, scale=scale, power=2)
        return (out["r"].sum() + out["x"].prod()) * out["n"]

    scale = torch.tensor(0.3, dtype=torch.float64)
    ours = pf.value_and_grad(lambda a, s: loss(pf.remat(f), a, s), (0, 1))
    ours = pf.jit(ours, backend="eager") if jitted else ours
    theirs = torch.func.grad_and_value(lambda a, s: loss(f, a, s), (0, 1))(x["a"], scale)
    tree.map(torch.testing.assert_close, ours(x["a"], scale), theirs[::-1])


def test_it_passes_gradcheck_and_torch_autograd():
    w = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(3, dtype=torch.float64, requires_grad=True)
    fun = pf.remat(lambda x: torch.tanh(w @ torch.sin(x)))
    assert torch.autograd.gradcheck(lambda w, x: fun(x), (w, x))
    assert torch.autograd.gradgradcheck(lambda w, x: fun(x), (w, x))
    ours = torch.autograd.grad(fun(x).sum(), (w, x))
    theirs = torch.autograd.grad(torch.tanh(w @ torch.sin(x)).sum(), (w, x))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "fun",
    [lambda x: x, lambda x: x.reshape(-1), lambda x: (x, x * 2, x), lambda x: x.T],
    ids=["identity", "view", "twice", "transpose"],
)
@pytest.mark.parametrize("jitted", [False, True])
def test_outputs_may_be_inputs_and_views(fun, jitted):
    x = torch.randn(2, 3, dtype=torch.float64)
    total = lambda f: lambda x: sum((leaf**2).sum() for leaf in tree.leaves(f(x)))  # noqa: E731
    for transform in (pf.grad, pf.jacfwd, pf.hessian, lambda f: f):
        ours = transform(total(pf.remat(fun)))
        ours = pf.jit(ours, backend="eager") if jitted else ours
        torch.testing.assert_close(ours(x), transform(total(fun))(x))
    tangents = pf.jvp(pf.remat(fun), (x,), (x,)), pf.jvp(fun, (x,), (x,))
    tree.map(torch.testing.assert_close, *tangents)


def test_a_function_that_looks_at_values_runs_as_it_is_in_eager():
    fun = pf.remat(lambda x: x**2 if x.sum() > 0 else -x)
    assert pf.grad(fun)(torch.tensor(3.0)) == 6.0
    assert pf.grad(fun)(torch.tensor(-3.0)) == -1.0


def test_a_custom_derivative_is_kept():
    class Doubled(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x.clone()

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, cotangent):
            return 2 * cotangent

    w = torch.tensor(3.0)
    fun = pf.grad(lambda w: pf.remat(lambda x: Doubled.apply(w) * x)(torch.tensor(5.0)))
    assert fun(w) == 10.0
    assert pf.jit(fun, backend="eager")(w) == 10.0


def test_a_scan_of_blocks_saves_memory_in_eager():
    params, x = example()
    stacked = [torch.stack(column) for column in zip(*params, strict=True)]

    def loss(wrap):
        step = wrap(block)
        return lambda stacked, x: (
            pf.scan(lambda h, weights: (step(weights, h), None), x, stacked)[0].square().mean()
        )

    kept, recomputed = pf.grad(loss(lambda f: f)), pf.grad(loss(pf.remat))
    tree.map(torch.testing.assert_close, recomputed(stacked, x), kept(stacked, x))
    assert peak_bytes(recomputed, stacked, x) < 0.5 * peak_bytes(kept, stacked, x)


def test_refusals():
    with pytest.raises(TypeError, match="function for fun, got the int 3"):
        pf.remat(3)
    with pytest.raises(TypeError, match="remat: expected tensors and numbers"):
        pf.remat(lambda x: "a")(torch.ones(2))
    with pytest.raises(ValueError, match="remat: the function writes"):
        pf.remat(lambda x: x.add_(1))(torch.ones(2))
