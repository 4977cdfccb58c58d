"""From a Python function to a graph of torch operators, by running it once without values."""

from __future__ import annotations

import contextlib
import operator
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from .. import tree
from ..random.cipher import whole
from ..random.threefry import shapes_only

aten = torch.ops.aten


class Trace(NamedTuple):
    """What one run without values shows of a function.

    `graph` takes the leaves of the arguments and then the `captured` tensors, which the function
    found in its closure, and returns the leaves of the output. Every node has in `meta["val"]` a
    tensor without values.
    """

    graph: fx.Graph
    mode: FakeTensorMode
    captured: list[Tensor]
    structure: tree.Structure
    #: Positions of the inputs that the function writes, with the operator that does it.
    written: dict[int, str]


def trace(fun: Callable[[Sequence[Tensor]], tree.PyTree], inputs: Sequence[Tensor]) -> Trace:
    """Record the operators that `fun` calls on tensors like `inputs`.

    The function runs as it is, torch.func's transforms and its own Python included; what is
    recorded lies below them. It may hold tensors in its closure: those become inputs too.
    """
    mode = _mode()
    fakes = [stand_in(mode, tensor) for tensor in inputs]
    recorder = Recorder(mode)
    for index, fake in enumerate(fakes):
        recorder.add_input(fake, f"l{index}")
    with recorder.recording(), _without_autocast_cache(), shapes_only(False):
        outputs = fun(fakes)
    leaves, structure = tree.flatten(outputs)
    recorder.graph.output(tuple([recorder.node(leaf) for leaf in leaves]))
    recorder.graph.eliminate_dead_code(_is_impure)
    return Trace(recorder.graph, mode, recorder.captured, structure, recorder.written)


def _mode() -> FakeTensorMode:
    """Return the mode of a trace; its shapes are numbers, its tensors have no values to ask for."""
    shapes = ShapeEnv(allow_scalar_outputs=False, allow_dynamic_output_shape_ops=False)
    return FakeTensorMode(allow_non_fake_inputs=True, shape_env=shapes, static_shapes=True)


def stand_in(mode: FakeTensorMode, tensor: Tensor) -> FakeTensor:
    """Return a tensor without values that shares no storage with another."""
    if tensor.is_conj() or tensor.is_neg() or tensor.layout is not torch.strided:
        return mode.from_tensor(tensor.detach())
    with mode:
        fake: Any = torch.empty_strided(
            tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device
        )
    return fake  # type: ignore[no-any-return]


def recorder() -> Recorder | None:
    """Return what records the tensor operations of this moment, if `jit` is tracing."""
    return _active.recorders[-1] if _active.recorders else None


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """Compute with values, whatever is traced, differentiated or mapped around."""
    before, _active.recorders = _active.recorders, []
    try:
        with _disable_current_modes(), temporarily_clear_interpreter_stack():
            yield
    finally:
        _active.recorders = before


class _Active(threading.local):
    """The recorders of a thread; other threads go on computing."""

    def __init__(self) -> None:
        self.recorders: list[Recorder] = []


_active = _Active()


