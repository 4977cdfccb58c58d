"""D-Adaptation against its algorithm in numpy, and what it is for."""

import math

import numpy as np
import pytest
import torch

import purefn.functional as pf
from purefn import optim
from purefn.functional import tree
from purefn.testing import check_optimizer, whole_tree


@whole_tree
def dadapt_adamw(
    theta,
    gradients,
    lr=1.0,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    use_bias_correction=False,
    d0=1e-6,
    growth_rate=math.inf,
    maximize=False,
):
    """D-Adapted Adam of arXiv:2301.07733, with the options of the authors' program."""
    b1, b2 = betas
    b3 = math.sqrt(b2)
    x, m, v, s = (list(theta), *([0 * leaf for leaf in theta] for _ in range(3)))
    d, r = d0, 0.0
    for t, gs in enumerate(gradients, start=1):
        if maximize:
            gs = [-g for g in gs]
        correction = math.sqrt(1 - b2**t) / (1 - b1**t) if use_bias_correction else 1.0
        step = d * lr * correction
        inner = sum((g * a / (np.sqrt(b) + eps)).sum() for g, a, b in zip(gs, s, v, strict=True))
        m = [b1 * a + (1 - b1) * step * g for a, g in zip(m, gs, strict=True)]
        v = [b2 * a + (1 - b2) * g**2 for a, g in zip(v, gs, strict=True)]
        s = [b3 * a + (1 - b3) * step * g for a, g in zip(s, gs, strict=True)]
        r = b3 * r + (1 - b3) * step * inner
        x = [
            p - a / (np.sqrt(b) + eps) - step * weight_decay * p
            for p, a, b in zip(x, m, v, strict=True)
        ]
        length = sum(np.abs(a).sum() for a in s)
        if length > 0:
            d = max(d, min(r / ((1 - b3) * length), d * growth_rate))
        numbers = {"estim_lr": d, "numerator": r, "count": t}
        yield x, {"mu": m, "nu": v, "grad_sum": s, **numbers}


#: Gradients that are given go on however far one walks along them, and `d` grows without an end.
CONFIGURATIONS = [
    {"d0": 1e-2, "growth_rate": 1.1, "weight_decay": 0.1, "use_bias_correction": True},
    {"d0": 1e-2, "growth_rate": 1.02, "lr": 0.5, "betas": (0.8, 0.9), "maximize": True},
]


@pytest.mark.parametrize("hyperparameters", CONFIGURATIONS)
def test_it_is_the_algorithm(hyperparameters):
    check_optimizer(
        optim.dadapt_adamw, dadapt_adamw, hyperparameters=hyperparameters, examples=2, steps=30
    )


TARGET = torch.linspace(-3, 5, 6, dtype=torch.float64)


def train(optimizer, params, steps, transform=lambda fun: fun):
    @transform
    def step(params, state):
        updates, state = optimizer.update(params - TARGET.to(params.dtype), state, params)
        return optim.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


@pytest.mark.parametrize("options", [{}, {"use_bias_correction": True, "weight_decay": 0.1}])
def test_it_grows_with_agreement_as_the_algorithm_says(options):
    x = np.zeros(6)

    def gradients():
        while True:
            yield [x - TARGET.numpy()]

    run = dadapt_adamw([x.copy()], gradients(), **options)
    optimizer = optim.dadapt_adamw(**options)
    params = torch.zeros(6, dtype=torch.float64)
    state = optimizer.init(params)
    for _ in range(120):
        (x,), expected = next(run)
        updates, state = optimizer.update(params - TARGET, state, params)
        params = optim.apply_updates(params, updates)
        np.testing.assert_allclose(params.numpy(), x, rtol=1e-9, atol=1e-14)
        assert optim.get(state, "estim_lr").item() == pytest.approx(expected["estim_lr"], rel=1e-9)
    assert expected["estim_lr"] > 1


def test_float32_keeps_its_digits_over_many_steps():
    wide, wide_state = train(optim.dadapt_adamw(), torch.zeros(6, dtype=torch.float64), 100)
    params, state = train(optim.dadapt_adamw(), torch.zeros(6), 100)
    # Processors round float32 otherwise: up to 2e-5, of parameters that moved by about 1.
    torch.testing.assert_close(params.double(), wide, rtol=1e-4, atol=1e-6)
    estimate = optim.get(wide_state, "estim_lr")
    torch.testing.assert_close(optim.get(state, "estim_lr"), estimate, rtol=1e-5, atol=0)


def test_eager_jit_and_vmap_agree():
    optimizer = optim.dadapt_adamw(weight_decay=0.01, use_bias_correction=True, d0=1e-3)
    start = torch.zeros(6, dtype=torch.float64)
    eager = train(optimizer, start, 40)
    compiled = train(optimizer, start, 40, lambda fun: pf.jit(fun, backend="eager"))
    batch = torch.stack([start, start + 1])
    states = pf.vmap(optimizer.init)(batch)
    for _ in range(40):
        updates, states = pf.vmap(lambda p, s: optimizer.update(p - TARGET, s, p))(batch, states)
        batch = batch + updates
    first = tree.map(lambda leaf: leaf[0], (batch, states))
    for other in (compiled, first):
        for ours, theirs in zip(tree.leaves(other), tree.leaves(eager), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_zero_gradients_and_no_learning_rate_change_nothing():
    params = {"w": torch.ones(3), "empty": torch.ones(0)}
    for lr, grads in ((1.0, tree.zeros_like(params)), (0.0, tree.ones_like(params))):
        optimizer = optim.dadapt_adamw(lr=lr)
        state = optimizer.init(params)
        for _ in range(3):
            updates, state = optimizer.update(grads, state, params)
            assert not updates["w"].any()
        assert optim.get(state, "estim_lr") == 1e-6
        assert not any(leaf.isnan().any() for leaf in tree.leaves(state))


def test_states_of_half_precision_are_kept_in_float32():
    params = {"w": torch.ones(2, dtype=torch.bfloat16)}
    optimizer = optim.dadapt_adamw()
    updates, state = optimizer.update(params, optimizer.init(params), params)
    assert updates["w"].dtype == torch.bfloat16
    assert optim.get(state, "nu")["w"].dtype == torch.float32


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"lr": -1.0}, "lr"),
        ({"betas": (0.9, 1.0)}, r"betas\[1\]"),
        ({"eps": 0.0}, "eps"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"d0": 0.0}, "d0"),
        ({"growth_rate": 0.9}, "growth_rate"),
    ],
)
def test_what_is_refused(hyperparameters, message):
    with pytest.raises(ValueError, match=message):
        optim.dadapt_adamw(**hyperparameters)


def test_parameters_are_needed():
    params = torch.ones(2)
    optimizer = optim.dadapt_adamw()
    with pytest.raises(ValueError, match="needs the parameters"):
        optimizer.update(params, optimizer.init(params))
