"""Maxima over windows at random places, for any ratio of lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import random
from .checks import (
    Shape,
    check_flag,
    check_maybe_batched,
    check_number,
    int_per_dim,
    needed_key,
)
from .layer import Layer, LayerError, Params
from .parameters import check_parameters

IntOrInts = int | Sequence[int]
Ratio = float | Sequence[float]


def fractional_max_pool2d(
    kernel_size: IntOrInts,
    output_size: IntOrInts | None = None,
    output_ratio: Ratio | None = None,
) -> Layer:
    """Return the maximum over windows whose distances vary, in training at random.

    For inputs `(N, C, H, W)` or `(C, H, W)`. In each spatial dimension, from `n` elements to `m`
    with windows of `k`, window `i` begins at

        floor((i + u) a) - floor(u a),    a = (n - k) / (m - 1),

    and the last at `n - k`. In training `u` is uniform within `[0, 1)`, one for each channel of
    each example and each dimension; otherwise it is 1/2, so that an answer needs no key, whereas
    `torch.nn.FractionalMaxPool2d` goes on drawing. Graham 2014, Fractional max-pooling
    (arXiv:1412.6071).

    Parameters
    ----------
    kernel_size
        One integer for all spatial dimensions, or one for each.
    output_size
        Likewise: the spatial shape of the output.
    output_ratio
        In the place of `output_size`: what the input's lengths are multiplied by, and then rounded
        down; within `(0, 1)`.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above, or not exactly one of the last two is given.
    LayerError
        No key is given in training; or the input does not have the right dimensions, is not
        floating-point, or has not `output_size + kernel_size - 1` elements in each.

    Examples
    --------
    >>> layer = fractional_max_pool2d(2, output_ratio=0.7)
    >>> x = torch.ones(8, 3, 20, 10)
    >>> layer({}, x, key=random.key(0), train=True).shape
    torch.Size([8, 3, 14, 7])
    """
    return _fractional(2, kernel_size, output_size, output_ratio)


def fractional_max_pool3d(
    kernel_size: IntOrInts,
    output_size: IntOrInts | None = None,
    output_ratio: Ratio | None = None,
) -> Layer:
    """Return the maximum over windows of `(N, C, D, H, W)` or `(C, D, H, W)` at varying distances.

    See `fractional_max_pool2d`.

    >>> fractional_max_pool3d(2, output_size=3)({}, torch.ones(2, 3, 5, 6, 7)).shape
    torch.Size([2, 3, 3, 3, 3])
    """
    return _fractional(3, kernel_size, output_size, output_ratio)


def _fractional(
    dims: int, kernel_size: IntOrInts, output_size: IntOrInts | None, output_ratio: Ratio | None
) -> Layer:
    name = f"fractional_max_pool{dims}d"
    kernel = int_per_dim(name, "kernel_size", kernel_size, dims)
    if (output_size is None) == (output_ratio is None):
        raise ValueError(
            f"{name}: expected either output_size or output_ratio, got {output_size!r} and "
            f"{output_ratio!r}."
        )
    sizes = None if output_size is None else int_per_dim(name, "output_size", output_size, dims)
    ratios = () if output_ratio is None else _ratios(name, output_ratio, dims)

    def output_lengths(x: Any) -> Shape:
        check_maybe_batched(name, x, dims)
        lengths = tuple(x.shape[-dims:])
        outputs = sizes or tuple(int(n * ratio) for n, ratio in zip(lengths, ratios, strict=True))
        rows = zip(lengths, outputs, kernel, strict=True)
        if min(outputs) < 1 or any(n < m + k - 1 for n, m, k in rows):
            raise LayerError(
                f"{name} expected an input with room for {outputs} windows of {kernel}, got shape "
                f"{tuple(x.shape)}."
            )
        return outputs

    def init(key: Tensor, x: Any) -> Params:
        output_lengths(x)
        return {}

    def apply(
        params: Params, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        check_parameters(name, params, {})
        outputs = output_lengths(x)
        check_flag(name, "train", train)
        shape, dtype = (*x.shape[:-dims], dims), torch.promote_types(x.dtype, torch.float32)
        if train:
            draws = random.uniform(needed_key(name, key), shape, dtype)
        else:
            draws = torch.full(shape, 0.5, dtype=dtype, device=x.device)
        for axis, rows in enumerate(zip(outputs, kernel, draws.unbind(-1), strict=True)):
            x = _maxima(x, axis - dims, *rows)
        return x

    return Layer(init, apply)


def _ratios(name: str, value: Ratio, dims: int) -> tuple[float, ...]:
    ratios = tuple(value) if isinstance(value, Sequence) else (value,) * dims
    if len(ratios) != dims:
        raise ValueError(f"{name}: expected one or {dims} numbers for output_ratio, got {value!r}.")
    for ratio in ratios:
        check_number(name, "output_ratio", ratio)
        if not 0 < ratio < 1:
            raise ValueError(f"{name}: expected output_ratio within (0, 1), got {ratio}.")
    return ratios


def _maxima(x: Tensor, axis: int, outputs: int, kernel: int, draws: Tensor) -> Tensor:
    """Return the maxima over windows along one dimension, at places that `draws` decides.

    A maximum over a box is one dimension's after the other's. `draws` has the dimensions of `x`
    that are not spatial.
    """
    length = x.shape[axis]
    steps = torch.arange(outputs, dtype=draws.dtype, device=x.device)
    gap = (length - kernel) / max(outputs - 1, 1)
    starts = ((steps + draws[..., None]) * gap).long() - (draws[..., None] * gap).long()
    starts = torch.where(steps == outputs - 1, length - kernel, starts)
    places = (starts[..., None] + torch.arange(kernel, device=x.device)).flatten(-2)
    x = x.movedim(axis, -1)
    between = x.ndim - places.ndim
    places = places.reshape(*places.shape[:-1], *(1 for _ in range(between)), places.shape[-1])
    windows = x.gather(-1, places.expand(*x.shape[:-1], -1)).unflatten(-1, (outputs, kernel))
    largest: Tensor = windows.max(-1).values.movedim(-1, axis)
    return largest
