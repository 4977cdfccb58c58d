"""What normalisation layers share: weight, bias and running statistics of every channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

from .. import random, tree
from ..control import levels
from ..initializers import Initializer
from .checks import check_bools, check_flag, check_number
from .layer import LayerError, Params, State
from .parameters import check_parameters, check_same_dtype, check_state_dtype, drawn


def affine_names(layer: str, affine: bool, bias: bool) -> list[str]:
    """Return the names of the parameters that the options ask for.

    >>> affine_names("group_norm", affine=True, bias=False)
    ['weight']
    """
    check_bools(layer, affine=affine, bias=bias)
    return ["weight", *(["bias"] if bias else [])] if affine else []


def draw_affine(
    key: Tensor,
    names: Sequence[str],
    shape: Sequence[int],
    dtype: torch.dtype,
    weight_init: Initializer,
    bias_init: Initializer,
) -> Params:
    """Return those of `weight` and `bias` that are named."""
    weight_key, bias_key = random.split(key)
    params = {"weight": (weight_init, weight_key), "bias": (bias_init, bias_key)}
    return {
        name: drawn(f"{name}_init", draw, key, shape, dtype)
        for name, (draw, key) in params.items()
        if name in names
    }


def check_affine(layer: str, params: Any, names: Sequence[str]) -> int | str:
    """Refuse parameters that are not one number for each channel; return how many channels.

    Without parameters any number will do, and the letter "C" is returned.
    """
    check_parameters(layer, params, dict.fromkeys(names, ("C",)))
    if not names:
        return "C"
    channels: int = params[names[0]].shape[0]
    check_parameters(layer, params, dict.fromkeys(names, (channels,)))
    return channels


def check_momentum(layer: str, momentum: Any) -> None:
    """Refuse a momentum that is not a number within [0, 1].

    >>> check_momentum("batch_norm", 2)
    Traceback (most recent call last):
    ValueError: batch_norm: expected a momentum within [0, 1], got 2.
    """
    check_number(layer, "momentum", momentum)
    if not 0 <= momentum <= 1:
        raise ValueError(f"{layer}: expected a momentum within [0, 1], got {momentum}.")


def channels_first(channels: int | str, x: Any, least_spatial: int = 0) -> tuple[int | str, ...]:
    """Return the expected shape `(N, C, *spatial)` with as many dimensions as `x`.

    >>> channels_first(3, torch.ones(2, 3, 5, 5))
    ('N', 3, 'D1', 'D2')
    """
    spatial = max(len(getattr(x, "shape", ())) - 2, least_spatial)
    return ("N", channels, *(f"D{index}" for index in range(1, spatial + 1)))


def running_statistics(key: Tensor, channels: int, dtype: torch.dtype) -> State:
    """Return the state before the first batch: mean 0 and variance 1."""
    return {
        "running_mean": torch.zeros(channels, dtype=dtype, device=key.device),
        "running_var": torch.ones(channels, dtype=dtype, device=key.device),
        "num_batches_tracked": torch.zeros((), dtype=torch.int64, device=key.device),
    }


def check_tracked(
    layer: str, params: Params, state: State, names: Sequence[str], train: bool
) -> int:
    """Refuse parameters and statistics of other channels than one another; return how many."""
    check_flag(layer, "train", train)
    check_parameters(layer, params, dict.fromkeys(names, ("C",)))
    per_channel: dict[str, tuple[str, ...]] = {"running_mean": ("C",), "running_var": ("C",)}
    check_parameters(layer, state, {**per_channel, "num_batches_tracked": ()})
    channels: int = state["running_mean"].shape[0]
    for name in (*names, *per_channel):
        shape = (params if name in names else state)[name].shape
        if shape != (channels,):
            raise LayerError(
                f"{layer} expected {name!r} of shape ({channels},), as 'running_mean' has, got "
                f"{tuple(shape)}."
            )
    return channels


def check_tracked_dtypes(layer: str, x: Tensor, params: Params, state: State) -> None:
    """Refuse parameters and statistics that an input of its dtype cannot be normalised with."""
    check_same_dtype(layer, x, params)
    statistics = {name: state[name] for name in ("running_mean", "running_var")}
    check_state_dtype(layer, x, statistics)


def normalize_by(state: State, x: Tensor, params: Params, eps: float) -> Tensor:
    """Return `x` normalised by running statistics."""
    wide = widened(x, {**params, **state})
    mean, var = wide["running_mean"], wide["running_var"]
    weight, bias = wide.get("weight"), wide.get("bias")
    y = F.batch_norm(for_transforms(x), mean, var, weight, bias, eps=eps)
    return y.to(x.dtype)


def widened(x: Tensor, values: Params) -> Params:
    """Return weights and statistics in float32 where `x` is a half.

    torch's kernels round less with these: batch norm's gradients lose ten times as much otherwise.
    """
    return tree.cast(values, torch.promote_types(x.dtype, torch.float32))


def for_transforms(x: Tensor) -> Tensor:
    """Return `x` in float32 where it is a half and torch.func's transforms run.

    Under vmap torch takes weight and bias apart from batch norm, forwards and backwards; its
    kernels refuse the mixture of dtypes that is left.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32)) if _transforms_run() else x


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _transforms_run() -> bool:
    return levels.current() > 0
