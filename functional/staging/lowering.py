"""From a call to a program in two steps that can be taken one by one: tracing and compiling."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes

from .. import tree
from ..abstract import ShapeDtype
from . import arguments, backends, graphs, inspection, kinds
from .assembly import Settings, copied
from .contractions import contract
from .cost import Cost, cost
from .errors import OUTLIVED, compiling
from .inspection import Graph
from .program import Program, autograd_records, trace_call
from .tracing import Trace, stand_in
from .valueless import Valueless, expire, revived


def trace_kind(
    names: arguments.Signature,
    leaves: Sequence[Tensor],
    structure: tree.Structure,
    static: arguments.StaticArguments,
) -> Trace:
    """Trace the function for a kind of call; the tensors that it saw cannot be used afterwards."""
    with Valueless():
        traced = trace_call(arguments.with_static(names.fun, static), names, structure, leaves)
    expire(traced.mode)
    return traced


def compile_trace(
    traced: Trace,
    names: arguments.Signature,
    leaves: Sequence[Tensor],
    structure: tree.Structure,
    settings: Settings,
) -> Program:
    """Compile what was traced for leaves like these.

    Raises
    ------
    CompileError
        The backend failed.
    """
    with compiling(names.name, settings.backend, backends.__file__), revived(traced.mode):
        return Program(traced, names, structure, leaves, settings)


def as_tensors(
    names: arguments.Signature, leaves: Sequence[Any], structure: tree.Structure
) -> list[Tensor]:
    """Turn numbers among the leaves of a call into tensors, and refuse what has no value."""
    for refused, why in _REFUSED.items():
        if refused in map(type, leaves):
            index = [type(leaf) for leaf in leaves].index(refused)
            name = arguments.leaf_name(names, structure.accessors()[index])
            raise TypeError(f"jit({names.name}): {name} is {why}")
    return arguments.as_tensors(names, leaves, structure)


def strided(
    names: arguments.Signature, leaves: Sequence[Tensor], structure: tree.Structure
) -> list[Tensor]:
    """Return the leaves as plain memory: what is conjugated or negated lazily is computed.

    Raises
    ------
    TypeError
        A leaf has no strides: it is sparse, nested or quantized.
    """
    for index, leaf in enumerate(leaves):
        if leaf.layout is not torch.strided or leaf.is_quantized or leaf.is_nested:
            kind = "quantized" if leaf.is_quantized else str(leaf.layout).removeprefix("torch.")
            name = arguments.leaf_name(names, structure.accessors()[index])
            raise TypeError(
                f"jit({names.name}): {name} is a {kind} tensor; expected a dense one. Convert it "
                "with .to_dense() or .dequantize(), or call the function without jit."
            )
    return [leaf.resolve_conj().resolve_neg() for leaf in leaves]


_REFUSED = {
    FakeTensor: f"a tensor that was traced. {OUTLIVED}",
    ShapeDtype: "a ShapeDtype, which has no values to compute with; `lower` and `make_graph` take "
    "one.",
}


class Lowered:
    """A function traced for one kind of arguments and not yet compiled; made by `f.lower(...)`."""

    def __init__(
        self, names: arguments.Signature, settings: Settings, args: Any, kwargs: Any
    ) -> None:
        call, static = arguments.split_static(names, (args, kwargs))
        given, structure = tree.flatten(call)
        mode = FakeTensorMode()
        given = [_placeholder(mode, leaf) for leaf in given]
        leaves = arguments.as_tensors(names, given, structure)
        self._names, self._settings, self._structure = names, settings, structure
        self._kind = _kind_of(leaves, structure, static)
        self._leaves = [_like(mode, leaf) for leaf in leaves]
        with _disable_current_modes():
            self._traced = trace_kind(names, self._leaves, structure, static)

    def graph(self, *, contracted: bool = False) -> Graph:
        """Return the operators that the function calls.

        With `contracted`, those that are compiled: writes are removed, and per-example products
        that need not be formed are contracted in another order.
        """
        traced = self._traced
        if contracted:
            with revived(traced.mode):
                graph = graphs.functional(copied(traced.graph), traced.mode)
                if self._settings.contracts:
                    graph = contract(graph, traced.mode).graph
            traced = traced._replace(graph=graph)
        return inspection.view(traced, self._names, self._structure)

    def cost(self) -> Cost:
        """Return how many operations and bytes the graph takes, operator by operator.

        Raises
        ------
        ValueError
            How often a part runs depends on values (a while loop, a choice).
        """
        return cost(self._traced)

    def compile(self) -> CompiledFunction:
        """Compile now; what comes back accepts arguments of this kind alone.

        Raises
        ------
        CompileError
            The backend failed.
        """
        if autograd_records([*self._leaves, *self._traced.captured]):
            raise ValueError(
                f"lower({self._names.name}).compile: an argument or a captured tensor requires a "
                "gradient, which a compiled function does not record. Pass plain tensors "
                "(.detach()), and differentiate inside the function with pf.grad."
            )
        program = compile_trace(
            self._traced, self._names, self._leaves, self._structure, self._settings
        )
        return CompiledFunction(self._names, self._kind, program, self.graph())

    def __repr__(self) -> str:
        """Show the function and what it was lowered for."""
        leaves = ", ".join(map(str, self._kind.leaves))
        return f"<Lowered {self._names.name} for {leaves or 'no tensors'}>"


class CompiledFunction:
    """A function compiled for one kind of arguments; made by `f.lower(...).compile()`."""

    def __init__(
        self, names: arguments.Signature, kind: kinds.Kind, program: Program, graph: Graph
    ) -> None:
        self._names, self._kind, self._program, self._graph = names, kind, program, graph

    def __call__(self, *args: Any, **kwargs: Any) -> tree.PyTree:
        """Run on arguments of the kind that it was compiled for.

        Raises
        ------
        TypeError
            A leaf differs in shape, dtype, device or layout, or something else of the kind does.
        """
        if torch._C._functorch.peek_interpreter_stack() is not None:
            raise TypeError(
                f"{self._names.name} was compiled ahead of time and cannot be transformed by grad "
                "or vmap. Transform the jitted function itself."
            )
        call, static = arguments.split_static(self._names, (args, kwargs))
        given, structure = tree.flatten(call)
        leaves = as_tensors(self._names, given, structure)
        kind = kinds.kind_of(leaves, structure, static)
        if kind != self._kind:
            found = "; ".join(kinds.differences(self._names, self._kind, kind))
            raise TypeError(
                f"{self._names.name} was compiled ahead of time for other arguments: {found}. "
                "Lower it for these, or call the jitted function."
            )
        return self._program(leaves)

    def graph(self) -> Graph:
        """Return the operators that the function calls."""
        return self._graph


def make_graph(
    fun: Callable[..., Any],
    *,
    static_argnums: int | Iterable[int] | None = None,
    static_argnames: str | Iterable[str] | None = None,
) -> Callable[..., Graph]:
    """Return a function of the same arguments that returns the graph of operators `fun` calls.

    What `jax.make_jaxpr` is to JAX. Nothing is computed.

    Parameters
    ----------
    fun
        A pure function of pytrees, as for `jit`.
    static_argnums, static_argnames
        As for `jit`.

    Returns
    -------
    Callable
        Takes tensors, numbers and `ShapeDtype` as leaves; returns a `Graph`, which prints one line
        for each operator.

    Raises
    ------
    TypeError
        A leaf is neither.
    TraceError
        `fun` cannot be traced.

    Examples
    --------
    >>> def loss(params, x):
    ...     return (x @ params["w"]).square().mean()
    >>> make_graph(loss)({"w": torch.ones(3)}, ShapeDtype((2, 3)))
    loss(params['w']: float32[3], x: float32[2, 3]):
        mv: float32[2] = aten.mv(x, params['w'])
        pow: float32[2] = aten.pow(mv, 2)
        mean: float32[] = aten.mean(pow)
        return output = mean
    """
    names = arguments.signature(fun, static_argnums, static_argnames, None)
    settings = Settings("eager", {})
    return lambda *args, **kwargs: Lowered(names, settings, args, kwargs).graph()


def _placeholder(mode: FakeTensorMode, leaf: Any) -> Any:
    """Return a tensor without values for a `ShapeDtype`."""
    if not isinstance(leaf, ShapeDtype):
        return leaf
    with mode:
        return torch.empty(leaf.shape, dtype=leaf.dtype, device=leaf.device)


def _like(mode: FakeTensorMode, leaf: Tensor) -> Tensor:
    """Return a tensor without values: what was lowered holds none of the caller's."""
    like = stand_in(mode, leaf)
    is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor(leaf)
    return like.requires_grad_() if leaf.requires_grad and not is_wrapped else like


def _kind_of(
    leaves: Sequence[Tensor], structure: tree.Structure, static: arguments.StaticArguments
) -> kinds.Kind:
    """Return the kind of calls that leaves describe, some of which have no values."""
    found = kinds.kind_of(leaves, structure, static)
    described = [kind if kind.cls is not FakeTensor else _ordinary(kind) for kind in found.leaves]
    return found._replace(leaves=tuple(described))


def _ordinary(kind: kinds.TensorKind) -> kinds.TensorKind:
    """Return the kind of the tensor that one without values stands for."""
    example = torch.empty(0, dtype=kind.dtype, device=kind.device)
    return kinds.tensor_kind(example)._replace(shape=kind.shape)
