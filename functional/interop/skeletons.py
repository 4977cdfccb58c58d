"""A private copy of a torch module that holds no values: those are moved in for one call at a time.

What is kept of a module is its Python: the tensors of its parameters and buffers are replaced by
ones without memory, and each has a leaf of the parameters or of the state in its place while
`Skeleton.inhabited` lasts, also where a list or a dict of the module holds it once more.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
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


#: The dicts of a module that are filled for a call.
_FILLED = ("_parameters", "_buffers", "_modules")
_DICTS = (dict, OrderedDict, defaultdict)
_COLLECTIONS = (*_DICTS, deque, list, set, tuple)


class Absent(Tensor):
    """What a skeleton has in the place of a tensor; every use of its values is refused."""

    place: str

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Refuse to do anything but tell a property, and say which tensor is not there."""
        if getattr(func, "__name__", "") == "__get__":
            with torch._C.DisableTorchFunctionSubclass():
                found = func(*args)
            if not isinstance(found, Tensor):
                return found
        places = [leaf.place for leaf in _in_collections((args, kwargs)) if isinstance(leaf, cls)]
        raise LayerError(
            f"{' and '.join(places)} is read where it has no value: in an object or a function "
            "that has it beside the module, or after the call, as torch.utils.checkpoint does "
            "under torch's own autograd; let the module read its attribute."
        )


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
        Copies of the module's tensors, by the first name that each has. A buffer that is a
        parameter, too, is that parameter.
    """

    def __init__(self, module: Module) -> None:
        check_module("from_module", module)
        self.name = type(module).__name__
        names: dict[int, str] = {}
        parameters, parameter_ties = _first_names(module.named_parameters, names)
        buffers, buffer_ties = _first_names(module.named_buffers, names)
        _check_no_hooks(self.name, parameters)
        self.module = _without_values(module, names)
        self.parameters, self.buffers = (
            {name: tensor.detach().clone() for name, tensor in tensors.items()}
            for tensors in (parameters, buffers)
        )
        self._lock = threading.RLock()
        self._parameter_slots = _slots(self.module, "_parameters", parameter_ties)
        self._buffer_slots = _slots(self.module, "_buffers", buffer_ties)
        self._modules = list(self.module.modules())
        self._collections = [
            (part, attribute)
            for part in self._modules
            for attribute, value in part.__dict__.items()
            if attribute not in _FILLED and type(value) in (Absent, *_COLLECTIONS)
        ]
        # A part that stood otherwise than the whole has been told so: it goes on standing.
        self._fixed = {part for part in self._modules if part.training != module.training}

    @contextmanager
    def inhabited(
        self, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], train: bool
    ) -> Iterator[Module]:
        """Hand out the module with these tensors inside, and take everything out again.

        Afterwards each part has the attributes and hooks that it had before, whatever was assigned
        meanwhile or put into its lists and dicts.
        """
        values = {**params, **buffers}
        copies: dict[int, Any] = {}
        with self._lock:
            before = [part.__dict__ for part in self._modules]
            try:
                for part, attributes in zip(self._modules, before, strict=True):
                    part.__dict__ = {
                        **attributes,
                        **{name: dict(attributes[name]) for name in _FILLED},
                    }
                    if part not in self._fixed:
                        part.__dict__["training"] = train
                for slot in self._parameter_slots:
                    slot.owner._parameters[slot.attribute] = values[slot.leaf]  # type: ignore[assignment]
                for slot in self._buffer_slots:
                    slot.owner._buffers[slot.attribute] = values[slot.leaf]
                for part, attribute in self._collections:
                    held = part.__dict__[attribute]
                    part.__dict__[attribute] = _with_values(held, values, copies)
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
            if slot.leaf in self.buffers
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


def _check_no_hooks(module: str, parameters: Mapping[str, Tensor]) -> None:
    """Refuse parameters whose gradients torch's autograd would hand to a function."""
    hooked = [name for name, parameter in parameters.items() if parameter._backward_hooks]
    if hooked:
        raise ValueError(
            f"from_module: {module} has hooks on the gradients of {hooked} (Tensor.register_hook), "
            "which a pure function does not run: remove them, and change the gradients that "
            "pf.grad returns."
        )


def _first_names(
    named: Callable[..., Iterator[tuple[str, Any]]], first: dict[int, str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors by their first name, and for each further name that first one.

    `first` has the names by the tensors' identities, and gets those of new ones.
    """
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


def _in_collections(value: Any) -> Iterator[Any]:
    """Yield what is in a value of tuples, lists and dicts."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if not isinstance(value, list | tuple):
        yield value
        return
    for part in value:
        yield from _in_collections(part)


def _with_values(held: Any, values: Mapping[str, Tensor], copies: dict[int, Any]) -> Any:
    """Return a copy of a module's list or dict, and all in it, that has values in it.

    `copies` has the copy of each by its identity: what two parts share is shared by the copies.
    """
    if isinstance(held, Absent):
        return values[held.place]
    kind = type(held)
    if kind not in _COLLECTIONS:
        return held
    if id(held) in copies:
        return copies[id(held)]
    if kind is tuple:
        return tuple(_with_values(part, values, copies) for part in held)
    copies[id(held)] = copied = held.copy()
    if kind in _DICTS:
        for name, part in held.items():
            copied[name] = _with_values(part, values, copies)
    elif kind is list:
        copied[:] = [_with_values(part, values, copies) for part in held]
    return copied


def _without_values(module: Module, names: Mapping[int, str]) -> Module:
    """Return a copy of the module whose parameters and buffers, which have names, are absent."""
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        empty: Any = torch.empty_like(tensor, device="meta", requires_grad=False).as_subclass(
            Absent
        )
        empty.place = names[id(tensor)]
        # What `isinstance(empty, Parameter)` asks.
        empty._is_param = isinstance(tensor, Parameter)
        memo[id(tensor)] = empty
    for part in module.modules():
        for value in _in_collections(part.__dict__):
            if isinstance(value, Tensor) and value.grad_fn is not None:
                # Computed when the module was built or last called; deepcopy refuses these.
                memo[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(module, memo)
    except (RuntimeError, TypeError) as error:
        raise TypeError(
            f"from_module: {type(module).__name__} cannot be copied by copy.deepcopy: {error}"
        ) from error
