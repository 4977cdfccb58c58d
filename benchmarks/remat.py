"""Peak memory and time of the gradient of a deep network, with and without `remat`.

    python -m benchmarks.remat

Each row comes from a process of its own: the most bytes that torch's allocator had given out during
a call, and the median time of a call.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import purefn.functional as pf

from .machine import describe_machine, limit_threads
from .measure import parser, write_json

BLOCKS, LAYERS, WIDTH, BATCH = 16, 4, 256, 4096
REPEATS = 5


def main() -> None:
    """Print a table."""
    options = _options()
    if options.child:
        limit_threads(options.threads)
        print(*measure(CONTENDERS[options.child]()))
        return
    results: dict[str, Any] = {"machine": describe_machine(), "gradient": {}}
    print(", ".join(f"{key} {value}" for key, value in results["machine"].items()))
    print(f"\ngradient of {BLOCKS} blocks of {LAYERS} layers, {WIDTH} wide, batch {BATCH}")
    for name in CONTENDERS:
        peak, seconds = in_a_process(name, options.threads)
        results["gradient"][name] = {"peak": peak, "seconds": seconds}
        print(f"{name:16} {peak / 1e6:8.0f} MB {1e3 * seconds:8.0f} ms", flush=True)
    write_json(options.json, results)


def block(weights: list[Tensor], x: Tensor) -> Tensor:
    """Return what some layers make of `x`."""
    for weight in weights:
        x = torch.tanh(x @ weight)
    return x


def loss_with(fun: Callable[[list[Tensor], Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """Return the loss of a network of blocks."""

    def loss(params: list[list[Tensor]], x: Tensor) -> Tensor:
        for weights in params:
            x = fun(weights, x)
        return x.square().mean()

    return loss


#: What makes each gradient function.
CONTENDERS: dict[str, Callable[[], Callable[..., Any]]] = {
    "eager": lambda: pf.grad(loss_with(block)),
    "eager, remat": lambda: pf.grad(loss_with(pf.remat(block))),
    "jit": lambda: pf.jit(pf.grad(loss_with(block))),
    "jit, remat": lambda: pf.jit(pf.grad(loss_with(pf.remat(block)))),
}


def measure(gradient: Callable[..., Any]) -> tuple[int, float]:
    """Return the bytes that one call takes at its peak, and the median seconds of a call."""
    params = [
        [torch.randn(WIDTH, WIDTH) / WIDTH**0.5 for _ in range(LAYERS)] for _ in range(BLOCKS)
    ]
    x = torch.randn(BATCH, WIDTH)
    gradient(params, x)
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        gradient(params, x)
        seconds.append(time.perf_counter() - start)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        gradient(params, x)
    return peak_bytes(profiler), statistics.median(seconds)


def peak_bytes(profiler: profile) -> int:
    """Return the most bytes that torch's allocator had given out and not taken back."""
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(itertools.accumulate(nbytes for _, nbytes in changes))


def in_a_process(contender: str, threads: int | None) -> tuple[int, float]:
    """Return what `measure` finds in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.remat", "--child", contender]
    if threads:
        command += ["--threads", str(threads)]
    run = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    peak, seconds = run.stdout.split()[-2:]
    return int(peak), float(seconds)


def _options() -> argparse.Namespace:
    options = parser("remat", __doc__)
    options.add_argument("--child", choices=CONTENDERS, help=argparse.SUPPRESS)
    return options.parse_args()


if __name__ == "__main__":
    main()
