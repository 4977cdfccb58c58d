"""Transposed convolutions over one, two and three spatial dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

from ..initializers import Initializer
from .checks import Shape, check_bools, check_maybe_batched, int_per_dim, positive_int
from .layer import Layer, LayerError, Params
from .parameters import check_parameters, check_same_dtype, weight_and_bias

IntOrInts = int | Sequence[int]

_FUNCTIONS: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


def conv_transpose1d(
    out_channels: int,
    kernel_size: IntOrInts,
    *,
    stride: IntOrInts = 1,
    padding: IntOrInts = 0,
    output_padding: IntOrInts = 0,
    groups: int = 1,
    bias: bool = True,
    dilation: IntOrInts = 1,
    weight_init: Initializer | None = None,
    bias_init: Initializer | None = None,
) -> Layer:
    """Return the transposed convolution of inputs `(N, C, L)` or `(C, L)`.

    See `conv_transpose2d`.

    >>> import torch
    >>> from purefn.functional import random
    >>> layer = conv_transpose1d(4, 2, stride=2)
    >>> params = layer.init(random.key(0), torch.ones(2, 3, 10))
    >>> layer(params, torch.ones(2, 3, 10)).shape
    torch.Size([2, 4, 20])
    """
    geometry = _geometry(
        1, out_channels, kernel_size, stride, padding, output_padding, groups, dilation
    )
    return _transposed(geometry, bias, weight_init, bias_init)


def conv_transpose2d(
    out_channels: int,
    kernel_size: IntOrInts,
    *,
    stride: IntOrInts = 1,
    padding: IntOrInts = 0,
    output_padding: IntOrInts = 0,
    groups: int = 1,
    bias: bool = True,
    dilation: IntOrInts = 1,
    weight_init: Initializer | None = None,
    bias_init: Initializer | None = None,
) -> Layer:
    """Return the transposed convolution of inputs `(N, C, H, W)` or `(C, H, W)`.

    It is the derivative of `conv2d` with the same options by its input, and so turns the shape of
    that layer's output into the shape of its input: in each spatial dimension the length becomes

        (length - 1) stride - 2 padding + dilation (kernel_size - 1) + output_padding + 1.

    Parameters are those of `torch.nn.ConvTranspose2d`: `weight` of shape
    `(C, out_channels / groups, *kernel_size)` and `bias` of shape `(out_channels,)`. By default
    both are uniform within `±1 / sqrt(out_channels / groups * prod(kernel_size))`, as in torch.
    Zeiler et al. 2010, Deconvolutional networks.

    Parameters
    ----------
    out_channels
        The number of output channels, a multiple of `groups`; that of input channels is inferred by
        `init`.
    kernel_size, stride, dilation
        One integer for all spatial dimensions, or one for each.
    padding
        Likewise: how much is cut from both ends of each spatial dimension of the output, which is
        what `conv2d` pads its input with.
    output_padding
        Likewise: how much longer the output is at its end, less than the stride or the dilation.
        Where a stride leads several lengths to one, this tells which to return to.
    groups
        Into how many groups the channels are split, each convolved on its own.
    bias
        Whether an offset for each output channel is added.
    weight_init, bias_init
        Initializers in the place of the default ones.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        The input does not have the right dimensions or channels, is not floating-point or not of
        the dtype of the parameters, or is so small that the padding leaves no output; or the
        parameters are not this layer's.

    Examples
    --------
    >>> import torch
    >>> from purefn.functional import random
    >>> layer = conv_transpose2d(3, 3, stride=2, padding=1, output_padding=1)
    >>> params = layer.init(random.key(0), torch.ones(8, 16, 14, 14))
    >>> params["weight"].shape
    torch.Size([16, 3, 3, 3])
    >>> layer(params, torch.ones(8, 16, 14, 14)).shape
    torch.Size([8, 3, 28, 28])
    """
    geometry = _geometry(
        2, out_channels, kernel_size, stride, padding, output_padding, groups, dilation
    )
    return _transposed(geometry, bias, weight_init, bias_init)


def conv_transpose3d(
    out_channels: int,
    kernel_size: IntOrInts,
    *,
    stride: IntOrInts = 1,
    padding: IntOrInts = 0,
    output_padding: IntOrInts = 0,
    groups: int = 1,
    bias: bool = True,
    dilation: IntOrInts = 1,
    weight_init: Initializer | None = None,
    bias_init: Initializer | None = None,
) -> Layer:
    """Return the transposed convolution of `(N, C, D, H, W)` or `(C, D, H, W)`.

    See `conv_transpose2d`.

    >>> import torch
    >>> from purefn.functional import random
    >>> layer = conv_transpose3d(4, 3)
    >>> params = layer.init(random.key(0), torch.ones(2, 3, 5, 5, 5))
    >>> layer(params, torch.ones(2, 3, 5, 5, 5)).shape
    torch.Size([2, 4, 7, 7, 7])
    """
    geometry = _geometry(
        3, out_channels, kernel_size, stride, padding, output_padding, groups, dilation
    )
    return _transposed(geometry, bias, weight_init, bias_init)


@dataclass(frozen=True)
class _Geometry:
    """The checked options of a transposed convolution, one value for each spatial dimension."""

    name: str
    out_channels: int
    kernel_size: Shape
    stride: Shape
    padding: Shape
    output_padding: Shape
    groups: int
    dilation: Shape

    def output_lengths(self, lengths: Sequence[int]) -> Shape:
        """Return the spatial shape of the output."""
        return tuple(
            (length - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra + 1
            for length, stride, padding, dilation, kernel, extra in zip(
                lengths,
                self.stride,
                self.padding,
                self.dilation,
                self.kernel_size,
                self.output_padding,
                strict=True,
            )
        )


def _geometry(
    dims: int,
    out_channels: int,
    kernel_size: IntOrInts,
    stride: IntOrInts,
    padding: IntOrInts,
    output_padding: IntOrInts,
    groups: int,
    dilation: IntOrInts,
) -> _Geometry:
    name = f"conv_transpose{dims}d"
    positive_int(name, "out_channels", out_channels)
    if out_channels % positive_int(name, "groups", groups):
        raise ValueError(
            f"{name}: expected out_channels divisible by groups = {groups}, got {out_channels}."
        )
    kernel = int_per_dim(name, "kernel_size", kernel_size, dims)
    strides = int_per_dim(name, "stride", stride, dims)
    pads = int_per_dim(name, "padding", padding, dims, minimum=0)
    extras = int_per_dim(name, "output_padding", output_padding, dims, minimum=0)
    dilations = int_per_dim(name, "dilation", dilation, dims)
    for extra, step, gap in zip(extras, strides, dilations, strict=True):
        if extra >= max(step, gap):
            raise ValueError(
                f"{name}: expected output_padding less than stride = {step} or dilation = {gap}, "
                f"got {extra}."
            )
    return _Geometry(name, out_channels, kernel, strides, pads, extras, groups, dilations)


def _transposed(
    geometry: _Geometry,
    bias: bool,
    weight_init: Initializer | None,
    bias_init: Initializer | None,
) -> Layer:
    name, groups, out_channels = geometry.name, geometry.groups, geometry.out_channels
    dims = len(geometry.kernel_size)
    check_bools(name, bias=bias)
    shapes: dict[str, tuple[int | str, ...]] = {
        "weight": ("in_channels", out_channels // groups, *geometry.kernel_size)
    }
    if bias:
        shapes["bias"] = (out_channels,)

    def init(key: Tensor, x: Any) -> Params:
        check_maybe_batched(name, x, dims)
        channels = x.shape[-dims - 1]
        if not channels or channels % groups:
            raise LayerError(
                f"{name} expected input channels, as many as a multiple of groups = {groups}, got "
                f"shape {tuple(x.shape)}."
            )
        _check_output(geometry, x)
        shape = (channels, out_channels // groups, *geometry.kernel_size)
        return weight_and_bias(key, shape, x.dtype, bias, weight_init, bias_init, out_channels)

    def apply(
        params: Params, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        check_parameters(name, params, shapes)
        check_maybe_batched(name, x, dims, params["weight"].shape[0])
        check_same_dtype(name, x, params)
        _check_output(geometry, x)
        return _FUNCTIONS[dims](
            x,
            params["weight"],
            params.get("bias"),
            geometry.stride,
            geometry.padding,
            geometry.output_padding,
            groups,
            geometry.dilation,
        )

    return Layer(init, apply, uses_key=False)


def _check_output(geometry: _Geometry, x: Any) -> None:
    """Refuse an input that is empty, or of which the padding leaves no output."""
    lengths = tuple(x.shape[-len(geometry.kernel_size) :])
    outputs = geometry.output_lengths(lengths)
    if 0 in lengths or min(outputs) < 1:
        raise LayerError(
            f"{geometry.name} expected an input that leaves an output with padding "
            f"{geometry.padding}, got shape {tuple(x.shape)}, which gives a spatial shape of "
            f"{outputs}."
        )
