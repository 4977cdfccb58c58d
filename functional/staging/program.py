"""One compiled program for one key."""

from __future__ import annotations

import re
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optree
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from .. import tree
from ..border import tensor_leaves
from . import arguments, donation
from .aliasing import DonationPlan, plan_donation, run_abstractly
from .errors import TRACE_FAILURES, DonationWarning, RetraceWarning, explain, quiet

_LEAF = re.compile(r"(L\['l\d+'\]|l\d+)($|\W)")


class Program:
    """A function compiled for one structure of arguments: takes their leaves, returns its outputs.

    Dynamo keeps what it compiled with the code object, so every program has one of its own: it is
    written out as source, `def program(l0, l1): return finish(call({'w': l0, 'b': l1}))`, which is
    also the cheapest way to put arguments together again. Guards on the leaves are dropped, since
    the key has decided. Guards on globals and captured variables stay: when one fails, the function
    is traced again and `trace_count` grows.
    """

    def __init__(
        self,
        call: Callable[..., Any],
        names: arguments.Signature,
        structure: tree.Structure,
        backend: str | Callable[..., Any],
        options: dict[str, Any],
    ) -> None:
        self.trace_count = 0
        self._call = call
        self._names = names
        self._structure = structure
        self._donated = arguments.donated_leaves(names, structure)
        self._backend = backend
        self._options = {**options, "guard_filter_fn": self._count_and_filter}
        self._returns_inputs = False
        self._run: Callable[..., Any] | None = None

    def __call__(self, tensors: list[Tensor]) -> Any:
        """Run on the leaves of a call; the donated ones are used up if that succeeds."""
        lent = donation.lend(tensors, self._donated, self._leaf_name)
        traces = self.trace_count
        try:
            outputs = self._run(*lent) if self._run else self._first_run(lent)
        except TRACE_FAILURES as error:
            raise explain(error, self._names.name, lambda: self._abstract(lent)) from error
        if self.trace_count > traces > 0:
            warnings.warn(
                f"jit({self._names.name}) was traced again for arguments of a known kind: a global "
                "or a captured variable has changed. Pass it as an argument.",
                RetraceWarning,
                stacklevel=3,
            )
        for index in self._donated:
            donation.bury(tensors[index], lent[index])
        if self._returns_inputs:
            inputs = {id(tensor) for tensor in tensors}
            outputs = tree.map(lambda out: out.view_as(out) if id(out) in inputs else out, outputs)
        return outputs

    def _first_run(self, tensors: list[Tensor]) -> Any:
        """Trace, compile and run; say which donation was for nothing."""
        tensors = _distinct(tensors)
        with quiet():
            plan = self._plan(tensors)
            run = torch.compile(
                _write(self._call, self._structure, plan.buffers),
                fullgraph=True,
                dynamic=False,
                backend=self._backend,
                options=self._options,
            )
            outputs = run(*tensors)
        if plan.unused:
            warnings.warn(
                f"jit({self._names.name}): no output has the shape, dtype and device of the "
                f"donated {', '.join(map(self._leaf_name, plan.unused))}.",
                DonationWarning,
                stacklevel=4,
            )
        inputs = {id(tensor) for tensor in tensors}
        self._returns_inputs = any(id(out) in inputs for out in tree.leaves(outputs))
        self._run = run
        return outputs

    def _plan(self, tensors: list[Tensor]) -> DonationPlan:
        run = run_abstractly(self._interpret, tensors)
        if run is None:
            return DonationPlan({}, list(self._donated))
        for index, operation in run.dependencies.written.items():
            raise ValueError(
                f"jit({self._names.name}) writes into its argument {self._leaf_name(index)} "
                f"({operation}). A jitted function is pure: compute a new tensor and return it."
            )
        return plan_donation(run, self._donated)

    def _abstract(self, tensors: Sequence[Tensor]) -> None:
        """Run the function on tensors without values, outside the compiler."""
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            _finish(self._interpret([mode.from_tensor(tensor) for tensor in tensors]), {})

    def _interpret(self, tensors: Sequence[Tensor]) -> Any:
        args, kwargs = tree.unflatten(self._structure, tensors)
        return self._call(*args, **kwargs)

    def _leaf_name(self, index: int) -> str:
        return arguments.leaf_name(self._names, self._structure.accessors()[index])

    def _count_and_filter(self, guards: Sequence[Any]) -> list[bool]:
        """Note that Dynamo traces, since it asks once each time, and drop the guards on leaves."""
        self.trace_count += 1
        return [_LEAF.match(guard.name) is None for guard in guards]


