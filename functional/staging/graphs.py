"""What a traced graph goes through before a compiler sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._functorch.compile_utils import fx_graph_cse
from torch._subclasses.fake_tensor import FakeTensorMode

from .tracing import Recorder, storage_id


def values(graph: fx.Graph) -> list[Any]:
    """Return the tensors without values that a graph takes."""
    return [node.meta["val"] for node in graph.nodes if node.op == "placeholder"]


def placeholders(graph: fx.Graph) -> list[fx.Node]:
    """Return the nodes that stand for the inputs, in order."""
    return [node for node in graph.nodes if node.op == "placeholder"]


def results(graph: fx.Graph) -> tuple[fx.Node, ...]:
    """Return the nodes that a graph returns."""
    return tuple(graph.output_node().args[0])  # type: ignore[arg-type]


def first_places(nodes: Sequence[fx.Node]) -> dict[fx.Node, int]:
    """Return where each node stands first in a row."""
    first: dict[fx.Node, int] = {}
    for place, node in enumerate(nodes):
        first.setdefault(node, place)
    return first


def is_mutable(node: fx.Node) -> bool:
    """Say whether a node writes one of its arguments."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def functional(graph: fx.Graph, mode: FakeTensorMode) -> fx.Graph:
    """Return the graph without writes: what was written is computed anew, views of it included."""
    if not any(map(is_mutable, graph.nodes)):
        return graph
    module = fx.GraphModule({}, graph)
    recorder = _recorder_of(graph, mode, {})
    with recorder.recording():
        outputs = torch.func.functionalize(module)(*values(graph))
    return _finished(recorder, [recorder.node(output) for output in outputs])


def decompose(
    graph: fx.Graph, mode: FakeTensorMode, table: Mapping[Any, Callable[..., Any]]
) -> fx.Graph:
    """Return the graph in the terms that `table` leaves; only what it rewrites is run again."""

    def again(node: fx.Node) -> Callable[[], Any]:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
        return lambda: node.target(*args, **kwargs)  # type: ignore[operator]

    instead = {node: again(node) for node in graph.nodes if node.target in table}
    return replace(graph, mode, instead, table)


def replace(
    graph: fx.Graph,
    mode: FakeTensorMode,
    instead: Mapping[fx.Node, Callable[[], Any]],
    table: Mapping[Any, Callable[..., Any]] | None = None,
) -> fx.Graph:
    """Return the graph with some nodes computed otherwise, by functions of the values before them.

    What these call is written in the terms that `table` leaves.
    """
    recorder = _recorder_of(graph, mode, table or {})
    stands_for: dict[fx.Node, Any] = dict(
        zip(placeholders(graph), placeholders(recorder.graph), strict=True)
    )
    for node in graph.nodes:
        if node.op != "call_function" or node in stands_for:
            continue
        if node in instead:
            with recorder.recording():
                result = instead[node]()
            for place, part in _parts(node, result):
                stands_for[place] = recorder.node(part)
                recorder.bind(place.meta["val"], stands_for[place])
        else:
            copy = recorder.graph.node_copy(node, stands_for.__getitem__)
            stands_for[node] = copy
            if isinstance(node.meta["val"], Tensor):
                recorder.bind(node.meta["val"], copy)
    return _finished(recorder, [stands_for[node] for node in results(graph)])


def dependencies(graph: fx.Graph) -> dict[int, int]:
    """Return for each storage in a graph the inputs its contents depend on, as a set of bits."""
    of = {storage_id(value): 1 << index for index, value in enumerate(values(graph))}
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        sources = 0
        for argument in node.all_input_nodes:
            for tensor in _tensors(argument.meta["val"]):
                sources |= of.get(storage_id(tensor), 0)
        for tensor in _tensors(node.meta["val"]):
            of[storage_id(tensor)] = of.get(storage_id(tensor), 0) | sources
        if is_mutable(node):
            for argument in node.all_input_nodes:
                for tensor in _tensors(argument.meta["val"]):
                    of[storage_id(tensor)] |= sources
    return of


def _recorder_of(
    graph: fx.Graph, mode: FakeTensorMode, table: Mapping[Any, Callable[..., Any]]
) -> Recorder:
    recorder = Recorder(mode, table)
    for node in placeholders(graph):
        recorder.add_input(node.meta["val"], str(node.target))
    return recorder


def _finished(recorder: Recorder, outputs: list[fx.Node]) -> fx.Graph:
    recorder.graph.output(tuple(outputs))
    recorder.graph.eliminate_dead_code()
    return recorder.graph


def without_repetition(graph: fx.Graph) -> fx.Graph:
    """Return the graph with each value computed once; a graph that draws numbers as it is."""
    if any(torch.Tag.nondeterministic_seeded in getattr(n.target, "tags", ()) for n in graph.nodes):
        return graph
    return fx_graph_cse(graph)


def _parts(node: fx.Node, result: Any) -> list[tuple[fx.Node, Tensor]]:
    """Pair a node, or the nodes that pick its parts, with the tensors that replace them."""
    if isinstance(result, Tensor):
        return [(node, result)]
    return [(user, result[user.args[1]]) for user in node.users]


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [part for part in value if isinstance(part, Tensor)] if value is not None else []
