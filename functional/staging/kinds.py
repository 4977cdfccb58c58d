"""The kind of a call: all that a program depends on except the values, and how two kinds differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import tree
from ..border import argument_name
from . import arguments


class TensorKind(NamedTuple):
    """What a program knows of a tensor that it is given; `strides` is None where contiguous."""

    cls: type
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    strides: tuple[int, ...] | None
    requires_grad: bool
    dispatch_keys: int

    def __str__(self) -> str:
        """Show what a user would ask about first: `float32 of shape (64, 10)`."""
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{dtype} of shape {tuple(self.shape)}"


class State(NamedTuple):
    """The settings of torch that a trace depends on."""

    grad_mode: bool
    inference_mode: bool
    default_dtype: torch.dtype
    threads: int
    deterministic_algorithms: bool
    autocast_cpu: torch.dtype | None
    autocast_cuda: torch.dtype | None


class Kind(NamedTuple):
    """What decides which program runs."""

    structure: tree.Structure
    static: arguments.StaticArguments
    leaves: tuple[TensorKind, ...]
    state: State


def kind_of(
    leaves: Sequence[Tensor], structure: tree.Structure, static: arguments.StaticArguments
) -> Kind:
    """Return the kind of a call made now."""
    return Kind(structure, static, tuple(map(tensor_kind, leaves)), current_state())


def tensor_kind(tensor: Tensor) -> TensorKind:
    """Return all that a program may depend on of a tensor, except the values."""
    return TensorKind(
        type(tensor),
        tensor.shape,
        tensor.dtype,
        tensor.device,
        None if tensor.is_contiguous() else tensor.stride(),
        tensor.requires_grad,
        torch._C._dispatch_keys(tensor).raw_repr(),
    )


def current_state() -> State:
    """Return the settings of torch at this moment."""
    return State(
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        *(
            torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
            for device in ("cpu", "cuda")
        ),
    )


def differences(names: arguments.Signature, old: Kind, new: Kind) -> list[str]:
    """Say in what two kinds of calls of one function differ: `x: int64 of ... -> float32 of ...`.

    Leaves come first, under the names that the user gives them, then static arguments and torch's
    settings; containers are named where nothing else differs.
    """
    found = [
        *_place_differences(_places(names, old), _places(names, new)),
        *_leaf_differences(_named_leaves(names, old), _named_leaves(names, new)),
        *_static_differences(_named_static(names, old), _named_static(names, new)),
        *_state_differences(old.state, new.state),
    ]
    if not found and old.structure != new.structure:
        found = [f"the containers: {_containers(old)} -> {_containers(new)}"]
    return found


def _place_differences(old: dict[str, str], new: dict[str, str]) -> Iterator[str]:
    for name in old:
        if name in new and old[name] != new[name]:
            yield f"{name}: passed {old[name]} -> {new[name]}"


def _leaf_differences(old: dict[str, TensorKind], new: dict[str, TensorKind]) -> Iterator[str]:
    for name in old:
        if name not in new:
            yield f"{name}: {old[name]} -> nothing"
    for name, kind in new.items():
        if name not in old:
            yield f"{name}: nothing -> {kind}"
        elif old[name] != kind:
            yield f"{name}: {_change(old[name], kind)}"


def _change(old: TensorKind, new: TensorKind) -> str:
    """Say what of a tensor changed; what `str` does not show is named."""
    parts = [f"{old} -> {new}"] if str(old) != str(new) else []
    for field in ("cls", "device", "strides", "requires_grad"):
        before, after = getattr(old, field), getattr(new, field)
        if before != after:
            what = "type" if field == "cls" else field
            parts.append(f"{what} {_shown(before)} -> {_shown(after)}")
    return ", ".join(parts or ["a view of another kind (conjugate, negative, or inference)"])


def _shown(value: Any) -> str:
    if value is None:
        return "contiguous"
    return value.__name__ if isinstance(value, type) else str(value)


def _static_differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before != after:
            yield f"static argument {name}: {_held(before)} -> {_held(after)}"


def _held(static: tree.Static | None) -> str:
    return "its default" if static is None else repr(static.value)


def _state_differences(old: State, new: State) -> Iterator[str]:
    for field, before, after in zip(State._fields, old, new, strict=True):
        if before != after:
            what = "the number of threads" if field == "threads" else field.replace("_", " ")
            yield f"{what}: {_setting(before)} -> {_setting(after)}"


def _setting(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _places(names: arguments.Signature, kind: Kind) -> dict[str, str]:
    """Return for each argument with leaves how it was passed."""
    return {
        _argument(names, accessor[1].entry): "by keyword" if accessor[0].entry else "by position"
        for accessor in kind.structure.accessors()
    }


def _named_leaves(names: arguments.Signature, kind: Kind) -> dict[str, TensorKind]:
    paths = [arguments.leaf_name(names, accessor) for accessor in kind.structure.accessors()]
    return dict(zip(paths, kind.leaves, strict=True))


def _named_static(names: arguments.Signature, kind: Kind) -> dict[str, Any]:
    return {_argument(names, place): held for place, held in kind.static}


def _argument(names: arguments.Signature, place: int | str) -> str:
    return argument_name(names.fun, place) if isinstance(place, int) else place


def _containers(kind: Kind) -> str:
    return str(kind.structure).removeprefix("PyTreeSpec(").removesuffix(")")
