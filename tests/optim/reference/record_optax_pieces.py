"""Record what optax's pieces and wrappers do, for the tests of those of `purefn.optim`.

Run by hand, in an environment that has optax, when the cases change:

    pip install "jax[cpu]==0.10.2" "optax==0.2.8"
    JAX_PLATFORMS=cpu python tests/optim/reference/record_optax_pieces.py

It writes `optax_pieces.json` beside itself: `origin` says how it was made, `params` are the
parameters, `gradients` those of each step, and `cases` the updates that each transformation makes
of them, all in float64. The parameters do not move. Weights are in torch's layout `(out, in, ...)`:
what optax computes with its own `(..., in, out)` is recorded from transposed trees and transposed
back.
"""

from __future__ import annotations

import functools
import json
import pathlib
import platform

import jax
import jax.numpy as jnp
import numpy as np
import optax

jax.config.update("jax_enable_x64", True)

SHAPES = {"conv": (3, 2, 2, 2), "fc": {"bias": (3,), "weight": (3, 4)}, "scale": ()}
STEPS = 7


def draw(rng, scale):
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape) * scale),
        SHAPES,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def scheduled(step):
    return 0.5 / (step + 1)


IS_WEIGHT = {"conv": True, "fc": {"bias": False, "weight": True}, "scale": False}
LABELS = {"conv": "a", "fc": {"bias": "b", "weight": "a"}, "scale": "b"}
FREEZE = {"conv": True, "fc": False, "scale": False}

CASES = {
    "add_noise": optax.add_noise(eta=0.3, gamma=0.55, key=42),
    "clip_by_block_rms": optax.clip_by_block_rms(0.5),
    "normalize": optax.contrib.normalize(),
    "normalize_by_update_norm": optax.normalize_by_update_norm(scale_factor=2.0, eps=0.1),
    "keep_params_nonnegative": optax.keep_params_nonnegative(),
    "scale_by_param_block_norm": optax.scale_by_param_block_norm(min_scale=1.5),
    "scale_by_param_block_rms": optax.scale_by_param_block_rms(min_scale=0.9),
    "masked": optax.masked(optax.add_decayed_weights(0.1), IS_WEIGHT),
    "partition": optax.partition({"a": optax.sgd(0.1, momentum=0.9), "b": optax.adam(0.2)}, LABELS),
    "freeze": optax.chain(optax.adam(0.1), optax.freeze(FREEZE)),
    "selective_transform": optax.selective_transform(optax.adamw(0.1), freeze_mask=FREEZE),
    "multi_steps": optax.MultiSteps(
        optax.adam(0.1), 3, accumulator_dtype=jnp.float64
    ).gradient_transformation(),
    "multi_steps_scheduled": optax.MultiSteps(
        optax.adam(0.1),
        lambda step: jnp.where(step < 1, 1, 2),
        use_grad_mean=False,
        accumulator_dtype=jnp.float64,
    ).gradient_transformation(),
    "skip_large_updates": optax.MultiSteps(
        optax.adam(0.1),
        2,
        should_skip_update_fn=functools.partial(optax.skip_large_updates, max_squared_norm=50.0),
        accumulator_dtype=jnp.float64,
    ).gradient_transformation(),
    "conditionally_transform": optax.conditionally_transform(
        optax.trace(0.9), lambda step: step % 3 != 1
    ),
    "conditionally_mask": optax.conditionally_mask(optax.trace(0.9), lambda step: step % 3 != 1),
    "flatten": optax.flatten(optax.clip_by_block_rms(0.5)),
    "inject_hyperparams": optax.inject_hyperparams(optax.sgd)(scheduled, momentum=0.9),
}
#: Those that look at the layout, with an axis for parameters and gradients moved to the end.
TRANSPOSED = {
    "adaptive_grad_clip": optax.adaptive_grad_clip(0.3, eps=0.05),
}
AS_IT_IS = {
    "centralize": optax.centralize(),
    "adaptive_grad_clip_axis": optax.adaptive_grad_clip(0.3, eps=0.05, axis=-1),
}


def run(transformation, params, gradients):
    state = transformation.init(params)
    updates = []
    for grads in gradients:
        update, state = transformation.update(grads, state, params)
        updates.append(update)
    return updates


def last(tree):
    """Move the first axis of every leaf to the end."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1) if x.ndim else x, tree)


def first(tree):
    return jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0) if x.ndim else x, tree)


def lists(tree):
    return jax.tree.map(lambda x: np.asarray(x).tolist(), tree)


def without_scale(tree):
    return {name: tree[name] for name in ("conv", "fc")}


def main():
    rng = np.random.default_rng(0)
    params = draw(rng, 1.0)
    gradients = [draw(rng, scale) for scale in (0.1, 1.0, 3.0, 0.01, 1.0, 0.5, 2.0)]
    cases = {name: run(case, params, gradients) for name, case in CASES.items()}
    for name, case in AS_IT_IS.items():
        given = params if name == "centralize" else without_scale(params)
        grads = gradients if name == "centralize" else list(map(without_scale, gradients))
        cases[name] = run(case, given, grads)
    for name, case in TRANSPOSED.items():
        cases[name] = list(map(first, run(case, last(params), list(map(last, gradients)))))
    origin = (
        f"optax {optax.__version__}, jax {jax.__version__}, {platform.machine()}, cpu, float64, "
        "record_optax_pieces.py"
    )
    path = pathlib.Path(__file__).with_name("optax_pieces.json")
    record = {
        "origin": origin,
        "params": lists(params),
        "gradients": [lists(grads) for grads in gradients],
        "cases": {name: [lists(update) for update in updates] for name, updates in cases.items()},
    }
    path.write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
