"""What stands in a traced graph for a loop or a choice: one node with graphs of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._C import _functorch as functorch
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter

from .tracing import Trace, recorder

#: The shape, dtype and device of a contiguous tensor.
Memory = tuple[Sequence[int], torch.dtype, torch.device]
#: Takes the list of inputs, which it may empty, and returns the outputs.
Run = Callable[[list[Tensor]], Sequence[Tensor]]
#: Makes a runner of a traced graph: takes its inputs and captured tensors, returns its outputs.
Compile = Callable[[Trace], Run]


class Operator(ABC):
    """A node of a graph that runs other graphs as often as values tell it to.

    Called, it interprets them, which is what a graph shows, or becomes a node of the graph that is
    being recorded; `compiled` returns what runs it with every graph compiled, once however often it
    runs.
    """

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        """Run on the tensors that the node reads."""
        if recorder() is None:
            return self.compiled(interpreted)(list(inputs))
        return _through_functionalize(self.recorded, inputs)

    def recorded(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Write a node into the graph that is being recorded, and return its outputs."""
        active = recorder()
        assert active is not None
        with active.paused():
            results = [
                torch.empty(shape, dtype=dtype, device=device)
                for shape, dtype, device in self.outputs()
            ]
        active.record(self, list(inputs), {}, results)
        return results

    @abstractmethod
    def outputs(self) -> list[Memory]:
        """Return what each output looks like."""

    @abstractmethod
    def compiled(self, compile: Compile) -> Run:  # noqa: A002
        """Return what runs this operator with its graphs made fast by `compile`."""

    @abstractmethod
    def pruned(self, used: Sequence[int]) -> tuple[Operator, list[int]]:
        """Return an operator that computes the outputs `used`, and where its outputs were here."""

    @property
    def __name__(self) -> str:
        """What a printed graph calls it."""
        return self.__class__.__qualname__.removesuffix("Operator").lower()


def interpreted(trace: Trace) -> Run:
    """Return what runs a graph node by node."""
    module = fx.GraphModule({}, trace.graph)
    return lambda inputs: module(*inputs)


def _through_functionalize(
    fun: Callable[[Sequence[Tensor]], list[Tensor]], inputs: Sequence[Tensor]
) -> list[Tensor]:
    """Call `fun` below the transform that removes writes, where that runs; it writes nothing."""
    if functorch.peek_interpreter_stack() is None:
        return fun(inputs)
    interpreter = retrieve_current_functorch_interpreter()
    for tensor in inputs:
        torch._sync(tensor)  # type: ignore[attr-defined, no-untyped-call]
    plain = [functorch._unwrap_functional_tensor(tensor, True) for tensor in inputs]
    with interpreter.lower():
        results = fun(plain)
    level = interpreter.level()
    return [functorch._wrap_functional_tensor(result, level) for result in results]


def is_control(node: Any) -> bool:
    """Say whether a node of a graph is a loop or a choice."""
    return isinstance(node.target, Operator)
