"""Calls of `jit` that once gave wrong numbers, or could: each against plain Python."""

import functools
import threading

import numpy as np
import pytest
import torch

import purefn.functional as pf
from purefn.functional import tree

pytestmark = pytest.mark.filterwarnings("ignore::purefn.functional.DonationWarning")

BACKENDS = ["eager", pytest.param("inductor", marks=pytest.mark.slow)]


def agree(fun, *args, backend="eager", donated=()):
    expected = fun(*tree.map(torch.clone, args))
    result = pf.jit(fun, backend=backend, donate_argnums=donated)(*args)
    for ours, theirs in zip(tree.leaves(result), tree.leaves(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    return result


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("donated", [(), (0,)])
def test_a_result_returned_twice_is_two_tensors(backend, donated):
    xs = [torch.arange(i + 2.0) for i in range(5)]
    result = agree(
        lambda xs: [(z := x * 0.9 + 1, z) for x in xs], xs, backend=backend, donated=donated
    )
    assert len({leaf.data_ptr() for leaf in tree.leaves(result)}) == 10


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_captured_tensor_cannot_be_donated(backend):
    w = torch.arange(4.0)
    fun = pf.jit(lambda x: x * 2 + w.flip(0), donate_argnums=0, backend=backend)
    with pytest.raises(ValueError, match="x is donated, and a tensor that the function captured"):
        fun(w)
    other = torch.ones(4)
    assert torch.equal(fun(other), 2 + w.flip(0))
    with pytest.raises(ValueError, match="x is donated"):
        fun(w)
    assert torch.equal(w, torch.arange(4.0))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "layout",
    [
        lambda: torch.arange(6.0).reshape(3, 2).t(),
        lambda: torch.arange(48.0).reshape(1, 3, 4, 4).to(memory_format=torch.channels_last),
        lambda: torch.arange(12.0)[::2],
        lambda: torch.arange(12.0)[3:7],
        lambda: torch.arange(8.0).reshape(2, 4)[:, :2],
        lambda: torch.ones(1, 3).expand(2, 3),
    ],
    ids=["transposed", "channels last", "strided", "offset", "columns", "expanded"],
)
def test_donated_leaves_of_any_layout(layout, backend):
    xs = [layout() for _ in range(5)]
    ys = [torch.rand(x.shape) for x in xs]
    agree(lambda xs, ys: [y * 2 + x for x, y in zip(xs, ys, strict=True)], xs, ys, donated=0)
    xs = [layout() for _ in range(5)]
    agree(lambda xs: [x * 2 + 1 for x in xs], xs, backend=backend, donated=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_captured_tensor_that_becomes_another_kind_is_traced_again(backend):
    w = torch.arange(4.0)
    fun = pf.jit(lambda x: x + w, backend=backend)
    assert torch.equal(fun(torch.ones(4)), torch.arange(4.0) + 1)
    w.data = w.data.double()
    assert fun(torch.ones(4)).dtype == torch.float64
    w.data = torch.full((1,), 7.0)
    assert torch.equal(fun(torch.ones(4)), torch.full((4,), 8.0))
    w += 1
    assert torch.equal(fun(torch.ones(4)), torch.full((4,), 9.0))


class Wrong(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x * 1

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return 7 * g


def detached_inside(x):
    with torch.no_grad():
        y = x * 2
    return (y * x).sum()


@pytest.mark.filterwarnings("ignore::purefn.functional.UncompiledWarning")
@pytest.mark.parametrize("fun", [detached_inside, lambda x: Wrong.apply(x).sum()])
def test_gradients_outside_are_those_of_the_function(fun):
    ours, theirs = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    pf.jit(fun, backend="eager")(ours).backward()
    fun(theirs).backward()
    assert torch.equal(ours.grad, theirs.grad)
    module = torch.nn.Linear(3, 1)
    pf.jit(lambda x: module(x).sum(), backend="eager")(torch.ones(3)).backward()
    assert torch.equal(module.weight.grad, torch.ones(1, 3))


def test_a_custom_derivative_holds_inside():
    fun = pf.jit(pf.grad(lambda x: Wrong.apply(x).sum()), backend="eager")
    assert torch.equal(fun(torch.ones(3)), torch.full((3,), 7.0))


def test_a_cast_that_autocast_keeps_is_not_taken_for_the_weight():
    w = torch.nn.Parameter(torch.ones(3, 3), requires_grad=False)
    fun = pf.jit(lambda x: x @ w, backend="eager")
    with torch.autocast("cpu", torch.bfloat16):
        _ = torch.ones(3) @ w
        assert fun(torch.ones(3)).sum().item() == 9
        _ = torch.ones(3) @ w
    w.data.zero_()
    with torch.autocast("cpu", torch.bfloat16):
        assert fun(torch.ones(3)).sum().item() == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_lazily_negated_and_conjugated_inputs(backend):
    z = torch.complex(torch.arange(3.0), torch.arange(3.0) + 1).conj()
    agree(lambda x: x * 2 + 1, z.imag, backend=backend)
    agree(lambda x: [a * 2 for a in x], [z.imag] * 4, backend=backend)
    agree(lambda x: x * 2, z, backend="eager")


@pytest.mark.slow
def test_two_draws_are_two():
    x = torch.zeros(1000)
    first, second = pf.jit(lambda x: (torch.normal(x, 1.0), torch.normal(x, 1.0)))(x)
    assert not torch.equal(first, second)


def test_writes_by_name_are_refused():
    x, captured = torch.ones(2), torch.ones(2)
    with pytest.raises(ValueError, match="writes into its argument x"):
        pf.jit(lambda x: torch.add(x, 1, out=x), backend="eager")(x)
    with pytest.raises(ValueError, match="did not make"):
        pf.jit(lambda x: torch.add(x, 1, out=captured), backend="eager")(x)
    assert torch.equal(x, torch.ones(2))
    assert torch.equal(captured, torch.ones(2))


def accumulated(x):
    total = torch.tensor(0.0)
    total += x.sum()
    table = torch.tensor([1.0, 2.0, 3.0])
    table[0] = total
    torch._foreach_mul_([table], 2)
    return total, table


@pytest.mark.parametrize("backend", BACKENDS)
def test_constants_of_its_own_may_be_written(backend):
    agree(accumulated, torch.arange(3.0), backend=backend)
    fun = pf.jit(accumulated, backend=backend)
    for _ in range(2):
        assert fun(torch.ones(3))[1].tolist() == [6, 4, 6]


def test_data_of_a_traced_tensor_is_not_assigned():
    def fun(x):
        y = x * 2
        y.data = x * 3
        return y

    with pytest.raises(pf.TraceError, match=r"assigns to the `.data`"):
        pf.jit(fun, backend="eager")(torch.ones(2))


@pytest.mark.slow
def test_limits_fills_and_comparisons_in_kernels():
    limit = torch.tensor([0.0, float("nan"), 1.0])
    xs = [torch.randn(3) for _ in range(5)]
    result = pf.jit(lambda xs, limit: [torch.clamp(x, min=limit) for x in xs])(xs, limit)
    assert all(bool(r[1].isnan()) for r in result)
    wide = [torch.rand(3, dtype=torch.float64) for _ in range(5)]
    agree(lambda xs: [x * torch.full((), 0.1) for x in xs], wide, backend="inductor")
    narrow = [torch.tensor([0.1, 0.2], dtype=torch.bfloat16) for _ in range(5)]
    agree(lambda xs: [torch.where(x == 0.1, x * 2, x) for x in xs], narrow, backend="inductor")


@pytest.mark.parametrize("backend", BACKENDS)
def test_first_calls_from_many_threads(backend):
    def body(x):
        return pf.fori_loop(0, 3, lambda i, c: c * 1.5 + 1, x)

    fun, results, failures = pf.jit(body, backend=backend), {}, []

    def call(i):
        try:
            results[i] = fun(torch.full((i % 3 + 1,), float(i)))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for i, result in results.items():
        assert torch.equal(result, body(torch.full((i % 3 + 1,), float(i))))


@pytest.mark.parametrize(
    "convert",
    [
        torch.Tensor.to_sparse,
        torch.Tensor.to_sparse_csr,
        lambda x: torch.quantize_per_tensor(x, 1.0, 0, torch.qint8),
    ],
    ids=["sparse", "compressed", "quantized"],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_what_has_no_strides_is_refused_by_name(convert):
    leaf = convert(torch.eye(2))
    with pytest.raises(TypeError, match=r"config\['a'\] is a .* tensor; expected a dense one"):
        pf.jit(lambda config: config["a"], backend="eager")({"a": leaf})


def test_numpy_arrays_become_constants():
    table = np.arange(3.0)
    fun = pf.jit(lambda x: x + torch.as_tensor(table), backend="eager")
    assert torch.equal(fun(torch.ones(3, dtype=torch.float64)), torch.arange(1.0, 4.0).double())


def test_functions_that_differ_have_other_digests():
    from purefn.functional.staging.identity import digest

    def made(k):
        return lambda x: x * k

    def power(x, k=2):
        return x**k

    def cube(x, k=3):
        return x**k

    pairs = [
        (functools.partial(power, k=2), functools.partial(power, k=5)),
        (made(2.0), made(5.0)),
        (pf.grad(made(2.0)), pf.grad(made(5.0))),
        (power, cube),
        (pf.vmap(power), pf.vmap(power, in_axes=1)),
    ]
    for one, other in pairs:
        assert digest(one) != digest(other)
        assert digest(one) == digest(one)


@pytest.mark.parametrize(
    "backend", ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
)
def test_autocast_casts_once(backend):
    """What was recorded where autocast is off is not cast when the program runs."""

    def fun(x, w):
        with torch.autocast("cpu", enabled=False):
            exact = x @ w
        return exact, x @ w

    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(4, 3, generator=generator), torch.randn(3, 5, generator=generator)
    staged = pf.jit(fun, backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        exact, rounded = staged(x, w)
    torch.testing.assert_close(exact, x @ w)
    assert (exact.dtype, rounded.dtype) == (torch.float32, torch.bfloat16)


def test_the_body_of_a_loop_shows_tensors_as_any_traced_function_does():
    shown = []

    def step(carry, x):
        shown.append(str(x))
        return carry + x, None

    pf.jit(lambda xs: pf.scan(step, 0.0, xs)[0], backend="eager")(torch.ones(3))
    assert len(shown) > 1
    assert set(shown) == {"Traced(float32 of shape ())"}


@pytest.mark.parametrize("transform", [pf.jvp, pf.hvp])
def test_a_point_and_a_direction_that_are_slices_of_one_tensor(transform):
    x = torch.arange(24.0).reshape(2, 3, 4)
    agree(lambda x: transform(lambda x: (x.mT**3).sum(), (x[0],), (x[1],)), x)
