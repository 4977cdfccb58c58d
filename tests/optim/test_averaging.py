"""Averages of updates against the equation, of parameters against torch.optim.swa_utils."""

import copy

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import purefn.functional as pf
from purefn import optim
from purefn.functional import tree
from purefn.testing import check_optimizer


def ema(theta, gradients, decay=0.9, debias=True):
    """The exponential moving average of gradients, added to the parameters."""
    average = np.zeros_like(theta)
    for t, g in enumerate(gradients, start=1):
        average = decay * average + (1 - decay) * g
        theta = theta + (average / (1 - decay**t) if debias else average)
        yield theta, {"ema": average}


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_ema_is_the_equation(decay):
    def ours(debias=True):
        return optim.ema(decay, debias)

    def reference(theta, gradients, debias=True):
        return ema(theta, gradients, decay, debias)

    for debias in (False, True):
        check_optimizer(ours, reference, hyperparameters={"debias": debias}, examples=2, steps=30)


def test_ema_of_a_constant_is_the_constant_from_the_first_step():
    for decay in (0.9, torch.tensor(0.999999, dtype=torch.float64)):
        smooth = optim.ema(decay)
        g = torch.tensor([3.0, -1e-20])
        state = smooth.init(g)
        for _ in range(3):
            updates, state = smooth.update(g, state)
            torch.testing.assert_close(updates, g, rtol=1e-5, atol=0)


def warming(average, new, count):
    """TensorFlow's rate for what torch calls the step `count + 1`."""
    rate = min(0.9, (2 + count.item()) / (11 + count.item()))
    return rate * average + (1 - rate) * new


def debiased(average, new, count):
    """Adam's correction of an average from zero, which torch has no function for."""
    older, all_weights = 1 - 0.9 ** count.item(), 1 - 0.9 ** (count.item() + 1)
    return (0.9 * older * average + 0.1 * new) / all_weights


#: Our averages, the function that torch is given, and the steps after which it is called.
MODELS = {
    "ema": (optim.ema_params(0.9), {"multi_avg_fn": get_ema_multi_avg_fn(0.9)}, range(1, 21)),
    "mean": (optim.polynomial_average_params(gamma=0), {}, range(1, 21)),
    "warmup": (optim.warmup_ema_params(0.9), {"avg_fn": warming}, range(1, 21)),
    "debiased": (optim.debiased_ema_params(0.9), {"avg_fn": debiased}, range(1, 21)),
    "swa": (optim.swa_params(1), {}, range(1, 21)),
    "late swa": (optim.swa_params(5, 3), {}, range(5, 21, 3)),
}


@pytest.mark.parametrize(("averaging", "options", "moments"), MODELS.values(), ids=MODELS)
def test_parameters_are_averaged_as_by_torch(averaging, options, moments):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2, dtype=torch.float64)
    average = AveragedModel(model, **options)
    theirs = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = optim.chain(optim.sgd(lr=0.1), averaging)
    params = copy.deepcopy({name: leaf.detach() for name, leaf in model.named_parameters()})
    state = optimizer.init(params)
    for t in range(1, 21):
        grads = tree.map(torch.randn_like, params)
        for name, leaf in model.named_parameters():
            leaf.grad = grads[name]
        theirs.step()
        if t in moments:
            average.update_parameters(model)
        updates, state = optimizer.update(grads, state, params)
        params = optim.apply_updates(params, updates)
        expected = average.module if t >= moments[0] else model
        for name, leaf in expected.named_parameters():
            ours = optim.get(state, "average")[name]
            torch.testing.assert_close(ours, leaf.detach(), rtol=1e-12, atol=1e-14)
    assert optim.get(state, "count") == 20


def test_between_its_steps_the_average_of_swa_stays_to_the_bit():
    optimizer = optim.swa_params(1, 4)
    params = torch.tensor([0.1, 1e30])
    state = optimizer.init(params)
    seen = []
    for _ in range(8):
        _, state = optimizer.update(torch.zeros(2), state, params)
        seen.append(state.average)
        params = -3.3 * params
    assert all(torch.equal(one, seen[0]) for one in seen[:4])
    assert not torch.equal(seen[4], seen[0])
    assert all(torch.equal(one, seen[4]) for one in seen[4:])


