"""`jit`: keys, numbers, static arguments, inlining, errors. Donation has its own file."""

import collections
import dataclasses
import itertools
import random as python_random
from typing import NamedTuple

import optree
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import purefn.functional as pf
from purefn.functional import tree


class Moments(NamedTuple):
    mu: dict
    count: Tensor


@tree.dataclass
class Interval:
    low: Tensor
    scale: int = tree.static(default=2)


class Box:
    def __init__(self, value, label):
        self.value, self.label = value, label


optree.register_pytree_node(
    Box,
    lambda box: ((box.value,), box.label, ("value",)),
    lambda label, children: Box(children[0], label),
    namespace=tree.NAMESPACE,
)

TREES = {
    "tensor": lambda: torch.arange(3.0),
    "dict": lambda: {"b": torch.ones(2), "a": {"w": torch.arange(4.0)}, "empty": {}},
    "integer keys": lambda: {3: torch.ones(2), 1: torch.zeros(2)},
    "list and None": lambda: [torch.ones(2), None, (torch.zeros(1),)],
    "namedtuple": lambda: Moments({"w": torch.ones(2)}, torch.tensor(3)),
    "ordered dict": lambda: collections.OrderedDict(b=torch.ones(1), a=torch.zeros(2)),
    "default dict": lambda: collections.defaultdict(list, b=torch.ones(1), a=torch.zeros(2)),
    "deque": lambda: collections.deque([torch.ones(1), torch.zeros(2)], maxlen=3),
    "dataclass": lambda: Interval(torch.arange(3.0), scale=5),
    "custom node": lambda: {"box": Box(torch.arange(2.0), "label")},
    "structseq": lambda: torch.max(torch.ones(2, 3), dim=0),
    "empty": lambda: {"a": [], "b": None},
}


@pytest.mark.parametrize("make", TREES.values(), ids=TREES.keys())
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_any_tree_goes_in_and_comes_out(make, backend):
    given_tree = make()
    result = pf.jit(lambda t: tree.map(lambda leaf: leaf + 1, t), backend=backend)(given_tree)
    expected = tree.map(lambda leaf: leaf + 1, given_tree)
    assert tree.structure(result) == tree.structure(expected)
    assert type(result) is type(expected)
    for ours, theirs in zip(tree.leaves(result), tree.leaves(expected), strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


def test_one_trace_serves_every_value_and_python_number():
    fun = pf.jit(lambda x, rate: x - rate * x, backend="eager")
    for rate in (0.5, 0.25, -3.0):
        x = torch.randn(3)
        assert torch.equal(fun(x, rate), x - rate * x)
    assert fun.trace_count == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(), (3,)])
@pytest.mark.parametrize("number", [0.1, 3, True])
def test_numbers_widen_nothing(dtype, shape, number):
    x = torch.full(shape, 1.5, dtype=dtype)
    result = pf.jit(lambda x, n: x * n, backend="eager")(x, number)
    assert result.dtype == dtype
    if dtype in (torch.float64, torch.float32):
        assert torch.equal(result, x * number)


def test_numbers_keep_their_kind_and_their_digits():
    kinds = pf.jit(lambda *numbers: numbers, backend="eager")(True, 3, 0.1, 1j)
    assert [leaf.dtype for leaf in kinds] == [
        torch.bool,
        torch.int64,
        torch.float32,
        torch.complex64,
    ]
    assert all(leaf.shape == () for leaf in kinds)
    doubled = pf.jit(lambda x, n: n, backend="eager")(torch.zeros(2, dtype=torch.float64), 0.1)
    assert doubled.item() == 0.1
    counted = pf.jit(lambda c, n: c + n, backend="eager")(torch.tensor(1, dtype=torch.int32), 2)
    assert counted.dtype == torch.int32
    assert counted.item() == 3
    large = pf.jit(lambda c, n: n, backend="eager")(torch.tensor(1, dtype=torch.int32), 2**40)
    assert large.item() == 2**40


def test_integer_and_boolean_results_become_tensors():
    result = pf.jit(lambda x: {"n": 3, "flag": x.ndim == 1}, backend="eager")(torch.ones(2))
    assert torch.equal(result["n"], torch.tensor(3))
    assert torch.equal(result["flag"], torch.tensor(True))


VALUES = [
    lambda: torch.ones(2),
    lambda: torch.ones(3),
    lambda: torch.ones(2, 3),
    lambda: torch.ones(3, 2).t(),
    lambda: torch.ones(2, 1).expand(2, 3),
    lambda: torch.ones(2, dtype=torch.float64),
    lambda: torch.ones(2, dtype=torch.int64),
    lambda: torch.ones(()),
    lambda: torch.ones(0),
    lambda: torch.ones(2, dtype=torch.complex64) * 1j,
    lambda: (torch.ones(2, dtype=torch.complex64) * 1j).conj(),
    lambda: {"a": torch.ones(2)},
    lambda: {"b": torch.ones(2)},
    lambda: [torch.ones(2), torch.ones(2)],
    lambda: (torch.ones(2), torch.ones(2)),
]


