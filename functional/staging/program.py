"""One compiled program for one kind of arguments."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch._C._dynamo.guards import TensorGuards

from .. import tree
from ..border import tensor_leaves
from . import arguments, backends, donation, graphs, schedule, tails
from .aliasing import plan_donation
from .containers import builder
from .control import is_control
from .errors import DonationWarning, explain
from .surroundings import unchanged
from .tracing import Trace, trace


class Settings(NamedTuple):
    """How programs are compiled."""

    backend: backends.Backend
    options: Mapping[str, Any]


def trace_call(
    fun: Callable[..., Any],
    names: arguments.Signature,
    structure: tree.Structure,
    leaves: Sequence[Tensor],
) -> Trace:
    """Trace `fun` for a call whose `(args, kwargs)` have the given structure and leaves.

    Raises
    ------
    TraceError
        The function looks at a value, or changes something that is not its own.
    ValueError
        The function writes an argument.
    """

    def interpret(tensors: Sequence[Tensor]) -> tree.PyTree:
        args, kwargs = tree.unflatten(structure, tensors)
        return tensor_leaves("jit", "output", fun(*args, **kwargs))

    try:
        with unchanged(names.fun, names.name):
            traced = trace(interpret, leaves)
    except Exception as error:
        explained = explain(error, names.name)
        if explained is error:
            raise
        raise explained from error
    for index, operation in traced.written.items():
        is_argument = index < len(leaves)
        what = "its argument" if is_argument else "a tensor that it did not make:"
        which = leaf_name(names, structure, index) if is_argument else "one it captured"
        raise ValueError(
            f"jit({names.name}) writes into {what} {which} ({operation}). A jitted function is "
            "pure: compute a new tensor and return it."
        )
    return traced


def leaf_name(names: arguments.Signature, structure: tree.Structure, index: int) -> str:
    """Return what the user calls a leaf of `(args, kwargs)`."""
    return arguments.leaf_name(names, structure.accessors()[index])


class Program:
    """A traced function, compiled: takes the leaves of a call, returns its outputs.

    The graph is compiled without its elementwise tail (`tails`), whose kernels then run on the
    results; a donated input receives its output from the one or the other. Outputs that are inputs
    pass by the compiler.
    """

    def __init__(
        self,
        traced: Trace,
        names: arguments.Signature,
        structure: tree.Structure,
        leaves: Sequence[Tensor],
        settings: Settings,
    ) -> None:
        self.names, self.structure = names, structure
        self._captured = traced.captured
        self._donated = arguments.donated_leaves(names, structure)
        donation.refuse_gradients(leaves, self._donated, self._leaf_name)
        donation.refuse_repeated([*leaves, *traced.captured], self._donated, self._leaf_name)
        self._buffers, unused = plan_donation(traced.graph, self._donated)
        self._written = set(self._buffers.values())
        self._returns, self._build = traced.structure, builder(traced.structure)
        self._warn_of_unused(unused)
        self._compile(traced, settings)
        self._watch_captured()

    def __call__(self, leaves: list[Tensor]) -> tree.PyTree:
        """Run on the leaves of a call; the donated ones are used up if that succeeds."""
        given = self._lend(leaves) if self._donated else leaves
        inputs = [*given, *self._captured] if self._captured else given
        values = self._run([*inputs] if self._reads is None else [inputs[i] for i in self._reads])
        row = [
            *[inputs[i].data for i in self._in_place],
            *[_allocate(*memory) for memory in self._fresh],
            *[_alias(inputs[i]) for i in self._passed],
            *values,
        ]
        for kernel, slots in self._kernels:
            tensors = [*inputs, *row]
            kernel([tensors[slot] for slot in slots])
        row += [row[i].clone() for i in self._repeated]
        if self._donated:
            donation.bury(self._take_donated(leaves), self._take_donated(given))
        return self._build(row if self._order is None else [row[i] for i in self._order])

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs to run it: neither the function nor its trace."""
        return {**self.__dict__, "names": None, "_build": None, "_same_captured": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Write anew what puts the outputs together."""
        self.__dict__ = {**state, "_build": builder(state["_returns"])}
        self._watch_captured()

    def bound_to(self, names: arguments.Signature) -> Program:
        """Give a loaded program the function that its errors speak of."""
        self.names = names
        return self

    @property
    def is_current(self) -> bool:
        """Whether the captured tensors still are of the kind for which this was compiled."""
        return self._same_captured is None or bool(self._same_captured.check(*self._captured))

    def _watch_captured(self) -> None:
        options: dict[str, Any] = {"dynamic_dims_sizes": None, "dynamic_dims_strides": None}
        captured = self._captured
        self._same_captured = TensorGuards(*captured, **options) if captured else None

    def _lend(self, leaves: list[Tensor]) -> list[Tensor]:
        """Return the leaves without those that something else looks at: copies of those written."""
        everything = [*leaves, *self._captured] if self._captured else leaves
        donation.refuse_repeated(everything, self._donated, self._leaf_name)
        watched = donation.watched(self._take_donated(leaves))
        if not watched:
            return leaves
        given = list(leaves)
        for index in map(self._donated.__getitem__, watched):
            leaf = leaves[index]
            given[index] = leaf.clone() if index in self._written else leaf.detach()
        return given

    def _take_donated(self, leaves: list[Tensor]) -> list[Tensor]:
        return [leaves[index] for index in self._donated]

    def _compile(self, traced: Trace, settings: Settings) -> None:
        """Compile what computes the outputs, and decide where each is found in a row.

        The row holds those in the memory of inputs, those in fresh memory, those that are inputs,
        what the compiled graph returns, and copies of those that are returned more than once.
        """
        graph = _copy(traced.graph)
        results = graphs.results(graph)
        inputs = {node: index for index, node in enumerate(graphs.placeholders(graph))}
        passed = [j for j, node in enumerate(results) if node in inputs]
        repeated = [j for j, node in enumerate(results) if results.index(node) != j]
        repeated = [j for j in repeated if j not in passed]
        wanted = [j for j in range(len(results)) if j not in {*passed, *repeated}]
        graph.output_node().args = (tuple(results[j] for j in wanted),)
        inside = {wanted.index(j): i for j, i in self._buffers.items()}
        compiled = compile_pure(graph, traced, settings, inside, self._donated)
        fresh, computed = (
            [wanted[j] for j in part] for part in (compiled.fresh, compiled.computed)
        )
        row = [*self._buffers, *fresh, *passed, *computed]
        returned = len(row) - len(computed)
        length = returned + compiled.returned
        where = {j: index for index, j in enumerate(row)}
        where |= {j: length + index for index, j in enumerate(repeated)}

        def place(slot: tails.Slot) -> int:
            if slot.source == "inputs":
                return slot.position
            index = slot.position + returned
            return len(inputs) + (
                where[wanted[slot.position]] if slot.source == "outputs" else index
            )

        self._run = compiled.run
        self._reads = compiled.reads if compiled.reads != [*range(len(inputs))] else None
        self._in_place = list(self._buffers.values())
        self._fresh = [_memory(results[j]) for j in fresh]
        self._passed = [inputs[results[j]] for j in passed]
        self._repeated = [where[results.index(results[j])] for j in repeated]
        self._kernels = [(kernel, [*map(place, slots)]) for kernel, slots in compiled.kernels]
        order = [where[j] for j in range(len(results))]
        self._order = order if order != [*range(length + len(repeated))] else None

    def _warn_of_unused(self, unused: Sequence[int]) -> None:
        if unused:
            warnings.warn(
                f"jit({self.names.name}): no output has the shape, dtype and device of the "
                f"donated {', '.join(map(self._leaf_name, unused))}.",
                DonationWarning,
                stacklevel=6,
            )

    def _leaf_name(self, index: int) -> str:
        if index >= self.structure.num_leaves:
            return "a tensor that the function captured"
        return leaf_name(self.names, self.structure, index)


class Uncompiled:
    """A function that torch's autograd must see through: run as it is, and in the same terms."""

    is_current = True

    def __init__(self, fun: Callable[..., Any], structure: tree.Structure) -> None:
        self._fun, self._structure = fun, structure

    def __call__(self, leaves: list[Tensor]) -> tree.PyTree:
        """Run on the leaves of a call; nothing is donated."""
        args, kwargs = tree.unflatten(self._structure, leaves)
        return tensor_leaves("jit", "output", self._fun(*args, **kwargs))


def autograd_records(tensors: Sequence[Tensor]) -> bool:
    """Say whether torch's own autograd would record what is computed with `tensors`."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


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
        run = backends.compile_graph(graph, traced.mode, *settings, written=places)
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
    graph = _copy(traced.graph)
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


def _copy(graph: fx.Graph) -> fx.Graph:
    copy = fx.Graph()
    outputs = copy.graph_copy(graph, {})
    copy.output(outputs)
    return copy


def _memory(node: fx.Node) -> tuple[tuple[int, ...], tuple[int, ...], torch.dtype]:
    value = node.meta["val"]
    return tuple(value.shape), value.stride(), value.dtype


# What inductor's own programs allocate with, several times as fast as torch.empty.
_allocate: Any = torch._C._dynamo.guards._empty_strided_cpu  # type: ignore[attr-defined]


def _alias(tensor: Tensor) -> Tensor:
    return tensor.view_as(tensor) if tensor.requires_grad else tensor.detach()
