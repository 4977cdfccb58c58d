"""Drawing a layer's parameters, and checking those that it is given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import initializers, random
from .checks import fits
from .layer import LayerError, describe

#: torch's default for weights: uniform within `±1 / sqrt(fan_in)`.
DEFAULT_WEIGHT = initializers.kaiming_uniform(math.sqrt(5))


def weight_and_bias(
    key: Tensor,
    weight_shape: Sequence[int],
    dtype: torch.dtype,
    bias: bool,
    weight_init: initializers.Initializer | None,
    bias_init: initializers.Initializer | None,
    bias_length: int | None = None,
) -> dict[str, Tensor]:
    """Return `weight` and perhaps `bias`, uniform within `±1 / sqrt(fan_in)` unless told.

    Where there is no input at all the bias is zero, as in torch. Its length is that of the weight's
    first dimension unless given.
    """
    weight_key, bias_key = random.split(key)
    draw = weight_init or DEFAULT_WEIGHT
    params = {"weight": drawn("weight_init", draw, weight_key, weight_shape, dtype)}
    if bias:
        fan_in, _ = initializers.fans(weight_shape)
        bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
        draw = bias_init or initializers.uniform(-bound, bound)
        length = weight_shape[0] if bias_length is None else bias_length
        params["bias"] = drawn("bias_init", draw, bias_key, (length,), dtype)
    return params


def drawn(
    argument: str,
    initializer: initializers.Initializer,
    key: Tensor,
    shape: Sequence[int],
    dtype: torch.dtype,
) -> Tensor:
    """Return what an initializer, given as `argument`, draws; refuse one that does not fit.

    >>> drawn("bias_init", 0.0, random.key(0), (2,), torch.float32)
    Traceback (most recent call last):
    TypeError: expected an initializer, a function of (key, shape, dtype), for bias_init, got 0.0.
    """
    if not callable(initializer):
        raise TypeError(
            f"expected an initializer, a function of (key, shape, dtype), for {argument}, got "
            f"{initializer!r}."
        )
    value = initializer(key, shape, dtype)
    if not isinstance(value, Tensor) or tuple(value.shape) != tuple(shape):
        raise LayerError(
            f"{argument} was asked for a tensor of shape {tuple(shape)}, and gave "
            f"{describe(value)}."
        )
    return value


def check_parameters(layer: str, params: Any, expected: Mapping[str, Sequence[int | str]]) -> None:
    """Refuse parameters (or a state) that do not have the names and shapes of the layer's own."""
    if not isinstance(params, Mapping):
        raise LayerError(
            f"{layer} expected a dict of {sorted(expected)}, got {describe(params)}; "
            "the order of arguments is (params, x)."
        )
    if set(params) != set(expected):
        raise LayerError(f"{layer} expected a dict of {sorted(expected)}, got {describe(params)}.")
    for name, shape in expected.items():
        value = params[name]
        if not isinstance(value, Tensor) or not fits(value.shape, shape):
            pattern = ", ".join(str(length) for length in shape) + "," * (len(shape) == 1)
            raise LayerError(
                f"{layer} expected {name!r} to be a tensor of shape ({pattern}), "
                f"got {describe(value)}."
            )


def check_same_dtype(layer: str, x: Tensor, params: Mapping[str, Tensor]) -> None:
    """Refuse parameters of another dtype than the input's, unless autocast is there to convert."""
    if torch.is_autocast_enabled(x.device.type):
        return
    for name, value in params.items():
        if value.dtype != x.dtype:
            raise LayerError(
                f"{layer} got an input of {x.dtype} and {name!r} of {value.dtype}; "
                "convert one of them, as in `tree.cast(params, x.dtype)`."
            )


def check_state_dtype(layer: str, x: Tensor, state: Mapping[str, Tensor]) -> None:
    """Refuse statistics of another dtype than the input's, unless they are float32 beside a half.

    So they are in mixed precision: an average that moves by less than its own precision stands
    still.
    """
    is_half = x.dtype in (torch.bfloat16, torch.float16)
    if not (is_half and all(value.dtype == torch.float32 for value in state.values())):
        check_same_dtype(layer, x, state)
