"""Recipes against optax, as recorded by `reference/record_optax_recipes.py`.

Every recorded expression stands in one of two tables: `EQUAL`, with the optimizer of ours that must
lead where it leads, or `DIFFERENT`, with ours of the same name and the reason why it must not.
"""

import json
import pathlib

import pytest
import torch

from purefn import optim
from purefn.functional import tree

RECORD = json.loads((pathlib.Path(__file__).parent / "reference/optax_recipes.json").read_text())
#: Relative to the largest value that an element has had.
TOLERANCE = 1e-11


def tensors(node):
    return {name: torch.tensor(leaf, dtype=torch.float64) for name, leaf in node.items()}


PARAMS = tensors(RECORD["params"])
GRADIENTS = [tensors(grads) for grads in RECORD["gradients"]]


def descending(*rule, lr=0.1):
    return optim.chain(*rule, optim.scale_by_learning_rate(lr))


def from_the_start_of(optimizer, **fields):
    """Make an optimizer begin with other values in its state, the same in every element."""

    def init(params):
        state = list(optimizer.init(params))
        place = next(i for i, part in enumerate(state) if hasattr(part, next(iter(fields))))
        filled = {
            name: tree.map(lambda leaf, value=value: torch.full_like(leaf, value), params)
            for name, value in fields.items()
        }
        state[place] = state[place]._replace(**filled)
        return tuple(state)

    return optim.GradientTransformation(init, optimizer.update)


# --------------------------------------------------------------------------------------- the tables

