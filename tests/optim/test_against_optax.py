"""Pieces and wrappers against optax, as recorded by `reference/record_optax_pieces.py`."""

import json
import pathlib

import pytest
import torch

import purefn.functional as pf
from purefn import optim
from purefn.functional import tree

RECORD = json.loads((pathlib.Path(__file__).parent / "reference/optax_pieces.json").read_text())


def tensors(node):
    if isinstance(node, dict):
        return {name: tensors(child) for name, child in node.items()}
    return torch.tensor(node, dtype=torch.float64)


PARAMS = tensors(RECORD["params"])
GRADIENTS = [tensors(grads) for grads in RECORD["gradients"]]


def is_weight(name):
    return name in ("conv", "fc.weight")


def sometimes(step):
    return step % 3 != 1


CASES = {
    "add_noise": optim.add_noise(eta=0.3, gamma=0.55, key=42),
    "clip_by_block_rms": optim.clip_by_block_rms(0.5),
    "centralize": optim.centralize(),
    "adaptive_grad_clip": optim.adaptive_grad_clip(0.3, eps=0.05),
    "adaptive_grad_clip_axis": optim.adaptive_grad_clip(0.3, eps=0.05, axis=-1),
    "normalize": optim.normalize(),
    "normalize_by_update_norm": optim.normalize_by_update_norm(scale_factor=2.0, eps=0.1),
    "keep_params_nonnegative": optim.keep_params_nonnegative(),
    "scale_by_param_block_norm": optim.scale_by_param_block_norm(min_scale=1.5),
    "scale_by_param_block_rms": optim.scale_by_param_block_rms(min_scale=0.9),
    "masked": optim.masked(optim.add_decayed_weights(0.1), is_weight),
    "partition": optim.partition(
        {"a": optim.sgd(0.1, momentum=0.9), "b": optim.adam(0.2)},
        lambda name: "a" if is_weight(name) else "b",
    ),
    "freeze": optim.chain(optim.adam(0.1), optim.freeze(lambda name: name == "conv")),
    "selective_transform": optim.selective_transform(
        # optax's adamw has another default.
        optim.adamw(0.1, weight_decay=1e-4),
        freeze_mask={"conv": True, "fc": False, "scale": False},
    ),
    "multi_steps": optim.multi_steps(optim.adam(0.1), 3),
    "multi_steps_scheduled": optim.multi_steps(
        optim.adam(0.1), lambda step: torch.where(step < 1, 1, 2), use_grad_mean=False
    ),
    "skip_large_updates": optim.skip_large_updates(
        optim.multi_steps(optim.adam(0.1), 2), max_squared_norm=50.0
    ),
    "conditionally_transform": optim.conditionally_transform(optim.trace(0.9), sometimes),
    "conditionally_mask": optim.conditionally_mask(optim.trace(0.9), sometimes),
    "flatten": optim.flatten(optim.clip_by_block_rms(0.5)),
    "inject_hyperparams": optim.inject_hyperparams(optim.sgd)(
        lambda step: 0.5 / (step.double() + 1), momentum=0.9
    ),
}


def test_every_recorded_case_is_compared():
    assert set(RECORD["cases"]) == set(CASES)


COMPILED = ["masked", "partition", "inject_hyperparams", "skip_large_updates"]


def assert_updates_are_recorded(name, update):
    expected = [tensors(updates) for updates in RECORD["cases"][name]]
    assert any(leaf.any() for leaf in tree.leaves(expected))
    here = {key: PARAMS[key] for key in expected[0]}
    state = CASES[name].init(here)
    for grads, updates in zip(GRADIENTS, expected, strict=True):
        ours, state = update({key: grads[key] for key in here}, state, here)
        for leaf, other in zip(tree.leaves(ours), tree.leaves(updates), strict=True):
            torch.testing.assert_close(leaf, other, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", CASES)
def test_updates_are_those_of_optax(name):
    assert_updates_are_recorded(name, CASES[name].update)


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_updates_are_those_of_optax(name):
    step = pf.jit(CASES[name].update, backend="eager")
    assert_updates_are_recorded(name, step)
    assert step.trace_count == 1
