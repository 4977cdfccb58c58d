"""Convolutions over one, two and three spatial dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

from ..initializers import Initializer
from .checks import Shape, check_bools, check_maybe_batched, int_per_dim, positive_int
from .layer import Layer, LayerError, Params
from .parameters import check_parameters, check_same_dtype, weight_and_bias

Padding = int | Sequence[int] | Literal["same", "valid"]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]

_FUNCTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def conv1d(
    out_channels: int,
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    bias: bool = True,
    padding_mode: PaddingMode = "zeros",
    weight_init: Initializer | None = None,
    bias_init: Initializer | None = None,
) -> Layer:
    """Return the convolution of inputs `(N, C, L)` or `(C, L)`; see `conv2d`.

    >>> import torch
    >>> from purefn.functional import random
    >>> layer = conv1d(4, 3, padding="same")
    >>> params = layer.init(random.key(0), torch.ones(2, 3, 10))
    >>> layer(params, torch.ones(2, 3, 10)).shape
    torch.Size([2, 4, 10])
    """
    geometry = _geometry(
        1, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode
    )
    return _convolution(geometry, bias, weight_init, bias_init)


def conv2d(
    out_channels: int,
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    bias: bool = True,
    padding_mode: PaddingMode = "zeros",
    weight_init: Initializer | None = None,
    bias_init: Initializer | None = None,
) -> Layer:
    """Return the convolution (cross-correlation) of inputs `(N, C, H, W)` or `(C, H, W)`.

    Parameters are those of `torch.nn.Conv2d`: `weight` of shape
    `(out_channels, C / groups, *kernel_size)` and `bias` of shape `(out_channels,)`. By default
    both are uniform within `±1 / sqrt(fan_in)`, as in torch.

    Parameters
    ----------
    out_channels
        The number of output channels, a multiple of `groups`; that of input channels is inferred by
        `init`.
    kernel_size, stride, dilation
        One integer for all spatial dimensions, or one for each.
    padding
        Likewise, or "valid" for none, or "same" for as much as keeps the spatial shape (with
        stride 1); where that is odd the end receives one more than the beginning.
    groups
        Into how many groups the channels are split, each convolved on its own.
    bias
        Whether an offset for each output channel is added.
    padding_mode
        What the padding holds: "zeros", "reflect", "replicate" or "circular".
    weight_init, bias_init
        Initializers in the place of the default ones.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        The input does not have the right dimensions or channels, is smaller than the kernel, is
        not floating-point or not of the dtype of the parameters; or the parameters are not this
        layer's.

    Examples
    --------
    >>> import torch
    >>> from purefn.functional import random
    >>> layer = conv2d(16, 3, stride=2, padding=1)
    >>> params = layer.init(random.key(0), torch.ones(8, 3, 28, 28))
    >>> params["weight"].shape
    torch.Size([16, 3, 3, 3])
    >>> layer(params, torch.ones(8, 3, 28, 28)).shape
    torch.Size([8, 16, 14, 14])
    """
    geometry = _geometry(
        2, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode
    )
    return _convolution(geometry, bias, weight_init, bias_init)


def conv3d(
    out_channels: int,
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    bias: bool = True,
    padding_mode: PaddingMode = "zeros",
    weight_init: Initializer | None = None,
    bias_init: Initializer | None = None,
) -> Layer:
    """Return the convolution of inputs `(N, C, D, H, W)` or `(C, D, H, W)`; see `conv2d`.

    >>> import torch
    >>> from purefn.functional import random
    >>> layer = conv3d(4, 3)
    >>> params = layer.init(random.key(0), torch.ones(2, 3, 5, 5, 5))
    >>> layer(params, torch.ones(2, 3, 5, 5, 5)).shape
    torch.Size([2, 4, 3, 3, 3])
    """
    geometry = _geometry(
        3, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode
    )
    return _convolution(geometry, bias, weight_init, bias_init)


@dataclass(frozen=True)
class _Geometry:
    """The checked options of a convolution, one value for each spatial dimension."""

    name: str
    out_channels: int
    kernel_size: Shape
    stride: Shape
    padding: tuple[tuple[int, int], ...]  # (before, after)
    dilation: Shape
    groups: int
    padding_mode: PaddingMode


def _geometry(
    dims: int,
    out_channels: int,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int],
    padding: Padding,
    dilation: int | Sequence[int],
    groups: int,
    padding_mode: PaddingMode,
) -> _Geometry:
    name = f"conv{dims}d"
    positive_int(name, "out_channels", out_channels)
    if out_channels % positive_int(name, "groups", groups):
        raise ValueError(
            f"{name}: expected out_channels divisible by groups = {groups}, got {out_channels}."
        )
    if padding_mode not in ("zeros", "reflect", "replicate", "circular"):
        raise ValueError(
            f"{name}: expected padding_mode 'zeros', 'reflect', 'replicate' or 'circular', got "
            f"{padding_mode!r}."
        )
    kernel = int_per_dim(name, "kernel_size", kernel_size, dims)
    strides = int_per_dim(name, "stride", stride, dims)
    dilations = int_per_dim(name, "dilation", dilation, dims)
    pads = _padding(name, padding, kernel, strides, dilations)
    return _Geometry(name, out_channels, kernel, strides, pads, dilations, groups, padding_mode)


def _padding(
    name: str, padding: Padding, kernel: Shape, stride: Shape, dilation: Shape
) -> tuple[tuple[int, int], ...]:
    """Return how much is put before and after each spatial dimension."""
    if padding == "valid":
        return ((0, 0),) * len(kernel)
    if padding == "same":
        if any(step != 1 for step in stride):
            raise ValueError(f"{name}: padding='same' expected stride 1, got {stride}.")
        totals = [step * (length - 1) for step, length in zip(dilation, kernel, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    if isinstance(padding, str):
        raise ValueError(
            f"{name}: expected integers, 'same' or 'valid' for padding, got {padding!r}."
        )
    return tuple(
        (pad, pad) for pad in int_per_dim(name, "padding", padding, len(kernel), minimum=0)
    )


def _convolution(
    geometry: _Geometry,
    bias: bool,
    weight_init: Initializer | None,
    bias_init: Initializer | None,
) -> Layer:
    name, groups = geometry.name, geometry.groups
    dims = len(geometry.kernel_size)
    check_bools(name, bias=bias)
    shapes: dict[str, tuple[int | str, ...]] = {
        "weight": (geometry.out_channels, "in_channels / groups", *geometry.kernel_size)
    }
    if bias:
        shapes["bias"] = (geometry.out_channels,)

    def init(key: Tensor, x: Any) -> Params:
        check_maybe_batched(name, x, dims)
        channels = x.shape[-dims - 1]
        if channels % groups:
            raise LayerError(
                f"{name} expected input channels divisible by groups = {groups}, got shape "
                f"{tuple(x.shape)}."
            )
        _check_extent(geometry, x)
        shape = (geometry.out_channels, channels // groups, *geometry.kernel_size)
        return weight_and_bias(key, shape, x.dtype, bias, weight_init, bias_init)

    def apply(
        params: Params, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        check_parameters(name, params, shapes)
        check_maybe_batched(name, x, dims, params["weight"].shape[1] * groups)
        check_same_dtype(name, x, params)
        _check_extent(geometry, x)
        x, padding = _pad(geometry, x)
        return _FUNCTIONS[dims](
            x,
            params["weight"],
            params.get("bias"),
            geometry.stride,
            padding,
            geometry.dilation,
            groups,
        )

    return Layer(init, apply, uses_key=False)


def _pad(geometry: _Geometry, x: Tensor) -> tuple[Tensor, Shape]:
    """Return the input, padded where the convolution cannot, and what is left for it to pad."""
    symmetric = all(before == after for before, after in geometry.padding)
    if geometry.padding_mode == "zeros" and symmetric:
        return x, tuple(before for before, _ in geometry.padding)
    pairs = [pad for pair in reversed(geometry.padding) for pad in pair]  # last dimension first
    mode = "constant" if geometry.padding_mode == "zeros" else geometry.padding_mode
    return F.pad(x, pairs, mode=mode), (0,) * len(geometry.padding)


def _check_extent(geometry: _Geometry, x: Any) -> None:
    """Refuse an input that the kernel or the padding is too large for."""
    spatial = x.shape[-len(geometry.kernel_size) :]
    # The largest padding that each mode can fill from an input of the given length.
    room = {"reflect": -1, "circular": 0}.get(geometry.padding_mode)
    for length, kernel, dilation, (before, after) in zip(
        spatial, geometry.kernel_size, geometry.dilation, geometry.padding, strict=True
    ):
        extent = dilation * (kernel - 1) + 1
        if length + before + after < extent:
            raise LayerError(
                f"{geometry.name} expected an input at least as large as its kernel, which spans "
                f"{extent} of {length} + {before} + {after} (padding), got shape {tuple(x.shape)}."
            )
        if room is not None and max(before, after) > length + room:
            raise LayerError(
                f"{geometry.name} can pad {length} elements by at most {length + room} with "
                f"padding_mode {geometry.padding_mode!r}, got padding {max(before, after)} for an "
                f"input of shape {tuple(x.shape)}."
            )