def test_no_program_answers_for_another():
    draw = python_random.Random(0)
    values = [1, 1.0, True, -0.0, 0.0, ("a", 1), ("a", True), None]

    def describe(x, setting):
        scaled = tree.map(lambda leaf: leaf * 2 + leaf.ndim, x)
        return scaled, torch.tensor(len(repr(setting)) + hash(type(setting).__name__) % 7)

    fun = pf.jit(describe, static_argnames="setting", backend="eager")
    kinds = set()
    for _ in range(200):
        which, setting = draw.randrange(len(VALUES)), draw.choice(values)
        x = VALUES[which]()
        # A lazily conjugated tensor is computed, and then one as any other.
        kinds.add((min(which, 9) if which == 10 else which, repr(setting)))
        (scaled, number), (expected, expected_number) = fun(x, setting), describe(x, setting)
        assert tree.structure(scaled) == tree.structure(expected)
        assert torch.equal(number, expected_number)
        for ours, theirs in zip(tree.leaves(scaled), tree.leaves(expected), strict=True):
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs)
    assert fun.trace_count == len(kinds)


@settings(max_examples=6)
@given(order=st.permutations(range(4)))
def test_results_do_not_depend_on_what_was_compiled_before(order):
    fun = pf.jit(lambda x: torch.softmax(x, 0).cumsum(0), backend="aot_eager")
    for index in order:
        x = torch.linspace(-1, 1, 5 + index)
        assert torch.equal(fun(x), torch.softmax(x, 0).cumsum(0))
    assert fun.trace_count == 4


def test_one_tensor_passed_twice_is_not_taken_for_one_argument():
    a, b = torch.tensor([1.0]), torch.tensor([2.0])
    fun = pf.jit(lambda x, y: (x + 10 * y, x, y), backend="eager")
    for x, y in ((a, a), (a, b), (b, a), (b, b)):
        for ours, theirs in zip(fun(x, y), (x + 10 * y, x, y), strict=True):
            assert torch.equal(ours, theirs)
    assert fun.trace_count == 1


def test_a_captured_tensor_passed_as_an_argument_stays_an_argument():
    captured, other = torch.tensor([5.0]), torch.tensor([1.0])
    fun = pf.jit(lambda x: x + 10 * captured, backend="eager")
    assert fun(captured).item() == 55
    assert fun(other).item() == 51


@dataclasses.dataclass(frozen=True)
class Setting:
    value: object


@tree.dataclass
class Scaled:
    x: Tensor
    scale: object = tree.static()


@pytest.mark.parametrize(
    ("wrap", "unwrap"),
    [
        (Setting, lambda setting: setting.value),
        (lambda value: (7, Setting((value,))), lambda setting: setting[1].value[0]),
        (lambda value: (value, 1), lambda setting: setting[0]),
    ],
)
def test_static_values_differ_by_type_and_sign_at_any_depth(wrap, unwrap):
    def describe(x, setting):
        value = unwrap(setting)
        kind = 4 * isinstance(value, bool) + 2 * isinstance(value, float)
        return torch.copysign(x + 1, torch.tensor(float(value))) + kind

    fun = pf.jit(describe, static_argnames="setting", backend="eager")
    x = torch.zeros(1)
    for value in (1, 1.0, True, 0.0, -0.0, 1, 1.0):
        assert torch.equal(fun(x, wrap(value)), describe(x, wrap(value)))
    assert fun.trace_count == 5
    assert tree.Static(frozenset([1])) != tree.Static(frozenset([1.0]))


def test_static_fields_of_a_tree_differ_by_type_too():
    fun = pf.jit(lambda s: s.x * s.scale, backend="eager")
    for scale, dtype in ((2, torch.int64), (2.0, torch.float32), (True, torch.int64)):
        assert fun(Scaled(torch.tensor([3]), scale)).dtype == dtype
    with pytest.raises(TypeError, match="a static value must be hashable, got list"):
        fun(Scaled(torch.tensor([3]), [1]))
    with pytest.raises(TypeError, match="must not be a tensor"):
        fun(Scaled(torch.tensor([3]), torch.tensor(1)))


def test_writing_an_argument_is_refused_before_it_happens():
    x = {"w": torch.ones(2)}

    def fun(params):
        params["w"][0].add_(1)
        return params["w"].sum()

    jitted = pf.jit(fun, backend="eager")
    with pytest.raises(ValueError, match=r"writes into its argument params\['w'\] \(add_\)"):
        jitted(x)
    assert torch.equal(x["w"], torch.ones(2))


def test_a_buffer_of_its_own_may_be_written():
    def fun(x):
        total = torch.zeros_like(x)
        total += x
        total[0] = 7
        return total

    result = pf.jit(fun, backend="aot_eager")(torch.ones(2))
    assert torch.equal(result, torch.tensor([7.0, 1.0]))


