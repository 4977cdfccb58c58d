"""Timing side by side: interleaved repeats in one process, medians, ratios."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping

import torch


def interleave(
    contenders: Mapping[str, Callable[[], object]], repeats: int = 30, warmup: int = 5
) -> dict[str, float]:
    """Return the median seconds of one call of each contender.

    Each round calls every contender once, so that a busy moment of the machine strikes all alike.
    """
    for run in contenders.values():
        for _ in range(warmup):
            run()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            synchronize()
            start = time.perf_counter()
            run()
            synchronize()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def synchronize() -> None:
    """Wait for the device, so that what is timed has been done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def print_table(title: str, seconds: Mapping[str, float], reference: str) -> None:
    """Print milliseconds and the ratio of each contender to `reference`."""
    print(f"\n{title}")
    for name, value in seconds.items():
        print(f"  {name:<38} {1e3 * value:9.3f} ms   {value / seconds[reference]:6.2f}x")


def describe_machine() -> str:
    """Say on what the numbers were made."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return (
        f"torch {torch.__version__}, Python {platform.python_version()}, {device}, "
        f"{torch.get_num_threads()} threads"
    )