EQUAL = {
    # Those of torch.optim
    "optax.sgd(0.1)": optim.sgd(0.1),
    "optax.sgd(0.1, momentum=0.9)": optim.sgd(0.1, momentum=0.9),
    "optax.sgd(0.1, momentum=0.9, nesterov=True)": optim.sgd(0.1, momentum=0.9, nesterov=True),
    "optax.adam(0.1, b1=0.8, b2=0.9, eps=1e-3)": optim.adam(0.1, (0.8, 0.9), 1e-3),
    "optax.adamw(0.1, weight_decay=0.3)": optim.adamw(0.1, weight_decay=0.3),
    "optax.adamax(0.1)": optim.adamax(0.1),
    "optax.radam(0.1, eps=0.0)": optim.radam(0.1, eps=0.0),
    "optax.rmsprop(0.1, eps=1e-3, eps_in_sqrt=False, momentum=0.9)": optim.rmsprop(
        0.1, alpha=0.9, eps=1e-3, momentum=0.9
    ),
    "optax.rmsprop(0.1, eps=1e-3, eps_in_sqrt=False, centered=True)": optim.rmsprop(
        0.1, alpha=0.9, eps=1e-3, centered=True
    ),
    "optax.adagrad(0.1, eps=0.0)": optim.adagrad(0.1, initial_accumulator_value=0.1, eps=0.0),
    "optax.adadelta(0.5, rho=0.8, eps=1e-4)": optim.adadelta(0.5, rho=0.8, eps=1e-4),
    # Those that torch lacks
    "optax.lion(0.1, weight_decay=0.3)": optim.lion(0.1, weight_decay=0.3),
    "optax.lamb(0.1, weight_decay=0.3)": optim.lamb(0.1, weight_decay=0.3),
    "optax.lars(10.0, trust_coefficient=0.01, eps=1e-3)": optim.lars(
        10.0, trust_coefficient=0.01, eps=1e-3
    ),
    "optax.lars(10.0, momentum=0.5, nesterov=True)": optim.lars(10.0, momentum=0.5, nesterov=True),
    "optax.fromage(0.1)": optim.fromage(0.1, min_norm=1e-6),
    "optax.fromage(lambda t: 0.5 * 0.9 ** (1.0 * t))": optim.fromage(
        optim.schedules.step(0.5, step_size=1, gamma=0.9), min_norm=1e-6
    ),
    "optax.adabelief(0.1)": optim.adabelief(0.1),
    "optax.novograd(0.1, weight_decay=0.3)": optim.novograd(
        0.1, (0.9, 0.25), eps=1e-6, weight_decay=0.3
    ),
    "optax.adan(0.1, b2=0.5, eps_root=0.0, weight_decay=0.3)": optim.adan(
        0.1, (0.98, 0.5, 0.99), weight_decay=0.3, no_prox=True
    ),
    "optax.contrib.ademamix(0.1, b3=0.99, weight_decay=0.3)": optim.ademamix(
        0.1, (0.9, 0.999, 0.99), alpha=5.0, weight_decay=0.3
    ),
    "optax.contrib.ademamix(0.1, b3=lambda t: 0.9 + 0.001 * t, alpha=lambda t: 0.1 * t)": (
        descending(
            optim.scale_by_ademamix(
                b3=lambda t: 0.9 + 0.001 * t.double(), alpha=lambda t: 0.1 * t.double()
            )
        )
    ),
    "optax.contrib.adopt(0.1)": optim.adopt(0.1),
    "optax.contrib.adopt(0.1, b2=0.9, use_clipping=False)": optim.adopt(
        0.1, (0.9, 0.9), use_clipping=False
    ),
    "optax.sign_sgd(0.1)": optim.sign_sgd(0.1),
    "optax.signum(0.1)": optim.signum(0.1),
    "optax.sm3(0.1)": optim.sm3(0.1, eps=1e-8),
    "optax.chain(optax.scale_by_sm3(b2=0.9), optax.scale(-0.1))": descending(
        optim.scale_by_sm3(b2=0.9, eps=1e-8)
    ),
    "optax.polyak_sgd(f_min=0.1, max_learning_rate=0.5)": optim.polyak_sgd(f_min=0.1, max_lr=0.5),
    "optax.polyak_sgd(f_min=0.5, max_learning_rate=0.5, eps=0.1, variant='sps+')": (
        optim.polyak_sgd(f_min=0.5, max_lr=0.5, eps=0.1, variant="sps+")
    ),
    "optax.optimistic_gradient_descent(0.1, alpha=0.5, beta=2.0)": (
        optim.optimistic_gradient_descent(0.1, alpha=0.5, beta=2.0)
    ),
    "optax.optimistic_adam_v2(0.1, alpha=0.5, nesterov=False)": optim.optimistic_adam(
        0.1, alpha=0.5
    ),
    "optax.noisy_sgd(0.1, eta=0.3, key=42)": optim.noisy_sgd(0.1, eta=0.3, key=42),
    "optax.contrib.prodigy(estim_lr0=1e-2, weight_decay=0.1)": optim.prodigy(
        d0=1e-2, weight_decay=0.1, use_bias_correction=True
    ),
    "optax.contrib.dadapt_adamw(estim_lr0=1e-2, weight_decay=0.1)": optim.dadapt_adamw(
        d0=1e-2, weight_decay=0.1, use_bias_correction=True
    ),
    "optax.contrib.dog(init_step=('heuristic', 1e-2))": optim.dog(reps_rel=1e-2),
    "optax.contrib.dog(init_step=('learning_rate', 0.1), weight_decay=0.1)": optim.dog(
        init_eta=0.1, weight_decay=0.1
    ),
    "optax.contrib.dowg(init_estim_sq_dist=1e-2)": optim.dowg(init_estim_sq_dist=1e-2),
    "optax.contrib.schedule_free_sgd(0.1)": optim.schedule_free_sgd(0.1),
    "optax.contrib.schedule_free_adamw(0.1, weight_decay=0.1)": optim.schedule_free_adamw(
        0.1, weight_decay=0.1
    ),
}