class Recorder(TorchDispatchMode):
    """Writes every operator that reaches it into a graph.

    With a table of `decompositions`, operators are written in the terms of it.
    """

    def __init__(
        self, mode: FakeTensorMode, decompositions: Mapping[Any, Callable[..., Any]] | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = fx.Graph()
        self.mode = mode
        self.captured: list[Tensor] = []
        self.written: dict[int, str] = {}
        self._decompositions = decompositions or {}
        self._nodes: dict[int, fx.Node] = {}
        self._storages: dict[int, int] = {}
        self._last_input: fx.Node | None = None
        # An object that is freed could give its address, by which nodes are found, to another.
        self._alive: list[Any] = []

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record what is run within."""
        _active.recorders.append(self)
        try:
            with self.mode, self, whole():
                yield
        finally:
            _active.recorders.pop()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Compute without values, recording nothing."""
        with _disable_current_modes(), self.mode:
            yield

    def add_input(self, tensor: Tensor, name: str) -> None:
        """Add a placeholder that stands for `tensor`."""
        with self.graph.inserting_after(self._last_input) if self._last_input else _nothing():
            self._last_input = self.graph.placeholder(name)
        self.bind(tensor, self._last_input)
        fake = self._last_input.meta["val"]
        self._storages[storage_id(fake)] = len(self._storages)

    def bind(self, tensor: Tensor, node: fx.Node) -> None:
        """Let `node` be what computes `tensor`."""
        fake = tensor if isinstance(tensor, FakeTensor) else self.mode.from_tensor(tensor)
        node.meta.setdefault("val", fake)
        self._nodes[id(tensor)] = self._nodes[id(fake)] = node
        self._alive += [tensor, fake]

    def node(self, tensor: Tensor) -> fx.Node:
        """Return the node that computes `tensor`, a new input where none does."""
        node = self._nodes.get(id(tensor))
        if node is not None:
            return node
        if isinstance(tensor, FakeTensor):
            raise RuntimeError(
                "a tensor that jit traced has outlived its trace: it was stored in a global, an "
                "attribute or a list, and has no value. Return it from the function instead."
            )
        self.captured.append(tensor)
        self.add_input(tensor, f"captured{len(self.captured) - 1}")
        return self._nodes[id(tensor)]

    def record(self, target: Callable[..., Any], args: Any, kwargs: Any, result: Any) -> None:
        """Write the call of `target` that gave `result`."""
        args, kwargs = fx.node.map_aggregate((tuple(args), dict(kwargs)), self._argument)
        node = self.graph.call_function(target, args, kwargs)
        if isinstance(result, Tensor):
            self.bind(result, node)
            return
        node.meta["val"] = result
        for index, part in enumerate(result or ()):
            if isinstance(part, Tensor):
                self.bind(part, self.graph.call_function(operator.getitem, (node, index)))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        simpler = self._decompositions.get(func) or _composite(func)
        if simpler is not None:
            with self:
                result = simpler(*args, **kwargs)
            if result is not NotImplemented:
                return result
        if func._schema.is_mutable:
            # A captured tensor has values, which a function that is only traced must not change.
            args, kwargs = tree.map(self._valueless, (tuple(args), dict(kwargs)))
            self._note_writes(func, args, kwargs)
        constant = args[0] if func is aten.lift_fresh.default else None
        if constant is not None and constant.numel() != 1:
            func, args = aten.clone.default, (self._valueless(constant),)
        result = func(*args, **kwargs)
        if constant is not None and constant.numel() == 1:
            # Compilers fold a number; a tensor they would have to read at each call.
            with _disable_current_modes():
                fill = (list(constant.shape), constant.item())
            options = {"dtype": constant.dtype, "device": constant.device, "pin_memory": False}
            self.record(aten.full.default, fill, options, result)
        elif func._schema.is_mutable or any(isinstance(r, Tensor) for r in tree.leaves(result)):
            self.record(func, args, kwargs, result)
        return result

    def _argument(self, value: Any) -> Any:
        return self.node(value) if isinstance(value, Tensor) else value

    def _valueless(self, value: Any) -> Any:
        return self.node(value).meta["val"] if isinstance(value, Tensor) else value

    def _note_writes(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        for place, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                value = args[place] if place < len(args) else kwargs.get(argument.name)
                for tensor in tree.leaves(value):
                    node = self.node(tensor)
                    index = self._storages.get(storage_id(node.meta["val"]))
                    if index is not None:
                        self.written[index] = func._schema.name.removeprefix("aten::")


def storage_id(tensor: Tensor) -> int:
    """Return what two tensors have in common when they look at one memory."""
    return int(tensor.untyped_storage()._cdata)


def _composite(func: Any) -> Callable[..., Any] | None:
    """Return the operator's definition in terms of others, where it is nothing but that."""
    if func is torch.ops.prim.device.default:
        return lambda tensor: tensor.device
    if func in _COMPOSITE:
        return _COMPOSITE[func]
    definition = func.decompose if _has_definition(func) else None
    _COMPOSITE[func] = definition
    return definition


# Torch has no efficient zero without a value.
_COMPOSITE: dict[Any, Callable[..., Any] | None] = {
    aten._efficientzerotensor.default: aten.zeros.default
}


def _has_definition(func: Any) -> bool:
    implicit = torch._C.DispatchKey.CompositeImplicitAutograd
    return isinstance(func, torch._ops.OpOverload) and (
        torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), implicit)
        or implicit in func.py_kernels
    )


def _is_impure(node: fx.Node) -> bool:
    if node.op in ("placeholder", "output"):
        return True
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


@contextlib.contextmanager
def _without_autocast_cache() -> Iterator[None]:
    """Let no copy of a weight that an earlier cast has kept be taken for the weight."""
    enabled = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(enabled)


def _nothing() -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()
