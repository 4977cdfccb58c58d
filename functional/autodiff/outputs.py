"""What a function that is differentiated may return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import tree
from ..border import describe, function_name, tensor_leaves


def split_aux(transform: str, fun: Callable[..., Any], output: Any, has_aux: bool) -> Any:
    """Return `(value, aux)`, where `aux` is None unless `has_aux`."""
    if not has_aux:
        return output, None
    if not isinstance(output, tuple | list) or len(output) != 2:
        raise TypeError(
            f"{transform}: with has_aux=True, {function_name(fun)} has to return a pair "
            f"(value, aux), got {_describe_output(output)}."
        )
    return output


def scalar(transform: str, fun: Callable[..., Any], value: Any) -> Tensor:
    """Return `value` as a 0-d tensor of real dtype, or raise a `TypeError`."""
    if isinstance(value, float):
        return torch.tensor(value)
    if isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point():
        return value
    given = f"{transform}: {function_name(fun)} returned {_describe_output(value)}"
    if not isinstance(value, Tensor):
        advice = "If it returns (value, aux), pass has_aux=True."
    elif value.is_complex():
        advice = "Return its real part or its absolute value, or use vjp."
    elif not value.is_floating_point():
        advice = "Integers have no derivative: cast them before the computation, not after it."
    else:
        advice = "Reduce it, as with .mean() or .sum(), or use jacrev to differentiate every entry."
    raise TypeError(f"{given}, expected one 0-d floating-point tensor. {advice}")


def real_leaves(transform: str, output: tree.PyTree) -> tree.PyTree:
    """Return `output` with numbers made tensors, or raise a `TypeError` for what is not real."""
    output = tensor_leaves(transform, "output", output)
    for index, leaf in enumerate(tree.leaves(output)):
        if not leaf.is_floating_point():
            raise TypeError(
                f"{transform}: {tree.path_strings(output, 'output')[index]} is {describe(leaf)}, "
                "and only floating-point outputs have a Jacobian. Return it beside the output "
                "with has_aux=True, or use jvp or vjp where it is complex."
            )
    return output


def _describe_output(output: Any) -> str:
    if tree.structure(output).is_leaf():
        return describe(output)
    return f"the {type(output).__name__} {tree.structure(output)}"
