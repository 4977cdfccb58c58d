"""Record where optax's optimizers lead, for the tests of the recipes of `purefn.optim`.

Run by hand, in an environment that has optax, when the expressions change:

    pip install "jax[cpu]==0.10.2" "optax==0.2.8"
    JAX_PLATFORMS=cpu python tests/optim/reference/record_optax_recipes.py

It writes `optax_recipes.json` beside itself: `origin` says how it was made; `params` are the first
parameters, `gradients` and `values` (of the loss) those of each step, and `trajectories` has for
each expression the parameters after the steps listed in `after`, all in float64. Gradients are
given: they do not depend on the parameters.

To record another optimizer, add the expression that makes it to `EXPRESSIONS`, run this file, and
say in `test_recipes_against_optax.py`, under the same expression, what it is here.
"""

from __future__ import annotations

import json
import pathlib
import platform

import jax
import jax.numpy as jnp
import numpy as np
import optax

jax.config.update("jax_enable_x64", True)

SHAPES = {"b": (3,), "w": (3, 2)}
STEPS = 60
AFTER = [1, 2, 3, 5, 8, 9, 12, 20, 40, 60]

EXPRESSIONS = [
    # Those of torch.optim
    "optax.sgd(0.1)",
    "optax.sgd(0.1, momentum=0.9)",
    "optax.sgd(0.1, momentum=0.9, nesterov=True)",
    "optax.adam(0.1, b1=0.8, b2=0.9, eps=1e-3)",
    "optax.adamw(0.1, weight_decay=0.3)",
    "optax.adamax(0.1)",
    "optax.amsgrad(0.1)",
    "optax.nadam(0.1)",
    "optax.radam(0.1, eps=1e-3)",
    "optax.radam(0.1, eps=0.0)",
    "optax.rmsprop(0.1)",
    "optax.rmsprop(0.1, eps=1e-3, eps_in_sqrt=False, momentum=0.9)",
    "optax.rmsprop(0.1, eps=1e-3, eps_in_sqrt=False, centered=True)",
    "optax.rprop(0.1)",
    "optax.adagrad(0.1)",
    "optax.adagrad(0.1, eps=0.0)",
    "optax.adadelta(0.5, rho=0.8, eps=1e-4)",
    # Those that torch lacks
    "optax.lion(0.1, weight_decay=0.3)",
    "optax.lamb(0.1, weight_decay=0.3)",
    "optax.lars(10.0, trust_coefficient=0.01, eps=1e-3)",
    "optax.lars(10.0, momentum=0.5, nesterov=True)",
    "optax.lars(10.0, weight_decay=0.3)",
    "optax.fromage(0.1)",
    "optax.fromage(lambda t: 0.5 * 0.9 ** (1.0 * t))",
    "optax.adabelief(0.1)",
    "optax.yogi(0.1)",
    "optax.novograd(0.1, weight_decay=0.3)",
    "optax.adan(0.1, eps_root=0.0)",
    "optax.adan(0.1, b2=0.5, eps_root=0.0, weight_decay=0.3)",
    "optax.contrib.ademamix(0.1, b3=0.99, weight_decay=0.3)",
    "optax.contrib.ademamix(0.1, b3=lambda t: 0.9 + 0.001 * t, alpha=lambda t: 0.1 * t)",
    "optax.contrib.adopt(0.1)",
    "optax.contrib.adopt(0.1, b2=0.9, use_clipping=False)",
    "optax.sign_sgd(0.1)",
    "optax.signum(0.1)",
    "optax.sm3(0.1)",
    "optax.chain(optax.scale_by_sm3(b2=0.9), optax.scale(-0.1))",
    "optax.polyak_sgd(f_min=0.1, max_learning_rate=0.5)",
    "optax.polyak_sgd(f_min=0.5, max_learning_rate=0.5, eps=0.1, variant='sps+')",
    "optax.polyak_sgd(scaling=0.5)",
    "optax.optimistic_gradient_descent(0.1, alpha=0.5, beta=2.0)",
    "optax.optimistic_adam_v2(0.1, alpha=0.5, nesterov=False)",
    "optax.noisy_sgd(0.1, eta=0.3, key=42)",
    "optax.contrib.prodigy(estim_lr0=1e-2, weight_decay=0.1)",
    "optax.contrib.dadapt_adamw(estim_lr0=1e-2, weight_decay=0.1)",
    "optax.contrib.dog(init_step=('heuristic', 1e-2))",
    "optax.contrib.dog(init_step=('learning_rate', 0.1), weight_decay=0.1)",
    "optax.contrib.dowg(init_estim_sq_dist=1e-2)",
    "optax.contrib.schedule_free_sgd(0.1)",
    "optax.contrib.schedule_free_sgd(0.1, warmup_steps=5, weight_decay=0.1)",
    "optax.contrib.schedule_free_adamw(0.1, weight_decay=0.1)",
]


def draw(rng: np.random.Generator, scale: float) -> dict[str, jax.Array]:
    """Draw a tree of normal numbers."""
    return {name: jnp.asarray(scale * rng.normal(size=shape)) for name, shape in SHAPES.items()}


def run(optimizer, params, gradients, values) -> list[dict[str, list]]:
    """Return the parameters after the steps `AFTER`."""
    optimizer = optax.with_extra_args_support(optimizer)
    state, kept = optimizer.init(params), []
    for step, (grads, value) in enumerate(zip(gradients, values, strict=True), start=1):
        updates, state = optimizer.update(grads, state, params, value=value)
        params = optax.apply_updates(params, updates)
        if step in AFTER:
            kept.append(lists(params))
    return kept


def lists(tree):
    """Return the tree with lists for arrays."""
    return jax.tree.map(lambda x: np.asarray(x, dtype=np.float64).tolist(), tree)


def main() -> None:
    """Run all optimizers and write where they lead."""
    rng = np.random.default_rng(0)
    params = draw(rng, 1.0)
    scales = 10.0 ** rng.uniform(-2, 1, size=STEPS)
    scales[7] = 0.0
    gradients = [draw(rng, scale) for scale in scales]
    values = rng.uniform(size=STEPS)
    record = {
        "origin": (
            f"optax {optax.__version__}, jax {jax.__version__}, {platform.machine()}, cpu, "
            f"float64, {pathlib.Path(__file__).name}"
        ),
        "params": lists(params),
        "gradients": [lists(grads) for grads in gradients],
        "values": values.tolist(),
        "after": AFTER,
        "trajectories": {
            expression: run(
                eval(expression, {"optax": optax}),
                params,
                gradients,
                values,
            )
            for expression in EXPRESSIONS
        },
    }
    path = pathlib.Path(__file__).with_name("optax_recipes.json")
    path.write_text(json.dumps(record) + "\n")
    print(f"{path}: {len(EXPRESSIONS)} expressions, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
