"""Lists of leaves against leaf by leaf: every transformation, bit for bit."""

import contextlib
import copy
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from purefn import optim
from purefn.functional import tree
from purefn.optim import checks, execution, foreach, leafwise

RATE = torch.tensor(0.1, dtype=torch.float64)
TRANSFORMATIONS = {
    "sgd": optim.sgd(0.1),
    "momentum": optim.sgd(0.1, 0.9, dampening=0.3, weight_decay=0.1, maximize=True),
    "nesterov": optim.sgd(RATE, 0.9, nesterov=True),
    "tensor momentum": optim.sgd(RATE, RATE * 9, weight_decay=RATE),
    "trace": optim.trace(0.9, nesterov=True, dampening=0.5),
    "adam": optim.adam(0.1, weight_decay=0.1),
    "amsgrad": optim.adam(RATE, amsgrad=True),
    "adamw": optim.adamw(optim.schedules.cosine(0.1, T_max=5), amsgrad=True),
    "tensor betas": optim.adamw(RATE, (RATE * 9, RATE * 9.9), RATE / 1e7, RATE),
    "scale_by_adam": optim.scale_by_adam(),
    "scale_by_amsgrad": optim.scale_by_amsgrad(eps=0.0),
    "scale": optim.scale(-3),
    "scale by a tensor": optim.scale(torch.tensor(-0.3)),
    "scale_by_schedule": optim.scale_by_schedule(optim.schedules.linear(0.1)),
    "add_decayed_weights": optim.add_decayed_weights(0.1),
    "clip": optim.clip(0.5),
    "clip by a tensor": optim.clip(RATE),
    "clip_by_global_norm": optim.clip_by_global_norm(0.5),
    "identity": optim.identity(),
}
every_transformation = pytest.mark.parametrize(
    "transformation", TRANSFORMATIONS.values(), ids=TRANSFORMATIONS
)

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64)
LEAVES = st.builds(
    lambda shape, dtype: torch.empty(shape, dtype=dtype),
    st.sampled_from([(), (1,), (3,), (2, 3), (0,), (0, 4), (70, 3), (2, 1, 2)]),
    st.sampled_from(DTYPES),
)
TREES = st.recursive(
    LEAVES | st.none(),
    lambda children: (
        st.lists(children, min_size=1, max_size=5)
        | st.dictionaries(st.sampled_from(["weight", "bias", "z"]), children, min_size=1)
        | st.tuples(children, children)
    ),
    max_leaves=12,
).map(lambda template: [template])  # `None` alone is no tree of parameters


def like(template, seed):
    generator = torch.Generator().manual_seed(seed)

    def leaf(x):
        scale = 10 ** (torch.rand((), generator=generator) * 4 - 3)
        if x.is_complex():
            return torch.randn(x.shape, dtype=x.dtype, generator=generator) * scale
        return (torch.randn(x.shape, generator=generator) * scale).to(x.dtype)

    return tree.map(leaf, template)


def train(optimizer, params, steps=4):
    state, trail = optimizer.init(params), []
    for step in range(steps):
        updates, state = optimizer.update(like(params, step + 1), state, params)
        params = optim.apply_updates(params, updates)
        trail.append((updates, state, params))
    return trail


def leaf_by_leaf():
    return mock.patch.object(execution, "_eager", return_value=False)


def bits(leaf):
    return leaf.contiguous().view(torch.uint8) if leaf.ndim else leaf.reshape(1).view(torch.uint8)


def assert_bitwise(left, right):
    assert tree.structure(left) == tree.structure(right)
    for a, b in zip(tree.leaves(left), tree.leaves(right), strict=True):
        assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())
        assert torch.equal(bits(a), bits(b))


@every_transformation
@settings(max_examples=15)
@given(template=TREES, seed=st.integers(0, 2**32))
def test_lists_are_the_leaves_one_by_one(transformation, template, seed):
    params = like(template, seed)
    with mock.patch.object(foreach, "CACHED_BYTES", 64):
        lists = train(transformation, params)
    with leaf_by_leaf():
        assert_bitwise(lists, train(transformation, params))


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float64), (torch.half, torch.float32)])
def test_updates_of_another_dtype_are_added_leaf_by_leaf(dtypes):
    params = [torch.rand(5).to(dtypes[0]), torch.rand(5)]
    updates = [torch.rand(5).to(dtypes[1]), torch.rand(5)]
    result = optim.apply_updates(params, updates)
    with leaf_by_leaf():
        assert_bitwise(result, optim.apply_updates(params, updates))


