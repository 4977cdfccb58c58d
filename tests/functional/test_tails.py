"""The elementwise tail of a program: what is taken out, that it is exact, when it is safe."""

import itertools
import operator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import purefn.functional as pf
from purefn import optim
from purefn.functional import tree
from purefn.functional.staging import aliasing, backends, graphs, tails, tracing

pytestmark = pytest.mark.filterwarnings("ignore::purefn.functional.DonationWarning")

SPECIAL = [0.0, -0.0, 1.0, -1.5, 3e-39, 1e-8, 65504.0, float("inf"), -float("inf"), float("nan")]


def split(fun, *args, donated=()):
    """Return the tail of a traced function of leaves, and the graph that is left."""
    traced = tracing.trace(lambda leaves: fun(*leaves), args)
    graph = graphs.decompose(traced.graph, traced.mode, backends.decompositions())
    plan = aliasing.plan_donation(graph, donated)
    return tails.split(graph, plan.buffers, donated), graph


def rows(operation, count=5):
    """Apply an operation to `count` pairs of vectors, as an optimizer does."""
    return lambda *leaves: [operation(leaves[2 * i], leaves[2 * i + 1]) for i in range(count)]


OPERATIONS = {
    "add": operator.add,
    "sub with alpha": lambda x, y: torch.sub(x, y, alpha=0.3),
    "mul": operator.mul,
    "div": lambda x, y: x / (y.abs() + 0.75),
    "sqrt": lambda x, y: x.abs().sqrt() + y,
    "rsqrt": lambda x, y: (x.abs() + 1).rsqrt() - y,
    "neg and reciprocal": lambda x, y: -(1 / (x + 3)) + y,
    "sign": lambda x, y: torch.sign(x) * y,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "clamp": lambda x, y: x.clamp(-0.5, 0.5) + y.clamp(min=0) * y.clamp(max=2),
    "lerp": lambda x, y: torch.lerp(x, y, 0.1),
    "addcmul": lambda x, y: torch.addcmul(x, y, y, value=0.001),
    "addcdiv": lambda x, y: torch.addcdiv(x, y, x.abs() + 1, value=-0.01),
    "where": lambda x, y: torch.where(x > y, x * 2, y),
    "compare with a number": lambda x, y: torch.where(x <= 0.5, x, y + x),
    "cast": lambda x, y: (x.double() * 3).to(x.dtype) + y,
    "exp and log": lambda x, y: torch.log(torch.exp(x * 0.1) + 1) + y,
    "tanh": lambda x, y: torch.tanh(x) - y,
}


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_kernels_compute_what_torch_does(operation, dtype):
    generator = torch.Generator().manual_seed(0)
    sizes = (1, 3, 17, 64, 20_000)
    leaves = []
    for size in sizes:
        pair = [torch.randn(size, generator=generator).to(dtype) for _ in range(2)]
        pair[0][: len(SPECIAL)] = torch.tensor(SPECIAL[:size]).to(dtype)
        leaves += pair
    fun = rows(operation)
    tail, rest = split(fun, *leaves)
    assert len(tail.kernels) == 1
    assert tail.outputs == set(range(5))
    assert not any(node.op == "call_function" for node in rest.nodes)
    epsilon = torch.finfo(dtype).eps
    for ours, theirs in zip(pf.jit(fun)(*leaves), fun(*leaves), strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=2 * epsilon, atol=epsilon, equal_nan=True)


def test_one_kernel_serves_all_shapes_and_another_each_mathematics():
    params = {f"w{i}": torch.randn(i + 2, 3) for i in range(6)}
    decayed = {f"d{i}": torch.randn(i + 1) for i in range(5)}
    lone = {"x": torch.randn(7)}

    def fun(*leaves):
        params, decayed, lone = leaves[:6], leaves[6:11], leaves[11:]
        return [p - 0.1 for p in params], [d * 0.9 for d in decayed], [x.exp() for x in lone]

    leaves = [*params.values(), *decayed.values(), *lone.values()]
    tail, rest = split(lambda *leaves: [*itertools.chain(*fun(*leaves))], *leaves)
    assert len(tail.kernels) == 2
    assert tail.outputs == set(range(11))
    assert sum(node.op == "call_function" for node in rest.nodes) == 1


