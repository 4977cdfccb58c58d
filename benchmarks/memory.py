"""Peak memory of a step of Adam on a large network.

    python -m benchmarks.memory

Each number comes from a process of its own, over some steps after the first few. On a CPU it is the
peak of the process's resident memory less what stays resident when the contender is gone, which is
code and the remains of compilation. On CUDA it is what torch's allocator says, so JAX is left out.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .contenders import CONTENDERS, Step, available
from .frameworks import DEVICE
from .machine import describe_machine, limit_threads, wait
from .measure import parser, table, write_json
from .workloads import Workload, mlp

DEPTH, WIDTH = 4, 2048
REFERENCE = "torch.compile(module)"
STEPS = 5


def main() -> None:
    """Print a table."""
    options = _options()
    limit_threads(options.threads)
    if options.child:
        print(peak_bytes(lambda: _prepared(CONTENDERS[options.child])))
        return
    workload = mlp(DEPTH, WIDTH, WIDTH)
    names = [n for n in available(workload, options.contenders) if (n, DEVICE) != ("jax", "cuda")]
    del workload
    results: dict[str, Any] = {"machine": describe_machine(), "bytes": {}}
    print(", ".join(f"{key} {value}" for key, value in results["machine"].items()))
    for name in names:
        results["bytes"][name] = {"peak": in_a_process(name, options.threads)}
    print(f"\nMLP of {DEPTH} layers, {WIDTH} wide, Adam")
    print(table(results["bytes"], 1e-6, "MB", (REFERENCE,)))
    write_json(options.json, results)


def in_a_process(contender: str, threads: int | None) -> int:
    """Return `peak_bytes` of a contender, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", "--child", contender]
    if threads:
        command += ["--threads", str(threads)]
    run = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return int(run.stdout.split()[-1])


def _prepared(contender: Callable[[Workload], Step]) -> Step:
    workload = mlp(DEPTH, WIDTH, WIDTH)
    step = contender(workload)
    workload.module.to("meta")  # The contender has parameters of its own.
    return step


def peak_bytes(make_step: Callable[[], Step]) -> int:
    """Return the most memory that what `make_step` keeps and its steps took."""
    step = make_step()
    _run(step)
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        _run(step)
        return torch.cuda.max_memory_allocated()
    _trim()
    Path("/proc/self/clear_refs").write_text("5")  # The peak starts again from here.
    _run(step)
    peak = _resident("VmHWM")
    del step
    _trim()
    return peak - _resident("VmRSS")


def _run(step: Step) -> None:
    for _ in range(STEPS):
        wait(step())


def _trim() -> None:
    """Give free memory back to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _resident(field: str) -> int:
    """Return the bytes that Linux gives for one field of this process's status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"the system does not tell {field}.")


def _options() -> argparse.Namespace:
    options = parser("memory", __doc__)
    add = options.add_argument
    add("--contenders", nargs="+", choices=CONTENDERS, metavar="NAME", help="all there are")
    add("--child", choices=CONTENDERS, help=argparse.SUPPRESS)
    return options.parse_args()


if __name__ == "__main__":
    main()
