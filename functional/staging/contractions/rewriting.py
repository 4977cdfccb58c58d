"""The pass over a graph: what is known of each node, what is worth it, and the new graph."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from .. import graphs
from .computation import compute
from .layout import flops, of_squares, of_sums
from .meaning import Meaning, meaning
from .products import Patches, Term, product

#: What takes as long as one multiplication within a product of large matrices: Gram matrices are
#: small, and an element of what is formed is written, squared and read again.
GRAM, TRAFFIC = 2.0, 8.0
#: How much longer than forming the products it may take not to: what is formed fills memory.
PATIENCE = 0.5


class Contracted(NamedTuple):
    """A graph, and how many products of the original it does not form."""

    graph: fx.Graph
    avoided: int


def contract(graph: fx.Graph, mode: FakeTensorMode) -> Contracted:
    """Return the graph without the per-example products that need not be formed.

    >>> import torch
    >>> from ..tracing import trace
    >>> def norms(tensors):
    ...     products = tensors[0][:, :, None] * tensors[1][:, None, :]
    ...     return products.square().sum((1, 2))
    >>> traced = trace(norms, [torch.ones(64, 300), torch.ones(64, 200)])
    >>> contract(traced.graph, traced.mode).avoided
    1
    """
    analysis = _Analysis(graph)
    instead: dict[fx.Node, Callable[[], Tensor]] = {}
    avoided: set[fx.Node] = set()
    for sums in analysis.groups():
        values = [analysis.meanings[node] for node in sums]
        terms = {term.source: term for value in values for term in value.terms}
        if _pays(values, terms):
            avoided.update(terms)
            parts = dict(zip(sums, values, strict=True))
        else:
            parts = {
                n: analysis.meanings[n] for n, t in terms.items() if isinstance(t.right, Patches)
            }
        for node, value in parts.items():
            instead[node] = functools.partial(compute, value, node.meta["val"])
    return Contracted(graphs.replace(graph, mode, instead) if instead else graph, len(avoided))


def _pays(values: list[Meaning], terms: Mapping[fx.Node, Term]) -> bool:
    """Say whether it takes less time to sum in another order, or not much more."""
    formed: int = sum(node.meta["val"].numel() for node in terms)
    multiplications = sum(term.flops for term in terms.values())
    gram = sum(flops(value) for value in values if value.squared)
    sums = sum(flops(value) for value in values if not value.squared)
    return GRAM * gram + sums <= TRAFFIC * formed + (1 + PATIENCE) * multiplications


class _Analysis:
    """Which nodes are made of products, which of those are sums, and which products are read."""

    def __init__(self, graph: fx.Graph) -> None:
        self.meanings: dict[fx.Node, Meaning] = {}
        #: Sums that something reads which is not understood.
        self.sums: dict[fx.Node, None] = {}
        #: The products that must be formed.
        self.formed: set[fx.Node] = set()
        for node in graph.nodes:
            known = [n for n in node.all_input_nodes if n in self.meanings]
            found = meaning(node, self.meanings) if known else None
            if found is None:
                for argument in known:
                    self._reads(argument)
                started = product(node)
                found = None if started is None else Meaning((started[0],), started[1])
            if found is not None:
                self.meanings[node] = found

    def _reads(self, node: fx.Node) -> None:
        value = self.meanings[node]
        if value.summed and (of_squares if value.squared else of_sums)(value) is not None:
            self.sums[node] = None
        else:
            self.formed.update(_sources(value))

    def groups(self) -> list[list[fx.Node]]:
        """Return the sums of products that nothing else reads; together if they share products."""
        groups: dict[fx.Node, list[fx.Node]] = {}  # of each product, one list for all it is with
        for node in self.sums:
            together = {id(g): g for s in _sources(self.meanings[node]) if (g := groups.get(s))}
            group = [n for part in together.values() for n in part] + [node]
            for member in group:
                groups.update(dict.fromkeys(_sources(self.meanings[member]), group))
        distinct = {id(group): group for group in groups.values()}.values()
        return [group for group in distinct if self.formed.isdisjoint(self._made_of(group))]

    def _made_of(self, group: list[fx.Node]) -> set[fx.Node]:
        return {source for node in group for source in _sources(self.meanings[node])}


def _sources(value: Meaning) -> Iterator[fx.Node]:
    return (term.source for term in value.terms)
