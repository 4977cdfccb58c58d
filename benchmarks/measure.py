"""Timing side by side: contenders in turns, medians and ratios, a table and a file."""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .machine import wait

#: A turn is as many steps as take about this long, so that each contender warms its own caches.
TURN_SECONDS = 0.03
MAX_STEPS_PER_TURN = 200


def interleave(
    contenders: Mapping[str, Callable[[], Any]], repeats: int = 30, warmup: int = 5
) -> dict[str, list[float]]:
    """Return the seconds that a step of each contender took, in each of `repeats` rounds.

    In a round every contender has a turn, so that a busy moment of the machine strikes all alike. A
    turn begins with a step that is not timed, which brings back what the others drove out of the
    caches; then come the timed ones, one after another as in training, and the wait for the last.
    """
    steps = {name: _steps_per_turn(step, warmup) for name, step in contenders.items()}
    gc.collect()
    gc.freeze()  # Compilers leave millions of objects: whoever is collecting would pay for them.
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, step in contenders.items():
            wait(step())
            seconds[name].append(_turn(step, steps[name]))
    gc.unfreeze()
    return seconds


def _steps_per_turn(step: Callable[[], Any], warmup: int) -> int:
    for _ in range(warmup):
        wait(step())
    fill = TURN_SECONDS / _turn(step, 1)
    return min(max(1, math.ceil(fill)), MAX_STEPS_PER_TURN)


def _turn(step: Callable[[], Any], count: int) -> float:
    """Return the mean seconds of `count` steps in a row."""
    start = time.perf_counter()
    for _ in range(count):
        value = step()
    wait(value)
    return (time.perf_counter() - start) / count


def table(
    rows: Mapping[str, Mapping[str, float]],
    scale: float,
    unit: str,
    references: Sequence[str] = (),
    width: int = 24,
) -> str:
    """Return a line for each row: its columns in `unit`, and its ratios to each reference row.

    The ratios are those of the first column.
    """
    columns = list(next(iter(rows.values())))
    first = columns[0]
    references = [name for name in references if name in rows]
    heads = [*(f"{name}, {unit}" for name in columns), *(f"/ {name}" for name in references)]
    widths = [max(12, len(head) + 2) for head in heads]
    lines = [" " * width + "".join(f"{h:>{w}}" for h, w in zip(heads, widths, strict=True))]
    for name, row in rows.items():
        cells = [f"{scale * row[column]:.3f}" for column in columns]
        cells += [f"{row[first] / rows[reference][first]:.2f}x" for reference in references]
        line = "".join(f"{cell:>{w}}" for cell, w in zip(cells, widths, strict=True))
        lines.append(f"{name:<{width}}{line}")
    return "\n".join(lines)


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median of each."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def write_json(path: Path | None, results: Mapping[str, Any]) -> None:
    """Write `results`, where a path is given."""
    if path is not None:
        path.write_text(json.dumps(results, indent=1) + "\n")


def parser(command: str, description: str) -> argparse.ArgumentParser:
    """Return the parser of a benchmark's command line, with the options that all have."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{command}",
        description=description.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("--threads", type=int, help="all cores unless given")
    made.add_argument("--json", type=Path, metavar="PATH", help="also write everything here")
    return made
