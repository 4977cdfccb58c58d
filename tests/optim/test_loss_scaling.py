"""dynamic_loss_scale against torch.amp.GradScaler, step by step."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import purefn.functional as pf
from purefn import optim
from purefn.functional import losses, nn, random, tree

NAN, INF = math.nan, math.inf

transforms = pytest.mark.parametrize(
    "transform", [lambda f: f, lambda f: pf.jit(f, backend="eager")], ids=["eager", "jit"]
)


def torchs_run(gradients, make, **options):
    """Yield the parameter and the scale of torch's scaler after each gradient."""
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = make([parameter])
    scaler = torch.amp.GradScaler("cpu", **options)
    scaler.scale(torch.zeros(()))  # it makes its scale at the first use
    for gradient in gradients:
        scale = scaler.get_scale()
        parameter.grad = torch.tensor([gradient, -gradient / 2]) * scale
        scaler.step(optimizer)
        scaler.update()
        yield parameter.detach().clone(), scaler.get_scale()


def our_run(gradients, inner, transform=lambda f: f, **options):
    optimizer = optim.dynamic_loss_scale(inner, **options)
    params = {"w": torch.tensor([1.0, -2.0])}
    state = optimizer.init(params)
    update = transform(optimizer.update)
    for gradient in gradients:
        loss_scale = optim.get(state, "scale").item()
        grads = {"w": torch.tensor([gradient, -gradient / 2]) * loss_scale}
        updates, state = update(grads, state, params)
        params = optim.apply_updates(params, updates)
        yield params["w"], optim.get(state, "scale").item()


@transforms
@given(
    gradients=st.lists(st.sampled_from([1.0, -0.3, 0.0, NAN, INF, -INF]), min_size=1, max_size=12),
    growth_interval=st.integers(1, 3),
    growth_factor=st.sampled_from([2.0, 1.5]),
    backoff_factor=st.sampled_from([0.5, 0.3]),
)
def test_parameters_and_scale_are_those_of_torch(
    transform, gradients, growth_interval, growth_factor, backoff_factor
):
    options = {
        "init_scale": 2.0**10,
        "growth_interval": growth_interval,
        "growth_factor": growth_factor,
        "backoff_factor": backoff_factor,
    }
    theirs = torchs_run(gradients, lambda params: torch.optim.Adam(params, lr=0.1), **options)
    ours = our_run(gradients, optim.adam(lr=0.1), transform, **options)
    for (parameter, scale), (expected, expected_scale) in zip(ours, theirs, strict=True):
        torch.testing.assert_close(parameter, expected, rtol=1e-6, atol=1e-6)
        assert scale == pytest.approx(expected_scale, rel=1e-6)


def test_the_scale_stays_finite():
    runs = (
        torchs_run([1.0] * 3, torch.optim.SGD, init_scale=2.0**126, growth_interval=1),
        our_run([1e-30] * 3, optim.sgd(), init_scale=2.0**126, growth_interval=1),
    )
    for run in runs:
        assert [scale for _, scale in run] == [2.0**127] * 3


def test_the_scale_stays_above_zero_and_parameters_finite():
    """Where torch, after as many overflows, divides by zero."""
    optimizer = optim.dynamic_loss_scale(optim.sgd(lr=1.0), init_scale=1e-30, growth_interval=1)
    params = {"w": torch.ones(2)}
    state = optimizer.init(params)
    for _ in range(100):
        _, state = optimizer.update({"w": torch.tensor([1.0, INF])}, state, params)
    assert 0 < optim.get(state, "scale") < 1e-44
    updates, after = optimizer.update({"w": torch.zeros(2)}, state, params)
    assert torch.equal(updates["w"], torch.zeros(2))
    assert optim.get(after, "scale") > optim.get(state, "scale")


def test_a_gradient_that_overflows_in_the_division_is_skipped():
    optimizer = optim.dynamic_loss_scale(optim.adam(lr=0.1), init_scale=0.5)
    params = {"w": torch.ones(2)}
    state = optimizer.init(params)
    updates, after = optimizer.update({"w": torch.tensor([1.0, 3e38])}, state, params)
    assert torch.equal(updates["w"], torch.zeros(2))
    assert optim.get(after, "scale") == 0.25
    assert tree.all(tree.map(torch.equal, after.inner_state, state.inner_state))


@transforms
def test_what_is_given_besides_reaches_the_inside_and_dtypes_stay(transform):
    """Those of tensors without axes as well, which a scale in float32 would widen."""

    seen = []

    def update(updates, state, params=None, *, factor, **extra):
        seen.append(updates["s"].dtype)
        return tree.map(lambda update: (factor * update).to(update.dtype), updates), state

    inner = optim.GradientTransformation(optim.identity().init, update)
    optimizer = optim.dynamic_loss_scale(inner, init_scale=8.0)
    params = {"s": torch.ones((), dtype=torch.bfloat16), "w": torch.ones(2)}
    run = transform(lambda *given: optimizer.update(*given, factor=torch.tensor(3.0)))
    updates, _ = run(params, optimizer.init(params), params)
    assert {*seen, updates["s"].dtype} == {torch.bfloat16}
    assert torch.equal(updates["w"], torch.full((2,), 0.375))


