"""Clipped per-example gradients: purefn's against those of Opacus, JAX and torch.func.

    python -m benchmarks.per_example
    python -m benchmarks.per_example --workloads mnist-cnn lstm --batch 256 --threads 1
    python -m benchmarks.per_example --memory --batch 512

Each contender gives the sum over the batch of the gradients, each clipped to the norm 1, which has
to agree with that of a loop over the examples in float64 before anything is timed. "mean gradient",
what an ordinary step computes, is the floor. Peak memory comes from a process for each contender.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy
import torch

from purefn.functional import tree

from .machine import describe_machine, limit_threads, wait
from .measure import interleave, medians, parser, table, write_json
from .memory import peak_bytes
from .per_example_contenders import CONTENDERS, FLOOR, MAX_NORM, Gradient, available
from .workloads.per_example import WORKLOADS, PerExample

#: Contenders that everyone is compared with; the second stands for the best mode of Opacus.
REFERENCES = (FLOOR, "best opacus", "jax")
#: Of any leaf: sums of clipped gradients in float32 cancel, in deep convolutions to four digits.
TOLERANCE = 1e-3


def main() -> None:
    """Print a table for each workload."""
    options = _options()
    limit_threads(options.threads)
    if options.child:
        print(peak_bytes(lambda: _prepared(*options.child, options.batch)))
        return
    results: dict[str, Any] = {"machine": describe_machine(), "batch": options.batch}
    results["workloads"] = {}
    print(", ".join(f"{key} {value}" for key, value in results["machine"].items()))
    for name in options.workloads:
        print(f"\n{name}, batch {options.batch}", flush=True)
        results["workloads"][name] = (_memory if options.memory else _time)(name, options)
        write_json(options.json, results)


def _time(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Print and return the medians, errors and first calls of the contenders on one workload."""
    gc.collect()
    torch._dynamo.reset()
    workload = WORKLOADS[name](options.batch)
    gradients, first, errors = agreed(workload, _takes_part(workload, options.contenders))
    steps = {key: _step(gradient) for key, gradient in gradients.items()}
    seconds = interleave(steps, options.repeats, warmup=2)
    middle = medians(seconds)
    rows = {key: {"median": middle[key], "fastest": min(seconds[key])} for key in steps}
    print(table(with_best_opacus(rows), 1e3, "ms", REFERENCES), flush=True)
    print("first call:", ", ".join(f"{key} {value:.1f} s" for key, value in first.items()))
    return {"medians": middle, "first": first, "errors": errors, "seconds": seconds}


