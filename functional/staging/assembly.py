"""From a traced graph to what runs it: the passes in order, the pieces, and their outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from . import backends, ciphers, graphs, schedule, tails
from .contractions import contract
from .control import is_control
from .tracing import Trace


class Settings(NamedTuple):
    """How programs are compiled."""

    backend: backends.Backend
    options: Mapping[str, Any]
    #: Whether per-example products are summed in the order in which they need not be formed.
    contracts: bool = True


def settings_of(
    backend: backends.Backend, mode: str | None, options: Mapping[str, Any] | None
) -> Settings:
    """Return the settings for arguments of `jit`; all options but one are inductor's.

    Raises
    ------
    TypeError
        `contract_per_example` is not a bool.
    ValueError
        There is no such mode or option.
    """
    given = dict(options or {})
    contracts = given.pop("contract_per_example", True)
    if not isinstance(contracts, bool):
        raise TypeError(
            f"jit: options['contract_per_example']: expected True or False, got {contracts!r}."
        )
    return Settings(backend, backends.compile_options(mode, given), contracts)


class Compiled(NamedTuple):
    """A compiled graph, and where its inputs and outputs are.

    `run` reads the inputs `reads` and returns the outputs `computed`, then what the kernels read;
    these write the other outputs, of which `fresh` have no memory yet.
    """

    run: backends.Runner
    reads: list[int]
    computed: list[int]
    fresh: list[int]
    kernels: list[tuple[Any, list[tails.Slot]]]

    @property
    def returned(self) -> int:
        """How many tensors `run` returns."""
        read = [s.position for _, slots in self.kernels for s in slots if s.source == "values"]
        return max([len(self.computed), *(position + 1 for position in read)])


def compile_pure(
    graph: fx.Graph,
    traced: Trace,
    settings: Settings,
    buffers: Mapping[int, int],
    donated: Sequence[int],
    *,
    outline: bool = True,
) -> Compiled:
    """Compile a graph; the outputs `buffers` go into the memory of inputs and are not returned."""
    has_control = any(is_control(node) for node in graph.nodes)
    to_inductor = settings.backend == "inductor" and not has_control
    graph = graphs.functional(graph, traced.mode)
    if settings.contracts:
        graph = contract(graph, traced.mode).graph
    if settings.backend != "eager" and not has_control:
        graph = ciphers.written_out(graph, traced.mode)
    if to_inductor:
        graph = graphs.decompose(graph, traced.mode, backends.decompositions())
        graph = graphs.without_repetition(graph)
    size = len(graphs.results(graph))
    tail = tails.split(graph, buffers, donated) if to_inductor and outline else tails.NONE
    rest = [j for j in range(size) if j not in tail.outputs]
    inside = {rest.index(j): i for j, i in buffers.items() if j not in tail.outputs}
    sources = graphs.placeholders(graph)
    if has_control:
        run = _staged(graph, traced, settings, inside)
        reads = list(range(len(sources)))
    else:
        written = _write_at_end(graph, inside)
        reads = _drop_unused(graph)
        places = [reads.index(i) for i in written]
        run = backends.compile_graph(
            graph, traced.mode, settings.backend, settings.options, written=places
        )
    return Compiled(
        run,
        reads,
        [j for j in rest if j not in buffers],
        [j for j in tail.outputs if j not in buffers],
        tail.kernels,
    )


def _write_at_end(graph: fx.Graph, buffers: Mapping[int, int]) -> list[int]:
    """Let the graph write outputs into inputs instead of returning them; return those inputs."""
    inputs, results = graphs.placeholders(graph), graphs.results(graph)
    with graph.inserting_before(graph.output_node()):
        for j, i in buffers.items():
            copy = graph.call_function(torch.ops.aten.copy_.default, (inputs[i], results[j]))
            copy.meta["val"] = inputs[i].meta["val"]
    rest = tuple(node for j, node in enumerate(results) if j not in buffers)
    graph.output_node().args = (rest,)
    return list(buffers.values())


def _drop_unused(graph: fx.Graph) -> list[int]:
    """Remove the inputs that nothing reads; return the positions of the others."""
    used = []
    for index, node in enumerate(graphs.placeholders(graph)):
        if node.users:
            used.append(index)
        else:
            graph.erase_node(node)
    return used


def _staged(
    graph: fx.Graph, traced: Trace, settings: Settings, buffers: Mapping[int, int]
) -> backends.Runner:
    """Compile a graph with loops piece by piece; copy outputs into their buffers at the end."""

    def compile_trace(inner: Trace) -> backends.Runner:
        return compile_whole(inner, settings)

    steps = schedule.cut(graph)
    runs = [
        compile_whole(traced._replace(graph=step.work), settings)
        if isinstance(step.work, fx.Graph)
        else step.work.compiled(compile_trace)
        for step in steps
    ]
    sequence = schedule.Sequence(graph, steps, runs)
    return _CopyingBack(sequence, dict(buffers)) if buffers else sequence


class _CopyingBack:
    """Copies some outputs into the memory of inputs and returns the others."""

    def __init__(self, run: backends.Runner, buffers: dict[int, int]) -> None:
        self._run, self._buffers = run, buffers

    def __call__(self, inputs: list[Tensor]) -> list[Tensor]:
        results = self._run(list(inputs))
        for j, i in self._buffers.items():
            inputs[i].copy_(results[j])
        return [result for j, result in enumerate(results) if j not in self._buffers]


def compile_whole(traced: Trace, settings: Settings) -> backends.Runner:
    """Compile a graph that donates nothing: takes all its inputs, returns all its outputs."""
    graph = copied(traced.graph)
    results = graphs.results(graph)
    inputs = {node: index for index, node in enumerate(graphs.placeholders(graph))}
    passed = [(j, inputs[node]) for j, node in enumerate(results) if node in inputs]
    wanted = list(dict.fromkeys(node for node in results if node not in inputs))
    graph.output_node().args = (tuple(wanted),)
    place = [(j, wanted.index(node)) for j, node in enumerate(results) if node not in inputs]
    compiled = compile_pure(graph, traced, settings, {}, (), outline=False)
    return _Whole(compiled.run, compiled.reads, passed, place, len(results)).run_all


class _Whole(NamedTuple):
    """Runs what is compiled of a graph and adds the outputs that are inputs or are repeated."""

    run: backends.Runner
    reads: list[int]
    passed: list[tuple[int, int]]
    place: list[tuple[int, int]]
    size: int

    def run_all(self, inputs: list[Tensor]) -> list[Tensor]:
        """Return the outputs of the graph."""
        values = self.run([inputs[i] for i in self.reads])
        outputs: list[Any] = [None] * self.size
        for j, i in self.passed:
            outputs[j] = inputs[i]
        for j, i in self.place:
            outputs[j] = values[i]
        return outputs


def copied(graph: fx.Graph) -> fx.Graph:
    """Return a graph like this one, to change."""
    copy = fx.Graph()
    outputs = copy.graph_copy(graph, {})
    copy.output(outputs)
    return copy
