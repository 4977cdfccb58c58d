"""From pure functions back to torch modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from .. import random, tree
from ..nn import Layer, Params, State, StatefulLayer
from .skeletons import check_module


class LayerModule(Module):
    """A layer with its parameters and state inside: what `to_module` returns.

    Its state dict has the names of `tree.to_state_dict(params)` and of the state's, and its
    `forward(x)` is that of the layer, in the module's mode. In training it keeps the new state and
    takes its keys from torch's default generator, so that `torch.manual_seed` reproduces a run.
    """

    def __init__(self, layer: Layer | StatefulLayer, params: Params, state: State) -> None:
        super().__init__()
        self._layer = layer
        self._parameter_names = _register(self, "parameter", params)
        self._state_names = _register(self, "buffer", state)

    def forward(self, x: Any) -> Any:
        """Return the layer's output on `x`, and in training keep its next state."""
        params = tree.from_state_dict(_at(self, self._parameter_names))
        key = _drawn_key(params, x) if self.training and self._layer.uses_key else None
        if not isinstance(self._layer, StatefulLayer):
            return self._layer.apply(params, x, key=key, train=self.training)
        state = tree.from_state_dict(_at(self, self._state_names))
        y, state = self._layer.apply(params, state, x, key=key, train=self.training)
        if self.training:
            with torch.no_grad():
                for name, value in tree.to_state_dict(state).items():
                    owner, attribute = _owner(self, name)
                    setattr(owner, attribute, value.detach())
        return y

    def extra_repr(self) -> str:
        """Say which layer it is, in the module's own printout."""
        return self._layer.kind


def to_module(
    layer: Layer | StatefulLayer, params: Params, state: State | None = None
) -> LayerModule:
    """Return a torch module that computes `layer`, with copies of `params` as its parameters.

    It is a module like any other: `torch.optim` trains it, `state_dict` has the names of
    `tree.to_state_dict`, `eval` and `train` set its mode, `to` moves it. It is a torch module and
    not pure: in training it keeps its state in buffers, and draws each call's key from torch's
    default generator.

    Parameters
    ----------
    layer
        A layer, stateful where `state` is given.
    params, state
        Nested dicts of tensors, as `layer.init` returns them. Tensors that are not
        floating-point or complex become parameters without a gradient.

    Raises
    ------
    TypeError
        `layer` is not a layer, or a stateful one without a state, or the other way round; or
        `params` or `state` are not nested dicts of tensors.
    ValueError
        A name cannot be one of a module's attributes, is a parameter's and a state's, or lies
        below another.

    Examples
    --------
    >>> from purefn.functional import nn, random
    >>> layer = nn.serial(hidden=nn.linear(4), act=nn.relu, head=nn.linear(1))
    >>> x = torch.ones(2, 3)
    >>> module = to_module(layer, layer.init(random.key(0), x))
    >>> [name for name, _ in module.named_parameters()]
    ['hidden.weight', 'hidden.bias', 'head.weight', 'head.bias']
    >>> optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    >>> before = module(x).square().mean()
    >>> before.backward()
    >>> optimizer.step()
    >>> bool(module(x).square().mean() < before)
    True
    """
    check_layer("to_module", layer, state)
    return LayerModule(layer, params, {} if state is None else state)


def check_layer(function: str, layer: Any, state: State | None) -> None:
    """Refuse what is no layer, and one with a state where none is given, or the other way round."""
    if not isinstance(layer, Layer | StatefulLayer):
        raise TypeError(f"{function}: expected a Layer or StatefulLayer, got {layer!r}.")
    if isinstance(layer, StatefulLayer) != (state is not None):
        kind = "a stateful layer needs" if state is None else "a layer without state takes no"
        raise TypeError(f"{function}: {kind} `state`; stateful layers are StatefulLayers.")


def load_into(module: Module, params: Params, state: State | None = None) -> None:
    """Write `params` (and `state`) into a torch module, whose tensors have their names.

    The module is what is written, nothing else; its tensors stay the same objects, so that an
    optimizer and tied weights go on. Every parameter must be given, a tied one under its first name
    or under all with equal values, and with `state` every buffer.

    Raises
    ------
    TypeError
        `module` is not a module, or a leaf is not a tensor.
    ValueError
        A name is missing or unknown, a leaf has another shape, dtype or layout than the module's or
        no values, or a tied tensor is given two values. Nothing has been written then.

    Examples
    --------
    >>> module = torch.nn.Linear(2, 1)
    >>> load_into(module, {"weight": torch.ones(1, 2), "bias": torch.zeros(1)})
    >>> module(torch.tensor([1.0, 2.0]))
    tensor([3.], grad_fn=<ViewBackward0>)
    >>> load_into(module, {"weight": torch.ones(1, 3), "bais": torch.zeros(1)})
    Traceback (most recent call last):
    ValueError: load_into: params: missing names ['bias'], unknown names ['bais'].
    """
    check_module("load_into", module)
    targets = {"params": dict(module.named_parameters(remove_duplicate=False))}
    given = {"params": params}
    if state is not None:
        targets["state"] = dict(module.named_buffers(remove_duplicate=False))  # type: ignore[arg-type]
        given["state"] = state
    writes = [
        pair
        for what, trees in given.items()
        for pair in _checked_writes(what, trees, targets[what])
    ]
    # A value may be a tensor of the module, which another one is written to first.
    written = {_memory(target) for target, _ in writes}
    with torch.no_grad():
        copies = [value.clone() if _memory(value) in written else value for _, value in writes]
        for (target, _), value in zip(writes, copies, strict=True):
            target.copy_(value)