def _memory(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Print and return the peak bytes of the contenders on one workload."""
    workload = WORKLOADS[name](options.batch)
    names = _takes_part(workload, options.contenders)
    del workload
    rows = {}
    for contender in names:
        peak = in_a_process(name, contender, options.batch, options.threads)
        if peak is None:
            print(f"{contender}: left out: it stopped with an error")
        else:
            rows[contender] = {"peak": peak}
    print(table(with_best_opacus(rows), 1e-6, "MB", REFERENCES), flush=True)
    return {key: row["peak"] for key, row in rows.items()}


def agreed(
    workload: PerExample, names: list[str]
) -> tuple[dict[str, Gradient], dict[str, float], dict[str, float]]:
    """Return those contenders that compute the right sum, the seconds of their first calls, errors.

    Who fails, or computes something else, is named and left out.
    """
    expected = reference(workload)
    gradients, first, errors = {}, {}, {}
    for name in names:
        start = time.perf_counter()
        try:
            gradient = CONTENDERS[name].make(workload)
            wait(_last_leaf(value := gradient()))
        except Exception as error:  # Whatever a peer does not support.
            print(f"{name}: left out: {type(error).__name__}: {str(error).splitlines()[0]}")
            continue
        first[name] = time.perf_counter() - start
        if name != FLOOR:
            errors[name] = distance(value, expected)
            if not errors[name] < TOLERANCE:
                print(f"{name}: left out: its relative error is {errors[name]:.1e}")
                continue
        gradients[name] = gradient
    return gradients, first, errors


def reference(workload: PerExample) -> dict[str, torch.Tensor]:
    """Return the sum of clipped gradients by a loop over the examples, in float64."""
    gradient = torch.func.grad(workload.loss)
    params = tree.map(torch.Tensor.double, workload.params)
    total = {name: torch.zeros_like(leaf) for name, leaf in tree.to_state_dict(params).items()}
    for x, y in zip(*(_doubled(part) for part in workload.batch), strict=True):
        grads = tree.to_state_dict(gradient(params, x, y))
        norm = sum(leaf.square().sum() for leaf in grads.values()) ** 0.5
        for name, leaf in grads.items():
            total[name] += leaf * min(MAX_NORM / norm, 1.0)
    return total


def distance(value: Any, expected: Mapping[str, torch.Tensor]) -> float:
    """Return the largest error of any leaf, relative to the norm of that leaf."""
    leaves = _leaves(value)
    return max(float((leaves[n].double() - e).norm() / e.norm()) for n, e in expected.items())


def with_best_opacus(rows: Mapping[str, Mapping[str, float]]) -> dict[str, Mapping[str, float]]:
    """Return the rows and once more that of the best mode of Opacus, if any takes part."""
    modes = [row for name, row in rows.items() if name.startswith("opacus")]
    best = min(modes, key=lambda row: next(iter(row.values())), default=None)
    return dict(rows) if best is None else {**rows, "best opacus": best}


def in_a_process(workload: str, contender: str, batch: int, threads: int | None) -> int | None:
    """Return the peak bytes of a contender in a process of its own, None if that fails."""
    command = [sys.executable, "-m", "benchmarks.per_example", "--child", workload, contender]
    command += ["--batch", str(batch)]
    if threads:
        command += ["--threads", str(threads)]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return None if run.returncode else int(run.stdout.split()[-1])


def _prepared(workload: str, contender: str, batch: int) -> Callable[[], Any]:
    made = WORKLOADS[workload](batch)
    step = _step(CONTENDERS[contender].make(made))
    made.module.to("meta")  # The contender has parameters of its own.
    return step


def _step(gradient: Gradient) -> Callable[[], Any]:
    return lambda: _last_leaf(gradient())


def _last_leaf(grads: Any) -> Any:
    """Return something to wait for."""
    while isinstance(grads, dict):
        grads = grads[max(grads)]
    return grads


def _leaves(grads: Any) -> dict[str, torch.Tensor]:
    """Return the leaves of anyone's gradients by their paths, as tensors on the CPU."""
    leaves = tree.to_state_dict(grads)
    return {
        name: leaf.cpu() if isinstance(leaf, torch.Tensor) else torch.tensor(numpy.asarray(leaf))
        for name, leaf in leaves.items()
    }


def _doubled(values: torch.Tensor) -> torch.Tensor:
    return values.double() if values.is_floating_point() else values


def _takes_part(workload: PerExample, names: list[str] | None) -> list[str]:
    reasons = available(workload, names)
    for name, reason in reasons.items():
        if reason:
            print(f"{name}: left out: {reason}")
    return [name for name, reason in reasons.items() if not reason]


def _options() -> argparse.Namespace:
    options = parser("per_example", __doc__)
    add = options.add_argument
    add("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="NAME")
    add("--contenders", nargs="+", choices=CONTENDERS, metavar="NAME", help="all there are")
    add("--batch", type=int, default=64, help="how many examples")
    add("--repeats", type=int, default=20, help="rounds in which each contender has a turn")
    add("--memory", action="store_true", help="measure peak memory instead of time")
    add("--child", nargs=2, help=argparse.SUPPRESS)
    return options.parse_args()


if __name__ == "__main__":
    main()
