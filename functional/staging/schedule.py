"""A graph with loops and choices, cut into pieces that a compiler takes and run one by one."""

from __future__ import annotations

import operator
from collections import abc
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, fx

from . import graphs
from .control import is_control

Run = Callable[[list[Tensor]], abc.Sequence[Tensor]]


class Step(NamedTuple):
    """A piece: a graph or the node of a loop, the nodes it reads and those it gives."""

    work: Any
    reads: list[fx.Node]
    gives: list[fx.Node]


def cut(graph: fx.Graph) -> list[Step]:
    """Return the pieces in an order in which they can run.

    A piece is everything that can run before the next loop; a graph without loops is one piece.
    """
    level: dict[fx.Node, int] = {}
    picks = {
        node for node in graph.nodes if node.target is operator.getitem and is_control(node.args[0])
    }
    for node in graph.nodes:
        before = (level[n] + (n in picks) for n in node.all_input_nodes)
        level[node] = max(before, default=0)
        if node in picks:
            level[node] = level[node.args[0]]
    steps = []
    final = graph.output_node()
    for depth in range(level[final] + 1):
        ordinary = [
            node
            for node in graph.nodes
            if level[node] == depth
            and node.op == "call_function"
            and node not in picks
            and not is_control(node)
        ]
        if ordinary:
            steps.append(_piece(ordinary))
        for node in graph.nodes:
            if level[node] == depth and is_control(node):
                picked: dict[Any, fx.Node] = {user.args[1]: user for user in node.users}
                work, places = node.target.pruned(list(picked))
                gives = [picked.get(place, node) for place in places]
                steps.append(Step(work, list(node.args), gives))
    return steps


def _piece(nodes: list[fx.Node]) -> Step:
    """Return the nodes as a graph of their own."""
    inside = set(nodes)
    reads = list(
        dict.fromkeys(n for node in nodes for n in node.all_input_nodes if n not in inside)
    )
    gives = [
        node
        for node in nodes
        if isinstance(node.meta["val"], Tensor) and any(user not in inside for user in node.users)
    ]
    piece = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in reads:
        copies[node] = piece.placeholder(node.name)
        copies[node].meta.update(node.meta)
    for node in nodes:
        copies[node] = piece.node_copy(node, copies.__getitem__)
    piece.output(tuple(copies[node] for node in gives))
    return Step(piece, reads, gives)


class Sequence:
    """Runs the pieces of a graph one after another, given what runs each."""

    def __init__(self, graph: fx.Graph, steps: list[Step], runs: list[Run]) -> None:
        number = {node: index for index, node in enumerate(graph.nodes)}
        self._inputs = [number[node] for node in graphs.placeholders(graph)]
        self._outputs = [number[node] for node in graphs.results(graph)]
        self._plan = [
            (run, [number[node] for node in step.reads], [number[node] for node in step.gives])
            for run, step in zip(runs, steps, strict=True)
        ]

    def __call__(self, inputs: list[Tensor]) -> list[Tensor]:
        """Return the outputs of the graph."""
        values = dict(zip(self._inputs, inputs, strict=True))
        for run, reads, gives in self._plan:
            values.update(zip(gives, run([values[i] for i in reads]), strict=True))
        return [values[i] for i in self._outputs]
