"""The elementwise end of a program: what an optimizer does, taken out to run as one kernel.

The last thing a training step does is the same arithmetic on every parameter. It is found in the
graph as the outputs' elementwise ancestors that nothing else reads, sorted by their mathematics,
and run by one loop for each kind. The compiler gets what remains, a fraction of the graph.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, fx

from . import graphs
from .elementwise import Kernel, Region, is_elementwise
from .tracing import storage_id

#: Below so many regions of one kind the compiler's own fusion is the better choice.
MINIMUM = 4


class Slot(NamedTuple):
    """Where a kernel's tensor is found: among the "inputs", "values" or "outputs" of a program."""

    source: str
    position: int


class Tail(NamedTuple):
    """The kernels, the slots each reads and writes, and the outputs that they compute."""

    kernels: list[tuple[Kernel, list[Slot]]]
    outputs: set[int]


#: The tail of a graph that has none.
NONE = Tail([], set())


def split(graph: fx.Graph, buffers: Mapping[int, int], donated: Sequence[int]) -> Tail:
    """Take the tail out of `graph`, which afterwards returns what is left and what the tail reads.

    `buffers[output] = input` are the outputs that are written into the memory of inputs; of those
    that are left, slots of "values" count none.
    """
    regions = _regions(graph, buffers, donated)
    by_source: dict[str, list[Region]] = defaultdict(list)
    for region in regions:
        by_source[region.source()].append(region)
    kinds = {source: found for source, found in by_source.items() if len(found) >= MINIMUM}
    taken = {node for found in kinds.values() for region in found for node in region.outputs}
    outputs = graphs.results(graph)
    computed = {index for index, node in enumerate(outputs) if node in taken}
    inputs = {node: index for index, node in enumerate(graphs.placeholders(graph))}
    rest = [node for index, node in enumerate(outputs) if index not in computed]
    place = {node: index for index, node in enumerate(outputs)}
    values: dict[fx.Node, int] = {}
    before = len(outputs) - len(computed | buffers.keys())
    kernels = []
    for source, found in kinds.items():
        slots = []
        for region in found:
            for node in region.inputs:
                if node not in inputs:
                    values.setdefault(node, before + len(values))
                slots.append(
                    Slot("inputs", inputs[node]) if node in inputs else Slot("values", values[node])
                )
            slots += [Slot("outputs", place[node]) for node in region.outputs]
        kernels.append((Kernel(source, [r.size for r in found], len(found[0].slots)), slots))
    if kernels:
        graph.output_node().args = ((*rest, *values),)
        graph.eliminate_dead_code()
    return Tail(kernels, computed)


def _regions(graph: fx.Graph, buffers: Mapping[int, int], donated: Sequence[int]) -> list[Region]:
    """Return the connected parts of the elementwise tail that are safe to run after the rest."""
    outputs = graphs.results(graph)
    output_node = graph.output_node()
    tail: dict[fx.Node, None] = {}
    for node in reversed(graph.nodes):
        shape = node.meta["val"].shape if is_elementwise(node) else None
        inside = shape is not None and all(
            user is output_node or (user in tail and user.meta["val"].shape == shape)
            for user in node.users
        )
        if node.users and inside and outputs.count(node) <= 1:
            tail[node] = None
    returned = set(outputs)
    regions = [Region(nodes, returned.__contains__) for nodes in _components(tail)]
    readers: dict[fx.Node, int] = defaultdict(int)
    for region in regions:
        for node in region.inputs:
            readers[node] += 1
    is_safe = _hazards(graph, buffers, donated, readers)
    return [region for region in regions if is_safe(region)]


def _components(tail: dict[fx.Node, None]) -> list[list[fx.Node]]:
    """Return the connected parts of the tail, each in the order of the graph."""
    leader = {node: node for node in tail}

    def find(node: fx.Node) -> fx.Node:
        while leader[node] is not node:
            node = leader[node]
        return node

    for node in tail:
        for argument in node.all_input_nodes:
            if argument in leader:
                leader[find(argument)] = find(node)
    parts: dict[fx.Node, list[fx.Node]] = defaultdict(list)
    for node in reversed(tail):
        parts[find(node)].append(node)
    return list(parts.values())


def _hazards(
    graph: fx.Graph, buffers: Mapping[int, int], donated: Sequence[int], readers: dict[fx.Node, int]
) -> Callable[[Region], bool]:
    """Return a function that says whether no region could read what another has overwritten.

    A region may read an overwritten input only if it alone does and writes it itself, element by
    element; and it may read nothing that is, or that the compiler may take for, such an input. Nor
    may an output be one, unless the region computes it.
    """
    inputs = {node: index for index, node in enumerate(graphs.placeholders(graph))}
    place = {node: index for index, node in enumerate(graphs.results(graph))}
    overwritten = set(buffers.values())
    copied = _possible_copies(graph, donated)

    def is_safe(region: Region) -> bool:
        own = {buffers[place[node]] for node in region.outputs if place[node] in buffers}
        for node in region.inputs:
            index = inputs.get(node)
            if node in copied and copied[node] in overwritten and index is None:
                return False
            if index in overwritten and (index not in own or readers[node] > 1):
                return False
        return not any(
            copied.get(node) in own and node not in region.outputs
            for node in place
            if node not in inputs
        )

    return is_safe


def _possible_copies(graph: fx.Graph, donated: Sequence[int]) -> dict[fx.Node, int]:
    """Return the nodes made of one donated input alone, in its dtype, with that input.

    Compilers see through more than views: a copy, a product with one, are the input itself.
    """
    of = graphs.dependencies(graph)
    alone = {1 << index: index for index in donated}
    values = graphs.values(graph)
    found = {}
    for node in graph.nodes:
        value = node.meta.get("val")
        index = alone.get(of[storage_id(value)]) if isinstance(value, Tensor) else None
        if index is not None and value.dtype == values[index].dtype:
            found[node] = index
    return found
