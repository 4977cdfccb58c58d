"""A traced function to look at: its operators, with the names that the user gives to tensors."""

from __future__ import annotations

import collections
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from .. import tree
from . import arguments
from .control import Operator, Run, interpreted, is_control
from .graphs import placeholders, results
from .tracing import Trace


@dataclass(frozen=True, eq=False)
class Graph:
    """The operators that a function calls for one kind of arguments; print it to read it.

    `inputs` are the leaves of the arguments as the user calls them, then the tensors that the
    function captured; `outputs` are the paths of the leaves of its output. `graph` is the
    `torch.fx.Graph` itself.
    """

    name: str
    graph: fx.Graph
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __str__(self) -> str:
        """Show one line for each operator, with dtype and shape of its result."""
        return "\n".join(_lines(self.name, self.graph, self.inputs, self.outputs))

    def __repr__(self) -> str:
        """Show the same as `str`."""
        return str(self)

    @property
    def operators(self) -> tuple[str, ...]:
        """The names of the operators that it calls, in order: `("aten.mm", "aten.tanh")`."""
        return tuple(_operator(node) for node in self.graph.nodes if _is_call(node))

    def to_module(self) -> torch.fx.GraphModule:
        """Return a module that runs the graph on the leaves of the arguments, then the captured."""
        return fx.GraphModule({}, self.graph)


def view(traced: Trace, names: arguments.Signature, structure: tree.Structure) -> Graph:
    """Return what can be shown of a trace."""
    leaves = [arguments.leaf_name(names, accessor) for accessor in structure.accessors()]
    captured = [f"captured[{index}]" for index in range(len(traced.captured))]
    outputs = [accessor.codify("output") for accessor in traced.structure.accessors()]
    return Graph(names.name, traced.graph, (*leaves, *captured), tuple(outputs))


def inner_traces(operator: Operator) -> list[Trace]:
    """Return the graphs that a loop or a choice runs."""
    found: dict[int, Trace] = {}

    def compile_nothing(trace: Trace) -> Run:
        found.setdefault(id(trace), trace)
        return interpreted(trace)

    operator.compiled(compile_nothing)
    return list(found.values())


def _lines(
    name: str, graph: fx.Graph, inputs: Sequence[str], outputs: Sequence[str]
) -> Iterator[str]:
    called = dict(zip(placeholders(graph), inputs, strict=True))
    typed = [f"{what}: {_type(node)}" for node, what in called.items()]
    called |= _result_names(graph)
    yield f"{name}({', '.join(typed)}):"
    for node in graph.nodes:
        if node.op == "call_function":
            yield f"    {called[node]}{_annotation(node)} = {_call(node, called)}"
        if is_control(node):
            for index, trace in enumerate(inner_traces(node.target)):
                yield textwrap.indent(_inner(called[node], index, trace), " " * 8)
    returned = [
        f"{what} = {_text(n, called)}" for what, n in zip(outputs, results(graph), strict=True)
    ]
    yield f"    return {', '.join(returned) or 'nothing'}"


def _result_names(graph: fx.Graph) -> dict[fx.Node, str]:
    """Name each result after its operator: mul, mul_1, ..."""
    seen: collections.Counter[str] = collections.Counter()
    names = {}
    for node in graph.nodes:
        if node.op == "call_function":
            base = _operator(node).split(".")[-1]
            names[node] = f"{base}_{seen[base]}" if seen[base] else base
            seen[base] += 1
    return names


def _inner(name: str, index: int, trace: Trace) -> str:
    inputs = [str(n.target) for n in placeholders(trace.graph)]
    outputs = [f"output[{place}]" for place in range(len(results(trace.graph)))]
    return "\n".join(_lines(f"{name}.graphs[{index}]", trace.graph, inputs, outputs))


def _annotation(node: fx.Node) -> str:
    return f": {_type(node)}" if isinstance(node.meta.get("val"), Tensor) else ""


def _type(node: fx.Node) -> str:
    value = node.meta["val"]
    device = "" if value.device.type == "cpu" else f" on {value.device}"
    return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}{device}"


def _call(node: fx.Node, called: Mapping[fx.Node, str]) -> str:
    if _is_pick(node):
        return f"{_text(node.args[0], called)}[{node.args[1]}]"
    named = [f"{key}={_text(value, called)}" for key, value in node.kwargs.items()]
    return f"{_operator(node)}({', '.join([*(_text(a, called) for a in node.args), *named])})"


def _text(value: Any, called: Mapping[fx.Node, str]) -> str:
    if isinstance(value, fx.Node):
        return called[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(_text(part, called) for part in value)}]"
    return str(value)


def _operator(node: fx.Node) -> str:
    packet = getattr(node.target, "_overloadpacket", None)
    return str(packet) if packet is not None else str(getattr(node.target, "__name__", node.target))


def _is_pick(node: fx.Node) -> bool:
    return getattr(node.target, "__name__", "") == "getitem"


def _is_call(node: fx.Node) -> bool:
    return node.op == "call_function" and not _is_pick(node)
