"""The gradient of one example as a graph of torch operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch._decomp import decomposition_table
from torch._ops import OpOverload
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import _disable_current_modes

from .. import tree
from ..control.closures import convert
from ..control.scans import unrolled
from ..staging import graphs
from ..staging.control import is_control
from ..staging.tracing import trace
from .calls import Call

#: Longer loops are not taken apart: a graph of so many steps would take minutes to compile.
LONGEST_LOOP = 128


class Captured(NamedTuple):
    """The graph of loss, auxiliary output and gradient of one example.

    It takes the tensors that the losses `closed_over`, the parameters, and an example; it returns
    the loss, the leaves of the auxiliary output, and a gradient for each parameter.
    """

    graph: fx.Graph
    closed_over: list[Tensor]
    aux: tree.Structure
    params: int

    @property
    def shared(self) -> int:
        """How many of the inputs are the same for every example."""
        return len(self.closed_over) + self.params


def capture(call: Call) -> Captured | None:
    """Return the graph of the gradient of one example, None where a loop or choice is in it."""
    count, aux = len(call.params), [tree.structure(None)]

    def flat_loss(*leaves: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        loss, more = call.loss(leaves[:count], leaves[count:])
        auxiliary, aux[0] = tree.flatten(more)
        return loss, (loss, *auxiliary)

    def gradient(*leaves: Tensor) -> list[Tensor]:
        of_params = torch.func.grad(flat_loss, argnums=tuple(range(count)), has_aux=True)
        grads, outputs = of_params(*leaves)
        return [*outputs, *grads]

    examples = [*call.params, *call.examples()]
    # The fused kernels of attention have no batching rule for their derivatives.
    with sdpa_kernel(SDPBackend.MATH), unrolled(LONGEST_LOOP):
        converted, closed_over, _ = convert(call.transform, gradient, examples)
        with _disable_current_modes():
            traced = trace(lambda leaves: converted(*leaves), [*closed_over, *examples])
    if any(map(is_control, traced.graph.nodes)) or traced.captured:
        return None
    with _disable_current_modes():
        graph = graphs.functional(traced.graph, traced.mode)
        graph = graphs.decompose(graph, traced.mode, _without_batching_rule(graph))
    return Captured(graph, closed_over, aux[0], count)


def _without_batching_rule(graph: fx.Graph) -> dict[Any, Callable[..., Any]]:
    """Return the definitions of operators that vmap would otherwise loop over."""
    operators = {node.target for node in graph.nodes if isinstance(node.target, OpOverload)}
    return {
        operator: decomposition_table[operator]
        for operator in operators
        if operator in decomposition_table
        and not torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), "FuncTorchBatched")
    }
