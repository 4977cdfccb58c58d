"""The nodes of a graph that hold loops and choices, and how they run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..staging.control import Compile, Memory, Operator, Run
from ..staging.tracing import Trace
from .bodies import keeping, outputs_of


@dataclass(frozen=True, eq=False)
class ScanOperator(Operator):
    """A loop over slices; `bodies` maps a number of steps to the graph that takes them at once."""

    bodies: Mapping[int, Trace]
    consts: int
    carries: int
    length: int
    reverse: bool

    def compiled(self, compile: Compile) -> Run:  # noqa: A002
        """Return a loop in Python over compiled steps that writes the outputs into their places."""
        chunks = self._chunks()
        runs = {steps: _bound(compile, self.bodies[steps]) for steps in {*map(len, chunks)}}
        memory = self.outputs()[self.carries :]
        carries, end = self.carries, self.consts + self.carries

        def run(inputs: list[Tensor]) -> list[Tensor]:
            consts, carry = inputs[: self.consts], inputs[self.consts : end]
            xs = [x.unbind(0) for x in inputs[end:]]
            ys = [torch.empty(shape, dtype=dtype, device=dev) for shape, dtype, dev in memory]
            places = [y.unbind(0) for y in ys]
            for chunk in chunks:
                slices = [x[i] for i in chunk for x in xs]
                outputs = runs[len(chunk)]([*consts, *carry, *slices])
                carry = list(outputs[:carries])
                if places:
                    slots = [place[i] for i in chunk for place in places]
                    torch._foreach_copy_(slots, list(outputs[carries:]))
            return [*_owned(carry, inputs), *ys]

        return run

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
        """Return a loop in Python over a compiled condition and step."""
        holds, step = _bound(compile, self.condition), _bound(compile, self.body)

        def run(inputs: list[Tensor]) -> list[Tensor]:
            consts, carry = inputs[: self.consts], inputs[self.consts :]
            while holds([*consts, *carry])[0].item():
                carry = list(step([*consts, *carry]))
            return _owned(carry, inputs)

        return run

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
        """Return what reads the index and runs a compiled branch."""
        runs = [_bound(compile, branch) for branch in self.branches]

        def run(inputs: list[Tensor]) -> list[Tensor]:
            return _owned(runs[int(inputs[0].item())](inputs[1:]), inputs)

        return run

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
        body = _bound(compile, self.body)

        def run(inputs: list[Tensor]) -> list[Tensor]:
            return _owned(body(list(inputs)), inputs)

        return run

    def pruned(self, used: Sequence[int]) -> tuple[BlockOperator, list[int]]:
        """Return the block without what nobody reads."""
        kept = sorted(used)
        return BlockOperator(keeping(self.body, kept)), kept

    def outputs(self) -> list[Memory]:
        """Return what the graph returns."""
        return outputs_of(self.body)


def _bound(compile: Compile, trace: Trace) -> Run:  # noqa: A002
    """Return a runner that needs no captured tensors."""
    run, captured = compile(trace), trace.captured
    return (lambda inputs: run([*inputs, *captured])) if captured else run


def _owned(outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return the outputs with copies of those that lie in the memory of an input or of another.

    A donated input may be written while its neighbours are still read.
    """
    taken = {tensor.untyped_storage()._cdata for tensor in inputs}
    own = []
    for output in outputs:
        memory = output.untyped_storage()._cdata
        own.append(output.clone() if memory in taken else output)
        taken.add(memory)
    return own
