"""A loop of known length as a primitive: its derivatives and batches are such loops again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from . import flat, levels
from .bodies import trace_body
from .closures import mapped_outputs
from .flat import Axes, Batch, Flat
from .operators import ScanOperator
from .primitive import Primitive, bind


def loop(
    body: Flat,
    consts: Sequence[Tensor],
    init: Sequence[Tensor],
    xs: Sequence[Tensor],
    *,
    length: int,
    reverse: bool,
    unroll: int = 1,
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the last carry and the stacked outputs of a loop.

    `body` takes the constants, the carry and a slice of each of `xs`, and returns the next carry
    and a slice of each output; it closes over nothing that is traced.
    """
    sizes = (len(consts), len(init))
    saves = levels.runs_reverse()

    def saving(*arguments: Tensor) -> Sequence[Tensor]:
        return (*body(*arguments), *flat.split(arguments, *sizes)[1])

    scan = Scan(saving if saves else body, *sizes, saves, length, reverse, unroll)
    carry, ys = flat.split(bind(scan, [*consts, *init, *xs]), len(init))
    return carry, ys[: len(ys) - len(init)] if saves else ys


@dataclass(frozen=True)
class Scan(Primitive):
    """A loop whose operands are constants, the first carry, and what to go through.

    Where `saves`, the last outputs are the carries that the steps started from, stacked: the way
    back needs them.
    """

    reads_outputs: ClassVar[bool] = True

    body: Flat
    consts: int
    carries: int
    saves: bool
    length: int
    reverse: bool
    unroll: int

    def run(self, operands: Sequence[Tensor]) -> Sequence[Tensor]:
        """Write the loop into the graph; its outputs are the last carry, then what is stacked."""
        consts, init, xs = self._split(operands)
        init, xs = ([tensor.contiguous() for tensor in part] for part in (init, xs))
        slices = flat.slices(xs)
        steps = max(1, min(self.unroll, self.length))
        traces = {
            count: trace_body(self._chained(count, len(xs)), [*consts, *init, *slices * count])
            for count in {1, steps}
        }
        operator = ScanOperator(traces, *self._sizes, self.length, self.reverse)
        return operator.recorded([*consts, *init, *xs])

    def push(
        self, operands: Sequence[Tensor], tangents: Sequence[Tensor | None]
    ) -> Sequence[Tensor]:
        """Push the carry and its tangent through one loop."""
        consts, init, xs = self._split(operands)
        moving = flat.differentiable(init)
        tangents = list(tangents)
        for index in moving:
            if tangents[self.consts + index] is None:
                tangents[self.consts + index] = torch.zeros_like(init[index])
        inputs = [index for index, tangent in enumerate(tangents) if tangent is not None]
        d_consts, d_init, d_xs = [
            [tangent for tangent in part if tangent is not None] for part in self._split(tangents)
        ]
        push = flat.pushed(self.body, len(operands), inputs)
        sizes = (len(consts), len(d_consts), len(init), len(d_init), len(xs))

        def body(*arguments: Tensor) -> Sequence[Tensor]:
            own, d_own, carry, d_carry, x, d_x = flat.split(arguments, *sizes)
            outputs, directions = push(*own, *carry, *x, *d_own, *d_carry, *d_x)
            return (*outputs[: self.carries], *directions)

        last, d_ys = loop(
            body, [*consts, *d_consts], [*init, *d_init], [*xs, *d_xs], **self._settings()
        )
        return [*last[self.carries :], *d_ys]

    def pull(
        self,
        operands: Sequence[Tensor],
        outputs: Sequence[Tensor],
        cotangents: Sequence[Tensor | None],
        wanted: Sequence[int],
    ) -> Sequence[Tensor]:
        """Go through the loop backwards, computing each step anew from the carry that it got."""
        consts, init, xs = self._split(operands)
        moving = flat.differentiable(init)
        end = len(consts) + len(init)
        d_last = [
            torch.zeros_like(init[i]) if (given := cotangents[i]) is None else given for i in moving
        ]
        pulled = [i for i in range(len(init), len(cotangents)) if cotangents[i] is not None]
        own_wanted = [i for i in wanted if i < len(consts)]
        xs_wanted = [i for i in wanted if i >= end]
        inputs = [*own_wanted, *(len(consts) + i for i in moving), *xs_wanted]
        pull = flat.pulled(self.body, len(operands), inputs, [*moving, *pulled])
        sizes = (len(consts), len(own_wanted), len(moving), len(init), len(xs))

        def body(*arguments: Tensor) -> Sequence[Tensor]:
            own, d_own, d_carry, carry, x, d_y = flat.split(arguments, *sizes)
            found = pull(*own, *carry, *x, *d_carry, *d_y)
            more, d_carry, d_x = flat.split(found, len(d_own), len(moving))
            return (*(a + b for a, b in zip(d_own, more, strict=True)), *d_carry, *d_x)

        starts = outputs[len(outputs) - len(init) :]
        d_ys = [d_y for i in pulled if (d_y := cotangents[i]) is not None]
        zeros = [torch.zeros_like(consts[i]) for i in own_wanted]
        settings = {**self._settings(), "reverse": not self.reverse}
        first, d_xs = loop(body, consts, [*zeros, *d_last], [*starts, *xs, *d_ys], **settings)
        d_consts, d_init = flat.split(first, len(zeros))
        by_position = dict(zip(inputs, [*d_consts, *d_init, *d_xs], strict=True))
        return [by_position[i] for i in wanted]

    def batch(
        self, batch: Batch, axes: Axes, operands: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], Axes]:
        """Loop over the body of a batch; a carry is batched where the body makes it so."""
        consts, init, xs = self._split(operands)
        own_axes, init_axes, xs_axes = self._split(axes)
        consts = list(map(flat.leading, consts, own_axes))
        init = list(map(flat.leading, init, init_axes))
        xs = [flat.leading(x, axis, place=1) for x, axis in zip(xs, xs_axes, strict=True)]
        fronts: list[int | None] = [None if axis is None else 0 for axis in axes]
        while True:
            examples = [*consts, *init, *flat.slices(xs)]
            outs = mapped_outputs(self.body, fronts, examples, batch)
            grown = [
                i
                for i in range(self.carries)
                if outs[i] is not None and fronts[self.consts + i] is None
            ]
            if not grown:
                break
            for i in grown:
                fronts[self.consts + i] = 0
                init[i] = flat.repeated(init[i], batch.size)
        outs[: self.carries] = fronts[self.consts : self.consts + self.carries]
        body = flat.mapped(self.body, fronts, outs, batch.randomness)
        outputs = bind(dataclasses.replace(self, body=body), [*consts, *init, *xs])
        places = [axis if i < self.carries or axis is None else 1 for i, axis in enumerate(outs)]
        return outputs, places

    def _split(self, operands: Sequence[Any]) -> list[list[Any]]:
        """Return what belongs to the constants, to the carry and to what is gone through."""
        return flat.split(operands, *self._sizes)

    @property
    def _sizes(self) -> tuple[int, int]:
        return self.consts, self.carries

    def _settings(self) -> dict[str, Any]:
        return {"length": self.length, "reverse": self.reverse, "unroll": self.unroll}

    def _chained(self, steps: int, width: int) -> Flat:
        """Return several steps in a row, which take and return the slices of one after another."""

        def chain(*arguments: Tensor) -> Sequence[Tensor]:
            own, carry, slices = self._split(arguments)
            ys: list[Tensor] = []
            for step in range(steps):
                x = slices[step * width : (step + 1) * width]
                carry, y = flat.split(self.body(*own, *carry, *x), self.carries)
                ys += y
            return (*carry, *ys)

        return chain
