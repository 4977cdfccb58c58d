"""What runs loops and choices once their graphs are compiled: plain data, which can be saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..staging.control import Compile, Memory, Run
from ..staging.tracing import Trace


@dataclass(frozen=True)
class ScanRunner:
    """A loop in Python over compiled steps that writes the outputs into their places."""

    runs: Mapping[int, Run]
    chunks: Sequence[range]
    memory: Sequence[Memory]
    consts: int
    carries: int

    def __call__(self, inputs: list[Tensor]) -> list[Tensor]:
        """Return the last carry and the stacked outputs."""
        end = self.consts + self.carries
        consts, carry = inputs[: self.consts], inputs[self.consts : end]
        xs = [x.unbind(0) for x in inputs[end:]]
        ys = [torch.empty(shape, dtype=dtype, device=dev) for shape, dtype, dev in self.memory]
        places = [y.unbind(0) for y in ys]
        for chunk in self.chunks:
            slices = [x[i] for i in chunk for x in xs]
            outputs = self.runs[len(chunk)]([*consts, *carry, *slices])
            carry = list(outputs[: self.carries])
            if places:
                slots = [place[i] for i in chunk for place in places]
                torch._foreach_copy_(slots, list(outputs[self.carries :]))
        return [*_owned(carry, inputs), *ys]


@dataclass(frozen=True)
class WhileRunner:
    """A loop in Python over a compiled condition and step."""

    holds: Run
    step: Run
    consts: int

    def __call__(self, inputs: list[Tensor]) -> list[Tensor]:
        """Return the last carry."""
        consts, carry = inputs[: self.consts], inputs[self.consts :]
        while self.holds([*consts, *carry])[0].item():
            carry = list(self.step([*consts, *carry]))
        return _owned(carry, inputs)


@dataclass(frozen=True)
class ChoiceRunner:
    """What reads the index and runs a compiled branch."""

    runs: Sequence[Run]

    def __call__(self, inputs: list[Tensor]) -> list[Tensor]:
        """Return the outputs of the branch."""
        return _owned(self.runs[int(inputs[0].item())](inputs[1:]), inputs)


@dataclass(frozen=True)
class BlockRunner:
    """A compiled graph that runs once."""

    run: Run

    def __call__(self, inputs: list[Tensor]) -> list[Tensor]:
        """Return the outputs of the graph."""
        return _owned(self.run(list(inputs)), inputs)


@dataclass(frozen=True)
class _Bound:
    """A runner with the tensors that its graph captured."""

    run: Run
    captured: Sequence[Tensor]

    def __call__(self, inputs: list[Tensor]) -> Sequence[Tensor]:
        return self.run([*inputs, *self.captured])


def bound(compile: Compile, trace: Trace) -> Run:  # noqa: A002
    """Return a runner that needs no captured tensors."""
    run = compile(trace)
    return _Bound(run, trace.captured) if trace.captured else run


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
