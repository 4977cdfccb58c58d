"""What losses and metrics ask of their arguments."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

INTEGER_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_tensor(caller: str, name: str, value: Any) -> None:
    """Refuse anything but a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{caller}: {name} must be a tensor, got {type(value).__name__}.")


def check_logits(caller: str, name: str, logits: Tensor) -> None:
    """Refuse anything but floating-point values of shape `(N, C, ...)`."""
    check_tensor(caller, name, logits)
    if not logits.is_floating_point():
        raise TypeError(f"{caller}: {name} must be floating point, got {logits.dtype}.")
    if logits.ndim < 2:
        raise ValueError(
            f"{caller}: {name} must have shape (batch, classes, ...), got {tuple(logits.shape)}; "
            f"give a single example a batch of one, {name}[None]."
        )


def check_pair(caller: str, name: str, values: Tensor, other_name: str, other: Tensor) -> None:
    """Refuse all but two floating-point tensors of one shape `(N, ...)` and one dtype."""
    check_tensor(caller, name, values)
    check_tensor(caller, other_name, other)
    if not values.is_floating_point():
        raise TypeError(f"{caller}: {name} must be floating point, got {values.dtype}.")
    if other.dtype != values.dtype:
        raise TypeError(
            f"{caller}: {other_name} must have the dtype of {name}, {values.dtype}, got "
            f"{other.dtype}; convert with {other_name}.to({name}.dtype)."
        )
    if other.shape != values.shape:
        raise ValueError(
            f"{caller}: {other_name} must have the shape of {name}, {tuple(values.shape)}, got "
            f"{tuple(other.shape)}; nothing is broadcast."
        )
    if values.ndim == 0:
        raise ValueError(f"{caller}: {name} must have shape (batch, ...), got a 0-d tensor.")


def check_number(caller: str, name: str, value: float) -> None:
    """Refuse anything but a Python number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"{caller}: {name} must be a Python number, got {type(value).__name__}; "
            "where it is an argument of a compiled function, mark that argument static."
        )


def check_finite(caller: str, name: str, value: float) -> None:
    """Refuse anything but a finite Python number."""
    check_number(caller, name, value)
    if not -math.inf < value < math.inf:
        raise ValueError(f"{caller}: {name} must be finite, got {value}.")


def check_at_least(caller: str, name: str, value: float, least: float) -> None:
    """Refuse anything but a finite Python number of at least `least`."""
    check_number(caller, name, value)
    if not least <= value < math.inf:
        raise ValueError(f"{caller}: {name} must be finite and at least {least}, got {value}.")


def check_above(caller: str, name: str, value: float, bound: float) -> None:
    """Refuse anything but a finite Python number above `bound`."""
    check_number(caller, name, value)
    if not bound < value < math.inf:
        raise ValueError(f"{caller}: {name} must be finite and above {bound}, got {value}.")


def check_switch(caller: str, name: str, value: bool) -> None:
    """Refuse anything but a Python bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{caller}: {name} must be True or False, got {value!r}.")


def check_count(caller: str, name: str, value: int) -> None:
    """Refuse anything but a Python integer of at least 1."""
    check_integer(caller, name, value)
    if value < 1:
        raise ValueError(f"{caller}: {name} must be at least 1, got {value}.")


