"""A choice between functions as a primitive: its derivatives and batches are choices again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import flat
from .bodies import trace_body
from .flat import Axes, Batch, Flat
from .operators import ChoiceOperator
from .primitive import Primitive, bind


@dataclass(frozen=True)
class Choice(Primitive):
    """One of several functions of the same operands; the operand before them says which."""

    branches: Sequence[Flat]

    def run(self, operands: Sequence[Tensor]) -> Sequence[Tensor]:
        """Write the choice into the graph."""
        traces = [trace_body(branch, operands[1:]) for branch in self.branches]
        return ChoiceOperator(traces).recorded(operands)

    def push(
        self, operands: Sequence[Tensor], tangents: Sequence[Tensor | None]
    ) -> Sequence[Tensor]:
        """Choose between the forward derivatives."""
        size = len(operands) - 1
        given = [i for i in range(size) if tangents[i + 1] is not None]

        def tangents_of(branch: Flat) -> Flat:
            push = flat.pushed(branch, size, given)
            return lambda *arguments: push(*arguments)[1]

        choice = Choice(list(map(tangents_of, self.branches)))
        return bind(choice, [*operands, *(t for t in tangents if t is not None)])

    def pull(
        self,
        operands: Sequence[Tensor],
        outputs: Sequence[Tensor],
        cotangents: Sequence[Tensor | None],
        wanted: Sequence[int],
    ) -> Sequence[Tensor]:
        """Choose between the reverse derivatives, which compute their branch anew."""
        given = [i for i, cotangent in enumerate(cotangents) if cotangent is not None]
        inputs = [i - 1 for i in wanted]
        size = len(operands) - 1
        choice = Choice([flat.pulled(branch, size, inputs, given) for branch in self.branches])
        return bind(choice, [*operands, *(c for c in cotangents if c is not None)])

    def batch(
        self, batch: Batch, axes: Axes, operands: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], Axes]:
        """Choose for all examples at once, or compute every branch where each chooses."""
        index, *rest = map(flat.leading, operands, axes)
        fronts: list[int | None] = [None if axis is None else 0 for axis in axes]
        if fronts[0] is not None:
            return self._select(batch, fronts, [index, *rest])
        branches = [
            flat.mapped(branch, fronts[1:], None, batch.randomness) for branch in self.branches
        ]
        outputs = bind(Choice(branches), [index, *rest])
        return outputs, [0] * len(outputs)

    def _select(
        self, batch: Batch, fronts: Axes, operands: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], Axes]:
        def chosen(index: Tensor, *rest: Tensor) -> Sequence[Tensor]:
            return select(index, [branch(*rest) for branch in self.branches])

        outputs = flat.mapped(chosen, fronts, None, batch.randomness)(*operands)
        return outputs, [0] * len(outputs)


def select(index: Tensor, outputs: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Return the outputs at `index`, which has a value of its own in each example."""
    first, *others = outputs
    chosen = list(first)
    for number, output in enumerate(others, start=1):
        chosen = [
            torch.where(index == number, new, old) for new, old in zip(output, chosen, strict=True)
        ]
    return chosen
