"""A function computed again where its derivative is needed, out of reach of what is around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..staging.tracing import recorder
from . import flat
from .bodies import trace_body
from .flat import Axes, Batch, Flat
from .operators import BlockOperator
from .primitive import Primitive, bind


@dataclass(frozen=True)
class Remat(Primitive):
    """A function of which nothing is kept for the way back but its operands.

    Where it is `opaque`, its trace is a node of its own. A derivative is: were it inlined, a
    compiler would find that it computes what the function has computed, and keep that instead.
    """

    fun: Flat
    opaque: bool = False

    def run(self, operands: Sequence[Tensor]) -> Sequence[Tensor]:
        """Compute the function, or write it into the graph."""
        if not self.opaque or recorder() is None:
            return self.fun(*operands)
        return BlockOperator(trace_body(self.fun, operands)).recorded(operands)

    def push(
        self, operands: Sequence[Tensor], tangents: Sequence[Tensor | None]
    ) -> Sequence[Tensor]:
        """Push the tangents through the function, computed anew."""
        given = [i for i, tangent in enumerate(tangents) if tangent is not None]
        push = flat.pushed(self.fun, len(operands), given)
        return bind(
            Remat(lambda *arguments: push(*arguments)[1]),
            [*operands, *(t for t in tangents if t is not None)],
        )

    def pull(
        self,
        operands: Sequence[Tensor],
        outputs: Sequence[Tensor],
        cotangents: Sequence[Tensor | None],
        wanted: Sequence[int],
    ) -> Sequence[Tensor]:
        """Compute the function anew, and back."""
        given = [i for i, cotangent in enumerate(cotangents) if cotangent is not None]
        pull = flat.pulled(self.fun, len(operands), wanted, given)
        return bind(
            Remat(pull, opaque=True), [*operands, *(c for c in cotangents if c is not None)]
        )

    def batch(
        self, batch: Batch, axes: Axes, operands: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], Axes]:
        """Do the same over a batch."""
        fronts = [None if axis is None else 0 for axis in axes]
        fun = flat.mapped(self.fun, fronts, None, batch.randomness)
        outputs = bind(Remat(fun, self.opaque), list(map(flat.leading, operands, axes)))
        return outputs, [0] * len(outputs)