@every_transformation
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_list_is_written(transformation, dtype):
    params = [torch.rand(3).to(dtype), torch.rand(2, 2).to(dtype), torch.rand(4, 3).to(dtype).T]
    state = train(transformation, params)[-1][1]
    grads = like(params, 9)
    before = copy.deepcopy((params, state, grads))
    versions = [leaf._version for leaf in tree.leaves((params, state, grads))]
    updates, _ = transformation.update(grads, state, params)
    optim.apply_updates(params, updates)
    assert_bitwise((params, state, grads), before)
    assert [leaf._version for leaf in tree.leaves((params, state, grads))] == versions


def test_leaves_of_every_layout():
    base = torch.rand(4, 6)
    params = [base.T, base[:, ::2], base[0].expand(3, 6), base.view(2, 3, 4).permute(2, 0, 1)]
    lists = train(TRANSFORMATIONS["amsgrad"], params)
    with leaf_by_leaf():
        assert_bitwise(lists, train(TRANSFORMATIONS["amsgrad"], params))


# ---------------------------------------------------------------------------- what a program writes

RULES = {
    "a value used again": lambda x, y: ((t := x * y) + t.sqrt(), t * 2),
    "a value is a result": lambda x, y: ((t := x * 2), t * 3, t + y),
    "a value and its view": lambda x, y: (v := (t := x * 2).reshape(-1), t * 3, v + 1)[1:],
    "an input is a result": lambda x, y: (x, x + y),
    "both operands alike": lambda x, y: (t := x + y) * t,
    "reflected": lambda x, y: (2 - x) / (1 / y) + 3 * x - (x**2) - torch.tensor(0.5) * y,
    "compared": lambda x, y: torch.where((x > y) & (x < 2), -x, abs(y)) * (x == y).float(),
    "named": lambda x, y: torch.addcdiv(torch.lerp(x, y, 0.3), x, y.exp(), value=-2).log().sign(),
    "with lists of weights": lambda x, y: torch.lerp(x, y, x).maximum(y).minimum(x).rsqrt(),
    "a number beside a dtype": lambda x, y: x * torch.ones((), dtype=x.dtype, device=y.device),
    "a tensor of numbers": lambda x, y: x + torch.arange(3.0),
    "clamped": lambda x, y: torch.clamp(x, min=y - 1, max=y),
    "no function of the leaves": lambda x, y: (x, torch.ones(3)),
    "by its shape": lambda x, y: x * x.shape[0],
    "in steps": lambda x, y: torch.sub(torch.add(x, y, alpha=2), y, alpha=3) - 1 + 2 * x * 1e300,
    "widened": lambda x, y: (x.double() * 2 + y) * 3,
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.half], ids=str)
def test_a_rule_on_lists_is_the_rule_on_leaves(rule, dtype):
    x, y = ([torch.rand(3).to(dtype) + i for i in range(4)] for _ in range(2))
    before = copy.deepcopy((x, y))
    trees = {"x": x, "y": y}
    results = len(r) if isinstance(r := rule(x[0].float(), y[0].float()), tuple) else 1
    lists = leafwise.leafwise(rule, trees, results=results)
    assert_bitwise((x, y), before)
    with leaf_by_leaf():
        assert_bitwise(lists, leafwise.leafwise(rule, trees, results=results))


def run(rule, column):
    program = foreach.record(rule, 1, [], column[0].dtype, column[0].device, own=False)
    return program.run([column], [])


def test_a_dead_value_gives_its_memory_and_no_other_does():
    x = [torch.rand(3), torch.rand(3)]
    ((result, _),) = run(lambda x: x.sqrt() * 2 + 1, x)
    assert result._version == 2  # mul_ and add_ wrote what sqrt had made
    ((kept, _), (other, _)) = run(lambda x: ((t := x.sqrt()), t * 2), x)
    assert (kept._version, other._version) == (0, 0)


# ------------------------------------------------------------------------- what is remembered

SCALARS = [2.0, 3, torch.tensor(0.5), torch.tensor(0.25, dtype=torch.float64), -1.5]


def scaled(x, factor):
    return (factor * x + 1) - (1 - factor) * x.sqrt() * (factor / 3)


@settings(max_examples=50)
@given(
    templates=st.lists(TREES, min_size=2, max_size=4),
    turns=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(SCALARS)), min_size=4, max_size=8),
)
def test_memory_changes_nothing(templates, turns):
    memory = execution.Memory()
    for number, scalar in turns:
        x = tree.map(lambda leaf: like(leaf, 0).abs(), templates[number % len(templates)])
        step = leafwise.Step([leafwise.Rule(scaled, {}, scalars=(scalar,))], tuple)
        remembered, _ = leafwise.take(step, x, memory)
        with leaf_by_leaf():
            assert_bitwise(remembered, leafwise.take(step, x)[0])


