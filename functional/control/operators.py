"""The nodes of a graph that hold loops and choices, and how they run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..staging.control import Compile, Memory, Operator, Run
from ..staging.tracing import Trace
from .bodies import keeping, outputs_of
from .runners import BlockRunner, ChoiceRunner, ScanRunner, WhileRunner, bound


@dataclass(frozen=True, eq=False)
class ScanOperator(Operator):
    """A loop over slices; `bodies` maps a number of steps to the graph that takes them at once."""

    bodies: Mapping[int, Trace]
    consts: int
    carries: int
    length: int
    reverse: bool

    def compiled(self, compile: Compile) -> Run:  # noqa: A002
        """Return a loop over compiled steps."""
        chunks = self._chunks()
        runs = {steps: bound(compile, self.bodies[steps]) for steps in {*map(len, chunks)}}
        memory = self.outputs()[self.carries :]
        return ScanRunner(runs, chunks, memory, self.consts, self.carries)

    def pruned(self, used: Sequence[int]) -> tuple[ScanOperator, list[int]]:
        """Return the loop without the stacked outputs that nobody reads."""
        width = len(self.outputs()) - self.carries
        every = list(range(self.carries))
        kept = [j for j in range(self.carries, self.carries + width) if j in used]
        bodies = {
            steps: keeping(body, [*every, *(j + s * width for s in range(steps) for j in kept)])
            for steps, body in self.bodies.items()
        }
        return dataclasses.replace(self, bodies=bodies), [*every, *kept]

    def outputs(self) -> list[Memory]:
        """Return what the carry and the stacked outputs look like."""
        body = outputs_of(self.bodies[1])
        ys = body[self.carries :]
        stacked = [((self.length, *shape), dtype, device) for shape, dtype, device in ys]
        return [*body[: self.carries], *stacked]

    def _chunks(self) -> list[range]:
        """Return the steps in the order in which they run, as many at once as a graph takes."""
        order = range(self.length)[:: -1 if self.reverse else 1]
        most = max(self.bodies)
        whole = self.length - self.length % most
        together = [order[i : i + most] for i in range(0, whole, most)]
        return together + [order[i : i + 1] for i in range(whole, self.length)]


@dataclass(frozen=True, eq=False)
class WhileOperator(Operator):
    """A loop that reads its condition, a boolean tensor, before each step."""

    condition: Trace
    body: Trace
    consts: int

    def compiled(self, compile: Compile) -> Run:  # noqa: A002
        """Return a loop over a compiled condition and step."""
        return WhileRunner(bound(compile, self.condition), bound(compile, self.body), self.consts)

    def pruned(self, used: Sequence[int]) -> tuple[WhileOperator, list[int]]:
        """Return the loop, all of whose outputs its own next step may read."""
        return self, list(range(len(self.outputs())))

    def outputs(self) -> list[Memory]:
        """Return what the carry looks like."""
        return outputs_of(self.body)


@dataclass(frozen=True, eq=False)
class ChoiceOperator(Operator):
    """One of several graphs; the first operand, an integer tensor, says which."""

    branches: Sequence[Trace]

    def compiled(self, compile: Compile) -> Run:  # noqa: A002
        """Return what runs the compiled branch that the index says."""
        return ChoiceRunner([bound(compile, branch) for branch in self.branches])

    def pruned(self, used: Sequence[int]) -> tuple[ChoiceOperator, list[int]]:
        """Return the choice without what no branch need compute."""
        kept = sorted(used)
        return ChoiceOperator([keeping(branch, kept) for branch in self.branches]), kept

    def outputs(self) -> list[Memory]:
        """Return what every branch returns."""
        return outputs_of(self.branches[0])


@dataclass(frozen=True, eq=False)
class BlockOperator(Operator):
    """A graph that runs once, and that nothing around it is merged with."""

    body: Trace

    def compiled(self, compile: Compile) -> Run:  # noqa: A002
        """Return the compiled graph."""
        return BlockRunner(bound(compile, self.body))

    def pruned(self, used: Sequence[int]) -> tuple[BlockOperator, list[int]]:
        """Return the block without what nobody reads."""
        kept = sorted(used)
        return BlockOperator(keeping(self.body, kept)), kept

    def outputs(self) -> list[Memory]:
        """Return what the graph returns."""
        return outputs_of(self.body)