def test_an_adam_step_leaves_nothing_but_scalars_to_the_compiler():
    params = {f"layer{i}": {"weight": torch.randn(3, i + 2)} for i in range(8)}
    adam = optim.chain(optim.clip(1.0), optim.adamw())
    call = (params, adam.init(params), tree.map(torch.ones_like, params))
    leaves, structure = tree.flatten(call)

    def step(*leaves):
        params, state, grads = tree.unflatten(structure, leaves)
        updates, state = adam.update(grads, state, params)
        return tree.leaves((optim.apply_updates(params, updates), state))

    tail, rest = split(step, *leaves, donated=range(len(leaves) - 8))
    assert len(tail.outputs) == 24
    left = [node for node in rest.nodes if node.op == "call_function"]
    assert left
    assert all(node.meta["val"].ndim == 0 for node in left)


HAZARDS = {
    "another leaf's old value": lambda *x: [
        x[0] + 1,
        *(a + b for a, b in itertools.pairwise(x)),
    ],
    "a view of an old value": lambda *x: [a + x[0].reshape(-1)[: a.numel()].view_as(a) for a in x],
    "a copy of an old value": lambda *x: [
        *(a + b.clone() for a, b in itertools.pairwise(x)),
        x[0] * 2,
    ],
    "an output that is an old value": lambda *x: [*(a * 2 + 1 for a in x), *x],
    "an output that is a copy": lambda *x: [*(a * 2 + 1 for a in x), *(a.clone() for a in x)],
    "an output that is a view": lambda *x: [*(a * 2 + 1 for a in x), *(a[0] for a in x)],
    "one result twice": lambda *x: [r for a in x for r in [a + x[1]] * 2],
    "in a ring": lambda *x: [a + b for a, b in zip(x, (*x[1:], x[0]), strict=True)],
    "swapped": lambda *x: [b * 1 for b in reversed(x)],
}


@pytest.mark.slow
@pytest.mark.parametrize("fun", HAZARDS.values(), ids=HAZARDS.keys())
def test_no_kernel_reads_what_another_has_written(fun):
    values = [torch.arange(6.0).reshape(2, 3) + 10 * i for i in range(6)]
    expected = fun(*[value.clone() for value in values])
    result = pf.jit(fun, donate_argnums=range(6))(*values)
    for ours, theirs in zip(result, expected, strict=True):
        assert torch.equal(ours, theirs)


PIECES = {
    "double": lambda x, y: 2 * x,
    "sum": lambda x, y: x + y,
    "copy": lambda x, y: x.clone(),
    "same": lambda x, y: x,
    "part": lambda x, y: x[:1] + y,
    "matmul": lambda x, y: x @ y,
    "transposed": lambda x, y: x.t() - y,
}


@pytest.mark.slow
@settings(max_examples=6)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(sorted(PIECES)), st.integers(0, 9), st.integers(0, 9)),
        min_size=6,
        max_size=9,
    ),
    donated=st.sets(st.integers(0, 4)),
)
def test_any_program_is_what_it_is_without_donation(steps, donated):
    def fun(*values):
        made = list(values)
        for name, i, j in steps:
            made.append(PIECES[name](made[i % len(made)], made[j % len(made)]))
        return [value + 1 for value in values], made[len(values) :]

    values = [torch.arange(4.0).reshape(2, 2) / 8 + i for i in range(5)]
    expected = fun(*[value.clone() for value in values])
    result = pf.jit(fun, donate_argnums=sorted(donated))(*values)
    for ours, theirs in zip(tree.leaves(result), tree.leaves(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_element_is_computed_whatever_the_threads(threads):
    before = torch.get_num_threads()
    sizes = (1, 63, 64, 65, 40_000, 100_003)
    leaves = [torch.arange(float(size)) for size in sizes]
    try:
        torch.set_num_threads(threads)
        results = pf.jit(lambda *x: [a * 2 + 1 for a in x])(*leaves)
    finally:
        torch.set_num_threads(before)
    for leaf, result in zip(leaves, results, strict=True):
        assert torch.equal(result, leaf * 2 + 1)