DIFFERENT = {
    "optax.amsgrad(0.1)": (
        optim.adam(0.1, amsgrad=True),
        "optax takes the maximum of corrected second moments, torch corrects the maximum",
    ),
    "optax.nadam(0.1)": (
        optim.nadam(0.1),
        "torch warms the momentum up (momentum_decay), optax does not",
    ),
    "optax.radam(0.1, eps=1e-3)": (
        optim.radam(0.1, eps=1e-3),
        "torch adds eps to the uncorrected root, optax to the corrected one",
    ),
    "optax.rmsprop(0.1)": (
        optim.rmsprop(0.1, alpha=0.9),
        "optax has eps inside the root by default",
    ),
    "optax.rprop(0.1)": (optim.rprop(0.1), "optax emits each update one step late"),
    "optax.adagrad(0.1)": (
        optim.adagrad(0.1, initial_accumulator_value=0.1, eps=1e-7),
        "optax has eps inside the root",
    ),
    "optax.lars(10.0, weight_decay=0.3)": (
        optim.lars(10.0, weight_decay=0.3),
        "the paper divides by |g| + weight_decay |theta|, optax by |g + weight_decay theta|",
    ),
    "optax.yogi(0.1)": (
        optim.yogi(0.1),
        "optax starts the first moment, too, at initial_accumulator_value",
    ),
    "optax.adan(0.1, eps_root=0.0)": (
        optim.adan(0.1),
        "optax weighs differences by 1 - b2 where paper and authors have b2, its decay rate",
    ),
    "optax.polyak_sgd(scaling=0.5)": (
        optim.polyak_sgd(0.5),
        "optax scales gradients before it takes their norm, so that half the rate is twice as far",
    ),
    "optax.contrib.schedule_free_sgd(0.1, warmup_steps=5, weight_decay=0.1)": (
        optim.schedule_free_sgd(0.1, warmup_steps=5, weight_decay=0.1),
        "optax begins to warm up with a step of 0",
    ),
}
#: What optax computes where ours differs, of our pieces.
ASSEMBLED = {
    "optax.lars(10.0, weight_decay=0.3)": optim.chain(
        optim.add_decayed_weights(0.3),
        optim.scale_by_trust_ratio(trust_coefficient=1e-3),
        optim.scale_by_learning_rate(10.0),
        optim.trace(0.9),
    ),
    "optax.yogi(0.1)": from_the_start_of(optim.yogi(0.1), mu=1e-6),
    "optax.polyak_sgd(scaling=0.5)": optim.chain(optim.sgd(0.5), optim.scale_by_polyak()),
}

# ---------------------------------------------------------------------------------------- the tests


def distances(optimizer, expression):
    """Return how far the two are from each other after each recorded step, relatively."""
    expected = dict(zip(RECORD["after"], RECORD["trajectories"][expression], strict=True))
    params, state = PARAMS, optimizer.init(PARAMS)
    largest = tree.map(torch.abs, params)
    found = []
    steps = zip(GRADIENTS, RECORD["values"], strict=True)
    for step, (grads, value) in enumerate(steps, start=1):
        updates, state = optimizer.update(grads, state, params, value=value)
        params = optim.apply_updates(params, updates)
        largest = tree.map(lambda most, leaf: torch.maximum(most, leaf.abs()), largest, params)
        if step in expected:
            apart = tree.map(
                lambda leaf, other, most: ((leaf - other).abs() / most).max(),
                params,
                tensors(expected[step]),
                largest,
            )
            found.append(max(tree.leaves(apart)).item())
    return found


def test_every_recorded_expression_is_compared():
    assert set(EQUAL).isdisjoint(DIFFERENT)
    assert set(EQUAL) | set(DIFFERENT) == set(RECORD["trajectories"])


@pytest.mark.parametrize("expression", EQUAL)
def test_recipes_lead_where_optax_leads(expression):
    assert max(distances(EQUAL[expression], expression)) < TOLERANCE


@pytest.mark.parametrize("expression", ASSEMBLED)
def test_what_optax_has_instead_is_assembled_of_pieces(expression):
    assert max(distances(ASSEMBLED[expression], expression)) < TOLERANCE


@pytest.mark.parametrize("expression", DIFFERENT)
def test_recipes_differ_where_optax_does(expression):
    ours, _ = DIFFERENT[expression]
    assert max(distances(ours, expression)) > 1e3 * TOLERANCE


@pytest.mark.parametrize("expression", RECORD["trajectories"])
def test_recorded_trajectories_move(expression):
    first, *_, last = RECORD["trajectories"][expression]
    moved = tree.map(lambda a, b: (a - b).abs().max(), tensors(first), tensors(last))
    assert min(tree.leaves(moved)) > 1e4 * TOLERANCE
