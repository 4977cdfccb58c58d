"""The ciphers of a graph: small ones computed together, then all written out.

Every key that is split and every key that is folded into is a cipher of a few words, and inductor
takes half a second for each. What does not depend on one another is one cipher of more words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from ..random.cipher import operator, rounds
from . import graphs

#: Up to this many blocks, a cipher is small beside the price of compiling another.
SMALL = 4096
_DEFINITION: dict[Any, Callable[..., Any]] = {operator: rounds}


def written_out(graph: fx.Graph, mode: FakeTensorMode) -> fx.Graph:
    """Return a graph without writes in which small ciphers are computed together, and none left."""
    if not any(node.target is operator for node in graph.nodes):
        return graph
    graph = graphs.decompose(together(graph, mode), mode, _DEFINITION)
    # In eager the rounds save memory by writing.
    return graphs.functional(graph, mode)


def together(graph: fx.Graph, mode: FakeTensorMode) -> fx.Graph:
    """Return the graph with small ciphers that do not depend on each other computed as one."""
    depths = _depths(graph)
    groups: dict[Any, list[fx.Node]] = {}
    for node in filter(_is_small, graph.nodes):
        groups.setdefault((depths[node], node.meta["val"][0].device), []).append(node)
    groups = {place: nodes for place, nodes in groups.items() if len(nodes) > 1}
    if not groups:
        return graph
    _bring_forward(graph, depths)
    instead: dict[fx.Node, Callable[[], Any]] = {}
    for nodes in groups.values():
        instead.update(_as_one(nodes))
    return graphs.replace(graph, mode, instead)


def _is_small(node: fx.Node) -> bool:
    return node.target is operator and node.meta["val"][0].numel() <= SMALL


def _depths(graph: fx.Graph) -> dict[fx.Node, int]:
    """Return how many small ciphers, one after the other, each node waits for; itself included."""
    depths: dict[fx.Node, int] = {}
    for node in graph.nodes:
        before = max((depths[source] for source in node.all_input_nodes), default=0)
        depths[node] = before + _is_small(node)
    return depths


def _bring_forward(graph: fx.Graph, depths: dict[fx.Node, int]) -> None:
    """Order what small ciphers wait for by depth, before everything else."""
    needed: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if _is_small(node) or any(user in needed for user in node.users):
            needed.add(node)
    early = [node for node in graph.nodes if node in needed and node.op == "call_function"]
    # Of one depth, the ciphers are what the others wait for.
    early.sort(key=lambda node: (depths[node], not _is_small(node)))
    last = graphs.placeholders(graph)[-1:]
    for node in early:
        if last:
            last[0].append(node)
        last = [node]


def _as_one(nodes: Sequence[fx.Node]) -> dict[fx.Node, Callable[[], Any]]:
    """Return how to compute each of the nodes, the first of which computes all."""
    found: dict[fx.Node, tuple[Tensor, Tensor]] = {}

    def all_of_them() -> None:
        shapes = [node.meta["val"][0].shape for node in nodes]
        words = [
            [argument.meta["val"].expand(shape).reshape(-1) for argument in node.args]  # type: ignore[union-attr]
            for node, shape in zip(nodes, shapes, strict=True)
        ]
        pair = operator(*(torch.cat(column) for column in zip(*words, strict=True)))
        sizes = [shape.numel() for shape in shapes]
        parts = zip(*(word.split(sizes) for word in pair), strict=True)
        for node, shape, (x0, x1) in zip(nodes, shapes, parts, strict=True):
            found[node] = x0.reshape(shape), x1.reshape(shape)

    def of(node: fx.Node) -> Callable[[], Any]:
        def compute() -> Any:
            if not found:
                all_of_them()
            return found[node]

        return compute

    return {node: of(node) for node in nodes}
