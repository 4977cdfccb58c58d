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


MODELS = {
    "ema": (optim.ema_params(0.9), {"multi_avg_fn": get_ema_multi_avg_fn(0.9)}),
    "mean": (optim.polynomial_average_params(gamma=0), {}),
}


@pytest.mark.parametrize(("averaging", "options"), MODELS.values(), ids=MODELS)
def test_parameters_are_averaged_as_by_torch(averaging, options):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2, dtype=torch.float64)
    average = AveragedModel(model, **options)
    theirs = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = optim.chain(optim.sgd(lr=0.1), averaging)
    params = copy.deepcopy({name: leaf.detach() for name, leaf in model.named_parameters()})
    state = optimizer.init(params)
    for _ in range(20):
        grads = tree.map(torch.randn_like, params)
        for name, leaf in model.named_parameters():
            leaf.grad = grads[name]
        theirs.step()
        average.update_parameters(model)
        updates, state = optimizer.update(grads, state, params)
        params = optim.apply_updates(params, updates)
        for name, leaf in average.module.named_parameters():
            ours = optim.get(state, "average")[name]
            torch.testing.assert_close(ours, leaf.detach(), rtol=1e-12, atol=1e-14)
    assert optim.get(state, "count") == 20


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


every_average = pytest.mark.parametrize(
    "averaging", [optim.ema_params(0.9), optim.polynomial_average_params()], ids=["ema", "poly"]
)


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
        for piece in (optim.ema, optim.ema_params):
            with pytest.raises(ValueError, match="decay"):
                piece(decay)
    with pytest.raises(TypeError, match="debias"):
        optim.ema(0.9, debias=1)
    with pytest.raises(ValueError, match="gamma"):
        optim.polynomial_average_params(-1)
    params = torch.ones(2)
    for piece in (optim.ema_params(0.9), optim.polynomial_average_params()):
        state = piece.init(params)
        with pytest.raises(ValueError, match="needs the parameters"):
            piece.update(params, state)
        with pytest.raises(TypeError, match="expected the state"):
            piece.update(params, optim.EmptyState(), params)