def test_memory_holds_no_value():
    constant, x = torch.tensor(2.0), [torch.ones(2), torch.ones(3)]
    rule = leafwise.Rule(lambda x: x * constant, {})
    memory = execution.Memory()
    assert leafwise.take(leafwise.Step([rule], tuple), x, memory)[0][0].tolist() == [2, 2]
    constant.fill_(3.0)
    assert leafwise.take(leafwise.Step([rule], tuple), x, memory)[0][0].tolist() == [3, 3]
    constant.requires_grad_()
    assert leafwise.take(leafwise.Step([rule], tuple), x, memory)[0][0].requires_grad


@pytest.mark.parametrize(
    "make",
    [
        lambda t: optim.adam(t, (t, t), t, t, amsgrad=True),
        lambda t: optim.adamw(0.1, (0.5, t)),
        lambda t: optim.sgd(t, t, t, t),
        lambda t: optim.rmsprop(t, t, centered=True, momentum=0.9),
        lambda t: optim.adadelta(t, t),
        lambda t: optim.lion(t, (t, t)),
        lambda t: optim.yogi(0.1, (0.9, t)),
        lambda t: optim.clip(t),
        lambda t: optim.chain(optim.scale(t), optim.ema(t)),
    ],
)
def test_a_hyperparameter_changed_in_place_counts_from_then_on(make):
    rate, params = torch.tensor(0.5, dtype=torch.float64), [torch.rand(3), torch.rand(2, 2)]
    optimizer = make(rate)
    state = train(optimizer, params, steps=2)[-1][1]
    rate.fill_(0.25)
    grads = like(params, 9)
    changed = optimizer.update(grads, state, params)
    expected = make(torch.tensor(0.25, dtype=torch.float64)).update(grads, state, params)
    assert_bitwise(changed, expected)


def test_a_derivative_is_not_lost_by_a_first_step_without():
    limit = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    clip, grads = optim.clip(limit), {"w": torch.tensor([1.0, 2.0])}
    with torch.no_grad():
        clip.update(grads, clip.init(grads))
    assert clip.update(grads, clip.init(grads))[0]["w"].requires_grad


def test_tensors_without_values():
    params = {"w": torch.empty(3, 2, device="meta")}
    optimizer = optim.adam(amsgrad=True, weight_decay=0.1)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert updates["w"].shape == (3, 2)
    assert updates["w"].is_meta


@pytest.mark.parametrize(
    "change",
    [
        lambda x: [x[0].double(), x[1]],
        lambda x: [x[0].half(), x[1].half()],
        lambda x: [x[0], x[0]],
        lambda x: [x[0].requires_grad_(), x[1]],
        lambda x: {"a": x[0], "b": x[1]},
        lambda x: [x[0][:1], x[1]],
        lambda x: [x[1].T, x[0]],
    ],
)
def test_what_is_remembered_is_compared(change):
    x = [torch.rand(2), torch.rand(3, 2)]
    step = leafwise.Step([leafwise.Rule(scaled, {}, scalars=(2.0,))], tuple)
    memory = execution.Memory()
    leafwise.take(step, x, memory)
    changed = change(x)
    assert_bitwise(leafwise.take(step, changed, memory)[0], leafwise.take(step, changed)[0])
    with pytest.raises(ValueError, match="x"):
        leafwise.leafwise(torch.add, {"x": x, "y": x[:1]}, memory=memory)


# ----------------------------------------------------------------------------- where it is not used


@pytest.fixture
def list_calls():
    program_run = foreach.Program.run
    with mock.patch.object(foreach.Program, "run", autospec=True, side_effect=program_run) as calls:
        yield calls


def test_eager_leaves_go_in_lists(list_calls):
    train(TRANSFORMATIONS["adam"], [torch.rand(2), torch.rand(3, 3)], steps=1)
    assert list_calls.call_count == 2  # the update with all its parts, and the sum


def test_transforms_see_single_leaves(list_calls):
    params = [torch.rand(4, 2), torch.rand(4, 3)]

    def step(params):
        optimizer = optim.adam(0.1)
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        return optim.apply_updates(params, updates)

    torch.func.vmap(step)(params)
    torch.func.grad(lambda p: sum(leaf.sum() for leaf in step(p)))(params)
    torch.func.jvp(step, (params,), (params,))
    with forward_ad.dual_level():
        step(params)
    with FlopCounterMode(display=False):  # a mode that sees operations
        step(params)
    with mock.patch.object(torch.compiler, "is_compiling", return_value=True):
        step(params)
    assert not list_calls.called


