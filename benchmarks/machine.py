"""The machine: how much of it a run may use, and what it is."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from typing import Any

import torch

from .frameworks import DEVICE

PACKAGES = ("torch", "jax", "jaxlib", "optax", "torchopt", "optree", "numpy")


def limit_threads(count: int | None) -> None:
    """Let torch and JAX use `count` threads, by default all that the process may use.

    XLA makes as many threads as the process has cores when it first runs, so the process is bound
    to that many. Call this before anything is computed, and on a quiet machine: torch's threads
    spin while they wait for one another, also for one that another process keeps from running.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if count is None:
        count = len(cores) or torch.get_num_threads()
    if cores:
        if count > len(cores):
            raise ValueError(f"expected at most {len(cores)} threads, got {count}.")
        os.sched_setaffinity(0, cores[:count])
    torch.set_num_threads(count)


def wait(value: Any) -> None:
    """Return when `value`, an array of torch or JAX, has been computed."""
    if not isinstance(value, torch.Tensor):
        value.block_until_ready()
    elif value.is_cuda:
        torch.cuda.synchronize()


def describe_machine() -> dict[str, Any]:
    """Say when and on what the numbers were made, and how busy it was before."""
    return {
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name() if DEVICE == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else "unknown",
        "python": platform.python_version(),
        **{name: version for name in PACKAGES if (version := _version(name))},
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
