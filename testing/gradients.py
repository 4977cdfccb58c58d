"""Gradients over time: what a leaf may meet in a training run, in few words."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..functional import tree

__all__ = ["GradientSequence", "Run"]


class Run(NamedTuple):
    """Some steps in a row of the gradients of one leaf.

    Attributes
    ----------
    kind
        "constant"; "flipping": the sign changes at every step; "decreasing": each is 0.7 times the
        one before; "zero"; "spike": the first is a thousand times the others; "noisy": every step
        has its own numbers, some of them zero.
    exponent
        The largest element is near `10**exponent`.
    length
        How many steps.
    """

    kind: str
    exponent: int
    length: int

    def __repr__(self) -> str:
        """Show one line: `12 x flipping 1e-3`."""
        return f"{self.length} x {self.kind} 1e{self.exponent}"


class GradientSequence(Sequence[Any]):
    """The gradients of each step: trees like `params`, and how they came about.

    Attributes
    ----------
    runs
        For each leaf, by its path, the runs that are repeated until there are enough steps.
    """

    def __init__(self, params: Any, steps: int, seed: int, runs: Sequence[Sequence[Run]]) -> None:
        leaves, structure = tree.flatten(params)
        self.runs = dict(zip(tree.path_strings(params, "grads"), runs, strict=True))
        columns = [
            _column(leaf, position, steps, seed, of_leaf)
            for position, (leaf, of_leaf) in enumerate(zip(leaves, runs, strict=True))
        ]
        self._steps = [
            tree.unflatten(structure, [column[step].clone() for column in columns])
            for step in range(steps)
        ]

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, step: Any) -> Any:
        return self._steps[step]

    def __repr__(self) -> str:
        """Show what was drawn, which says more than the numbers."""
        return f"GradientSequence({len(self)} steps: {self.runs})"


def _column(leaf: Tensor, position: int, steps: int, seed: int, runs: Sequence[Run]) -> Tensor:
    """Return the gradients of one leaf, stacked: its runs, one after the other, again and again.

    Elements differ from one another, and so do leaves, so that an exchange of two does not go
    unseen.
    """
    every = ((run, k) for run in itertools.cycle(runs) for k in range(run.length))
    taken = list(itertools.islice(every, steps))
    elements = _harmonic(leaf, position).expand(steps, -1)
    if any(run.kind == "noisy" for run, _ in taken):
        is_noisy = torch.tensor([[run.kind == "noisy"] for run, _ in taken])
        noise = _noise(leaf, steps, torch.Generator().manual_seed(1000 * seed + position))
        elements = torch.where(is_noisy, noise, elements)
    factors = torch.tensor([[_factor(run, k)] for run, k in taken], dtype=torch.float64)
    return (elements * factors).reshape(steps, *leaf.shape).to(leaf.device, leaf.dtype)


def _factor(run: Run, k: int) -> float:
    """Return by what the elements of the k-th gradient of a run are multiplied."""
    course = {
        "flipping": (-1.0) ** k,
        "decreasing": 0.7**k,
        "zero": 0.0,
        "spike": 1.0 if k == 0 else 1e-3,
    }
    return course.get(run.kind, 1.0) * 10.0**run.exponent


def _harmonic(leaf: Tensor, position: int) -> Tensor:
    """Return 1, -1/2, 1/3, ... for the first leaf, 1/2, -1/3, 1/4, ... for the second."""
    index = torch.arange(leaf.numel(), dtype=torch.float64)
    numbers = (-1) ** index / (1 + position + index)
    return torch.complex(numbers, numbers / 2) if leaf.is_complex() else numbers


def _noise(leaf: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    """Draw numbers in [-1, 1) for each step, a tenth of them zero, but not the first."""
    size = (steps, leaf.numel())
    shape = (*size, 2) if leaf.is_complex() else size
    numbers = torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1
    keep = torch.rand(size, generator=generator) > 0.1
    keep[:, :1] = True
    return (torch.view_as_complex(numbers) if leaf.is_complex() else numbers) * keep
