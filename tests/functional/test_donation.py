"""Donation: results in place, loud use afterwards, and never a wrong number."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import purefn.functional as pf
from purefn.functional import tree

BACKENDS = ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]


def decay(params, gradient):
    return tree.map(lambda p, g: p - 0.5 * g, params, gradient), tree.norm(params)


def addresses(values):
    return {leaf.data_ptr() for leaf in tree.leaves(values)}


@pytest.mark.parametrize("backend", BACKENDS)
def test_outputs_take_the_memory_of_donated_inputs(backend):
    params = {"w": torch.randn(4, 3), "b": torch.randn(3), "scale": torch.tensor(2.0)}
    gradient = tree.map(torch.ones_like, params)
    expected = decay(params, gradient)
    before = addresses(params)
    result = pf.jit(decay, donate_argnums=0, backend=backend)(params, gradient)
    assert addresses(result[0]) == before
    for ours, theirs in zip(tree.leaves(result), tree.leaves(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_a_long_run_stays_in_one_place_and_compiles_once():
    step = pf.jit(decay, donate_argnums=0, backend="aot_eager")
    params = {"w": torch.randn(4, 3)}
    gradient, expected, before = {"w": torch.ones(4, 3)}, params["w"].clone(), addresses(params)
    for _ in range(20):
        params, _ = step(params, gradient)
        expected = expected - 0.5
    assert torch.equal(params["w"], expected)
    assert addresses(params) == before
    assert step.trace_count == 1


USES = {
    "add": lambda t: t + 1,
    "radd": lambda t: 1 + t,
    "torch.add": lambda t: torch.add(t, 1),
    "in place": lambda t: t.add_(1),
    "foreach": lambda t: torch._foreach_add([t], 1),
    "stack": lambda t: torch.stack([t]),
    "index": lambda t: t[0],
    "setitem": lambda t: t.__setitem__(0, 1.0),
    "shape": lambda t: t.shape,
    "dtype": lambda t: t.dtype,
    "repr": repr,
    "float": lambda t: float(t.sum()),
    "tolist": lambda t: t.tolist(),
    "numpy": lambda t: t.numpy(),
    "asarray": np.asarray,
    "iterate": list,
    "length": len,
    "detach": lambda t: t.detach(),
    "data": lambda t: t.data,
    "data_ptr": lambda t: t.data_ptr(),
    "storage": lambda t: t.untyped_storage(),
    "copy": copy.copy,
    "pickle": pickle.dumps,
    "out": lambda t: torch.add(torch.ones(3), 1, out=t),
    "jit": lambda t: pf.jit(lambda x: x + 1, backend="eager")(t),
    "grad": lambda t: pf.grad(lambda x: x.sum())(t),
    "tree": lambda t: tree.map(lambda leaf: leaf + 1, {"a": t}),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_every_later_use_raises(use):
    donated = torch.ones(3)
    pf.jit(lambda x: x + 1, donate_argnums=0, backend="eager")(donated)
    with pytest.raises(RuntimeError, match="was donated to a jitted function"):
        use(donated)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "fun",
    [
        lambda a, b: (b, a),
        lambda a, b: (b, a, a.reshape(-1)),
        lambda a, b: (a.t(), b * 2),
        lambda a, b: (b.clone(), a.clone()),
        lambda a, b: (a * 2 + 1, a.clone()),
        lambda a, b: (a.clone(), a * 2 + 1),
        lambda a, b: (a + b, a * 1),
        lambda a, b: (a[0], b[:, 1], a + b),
        lambda a, b: (a + 1, a + 2),
        lambda a, b: (a, a, b + 1),
        lambda a, b: (torch.sin(a), a + 0, b.contiguous()),
        lambda a, b: (b.flip(0), a.flip(0)),
        lambda a, b: (torch.where(a > b, a, b), torch.where(a > b, b, a)),
        lambda a, b: {"new": a @ b, "old": {"a": a, "b": b.to(torch.float32)}},
    ],
)
@pytest.mark.filterwarnings("ignore::purefn.functional.DonationWarning")
def test_results_are_those_without_donation(fun, backend):
    a, b = torch.arange(9.0).reshape(3, 3), torch.linspace(-1, 1, 9).reshape(3, 3)
    expected = fun(a.clone(), b.clone())
    result = pf.jit(fun, donate_argnums=(0, 1), backend=backend)(a, b)
    for ours, theirs in zip(tree.leaves(result), tree.leaves(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "fun",
    [
        lambda a, b: (a * 2 + 1, a.clone()[0]),
        lambda a, b: (a * 2 + b, a[0].clone()),
        lambda a, b: (a * 2 + b, a.clone().t(), a[1].clone()),
        lambda a, b: (torch.cat([a, b[None]])[0], torch.cat([a[1:], b[None]])),
    ],
)
@pytest.mark.filterwarnings("ignore::purefn.functional.DonationWarning")
def test_a_copied_part_of_one_input_is_no_new_value_in_the_memory_of_another(fun, backend):
    a, b = torch.arange(6.0).reshape(2, 3) + 1, torch.arange(3.0) + 10
    expected = fun(a.clone(), b.clone())
    result = pf.jit(fun, donate_argnums=(0, 1), backend=backend)(a, b)
    for ours, theirs in zip(result, expected, strict=True):
        assert torch.equal(ours, theirs)


OPERATIONS = {
    "copy": lambda x, y: x.clone(),
    "same": lambda x, y: x,
    "transposed": lambda x, y: x.t(),
    "doubled": lambda x, y: 2 * x,
    "sum": lambda x, y: x + y,
    "flipped": lambda x, y: y.flip(1),
}


@settings(max_examples=15)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(sorted(OPERATIONS)), st.integers(0, 2), st.integers(0, 2)),
        min_size=1,
        max_size=5,
    ),
    donated=st.sets(st.integers(0, 2)),
)
@pytest.mark.filterwarnings("ignore::purefn.functional.DonationWarning")
def test_no_program_of_views_and_copies_reads_a_new_value(steps, donated):
    def fun(*values):
        results = [OPERATIONS[name](values[i], values[j]) for name, i, j in steps]
        return results[0] + 1, *results

    values = [torch.arange(4.0).reshape(2, 2) + 10 * i for i in range(3)]
    expected = fun(*[value.clone() for value in values])
    kept = {i: value.clone() for i, value in enumerate(values) if i not in donated}
    result = pf.jit(fun, donate_argnums=sorted(donated), backend="aot_eager")(*values)
    for ours, theirs in zip(result, expected, strict=True):
        assert torch.equal(ours, theirs)
    for index, value in kept.items():
        assert torch.equal(values[index], value)


def test_a_module_whose_parameters_are_donated_keeps_its_weights():
    module = torch.nn.Linear(3, 2)
    before = copy.deepcopy(module.state_dict())
    params = tree.from_state_dict(module.state_dict())
    step = pf.jit(lambda p: tree.map(lambda leaf: leaf - 1, p), donate_argnums=0, backend="eager")
    params = step(step(params))
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
        assert torch.equal(tree.to_state_dict(params)[name], value - 1 - 1)


@pytest.mark.parametrize(
    "shared",
    [
        lambda: (lambda base: (base[1], base))(torch.zeros(2, 3)),
        lambda: (lambda base: (base, base[1]))(torch.zeros(2, 3)),
        lambda: (lambda array: (torch.from_numpy(array), array))(np.zeros((2, 3))),
        lambda: (lambda base: (base.expand(4, 3), base))(torch.zeros(1, 3)),
        lambda: (lambda base: (base, np.from_dlpack(base)))(torch.zeros(2, 3)),
        lambda: (lambda base: (base, base.numpy()))(torch.zeros(2, 3)),
    ],
    ids=["view", "base", "from numpy", "expanded", "dlpack", "numpy"],
)
@pytest.mark.filterwarnings("ignore::purefn.functional.DonationWarning")
def test_what_shares_the_memory_never_sees_a_new_value(shared):
    donated, other = shared()
    result = pf.jit(lambda x: x + 1, donate_argnums=0, backend="eager")(donated)
    assert bool((result == 1).all())
    assert not np.asarray(other).any()
    with pytest.raises(RuntimeError, match="donated"):
        donated + 1


def test_what_a_derivative_still_needs_is_left_alone():
    x = torch.full((3,), 2.0)
    _, pullback = pf.vjp(lambda x: x**2, x)
    pf.jit(lambda x: x * 0 + 100, donate_argnums=0, backend="eager")(x)
    assert torch.equal(pullback(torch.ones(3))[0], torch.full((3,), 4.0))


def test_leaves_that_share_a_storage_are_all_donated():
    vector = torch.arange(6.0)
    params = {"a": vector[:3], "b": vector[3:]}
    step = pf.jit(lambda p: tree.map(lambda x: x + 1, p), donate_argnums=0, backend="eager")
    result = step(params)
    assert torch.equal(result["a"], torch.arange(3.0) + 1)
    assert torch.equal(result["b"], torch.arange(3.0, 6.0) + 1)
    assert torch.equal(vector, torch.arange(6.0))
    with pytest.raises(RuntimeError, match="donated"):
        params["a"] + 1


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")
def test_what_does_not_ask_python_finds_no_new_value():
    x = torch.ones(3)
    pf.jit(lambda x: x + 100, donate_argnums=0, backend="eager")(x)
    assert torch.tensor(x).numel() == 0


def test_one_tensor_donated_twice_is_refused_by_name():
    step = pf.jit(
        lambda p, q: tree.map(lambda leaf: leaf + 1, p), donate_argnums=0, backend="eager"
    )
    x = torch.zeros(2, 2)
    with pytest.raises(ValueError, match=r"p\['a'\] is donated, and p\['b'\] is the same"):
        step({"a": x, "b": x}, torch.ones(1))
    with pytest.raises(ValueError, match=r"p\['a'\] is donated, and q\[0\] is the same"):
        step({"a": x}, [x])
    with pytest.raises(ValueError, match=r"p\['a'\] is donated but requires a gradient"):
        step({"a": torch.ones(2, requires_grad=True)}, torch.ones(1))
    assert torch.equal(x, torch.zeros(2, 2))


def test_donation_by_keyword_and_of_numbers():
    step = pf.jit(lambda x, rate: x * rate, donate_argnums=(0, 1), backend="eager")
    x = torch.ones(3)
    result = step(rate=2.0, x=x)  # nobody is warned of the memory of a number
    assert torch.equal(result, torch.full((3,), 2.0))
    with pytest.raises(RuntimeError, match="donated"):
        x + 1


def test_a_donation_without_use_is_said_once():
    fun = pf.jit(lambda big, small: small + big.sum(), donate_argnums=0, backend="eager")
    with pytest.warns(pf.DonationWarning, match="the donated big"):
        fun(torch.ones(10), torch.ones(2))
    assert torch.equal(fun(torch.ones(10), torch.ones(2)), torch.full((2,), 11.0))


def test_a_call_that_fails_leaves_its_arguments_alone():
    step = pf.jit(lambda x, y: x @ y, donate_argnums=0, backend="eager")
    x = torch.ones(3, 3)
    with pytest.raises(RuntimeError):
        step(x, torch.ones(7))
    assert torch.equal(x, torch.ones(3, 3))


def test_other_dtypes_and_shapes_are_never_written_into():
    x = torch.ones(2, dtype=torch.float64)
    with pytest.warns(pf.DonationWarning):
        result = pf.jit(lambda x: x.float(), donate_argnums=0, backend="eager")(x)
    assert result.dtype == torch.float32


def test_under_a_transform_or_disabled_nothing_is_donated():
    fun = pf.jit(lambda x: (x * x).sum(), donate_argnums=0, backend="eager")
    x = torch.arange(3.0)
    assert torch.equal(torch.func.grad(fun)(x), 2 * torch.arange(3.0))
    with pf.disable_jit():
        fun(x)
    assert torch.equal(x, torch.arange(3.0))


@pytest.mark.slow
def test_generated_code_writes_without_a_copy():
    """An elementwise update of a donated buffer allocates nothing of the buffer's size."""
    fun = pf.jit(lambda p, g: (p - 0.5 * g, 0.9 * p.mean()), donate_argnums=0)
    result, g = torch.ones(1024), torch.ones(1024)
    address = result.data_ptr()
    result, _ = fun(result, g)
    with torch.profiler.profile(profile_memory=True) as profile:
        result, _ = fun(result, g)
    assert result.data_ptr() == address
    assert max(event.self_cpu_memory_usage for event in profile.key_averages()) < 4096


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("size", [0, 1, 3])
def test_a_view_of_a_donated_input_stays_usable(backend, size):
    """Inductor returns the input itself for a view that looks the same."""

    @pf.jit(donate_argnums=0, backend=backend)
    def view(x, y):
        return x.view(size), x.reshape(-1, 1), y.view(2), y + 1

    x, y = torch.arange(float(size)), torch.ones(2)
    same, column, untouched, more = view(x, y)
    assert same.tolist() == column[:, 0].tolist() == [*map(float, range(size))]
    assert untouched is not y
    assert (untouched.tolist(), more.tolist()) == ([1, 1], [2, 2])
