"""What holds of Adamax, NAdam, RAdam, RMSprop, Rprop, Adagrad, Adadelta and ASGD by hand."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import purefn.functional as pf
from purefn import optim
from purefn.functional import tree

FLOATS = st.floats(1e-6, 1e2) | st.floats(-1e2, -1e-6)


def double(value):
    return torch.tensor(value, dtype=torch.float64)


def moves(optimizer, gradients, params=None):
    """Return the updates and the states of a run, one for each gradient."""
    params = tree.zeros_like(gradients[0]) if params is None else params
    state, updates, states = optimizer.init(params), [], []
    for grad in gradients:
        update, state = optimizer.update(grad, state, params)
        params = optim.apply_updates(params, update)
        updates.append(update)
        states.append(state)
    return updates, states


# -------------------------------------------------------------------------- relatives of Adam


@given(gradient=FLOATS, betas=st.tuples(st.floats(0, 0.999), st.floats(0, 0.9999)))
def test_adamax_moves_by_lr_under_a_constant_gradient(gradient, betas):
    updates, _ = moves(optim.adamax(0.5, betas, eps=1e-3), [double(gradient)] * 20)
    for update in updates:
        assert update.item() == pytest.approx(-0.5 * gradient / (abs(gradient) + 1e-3), rel=1e-12)


def test_adamax_forgets_the_largest_gradient_by_and_by():
    _, states = moves(optim.scale_by_adamax(b2=0.5, eps=0.0), [double(8.0), *[double(1.0)] * 4])
    assert [state.nu.item() for state in states] == [8.0, 4.0, 2.0, 1.0, 1.0]


def test_nadam_without_momentum_is_adam_without_momentum():
    gradients = [double(x) for x in (3.0, -0.1, 20.0, 0.0, 1e-5)]
    without = {"betas": (0.0, 0.99), "eps": 1e-3}
    updates, _ = moves(optim.nadam(0.1, **without), gradients)
    expected, _ = moves(optim.adam(0.1, **without), gradients)
    torch.testing.assert_close(updates, expected, rtol=1e-14, atol=0)


def test_the_momentum_of_nadam_rises():
    _, states = moves(optim.scale_by_nadam(b1=0.8, momentum_decay=0.3), [double(1.0)] * 9)
    product = 1.0
    for t, state in enumerate(states, start=1):
        product *= 0.8 * (1 - 0.5 * 0.96 ** (0.3 * t))
        assert state.mu_product.item() == pytest.approx(product, rel=1e-14)


def rectification(beta, t):
    """Return `r_t` of RAdam, computed in rational numbers, or None while there is none."""
    beta = Fraction(beta)
    longest = 2 / (1 - beta) - 1
    length = longest - 2 * t * beta**t / (1 - beta**t)
    if length <= 5:
        return None
    squared = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return math.sqrt(squared)


@pytest.mark.parametrize("beta", [0.5, 0.9, 0.99, 0.999, 0.9999])
def test_radam_is_momentum_first_and_then_rectified(beta):
    """Under a constant gradient both corrected moments are exact, and the update is `r_t sign(g)`.

    For `beta = 0.9999`, torch is off by 3e-10 at the first rectified step.
    """
    updates, _ = moves(optim.scale_by_radam(b2=beta, eps=0.0), [double(-3.0)] * 40)
    for t, update in enumerate(updates, start=1):
        rectified = rectification(beta, t)
        expected = -3.0 if rectified is None else -rectified
        assert update.item() == pytest.approx(expected, rel=2e-12)


def test_radam_survives_squares_that_overflow():
    updates, _ = moves(optim.scale_by_radam(), [torch.tensor(1e30)] * 10)
    assert all(update.isfinite() for update in updates)


# ------------------------------------------------------------------------------------- RMSprop


def test_centered_rmsprop_has_no_nan_where_torch_has():
    """The mean square less the squared mean of a constant is nothing, or rounded below it."""
    theirs = torch.zeros(100)
    theirs.grad = torch.linspace(0.1, 10, 100)
    reference = torch.optim.RMSprop([theirs], alpha=0.5, centered=True, foreach=False)
    for _ in range(40):
        reference.step()
    assert theirs.isnan().any()
    updates, _ = moves(optim.rmsprop(alpha=0.5, centered=True), [theirs.grad] * 40)
    assert all(update.isfinite().all() for update in updates)


def test_a_learning_rate_acts_after_the_momentum_of_rmsprop():
    gradients = [double(x) for x in (1.0, -2.0, 3.0)]
    updates, states = moves(
        optim.rmsprop(lambda t: 0.1 * (t.double() + 1), momentum=0.9), gradients
    )
    expected, others = moves(optim.rmsprop(1.0, momentum=0.9), gradients)
    for t, (update, other) in enumerate(zip(updates, expected, strict=True)):
        assert update.item() == pytest.approx(0.1 * (t + 1) * other.item(), rel=1e-14)
        assert optim.get(states[t], "trace") == optim.get(others[t], "trace")


# --------------------------------------------------------------------------------------- Rprop


def test_rprop_answers_each_gradient_at_once():
    gradients = [double(x) for x in (2.0, 5.0, -1.0, -1.0, -1.0, 0.0, -3.0)]
    updates, states = moves(optim.rprop(0.1, etas=(0.5, 1.2)), gradients)
    # It grows, shrinks and stays once, is then as if new, grows, rests, and is as if new again.
    assert [state[0].step_size.item() for state in states] == pytest.approx(
        [0.1, 0.12, 0.06, 0.06, 0.072, 0.072, 0.072], rel=1e-14
    )
    assert [update.item() for update in updates] == pytest.approx(
        [-0.1, -0.12, 0.0, 0.06, 0.072, 0.0, 0.072], rel=1e-14
    )


def test_the_steps_of_rprop_have_limits():
    optimizer = optim.rprop(1.0, step_sizes=(0.3, 2.0))
    _, states = moves(optimizer, [double(1.0)] * 6)
    assert states[-1][0].step_size.item() == 2.0
    _, states = moves(optimizer, [double(float(sign)) for sign in (1, -1, -1, 1, 1, -1)])
    assert states[-1][0].step_size.item() == 0.3


def test_rprop_sees_the_signs_of_tiny_and_infinite_gradients():
    for gradient in (1e-30, 1e-44, math.inf):
        updates, _ = moves(optim.rprop(0.1), [torch.tensor(gradient)] * 2)
        assert updates[1].item() == pytest.approx(-0.12, rel=1e-6)


def test_rprop_does_not_move_where_the_gradient_is_nan():
    gradient = torch.tensor([math.nan, 1.0])
    updates, _ = moves(optim.rprop(0.1), [gradient] * 2)
    assert updates[1].tolist() == pytest.approx([0.0, -0.12], rel=1e-6)


# -------------------------------------------------------------------------- Adagrad, Adadelta


@given(gradient=FLOATS, lr_decay=st.just(0) | st.floats(0, 2), start=st.floats(0, 10))
def test_adagrad_under_a_constant_gradient(gradient, lr_decay, start):
    optimizer = optim.adagrad(0.5, lr_decay, initial_accumulator_value=start, eps=1e-3)
    updates, _ = moves(optimizer, [double(gradient)] * 9)
    for t, update in enumerate(updates, start=1):
        rate = 0.5 / (1 + (t - 1) * lr_decay)
        root = math.sqrt(start + t * gradient**2) + 1e-3
        assert update.item() == pytest.approx(-rate * gradient / root, rel=1e-12)


def test_adadelta_with_rho_1_is_gradient_descent():
    gradients = [double(x) for x in (3.0, -0.1, 20.0)]
    updates, _ = moves(optim.adadelta(0.5, rho=1.0), gradients)
    expected = [-0.5 * gradient for gradient in gradients]
    torch.testing.assert_close(updates, expected, rtol=1e-15, atol=0)


def test_adadelta_does_not_know_its_learning_rate():
    gradients = [double(x) for x in (3.0, -0.1, 20.0)]
    small, states = moves(optim.adadelta(1e-3), gradients)
    large, others = moves(optim.adadelta(1.0), gradients)
    torch.testing.assert_close([1000 * update for update in small], large, rtol=1e-14, atol=0)
    for name in ("e_g", "e_x"):
        assert optim.get(states[-1], name) == optim.get(others[-1], name)


# ---------------------------------------------------------------------------------------- ASGD


@pytest.mark.parametrize("t0", [0, 4])
def test_asgd_averages_where_it_has_been(t0):
    gradients = [{"w": double([float(t), -1.0])} for t in range(12)]
    params = {"w": double([3.0, -2.0])}
    updates, states = moves(optim.asgd(0.1, t0=t0), gradients, params)
    path = []
    for t, (update, state) in enumerate(zip(updates, states, strict=True), start=1):
        params = optim.apply_updates(params, update)
        path = [params["w"]] if t <= t0 + 2 else [*path, params["w"]]
        mean = torch.stack(path).mean(0)
        torch.testing.assert_close(optim.get(state, "ax")["w"], mean, rtol=1e-14, atol=0)


def test_the_rate_of_asgd_decays_and_feels_a_new_lr_one_step_late():
    rates = [0.1, 0.7, 0.2, 0.4]
    optimizer = optim.asgd(lambda t: double(rates)[t], lambd=0.5, alpha=0.75)
    updates, states = moves(optimizer, [double(1.0)] * 4)
    expected = [lr / (1 + 0.5 * lr * t) ** 0.75 for t, lr in enumerate(rates, start=1)]
    assert [optim.get(state, "eta").item() for state in states] == pytest.approx(expected)
    assert updates[0].item() == pytest.approx(-0.1)
    assert updates[1].item() == pytest.approx(-expected[0] * (1 + 0.5 * updates[0].item()))


def test_the_first_average_of_asgd_is_a_copy_of_the_parameters():
    params = {"w": torch.ones(2)}
    state = optim.asgd().init(params)
    ax = optim.get(state, "ax")["w"]
    params["w"].mul_(2)
    assert ax.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("piece", [optim.average_params(), optim.scale_by_asgd()])
def test_averages_need_parameters(piece):
    gradient = torch.ones(1)
    with pytest.raises(ValueError, match=r"update needs the parameters: call update\(updates, "):
        piece.update(gradient, piece.init(gradient))


def test_asgd_may_give_its_buffers_away():
    """The average and the parameters are one value in two tensors: each is donated alone."""
    optimizer = optim.asgd(0.1, t0=2)

    @pf.jit(donate_argnums=(0, 1), backend="eager")
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optim.apply_updates(params, updates), state

    params, grads = {"w": torch.ones(3)}, {"w": torch.arange(3.0)}
    expected, _ = moves(optimizer, [grads] * 5, tree.map(torch.clone, params))
    state = optimizer.init(params)
    for _ in range(5):
        params, state = step(params, state, grads)
    torch.testing.assert_close(params["w"], 1 + sum(update["w"] for update in expected))