@transforms
def test_a_tree_without_leaves_is_finite(transform):
    optimizer = optim.dynamic_loss_scale(optim.sgd(lr=1.0), init_scale=8.0, growth_interval=1)
    updates, state = transform(optimizer.update)({}, optimizer.init({}), {})
    assert updates == {}
    assert optim.get(state, "scale") == 16.0


def test_small_gradients_of_a_float16_network_arrive():
    """Gradients below float16's smallest number are 0 without the scale, and right with it."""
    model = nn.precision(nn.linear(1, bias=False), compute=torch.float16)
    x, y = torch.full((4, 3), 3e-5), torch.zeros(4, 1)
    params = {"weight": torch.ones(1, 3)}

    def loss(params):
        return losses.mse(model(params, x), y).mean()

    expected = pf.grad(lambda p: losses.mse(nn.linear(1, bias=False)(p, x), y).mean())(params)
    assert not pf.grad(loss)(params)["weight"].any()
    optimizer = optim.dynamic_loss_scale(optim.sgd(lr=1.0))
    state = optimizer.init(params)

    @pf.jit(backend="aot_eager")
    def step(params, state):
        grads = pf.grad(lambda p: loss(p) * optim.get(state, "scale"))(params)
        return optimizer.update(grads, state, params)

    updates, state = step(params, state)
    torch.testing.assert_close(-updates["weight"], expected["weight"], rtol=5e-3, atol=0)
    assert updates["weight"].dtype == torch.float32


def test_state_is_typed_and_left_alone_where_a_step_is_skipped():
    optimizer = optim.dynamic_loss_scale(optim.adam(lr=0.1), init_scale=torch.tensor(8.0).double())
    params = {"w": torch.ones(2), "s": torch.ones(()), "empty": torch.zeros(0)}
    state = optimizer.init(params)
    assert (state.scale.dtype, state.growth_tracker.dtype) == (torch.float32, torch.int64)
    grads = tree.ones_like(params) | {"s": torch.tensor(NAN)}
    updates, after = optimizer.update(grads, state, params)
    assert tree.all(tree.map(torch.equal, updates, tree.zeros_like(params)))
    assert tree.all(tree.map(torch.equal, after.inner_state, state.inner_state))
    assert tree.structure(after) == tree.structure(state)
    assert [leaf.dtype for leaf in tree.leaves(after)] == [x.dtype for x in tree.leaves(state)]
    wide = optimizer.update(tree.cast(grads, torch.float64), state, params)[0]
    assert wide["w"].dtype == torch.float64


def test_members_of_an_ensemble_have_scales_of_their_own():
    optimizer = optim.dynamic_loss_scale(optim.sgd(lr=1.0), init_scale=8.0)
    params = {"w": torch.zeros(2, 3)}
    state = pf.vmap(optimizer.init)(params)
    grads = {"w": torch.tensor([[8.0, 8.0, 8.0], [8.0, INF, 8.0]])}
    updates, state = pf.vmap(optimizer.update)(grads, state, params)
    assert updates["w"].tolist() == [[-1.0] * 3, [0.0] * 3]
    assert state.scale.tolist() == [8.0, 4.0]


def test_refusals():
    inner = optim.sgd()
    with pytest.raises(TypeError, match="dynamic_loss_scale: inner"):
        optim.dynamic_loss_scale("sgd")
    with pytest.raises(ValueError, match="init_scale: expected a number greater than 0"):
        optim.dynamic_loss_scale(inner, init_scale=0.0)
    for scale in (1e300, 1e-300):
        with pytest.raises(ValueError, match="init_scale: expected a number that float32 holds"):
            optim.dynamic_loss_scale(inner, init_scale=scale)
    with pytest.raises(ValueError, match="growth_factor: expected a number greater than 1"):
        optim.dynamic_loss_scale(inner, growth_factor=1.0)
    with pytest.raises(ValueError, match=r"backoff_factor: expected a number in \(0, 1\)"):
        optim.dynamic_loss_scale(inner, backoff_factor=1.0)
    with pytest.raises(TypeError, match="growth_interval: expected an int"):
        optim.dynamic_loss_scale(inner, growth_interval=2.5)
    optimizer = optim.dynamic_loss_scale(inner)
    halves = {"a": torch.zeros(1), "w": torch.zeros(1, dtype=torch.float16)}
    with pytest.raises(TypeError, match=r"updates\['w'\] is float16"):
        optimizer.update(halves, optimizer.init(halves), halves)
    key = random.key(0)
    with pytest.raises(TypeError, match="floating-point"):
        optimizer.update({"w": key}, optimizer.init(halves))
