"""One compiled program for one kind of arguments."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._C._dynamo.guards import TensorGuards

from .. import tree
from ..border import tensor_leaves
from . import arguments, donation, graphs, tails
from .aliasing import plan_donation
from .assembly import Settings, compile_pure, copied
from .containers import builder
from .errors import DonationWarning, explaining
from .surroundings import unchanged
from .tracing import Trace, storage_id, trace


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

    with explaining(f"jit({names.name})"), unchanged(names.fun, names.name):
        traced = trace(interpret, leaves)
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
        buffers, unused = plan_donation(traced.graph, self._donated)
        self._returns, self._build = traced.structure, builder(traced.structure)
        # Nobody misses the memory of a number: a rate, a count.
        self._warn_of_unused([index for index in unused if leaves[index].numel() != 1])
        self._compile(traced, buffers, settings)
        self._watch_captured()

    def __call__(self, leaves: list[Tensor]) -> tree.PyTree:
        """Run on the leaves of a call; the donated ones are used up if that succeeds."""
        if torch._C._is_any_autocast_enabled():  # its casts are in the graph already
            with torch._C._DisableAutocast():
                return self(leaves)
        given = self._lend(leaves) if self._donated else leaves
        inputs = [*given, *self._captured] if self._captured else given
        values = self._run([*inputs] if self._reads is None else [inputs[i] for i in self._reads])
        row = [
            *[inputs[i].data for i in self._in_place],
            *[_allocate(*memory) for memory in self._fresh],
            *[_alias(inputs[i]) for i in self._passed],
            *values,
        ]
        for i in self._views:
            row[i] = _alias(row[i])
        tensors = [*inputs, *row] if self._kernels else []
        for kernel, slots in self._kernels:
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
        given, written = list(leaves), set(self._in_place)
        for index in map(self._donated.__getitem__, watched):
            leaf = leaves[index]
            given[index] = leaf.clone() if index in written else leaf.detach()
        return given

    def _take_donated(self, leaves: list[Tensor]) -> list[Tensor]:
        return [leaves[index] for index in self._donated]

    def _compile(self, traced: Trace, buffers: dict[int, int], settings: Settings) -> None:
        """Compile what computes the outputs, and decide where each is found in a row.

        The row holds those in the memory of inputs, those in fresh memory, those that are inputs,
        what the compiled graph returns, and copies of those that are returned more than once.
        """
        graph = copied(traced.graph)
        results = graphs.results(graph)
        inputs = {node: index for index, node in enumerate(graphs.placeholders(graph))}
        passed = [j for j, node in enumerate(results) if node in inputs]
        first = graphs.first_places(results)
        repeated = [j for j, node in enumerate(results) if first[node] != j and node not in inputs]
        wanted = [j for j in range(len(results)) if j not in {*passed, *repeated}]
        graph.output_node().args = (tuple(results[j] for j in wanted),)
        inside = {wanted.index(j): i for j, i in buffers.items()}
        with torch._C._DisableAutocast():
            compiled = compile_pure(graph, traced, settings, inside, self._donated)
        fresh, computed = (
            [wanted[j] for j in part] for part in (compiled.fresh, compiled.computed)
        )
        row = [*buffers, *fresh, *passed, *computed]
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
        self._in_place = list(buffers.values())
        self._fresh = [_memory(results[j]) for j in fresh]
        self._passed = [inputs[results[j]] for j in passed]
        # Inductor returns an input itself for a view of it that looks the same.
        memories = {storage_id(value) for value in graphs.values(graph)}
        self._views = [where[j] for j in computed if storage_id(results[j].meta["val"]) in memories]
        self._repeated = [where[first[results[j]]] for j in repeated]
        self._kernels = [(kernel, [*map(place, slots)]) for kernel, slots in compiled.kernels]
        order = [where[j] for j in range(len(results))]
        self._order = order if order != [*range(length + len(repeated))] else None

    def _warn_of_unused(self, unused: Sequence[int]) -> None:
        if unused:
            warnings.warn(
                f"jit({self.names.name}): no output has the shape, layout, dtype and device of "
                f"the donated {', '.join(map(self._leaf_name, unused))}.",
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


def _memory(node: fx.Node) -> tuple[tuple[int, ...], tuple[int, ...], torch.dtype]:
    value = node.meta["val"]
    return tuple(value.shape), value.stride(), value.dtype


# What inductor's own programs allocate with, several times as fast as torch.empty.
_allocate: Any = torch._C._dynamo.guards._empty_strided_cpu  # type: ignore[attr-defined]


def _alias(tensor: Tensor) -> Tensor:
    return tensor.view_as(tensor) if tensor.requires_grad else tensor.detach()