def _memory(tensor: Tensor) -> int:
    """Return what tells the memory of a tensor from that of others, 0 for sparse ones."""
    return int(tensor.untyped_storage()._cdata) if tensor.layout is torch.strided else 0


def _checked_writes(
    what: str, given: tree.PyTree, targets: Mapping[str, Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Pair the module's tensors with their new values, or refuse these."""
    values = tree.to_state_dict(given)
    by_tensor: dict[int, list[str]] = {}
    for name, target in targets.items():
        by_tensor.setdefault(id(target), []).append(name)
    unknown = [name for name in values if name not in targets]
    missing = [
        names[0] for names in by_tensor.values() if not any(name in values for name in names)
    ]
    if missing or unknown:
        raise ValueError(f"load_into: {what}: missing names {missing}, unknown names {unknown}.")
    writes = []
    for names in by_tensor.values():
        named = {name: values[name] for name in names if name in values}
        first, *others = named
        for name, value in named.items():
            _check_alike(name, value, targets[name])
        for name in others:
            if not torch.equal(named[name], named[first]):
                raise ValueError(
                    f"load_into: {first!r} and {name!r} are one tensor in the module and were "
                    "given two values."
                )
        writes.append((targets[first], named[first]))
    return writes


def _check_alike(name: str, value: Any, target: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"load_into: expected a tensor for {name!r}, got {value!r}.")
    if value.shape != target.shape or value.dtype != target.dtype:
        raise ValueError(
            f"load_into: {name!r} has shape {tuple(value.shape)} and dtype {value.dtype}, the "
            f"module's {tuple(target.shape)} and {target.dtype}."
        )
    if value.layout != target.layout or value.is_meta != target.is_meta:
        raise ValueError(
            f"load_into: {name!r} is on {value.device} with layout {value.layout}, the module's on "
            f"{target.device} with layout {target.layout}."
        )


def _register(module: Module, kind: str, values: tree.PyTree) -> list[str]:
    """Give the module copies of the leaves, in submodules by name, and return their names."""
    if not isinstance(values, Mapping):
        raise TypeError(f"to_module: expected nested dicts of tensors, got {values!r}.")
    names = []
    for name, leaf in _leaves_in_order(values):
        if not isinstance(leaf, Tensor):
            raise TypeError(f"to_module: expected tensors, got {name!r} = {leaf!r}.")
        owner, attribute = _owner(module, name, make=True)
        if hasattr(owner, attribute):
            raise ValueError(
                f"to_module: {name!r} cannot be an attribute: the module has one of that name."
            )
        copy = leaf.detach().clone()
        if kind == "parameter":
            is_trainable = copy.is_floating_point() or copy.is_complex()
            owner.register_parameter(attribute, Parameter(copy, requires_grad=is_trainable))
        else:
            owner.register_buffer(attribute, copy)
        names.append(name)
    return names


def _leaves_in_order(values: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
    """Return the leaves of nested dicts by name, in the order in which they were written."""
    leaves: list[tuple[str, Any]] = []
    for name, value in values.items():
        full = f"{path}{name}"
        leaves += (
            _leaves_in_order(value, f"{full}.") if isinstance(value, Mapping) else [(full, value)]
        )
    return leaves


def _owner(module: Module, name: str, make: bool = False) -> tuple[Module, str]:
    """Return the submodule that has the tensor called `name`, and the attribute that it is."""
    *path, attribute = name.split(".")
    for part in path:
        if make and part not in module._modules:
            if hasattr(module, part):
                raise ValueError(
                    f"to_module: {part!r} of {name!r} cannot be an attribute: the module has one."
                )
            module.add_module(part, Module())
        module = module._modules[part]  # type: ignore[assignment]
    return module, attribute


def _at(module: Module, names: list[str]) -> dict[str, Tensor]:
    return {name: getattr(*_owner(module, name)) for name in names}


def _drawn_key(params: Params, x: Any) -> Tensor:
    """Return a key of torch's default generator, on the device of the tensors."""
    seed = torch.randint(2**32, (), dtype=torch.int64)
    tensors = [leaf for leaf in tree.leaves((params, x)) if isinstance(leaf, Tensor)]
    key = random.key(int(seed))
    return key.to(tensors[0].device) if tensors else key
