"""How long the first step takes: cold, with every cache empty, and warm, in a second process.

    python -m benchmarks.compile_time --workloads mlp-10x64 transformer

Each number comes from a process of its own, and does not count the imports.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from .contenders import CONTENDERS, available
from .machine import describe_machine, limit_threads, wait
from .measure import parser, table, write_json
from .workloads import WORKLOADS

COMPILED = ("torch.compile(module)", "torch.compile(step)", "jax", "purefn jit", "purefn donated")


def main() -> None:
    """Print a table for each workload."""
    options = _options()
    limit_threads(options.threads)
    if options.child:
        print(first_step(*options.child))
        return
    results: dict[str, Any] = {"machine": describe_machine(), "seconds": {}}
    print(", ".join(f"{key} {value}" for key, value in results["machine"].items()))
    for workload in options.workloads:
        names = available(WORKLOADS[workload](), options.contenders)
        rows = {name: cold_and_warm(workload, name, options.threads) for name in names}
        results["seconds"][workload] = rows
        print(f"\n{workload}\n{table(rows, 1, 's', ('torch.compile(step)', 'jax'))}", flush=True)
        write_json(options.json, results)


def first_step(workload: str, contender: str) -> float:
    """Return the seconds from a ready workload to the end of its first step."""
    prepared = WORKLOADS[workload]()
    start = time.perf_counter()
    wait(CONTENDERS[contender](prepared)())
    return time.perf_counter() - start


def cold_and_warm(workload: str, contender: str, threads: int | None) -> dict[str, float]:
    """Return the seconds of a process with empty caches, and of the next one."""
    command = [sys.executable, "-m", "benchmarks.compile_time", "--child", workload, contender]
    if threads:
        command += ["--threads", str(threads)]
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | _caches(folder)
        seconds = {}
        for kind in ("cold", "warm"):
            run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
            seconds[kind] = float(run.stdout.split()[-1])
    return seconds


def _caches(folder: str) -> dict[str, str]:
    """Return the settings that keep all compilers' caches in `folder`."""
    return {
        "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
        "TRITON_CACHE_DIR": f"{folder}/triton",
        "JAX_COMPILATION_CACHE_DIR": f"{folder}/jax",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "XDG_CACHE_HOME": f"{folder}/other",
    }


def _options() -> argparse.Namespace:
    options = parser("compile_time", __doc__)
    add = options.add_argument
    add("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="NAME")
    add("--contenders", nargs="+", choices=CONTENDERS, default=list(COMPILED), metavar="NAME")
    add("--child", nargs=2, help=argparse.SUPPRESS)
    return options.parse_args()


if __name__ == "__main__":
    main()
