"""Training steps: purefn's against those of torch, TorchOpt and JAX.

    python -m benchmarks.steps
    python -m benchmarks.steps --workloads mlp-10x64 transformer --threads 1 --json steps.json

All contenders start from the same parameters, and their losses over three steps must agree before
anything is timed.
"""

from __future__ import annotations

import argparse
import gc
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .contenders import CONTENDERS, Step, available
from .machine import describe_machine, limit_threads
from .measure import interleave, medians, parser, table, write_json
from .workloads import WORKLOADS, Workload

#: Contenders that everyone is compared with; the last stands for the best of torch's.
REFERENCES = ("torch eager", "best torch", "jax")
TORCH = ("torch eager", "torch.compile(module)", "torch.compile(step)")
TOLERANCE = 1e-4


def main() -> None:
    """Print a table for each workload."""
    options = _options()
    limit_threads(options.threads)
    results: dict[str, Any] = {"machine": describe_machine(), "workloads": {}}
    print(", ".join(f"{key} {value}" for key, value in results["machine"].items()))
    for name in options.workloads:
        result = measure(WORKLOADS[name](), options.contenders, options.repeats)
        results["workloads"][name] = result
        print(f"\n{name}\n{_table(result['seconds'])}", flush=True)
        write_json(options.json, results)


def measure(workload: Workload, names: Sequence[str] | None, repeats: int) -> dict[str, Any]:
    """Return losses, samples and medians of the contenders on one workload."""
    gc.collect()
    torch._dynamo.reset()
    steps = {name: CONTENDERS[name](workload) for name in available(workload, names)}
    losses = agreed_losses(steps)
    seconds = interleave(steps, repeats)
    return {"losses": losses, "medians": medians(seconds), "seconds": seconds}


def agreed_losses(steps: Mapping[str, Step]) -> dict[str, list[float]]:
    """Take three steps with each and return the losses.

    Raises
    ------
    AssertionError
        A contender computes something else than the first one does.
    """
    losses = {name: [float(step()) for _ in range(3)] for name, step in steps.items()}
    first, expected = next(iter(losses.items()))
    for name, values in losses.items():
        pairs = zip(values, expected, strict=True)
        if not all(math.isclose(a, b, rel_tol=TOLERANCE) for a, b in pairs):
            raise AssertionError(f"{name} has the losses {values}, {first} has {expected}.")
    return losses


def _table(seconds: Mapping[str, Sequence[float]]) -> str:
    middle = medians(seconds)
    rows = {n: {"median": middle[n], "fastest": min(values)} for n, values in seconds.items()}
    best = min((name for name in TORCH if name in rows), key=middle.__getitem__, default=None)
    if best is not None:
        rows["best torch"] = rows[best]
    return table(rows, 1e3, "ms", REFERENCES)


def _options() -> argparse.Namespace:
    options = parser("steps", __doc__)
    add = options.add_argument
    add("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="NAME")
    add("--contenders", nargs="+", choices=CONTENDERS, metavar="NAME", help="all there are")
    add("--repeats", type=int, default=30, help="rounds in which each contender has a turn")
    return options.parse_args()


if __name__ == "__main__":
    main()
