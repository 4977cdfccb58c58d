"""Draws of `purefn.functional.random`, eager and compiled, against `jax.random` on one core.

    python benchmarks/random_numbers.py

The contenders take turns, so that whatever else the machine does meets them all; the table has the
medians in microseconds and their ratio to JAX's. JAX takes part where it can be imported.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import torch

import purefn.functional as pf
from purefn.functional import random

try:
    import jax
except ImportError:
    jax = None

Contenders = dict[str, Callable[[], object]]

FUNCTIONS = ("bits", "uniform", "normal", "gumbel")
SIZES = (64, 1_000, 10_000, 100_000, 1_000_000)
REPEATS = 15


def key_operations() -> dict[str, Contenders]:
    """Return the contenders that make keys."""
    key = random.key(0)
    rows: dict[str, Contenders] = {
        "split 2": {"eager": lambda: random.split(key)},
        "fold_in": {"eager": lambda: random.fold_in(key, 7)},
    }
    if jax is not None:
        theirs = jax.random.key(0)
        rows["split 2"]["jax"] = lambda: jax.random.split(theirs).block_until_ready()
        rows["fold_in"]["jax"] = lambda: jax.random.fold_in(theirs, 7).block_until_ready()
    return rows


def draws(name: str, size: int) -> Contenders:
    """Return the contenders that draw `size` numbers."""
    key, ours = random.key(0), getattr(random, name)
    contenders: Contenders = {"eager": lambda: ours(key, (size,))}
    if size >= 100_000:
        compiled = pf.jit(lambda key: ours(key, (size,)))
        contenders["compiled"] = lambda: compiled(key)
    if jax is not None:
        theirs, function = jax.random.key(0), getattr(jax.random, name)
        contenders["jax"] = lambda: function(theirs, (size,)).block_until_ready()
    return contenders


def medians(contenders: Contenders) -> dict[str, float]:
    """Return the median microseconds of each contender, in turns after one call to warm up."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for run in contenders.values():
        run()
    for _ in range(REPEATS):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            times[name].append(1e6 * (time.perf_counter() - start))
    return {name: statistics.median(taken) for name, taken in times.items()}


def report(label: str, contenders: Contenders) -> None:
    """Print one row of the table."""
    taken = medians(contenders)
    row = f"{label:<18}"
    for name in ("eager", "compiled", "jax"):
        row += f"{taken[name]:>12.0f}" if name in taken else f"{'-':>12}"
    for name in ("eager", "compiled"):
        known = name in taken and "jax" in taken
        row += f"{taken[name] / taken['jax']:>15.2f}" if known else f"{'-':>15}"
    print(row, flush=True)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    headings = ("eager", "compiled", "jax")
    print(f"{'microseconds':<18}" + "".join(f"{name:>12}" for name in headings), end="")
    print(f"{'eager / jax':>15}{'compiled / jax':>15}")
    for label, contenders in key_operations().items():
        report(label, contenders)
    for name in FUNCTIONS:
        for size in SIZES:
            report(f"{name} {size}", draws(name, size))


if __name__ == "__main__":
    main()
