"""Record what optax's schedules are, for the tests of `purefn.optim.schedules`.

Run by hand, in an environment that has optax, when the cases change:

    pip install "jax[cpu]" "optax==0.2.8"
    JAX_PLATFORMS=cpu python tests/optim/reference/record_optax_schedules.py

It writes `optax_schedules.json` beside itself: `origin` says which versions made it, `steps` lists
the steps, and `rates` has for each case the float64 learning rates at these steps.
"""

from __future__ import annotations

import json
import pathlib

import jax
import numpy as np
import optax

STEPS = [*range(121), 1_000, 9_999_999, 10_000_000]

CASES = {
    "constant": optax.constant_schedule(0.3),
    "linear": optax.linear_schedule(0.1, 0.7, transition_steps=50),
    "linear, later": optax.linear_schedule(0.7, 0.1, transition_steps=50, transition_begin=20),
    "polynomial": optax.polynomial_schedule(0.7, 0.1, power=2.5, transition_steps=90),
    "polynomial, later": optax.polynomial_schedule(
        0.7, 0.1, power=0.5, transition_steps=40, transition_begin=7
    ),
    "exponential": optax.exponential_decay(0.7, transition_steps=20, decay_rate=0.5),
    "exponential, staircase": optax.exponential_decay(
        0.7, transition_steps=20, decay_rate=0.5, staircase=True
    ),
    "exponential, later, to an end": optax.exponential_decay(
        0.7, transition_steps=20, decay_rate=0.5, transition_begin=30, end_value=0.2
    ),
    "exponential, up to an end": optax.exponential_decay(
        0.1, transition_steps=20, decay_rate=2.0, end_value=0.9
    ),
    "cosine": optax.cosine_decay_schedule(0.7, decay_steps=90),
    "cosine, to an end": optax.cosine_decay_schedule(0.7, decay_steps=90, alpha=0.1, exponent=1.7),
    "piecewise constant": optax.piecewise_constant_schedule(0.7, {60: 0.5, 10: 0.1, 100: 3.0}),
    "piecewise linear": optax.piecewise_interpolate_schedule(
        "linear", 0.7, {60: 0.5, 10: 0.1, 100: 3.0}
    ),
    "piecewise cosine": optax.piecewise_interpolate_schedule(
        "cosine", 0.7, {60: 0.5, 10: 0.1, 100: 3.0}
    ),
    "cosine one-cycle": optax.cosine_onecycle_schedule(100, 0.7),
    "linear one-cycle": optax.linear_onecycle_schedule(100, 0.7),
    "warm-up, constant": optax.warmup_constant_schedule(0.01, 0.7, warmup_steps=20),
    "warm-up, cosine": optax.warmup_cosine_decay_schedule(
        0.01, 0.7, warmup_steps=20, decay_steps=100, end_value=0.05, exponent=1.3
    ),
    "warm-up, exponential": optax.warmup_exponential_decay_schedule(
        0.01, 0.7, warmup_steps=20, transition_steps=30, decay_rate=0.5, end_value=0.2
    ),
    "warm restarts": optax.sgdr_schedule(
        [
            {"init_value": 0.0, "peak_value": 0.7, "warmup_steps": 5, "decay_steps": 30},
            {"init_value": 0.1, "peak_value": 0.4, "warmup_steps": 10, "decay_steps": 60},
        ]
    ),
}


def main() -> None:
    """Write the file."""
    jax.config.update("jax_enable_x64", True)
    rates = {
        name: [float(np.float64(schedule(np.int64(step)))) for step in STEPS]
        for name, schedule in CASES.items()
    }
    recorded = {
        "origin": f"optax {optax.__version__}, jax {jax.__version__}, CPU, jax_enable_x64",
        "steps": STEPS,
        "rates": rates,
    }
    path = pathlib.Path(__file__).with_name("optax_schedules.json")
    path.write_text(json.dumps(recorded) + "\n")


if __name__ == "__main__":
    main()
