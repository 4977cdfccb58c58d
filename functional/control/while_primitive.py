"""A loop of unknown length as a primitive: forward derivatives and batches are such loops again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import flat
from .bodies import trace_body
from .closures import mapped_outputs
from .flat import Axes, Batch, Flat
from .operators import WhileOperator
from .primitive import Primitive, bind


@dataclass(frozen=True)
class While(Primitive):
    """A loop whose operands are constants and the first carry; both functions take all of them."""

    condition: Flat
    body: Flat
    consts: int

    def run(self, operands: Sequence[Tensor]) -> Sequence[Tensor]:
        """Write the loop into the graph."""
        consts, init = flat.split(operands, self.consts)
        operands = [*consts, *(tensor.contiguous() for tensor in init)]
        condition, body = trace_body(self.condition, operands), trace_body(self.body, operands)
        return WhileOperator(condition, body, self.consts).recorded(operands)

    def push(
        self, operands: Sequence[Tensor], tangents: Sequence[Tensor | None]
    ) -> Sequence[Tensor]:
        """Push the carry and its tangent through one loop."""
        consts, init = flat.split(operands, self.consts)
        moving = flat.differentiable(init)
        given = [i for i in range(self.consts) if tangents[i] is not None]
        d_consts = [tangent for tangent in tangents[: self.consts] if tangent is not None]
        d_init = [
            torch.zeros_like(init[i]) if (d := tangents[self.consts + i]) is None else d
            for i in moving
        ]
        push = flat.pushed(self.body, len(operands), [*given, *(self.consts + i for i in moving)])
        sizes = (len(consts), len(d_consts), len(init))

        def condition(*arguments: Tensor) -> Sequence[Tensor]:
            own, _, carry, _ = flat.split(arguments, *sizes)
            return self.condition(*own, *carry)

        def body(*arguments: Tensor) -> Sequence[Tensor]:
            own, d_own, carry, d_carry = flat.split(arguments, *sizes)
            carry, d_carry = push(*own, *carry, *d_own, *d_carry)
            return (*carry, *d_carry)

        loop = While(condition, body, len(consts) + len(d_consts))
        return bind(loop, [*consts, *d_consts, *init, *d_init])[len(init) :]

    def pull(self, *_: object) -> Sequence[Tensor]:
        """Refuse: how many steps to go back, and from which carries, is not known."""
        raise RuntimeError(REVERSE)

    def batch(
        self, batch: Batch, axes: Axes, operands: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], Axes]:
        """Loop until no example goes on; an example that has ended keeps its carry."""
        operands = list(map(flat.leading, operands, axes))
        fronts: list[int | None] = [None if axis is None else 0 for axis in axes]
        carries = range(self.consts, len(operands))
        while True:
            (asked,) = mapped_outputs(self.condition, fronts, operands, batch)
            outs = mapped_outputs(self.body, fronts, operands, batch)
            if asked is not None:
                outs = [0] * len(outs)
            grown = [
                i
                for i, out in zip(carries, outs, strict=True)
                if out is not None and fronts[i] is None
            ]
            if not grown:
                break
            for i in grown:
                fronts[i] = 0
                operands[i] = flat.repeated(operands[i], batch.size)
        outs = fronts[self.consts :]
        condition = flat.mapped(self.condition, fronts, [asked], batch.randomness)
        if asked is None:
            body = flat.mapped(self.body, fronts, outs, batch.randomness)
            return bind(While(condition, body, self.consts), operands), outs

        def going_on(*arguments: Tensor) -> Sequence[Tensor]:
            goes_on, *rest = self.condition(*arguments), *self.body(*arguments)
            return [
                torch.where(goes_on[0], new, old)
                for new, old in zip(rest, arguments[self.consts :], strict=True)
            ]

        def any_goes_on(*arguments: Tensor) -> Sequence[Tensor]:
            return [condition(*arguments)[0].any()]

        body = flat.mapped(going_on, fronts, outs, batch.randomness)
        return bind(While(any_goes_on, body, self.consts), operands), outs


#: Why there is no reverse derivative, and what to write instead.
REVERSE = (
    "while_loop has no reverse-mode derivative, for its length is not known before it has run and "
    "no step is kept (fori_loop is a while_loop where a bound is a tensor). Use `scan`, or "
    "`fori_loop` with Python integers as bounds, or forward mode: `jvp`, `jacfwd`."
)


class ForwardOnly(Primitive):
    """The identity on what a loop in Python gives, which keeps reverse derivatives from passing."""

    def run(self, operands: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the operands."""
        return operands

    def push(
        self, operands: Sequence[Tensor], tangents: Sequence[Tensor | None]
    ) -> Sequence[Tensor]:
        """Let the tangents pass."""
        pairs = list(zip(operands, tangents, strict=True))
        moving = flat.differentiable(operands)
        return [torch.zeros_like(o) if t is None else t for o, t in flat.picked(pairs, moving)]

    def pull(self, *_: object) -> Sequence[Tensor]:
        """Refuse, as a loop in a graph does."""
        raise RuntimeError(REVERSE)

    def batch(
        self, batch: Batch, axes: Axes, operands: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], Axes]:
        """Return the operands."""
        return bind(self, operands), axes