def test_derivatives_see_single_leaves(list_calls):
    params, lr = [torch.rand(2), torch.rand(3)], torch.tensor(0.1, requires_grad=True)
    updates, _ = optim.scale(lr).update(params, optim.EmptyState())
    torch.autograd.backward([leaf.sum() for leaf in updates])
    torch.testing.assert_close(lr.grad, sum(leaf.sum() for leaf in params))
    list_calls.reset_mock()
    params[0].requires_grad_()
    assert optim.apply_updates(params, params)[0].requires_grad
    assert not list_calls.called
    with torch.no_grad():
        optim.apply_updates(params, params)
    assert list_calls.called


def test_subclasses_see_single_leaves(list_calls):
    class Marked(torch.Tensor):
        pass

    params = [torch.rand(2).as_subclass(Marked), torch.rand(2)]
    assert type(optim.apply_updates(params, params)[0]) is Marked
    assert not list_calls.called


@pytest.mark.parametrize(
    "wrong",
    [torch.rand(3), torch.rand(2).double(), torch.rand(2, device="meta"), "x", [torch.rand(2)]],
)
def test_a_mismatch_in_a_long_list_is_found(wrong):
    params = [torch.rand(2) for _ in range(9)]
    with pytest.raises(ValueError, match=r"grads\[7\]"):
        checks.same_leaves({"params": params, "grads": [*params[:7], wrong, params[8]]})


# --------------------------------------------------------------------------- neighbours in a chain

CHAINS = {
    "all elementwise": ["scale", "momentum", "add_decayed_weights", "adam", "clip"],
    "nested": ["adamw", "scale_by_schedule", "nesterov"],
    "with others between": ["scale", "adam", "clip_by_global_norm", "trace", "sgd", "identity"],
    "others first": ["identity", "clip_by_global_norm", "scale by a tensor", "scale_by_amsgrad"],
}


@pytest.mark.parametrize("names", CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize("lists", [True, False], ids=["lists", "leaves"])
@settings(max_examples=10)
@given(template=TREES, seed=st.integers(0, 2**32))
def test_a_chain_is_its_parts_one_after_the_other(lists, names, template, seed):
    parts = [TRANSFORMATIONS[name] for name in names]
    params = like(template, seed)
    chain = optim.chain(*parts)
    state = chain.init(params)
    with contextlib.nullcontext() if lists else leaf_by_leaf():
        for step in range(3):
            grads = like(params, step)
            updates, next_state = chain.update(grads, state, params)
            for part, own, after in zip(parts, state, next_state, strict=True):
                grads, expected = part.update(grads, own, params)
                assert_bitwise(after, expected)
            assert_bitwise(updates, grads)
            state = next_state


def test_neighbours_are_one_list_and_others_come_between(list_calls):
    params = [torch.rand(2), torch.rand(3, 3)]
    for names, calls in zip(CHAINS.values(), (1, 1, 3, 2), strict=True):
        optimizer = optim.chain(*[TRANSFORMATIONS[name] for name in names])
        optimizer.update(params, optimizer.init(params), params)
        assert list_calls.call_count == calls
        list_calls.reset_mock()


def test_the_state_of_a_part_is_named_by_its_place():
    params = {"w": torch.ones(2)}
    optimizer = optim.chain(optim.identity(), optim.scale(2), optim.trace(0.9), optim.trace(0.5))
    state = list(optimizer.init(params))
    state[3] = optim.trace(0.5).init({"w": torch.ones(3)})
    with pytest.raises(ValueError, match=r"state\[3\].trace\['w'\] is a tensor of shape \(3,\)"):
        optimizer.update(params, tuple(state), params)


def test_what_one_rule_writes_the_next_leaves_alone():
    g, b = [torch.rand(3), torch.rand(2)], [torch.rand(3), torch.rand(2)]
    before = copy.deepcopy(b)
    view = leafwise.Rule(lambda g, b: ((v := b.view_as(g)), v), {"b": b}, writes=1)
    double = leafwise.Rule(lambda g: g * 2, {})
    updates, written = leafwise.take(leafwise.Step([view, double], lambda b: b), g)
    assert_bitwise((b, written), (before, before))
    assert_bitwise(updates, [2 * leaf for leaf in before])