def _distinct(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors of which none is another, nor one that the function has captured.

    Dynamo would take such a pair for one tensor, and the program would do so for ever.
    """
    return [
        leaf.detach()
        if not leaf.requires_grad
        # A leaf of an autograd graph stays one, where it can.
        else leaf
        if all(leaf is not other for other in tensors[:index])
        else leaf.view_as(leaf)
        for index, leaf in enumerate(tensors)
    ]


def _write(
    call: Callable[..., Any], structure: tree.Structure, buffers: dict[int, int]
) -> Callable[..., Any]:
    """Return the function `program(l0, l1, ...)`, freshly compiled from source."""
    names = [f"l{index}" for index in range(structure.num_leaves)]
    scope: dict[str, Any] = {"call": call, "finish": _finish}
    arguments = structure.walk(names, lambda *node: _expression(scope, *node))
    targets = ", ".join(f"{output}: {names[index]}" for output, index in buffers.items())
    exec(
        f"def program({', '.join(names)}):\n"
        f"    args, kwargs = {arguments}\n"
        f"    return finish(call(*args, **kwargs), {{{targets}}})\n",
        scope,
    )
    program: Callable[..., Any] = scope["program"]
    return program


def _expression(scope: dict[str, Any], kind: type, data: Any, children: Sequence[str]) -> str:
    """Return the source that builds one container from the source of its children."""
    if kind is type(None):
        return "None"
    inside = "".join(f"{child}, " for child in children)
    if kind is tuple:
        return f"({inside})"
    if kind is list:
        return f"[{inside}]"
    if kind is dict:
        return _dict(scope, data, children)
    if kind is OrderedDict:
        return f"{_bind(scope, kind)}({_dict(scope, data, children)})"
    if kind is defaultdict:
        factory, keys = data
        return f"{_bind(scope, kind)}({_bind(scope, factory)}, {_dict(scope, keys, children)})"
    if optree.is_namedtuple_class(kind):
        return f"{_bind(scope, kind)}({inside})"
    if optree.is_structseq_class(kind):
        return f"{_bind(scope, kind)}(({inside}))"
    entry: Any = optree.register_pytree_node.get(kind, namespace=tree.NAMESPACE)
    return f"{_bind(scope, entry.unflatten_func)}({_bind(scope, data)}, ({inside}))"


def _dict(scope: dict[str, Any], keys: Sequence[Any], children: Sequence[str]) -> str:
    names = [repr(key) if type(key) is str else _bind(scope, key) for key in keys]
    return f"{{{', '.join(f'{n}: {c}' for n, c in zip(names, children, strict=True))}}}"


def _bind(scope: dict[str, Any], value: Any) -> str:
    name = f"c{len(scope)}"
    scope[name] = value
    return name


def _finish(outputs: Any, buffers: Mapping[int, Tensor]) -> Any:
    """Make every output leaf a tensor, and write those that have a buffer into it; traced."""
    outputs = tensor_leaves("jit", "output", outputs)
    if not buffers:
        return outputs
    leaves, structure = tree.flatten(outputs)
    for index, buffer in buffers.items():
        leaves[index] = buffer.copy_(leaves[index])
    return tree.unflatten(structure, leaves)
