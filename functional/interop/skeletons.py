"""A private copy of a torch module that holds no values: those are moved in for one call at a time.

What is kept of a module is its Python: the tensors of its parameters and buffers are replaced by
ones without memory, and each has a leaf of the parameters or of the state in its place while
`Skeleton.inhabited` lasts.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn.parameter import is_lazy

from ..nn import LayerError

#: What wraps a module for other devices or compilers, and where the module itself is.
_WRAPPERS = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "module",
    "OptimizedModule": "_orig_mod",
}


class Slot(NamedTuple):
    """A place where a module keeps a tensor, and the name of the leaf that goes there."""

    owner: Module
    attribute: str
    leaf: str


class Skeleton:
    """A module without values, whose tensors have names.

    Parameters
    ----------
    module
        The module; it is copied and not written.

    Attributes
    ----------
    parameters, buffers
        The module's tensors by the first name that each has, and `ties`, the other names of
        tensors that have several.
    """

    def __init__(self, module: Module) -> None:
        check_module("from_module", module)
        self.name = type(module).__name__
        self.parameters, parameter_ties = _first_names(module.named_parameters)
        self.buffers, buffer_ties = _first_names(module.named_buffers)
        self.ties = parameter_ties | buffer_ties
        self.module = _without_values(module)
        self._lock = threading.RLock()
        self._parameter_slots = _slots(self.module, "_parameters", parameter_ties)
        self._buffer_slots = _slots(self.module, "_buffers", buffer_ties)
        self._modules = list(self.module.modules())
        # A part that stood otherwise than the whole has been told so: it goes on standing.
        self._fixed = {part for part in self._modules if part.training != module.training}

    @contextmanager
    def inhabited(
        self, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], train: bool
    ) -> Iterator[Module]:
        """Hand out the module with these tensors inside, and take everything out again.

        Afterwards each part has the attributes that it had before, whatever was assigned meanwhile.
        """
        with self._lock:
            before = [part.__dict__ for part in self._modules]
            try:
                for part, attributes in zip(self._modules, before, strict=True):
                    part.__dict__ = {
                        **attributes,
                        "_parameters": dict(attributes["_parameters"]),
                        "_buffers": dict(attributes["_buffers"]),
                        "_modules": dict(attributes["_modules"]),
                    }
                    if part not in self._fixed:
                        part.__dict__["training"] = train
                for slot in self._parameter_slots:
                    slot.owner._parameters[slot.attribute] = params[slot.leaf]  # type: ignore[assignment]
                for slot in self._buffer_slots:
                    slot.owner._buffers[slot.attribute] = buffers[slot.leaf]
                yield self.module
            finally:
                for part, attributes in zip(self._modules, before, strict=True):
                    part.__dict__ = attributes

    def read_buffers(self) -> dict[str, Tensor]:
        """Return the buffers that the module holds now, by name.

        Raises
        ------
        LayerError
            The module has registered, removed or emptied one since it was copied.
        """
        expected = {(slot.owner, slot.attribute) for slot in self._buffer_slots}
        found = {
            (owner, attribute)
            for owner in self.module.modules()
            for attribute, value in owner._buffers.items()
            if value is not None
        }
        changed = sorted(attribute for _, attribute in expected ^ found)
        if changed:
            raise LayerError(
                f"{self.name} registered or emptied the buffers {changed} during the call; a state "
                "keeps its names: call the module once before it is converted."
            )
        return {
            slot.leaf: slot.owner._buffers[slot.attribute]  # type: ignore[misc]
            for slot in self._buffer_slots
        }


def check_module(function: str, module: Any) -> None:
    """Refuse what is no module, or one whose parameters are elsewhere or not there yet."""
    if not isinstance(module, Module):
        raise TypeError(f"{function}: expected a torch.nn.Module, got {module!r}.")
    kind = type(module).__name__
    for path, part in module.named_modules():
        place = f"{function}: {path or 'the module'}"
        attribute = _WRAPPERS.get(type(part).__name__)
        if attribute is not None:
            raise TypeError(f"{place} is a {kind}, a wrapper: give its `.{attribute}`.")
        if isinstance(part, torch.jit.ScriptModule):
            raise TypeError(
                f"{place} is a TorchScript module, whose Python is gone: give the module that was "
                "scripted."
            )
        tensors = [*part._parameters.items(), *part._buffers.items()]
        empty = [name for name, value in tensors if is_lazy(value)]
        if empty:
            raise ValueError(
                f"{place} is lazy: {empty} have no shape yet. Call the module once on an example."
            )


def _first_names(
    named: Callable[..., Iterator[tuple[str, Any]]],
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors by their first name, and for each further name that first one."""
    first: dict[int, str] = {}
    tensors: dict[str, Tensor] = {}
    ties: dict[str, str] = {}
    for name, tensor in named(remove_duplicate=False):
        if id(tensor) in first:
            ties[name] = first[id(tensor)]
        else:
            first[id(tensor)] = name
            tensors[name] = tensor
    return tensors, ties


def _slots(module: Module, kind: str, ties: Mapping[str, str]) -> list[Slot]:
    """Return the places of tensors in the parts' dicts called `kind`."""
    slots = []
    for path, part in module.named_modules():
        for attribute, value in part.__dict__[kind].items():
            if value is not None:
                name = f"{path}.{attribute}" if path else attribute
                slots.append(Slot(part, attribute, ties.get(name, name)))
    return slots


def _without_values(module: Module) -> Module:
    """Return a copy of the module whose parameters and buffers have no memory."""
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        empty = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = Parameter(empty, requires_grad=False)
    for buffer in module.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    for part in module.modules():
        for value in part.__dict__.values():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                # Computed when the module was built or last called; deepcopy refuses these.
                memo[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(module, memo)
    except (RuntimeError, TypeError) as error:
        raise TypeError(
            f"from_module: {type(module).__name__} cannot be copied by copy.deepcopy: {error}"
        ) from error
