"""Bodies of loops and choices as graphs, and the nodes that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, fx

from .. import tree
from ..staging import graphs
from ..staging.control import Memory
from ..staging.tracing import Recorder, Trace, recorder, stand_in
from ..staging.valueless import Valueless
from .flat import Flat


def active_recorder() -> Recorder:
    """Return what records this moment, in places that only a trace reaches."""
    return cast(Recorder, recorder())


def trace_body(fun: Flat, examples: Sequence[Tensor]) -> Trace:
    """Trace a function of tensors like `examples` that closes over none of the trace outside.

    Its outputs are made contiguous: what enters a body must be laid out as what leaves it.
    """
    outer = active_recorder()
    inner = Recorder(outer.mode)
    with outer.paused():
        fakes = [stand_in(inner.mode, example) for example in examples]
        for index, fake in enumerate(fakes):
            inner.add_input(fake, f"l{index}")
        # On the way here torch puts the modes around a primitive aside.
        with inner.recording(), Valueless():
            outputs = [output.contiguous() for output in fun(*fakes)]
            nodes = [inner.node(output) for output in outputs]
    inner.graph.output(tuple(nodes))
    inner.graph.eliminate_dead_code()
    return Trace(inner.graph, inner.mode, inner.captured, tree.structure(outputs), inner.written)


def keeping(trace: Trace, positions: Sequence[int]) -> Trace:
    """Return a trace of the outputs at `positions` alone."""
    graph = fx.Graph()
    outputs = graph.graph_copy(trace.graph, {})
    graph.output(tuple(outputs[position] for position in positions))  # type: ignore[index]
    graph.eliminate_dead_code()
    return trace._replace(graph=graph, structure=tree.structure([0] * len(positions)))


def outputs_of(trace: Trace) -> list[Memory]:
    """Return what the outputs of a traced body look like."""
    values = [node.meta["val"] for node in graphs.results(trace.graph)]
    return [(value.shape, value.dtype, value.device) for value in values]
