"""What stands in a traced graph for a loop or a choice: one node with graphs of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from .tracing import Trace

#: Makes a runner of a traced graph: takes its inputs and captured tensors, returns its outputs.
Compile = Callable[[Trace], Callable[[list[Tensor]], Sequence[Tensor]]]


class Operator(ABC):
    """A node of a graph that runs other graphs as often as values tell it to.

    Called, it interprets them, which is what a graph shows and the backend "eager" does; `compiled`
    returns the same with every graph compiled, once however often it runs.
    """

    @abstractmethod
    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        """Run on the tensors that the node reads."""

    @abstractmethod
    def compiled(self, compile: Compile) -> Callable[[list[Tensor]], Sequence[Tensor]]:  # noqa: A002
        """Return what runs this operator with its graphs made fast by `compile`."""

    @property
    def __name__(self) -> str:
        """What a printed graph calls it."""
        return type(self).__name__.lower()


def is_control(node: Any) -> bool:
    """Say whether a node of a graph is a loop or a choice."""
    return isinstance(node.target, Operator)