def test_the_debiased_average_of_parameters_is_that_of_their_updates():
    """`ema` debiases in the same way: of positions as of gradients, with a decay of 0 too."""
    for decay in (0.0, 0.9, torch.tensor(0.999999, dtype=torch.float64)):
        positions, values = optim.debiased_ema_params(decay), optim.ema(decay)
        params = torch.zeros(3, dtype=torch.float64)
        state, other = positions.init(params), values.init(params)
        for _ in range(30):
            step = torch.randn(3, dtype=torch.float64)
            _, state = positions.update(step, state, params)
            params = params + step
            expected, other = values.update(params, other)
            torch.testing.assert_close(state.average, expected, rtol=1e-9, atol=1e-9)


def test_the_polynomial_average_is_its_equation():
    """w_t = (1 + gamma) / (t + gamma), on positions 1, 4, 9, ..."""
    for gamma in (0.0, 8.0, 2.5):
        optimizer = optim.polynomial_average_params(gamma)
        params = torch.tensor(0.0, dtype=torch.float64)
        state = optimizer.init(params)
        expected = -100.0
        for t in range(1, 50):
            weight = (1 + gamma) / (t + gamma)
            expected = (1 - weight) * expected + weight * t**2
            updates, state = optimizer.update(torch.tensor(2.0 * t - 1).double(), state, params)
            params = optim.apply_updates(params, updates)
            assert state.average.item() == pytest.approx(expected, rel=1e-12)


AVERAGES = {
    "ema": optim.ema_params(0.9),
    "poly": optim.polynomial_average_params(),
    "debiased": optim.debiased_ema_params(0.9),
    "warmup": optim.warmup_ema_params(0.9),
    "swa": optim.swa_params(2, 3),
}
every_average = pytest.mark.parametrize("averaging", AVERAGES.values(), ids=AVERAGES)


@every_average
def test_updates_pass_and_the_first_average_is_the_first_parameters(averaging):
    params = {"w": torch.tensor([1.0, 1e30]), "empty": torch.ones(0), "none": None}
    updates = tree.map(lambda leaf: -leaf, params)
    state = averaging.init(params)
    passed, state = averaging.update(updates, state, params)
    assert passed is updates
    assert torch.equal(state.average["w"], torch.zeros(2))


@every_average
def test_half_precision_is_averaged_in_float32(averaging):
    params = {"w": torch.ones(2, dtype=torch.bfloat16), "b": torch.ones((), dtype=torch.float64)}
    state = averaging.init(params)
    updates = tree.zeros_like(params)
    _, new = averaging.update(updates, state, params)
    assert {name: leaf.dtype for name, leaf in new.average.items()} == {
        "w": torch.float32,
        "b": torch.float64,
    }
    assert tree.map(lambda leaf: leaf.dtype, state) == tree.map(lambda leaf: leaf.dtype, new)


@every_average
def test_the_average_is_no_view_of_the_parameters(averaging):
    params = torch.ones(2)
    assert averaging.init(params).average.data_ptr() != params.data_ptr()


@every_average
def test_eager_jit_and_vmap_agree(averaging):
    optimizer = optim.chain(optim.adam(0.1), averaging)

    def train(params, transform=lambda fun: fun):
        step = transform(lambda params, state: optimizer.update(params, state, params))
        state = optimizer.init(params)
        for _ in range(10):
            updates, state = step(params, state)
            params = optim.apply_updates(params, updates)
        return params, state

    start = torch.linspace(-1, 1, 5, dtype=torch.float64)
    eager = train(start)
    compiled = train(start, lambda fun: pf.jit(fun, backend="eager"))
    batched = pf.vmap(train)(torch.stack([start, start + 1]))
    for other in (compiled, tree.map(lambda leaf: leaf[0], batched)):
        for ours, theirs in zip(tree.leaves(other), tree.leaves(eager), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_what_is_refused():
    for decay in (1.0, -0.1):
        for piece in (
            optim.ema, optim.ema_params, optim.debiased_ema_params, optim.warmup_ema_params,
        ):  # fmt: skip
            with pytest.raises(ValueError, match="decay"):
                piece(decay)
    with pytest.raises(TypeError, match="debias"):
        optim.ema(0.9, debias=1)
    with pytest.raises(ValueError, match="gamma"):
        optim.polynomial_average_params(-1)
    for start, every in ((0, 1), (1, 0), (-1, 1)):
        with pytest.raises(ValueError, match="expected at least 1"):
            optim.swa_params(start, every)
    for start, every in ((1.5, 1), (1, True)):
        with pytest.raises(TypeError, match="expected an int"):
            optim.swa_params(start, every)
    params = torch.ones(2)
    for piece in AVERAGES.values():
        state = piece.init(params)
        with pytest.raises(ValueError, match="needs the parameters"):
            piece.update(params, state)
        with pytest.raises(TypeError, match="expected the state"):
            piece.update(params, optim.EmptyState(), params)