def test_a_jit_made_inside_a_jitted_function():
    fun = pf.jit(lambda x: pf.jit(square_sum)(x) + pf.jit(lambda y: y)(x).sum(), backend="eager")
    assert fun(torch.arange(3.0)).item() == 8


def test_static_arguments_by_position_name_and_default():
    def power(x, n=2, *, negate=False):
        assert isinstance(n, int)
        return -(x**n) if negate else x**n

    fun = pf.jit(power, static_argnums=1, static_argnames="negate", backend="eager")
    x = torch.arange(3.0)
    assert torch.equal(fun(x), x**2)
    assert torch.equal(fun(x, 3), x**3)
    assert torch.equal(fun(x, n=3, negate=True), -(x**3))
    assert torch.equal(pf.jit(power, static_argnums=-1, backend="eager")(x, 3), x**3)


def test_trace_count_and_clear_cache():
    fun = pf.jit(lambda x: x + 1, backend="eager")
    assert fun.trace_count == 0
    fun(torch.ones(2))
    fun(torch.ones(3))
    assert fun.trace_count == 2
    fun.clear_cache()
    assert fun.trace_count == 0
    fun(torch.ones(2))
    assert fun.trace_count == 1


def test_decorators_keep_the_name_and_work_on_methods():
    class Scale:
        @pf.jit(static_argnums=0, backend="eager")
        def apply(self, x):
            """Return x twice."""
            return 2 * x

    assert Scale.apply.__name__ == "apply"
    assert Scale.apply.__doc__ == "Return x twice."
    assert torch.equal(Scale().apply(torch.ones(2)), torch.full((2,), 2.0))


def test_disabled_it_is_the_function_itself():
    seen = []

    @pf.jit(backend="eager")
    def fun(x):
        if x.sum() > 0:
            seen.append(x)
        return x

    with pf.disable_jit():
        x = torch.ones(2)
        assert fun(x) is x
    assert seen == [x]
    assert fun.trace_count == 0


def square_sum(x):
    return (x * x).sum()


@pytest.mark.parametrize(
    "transformed",
    [
        lambda f: torch.func.grad(f),
        lambda f: torch.func.vmap(lambda row: f(row) * row),
        lambda f: torch.func.hessian(f),
        lambda f: lambda x: torch.func.jvp(f, (x,), (torch.ones_like(x),)),
        lambda f: pf.jit(lambda x: f(x) + f(2 * x), backend="eager"),
        lambda f: pf.jit(torch.func.vmap(torch.func.grad(f)), backend="aot_eager"),
        lambda f: torch.compile(f, fullgraph=True, backend="eager"),
    ],
    ids=["grad", "vmap", "hessian", "jvp", "jit", "jit vmap grad", "torch.compile"],
)
def test_inlined_under_every_transform(transformed):
    x = torch.arange(6.0).reshape(2, 3)
    inner = pf.jit(square_sum, backend="eager")
    ours, expected = transformed(inner)(x), transformed(square_sum)(x)
    for one, other in zip(tree.leaves(ours), tree.leaves(expected), strict=True):
        assert torch.equal(one, other)
    assert inner.trace_count == 0


def test_inlined_inside_a_transform_that_it_only_closes_over():
    x = torch.arange(3.0)
    inner = pf.jit(lambda: x.sum(), backend="eager")
    assert torch.equal(torch.func.vmap(lambda row: row * inner())(x), x * 3)


def test_autograd_through_a_jitted_function_still_works():
    x = torch.arange(3.0, requires_grad=True)
    fun = pf.jit(square_sum, backend="aot_eager")
    with pytest.warns(pf.UncompiledWarning, match="requires a gradient"):
        fun(x).backward()
    assert torch.equal(x.grad, 2 * x.detach())
    with torch.no_grad():
        assert not fun(x).requires_grad
    assert not fun(x.detach()).requires_grad


def test_an_output_that_is_an_input_is_a_tensor_of_its_own():
    x = torch.ones(2)
    result = pf.jit(lambda x: {"same": x, "other": x + 1}, backend="eager")(x)
    assert result["same"] is not x
    assert torch.equal(result["same"], x)


@pytest.mark.slow
def test_generated_code_agrees_with_eager():
    def step(params, x, rate):
        value, gradient = torch.func.grad_and_value(
            lambda p: (torch.tanh(x @ p["weight"]) ** 2).mean()
        )(params)[::-1]
        return tree.map(lambda p, g: p - rate * g, params, gradient), value

    params, x = {"weight": torch.randn(4, 3)}, torch.randn(5, 4)
    ours, expected = pf.jit(step)(params, x, 0.1), step(params, x, 0.1)
    for one, other in zip(tree.leaves(ours), tree.leaves(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_interleaved_sizes_keep_static_shapes():
    fun = pf.jit(lambda x: x.reshape(-1).sum() + x.shape[0], backend="eager")
    for first, second in itertools.product(range(1, 5), repeat=2):
        x = torch.ones(first, second)
        assert fun(x).item() == first * second + first
    assert fun.trace_count == 16