def check_integer(caller: str, name: str, value: int) -> None:
    """Refuse anything but a Python integer."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{caller}: {name} must be a Python integer, got {type(value).__name__}.")


def class_labels(
    caller: str, logits: Tensor, labels: Tensor, ignore_index: int | None = None
) -> Tensor:
    """Return class numbers that fit logits of shape `(N, C, ...)` as int64 of shape `(N, ...)`."""
    check_integers(caller, "labels", labels)
    expected = (logits.shape[0], *logits.shape[2:])
    if labels.shape != expected:
        raise ValueError(
            f"{caller}: labels must have shape {expected} for logits of shape "
            f"{tuple(logits.shape)}, got {tuple(labels.shape)}."
        )
    labels = labels.long()
    check_range(caller, "labels", labels, logits.shape[1], ignore_index)
    return labels


def check_vectors(caller: str, **vectors: Tensor) -> None:
    """Refuse all but floating-point tensors of one shape `(N, ..., D)` and one dtype."""
    (first_name, first), *others = vectors.items()
    for name, other in others or [(first_name, first)]:
        check_pair(caller, first_name, first, name, other)
    if first.ndim < 2:
        raise ValueError(
            f"{caller}: {first_name} must have shape (batch, ..., features), got "
            f"{tuple(first.shape)}; give a single example a batch of one, {first_name}[None]."
        )


def sign_labels(
    caller: str, name: str, labels: Tensor, shape: tuple[int, ...], like: Tensor
) -> Tensor:
    """Return labels of 1 and -1 of that shape in the dtype of `like`, NaN in place of others."""
    check_tensor(caller, name, labels)
    if labels.dtype not in (*INTEGER_DTYPES, like.dtype):
        raise TypeError(
            f"{caller}: {name} must be integers or of dtype {like.dtype}, got {labels.dtype}."
        )
    if labels.shape != shape:
        raise ValueError(
            f"{caller}: {name} must have shape {tuple(shape)}, got {tuple(labels.shape)}."
        )
    is_sign = (labels == 1) | (labels == -1)
    check_values(caller, name, labels, is_sign, "be 1 or -1")
    return torch.where(is_sign, labels.to(like.dtype), math.nan)


def check_values(caller: str, name: str, values: Tensor, valid: Tensor, expected: str) -> None:
    """Refuse values that are not valid, where they can be seen without tracing."""
    if not values_are_visible(values) or valid.all():
        return
    raise ValueError(
        f"{caller}: {name} must {expected}; found {sorted(set(values[~valid].tolist()))[:5]}."
    )


def nan_unless(valid: Tensor, like: Tensor) -> Tensor:
    """Return 1 where valid and NaN elsewhere: a factor that makes value and gradient NaN."""
    return torch.where(valid, 1.0, math.nan).to(like.dtype)


def check_class_weight(caller: str, weight: Tensor | None, logits: Tensor) -> None:
    """Refuse anything but None or one factor for each class of logits `(N, C, ...)`."""
    if weight is None:
        return
    check_factor(caller, "weight", weight, logits)
    if weight.shape != logits.shape[1:2]:
        raise ValueError(
            f"{caller}: weight must have shape ({logits.shape[1]},), one factor per class, got "
            f"{tuple(weight.shape)}."
        )


def check_element_weight(caller: str, weight: Tensor | None, values: Tensor) -> None:
    """Refuse anything but None, a 0-d factor, or factors that fit without enlarging `values`."""
    if weight is None:
        return
    check_factor(caller, "weight", weight, values)
    fits = weight.ndim == values.ndim and broadcasts(weight.shape, values.shape)
    if weight.ndim and not fits:
        raise ValueError(
            f"{caller}: weight must be 0-d or have {values.ndim} dimensions, each of length "
            f"1 or as in {tuple(values.shape)}, got {tuple(weight.shape)}."
        )


def check_factor(caller: str, name: str, factor: Tensor, values: Tensor) -> None:
    """Refuse anything but a tensor of the dtype of the values that it multiplies."""
    check_tensor(caller, name, factor)
    if factor.dtype != values.dtype:
        raise TypeError(
            f"{caller}: {name} must have the dtype of what it weighs, {values.dtype}, got "
            f"{factor.dtype}."
        )


def broadcasts(shape: torch.Size, target: torch.Size) -> bool:
    """Say whether `shape` broadcasts to `target` without enlarging it."""
    trailing = target[len(target) - len(shape) :]
    return len(shape) <= len(target) and all(
        length in (1, whole) for length, whole in zip(shape, trailing, strict=True)
    )


def check_integers(caller: str, name: str, labels: Tensor) -> None:
    """Refuse labels that are no class numbers."""
    check_tensor(caller, name, labels)
    if labels.dtype not in INTEGER_DTYPES:
        raise TypeError(f"{caller}: {name} must be integers (class numbers), got {labels.dtype}.")


def check_range(
    caller: str, name: str, labels: Tensor, classes: int, ignore_index: int | None = None
) -> None:
    """Refuse labels outside `[0, classes)` where their values can be seen without tracing."""
    if not values_are_visible(labels):
        return
    outside = ~in_range(labels, classes)
    if ignore_index is not None:
        outside &= labels != ignore_index
    if outside.any():
        ignored = "" if ignore_index is None else f" or be ignore_index={ignore_index}"
        raise ValueError(
            f"{caller}: {name} must lie in [0, {classes}){ignored}; "
            f"found {sorted(set(labels[outside].tolist()))[:5]}."
        )


def in_range(labels: Tensor, classes: int) -> Tensor:
    """Say for each label whether it names one of the classes."""
    return (labels >= 0) & (labels < classes)


def values_are_visible(tensor: Tensor) -> bool:
    """Say whether Python may look at the values: no trace, vmap or fake tensor is in between."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return False
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        if torch._C._functorch.is_batchedtensor(tensor):
            return False
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return type(tensor) in (Tensor, torch.nn.Parameter) and tensor.device.type != "meta"
