"""Pooling over windows of one, two and three spatial dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

from .checks import (
    Shape,
    check_bools,
    check_maybe_batched,
    check_number,
    int_per_dim,
    positive_int,
)
from .layer import Layer, LayerError, lift

IntOrInts = int | Sequence[int]

_MAX: dict[int, Callable[..., Any]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVG: dict[int, Callable[..., Any]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def max_pool1d(
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    dilation: IntOrInts = 1,
    ceil_mode: bool = False,
) -> Layer:
    """Return the maximum over windows of inputs `(N, C, L)` or `(C, L)`; see `max_pool2d`.

    >>> import torch
    >>> max_pool1d(2)({}, torch.tensor([[[1.0, 4.0, 3.0, 2.0]]]))
    tensor([[[4., 3.]]])
    """
    return _max_pool(1, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool2d(
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    dilation: IntOrInts = 1,
    ceil_mode: bool = False,
) -> Layer:
    """Return the maximum over windows of inputs `(N, C, H, W)` or `(C, H, W)`.

    Parameters
    ----------
    kernel_size, stride, padding, dilation
        One integer for all spatial dimensions, or one for each. The stride is the kernel size
        unless given; the padding, which never wins, is at most half of what the kernel spans.
    ceil_mode
        Whether a window that reaches beyond the end still counts.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        The input does not have the right dimensions, is not floating-point, or is smaller than
        the kernel.

    Examples
    --------
    >>> import torch
    >>> max_pool2d(2)({}, torch.ones(8, 3, 28, 28)).shape
    torch.Size([8, 3, 14, 14])
    """
    return _max_pool(2, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool3d(
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    dilation: IntOrInts = 1,
    ceil_mode: bool = False,
) -> Layer:
    """Return the maximum over windows of inputs `(N, C, D, H, W)` or `(C, D, H, W)`.

    See `max_pool2d`.

    >>> import torch
    >>> max_pool3d(2)({}, torch.ones(8, 3, 4, 4, 4)).shape
    torch.Size([8, 3, 2, 2, 2])
    """
    return _max_pool(3, kernel_size, stride, padding, dilation, ceil_mode)


def avg_pool1d(
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Layer:
    """Return the mean over windows of inputs `(N, C, L)` or `(C, L)`; see `avg_pool2d`.

    >>> import torch
    >>> avg_pool1d(2)({}, torch.tensor([[[1.0, 4.0, 3.0, 2.0]]]))
    tensor([[[2.5000, 2.5000]]])
    """
    return _avg_pool(1, kernel_size, stride, padding, ceil_mode, count_include_pad)


def avg_pool2d(
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Layer:
    """Return the mean over windows of inputs `(N, C, H, W)` or `(C, H, W)`.

    Options and errors are those of `max_pool2d`, and `count_include_pad`: whether the zeros of the
    padding count in the mean. With a `divisor_override` each sum is divided by that number instead
    of how many elements count.

    Examples
    --------
    >>> import torch
    >>> avg_pool2d(3, stride=2, padding=1)({}, torch.ones(8, 3, 28, 28)).shape
    torch.Size([8, 3, 14, 14])
    """
    return _avg_pool(
        2, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


def avg_pool3d(
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Layer:
    """Return the mean over windows of inputs `(N, C, D, H, W)` or `(C, D, H, W)`.

    See `avg_pool2d`.

    >>> import torch
    >>> avg_pool3d(2)({}, torch.ones(8, 3, 4, 4, 4)).shape
    torch.Size([8, 3, 2, 2, 2])
    """
    return _avg_pool(
        3, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


def lp_pool1d(
    norm_type: float,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    ceil_mode: bool = False,
) -> Layer:
    """Return the norm over windows of inputs `(N, C, L)` or `(C, L)`; see `lp_pool2d`.

    >>> import torch
    >>> lp_pool1d(2, 2)({}, torch.tensor([[[3.0, 4.0, 5.0, 12.0]]]))
    tensor([[[ 5., 13.]]])
    """
    return _lp_pool(1, norm_type, kernel_size, stride, ceil_mode)


def lp_pool2d(
    norm_type: float,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    ceil_mode: bool = False,
) -> Layer:
    """Return `(sum x^p)^(1 / p)` over windows, `p` being `norm_type`.

    Inputs have shape `(N, C, H, W)` or `(C, H, W)`.
    There are no absolute values in it, so that a negative sum, of odd powers, gives NaN; only the
    infinite norm is `max |x|`. Where the sum is zero, so is its gradient, from `norm_type` 1 on. A
    window that reaches beyond the end (in `ceil_mode`) counts the mean of its elements for each
    that is missing. All this is as in torch.

    Parameters
    ----------
    norm_type
        Above 0, perhaps infinite.
    kernel_size, stride, ceil_mode
        As for `max_pool2d`.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        As for `max_pool2d`.

    Examples
    --------
    >>> import torch
    >>> lp_pool2d(2, 2)({}, torch.ones(8, 3, 28, 28)).unique()
    tensor([2.])
    """
    return _lp_pool(2, norm_type, kernel_size, stride, ceil_mode)


def lp_pool3d(
    norm_type: float,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    ceil_mode: bool = False,
) -> Layer:
    """Return the norm over windows of inputs `(N, C, D, H, W)` or `(C, D, H, W)`.

    See `lp_pool2d`.

    >>> import torch
    >>> lp_pool3d(2, 2)({}, torch.ones(8, 3, 4, 4, 4)).shape
    torch.Size([8, 3, 2, 2, 2])
    """
    return _lp_pool(3, norm_type, kernel_size, stride, ceil_mode)


def _max_pool(
    dims: int,
    kernel_size: IntOrInts,
    stride: IntOrInts | None,
    padding: IntOrInts,
    dilation: IntOrInts,
    ceil_mode: bool,
) -> Layer:
    name = f"max_pool{dims}d"
    windows = windows_of(name, dims, kernel_size, stride, padding, dilation, ceil_mode)
    return max_over(windows, _MAX[dims], ceil_mode)


def max_over(windows: Windows, kernel: Callable[..., Any], ceil_mode: bool) -> Layer:
    """Return the layer that runs `kernel`, a maximum of torch's, over the windows."""
    return over_windows(
        windows,
        lambda x: kernel(
            x, windows.kernel_size, windows.stride, windows.padding, windows.dilation, ceil_mode
        ),
    )


def _avg_pool(
    dims: int,
    kernel_size: IntOrInts,
    stride: IntOrInts | None,
    padding: IntOrInts,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None = None,
) -> Layer:
    windows = windows_of(f"avg_pool{dims}d", dims, kernel_size, stride, padding, 1, ceil_mode)
    check_bools(windows.name, count_include_pad=count_include_pad)
    divisor = {}  # which torch's function of one dimension does not know
    if divisor_override is not None:
        divisor["divisor_override"] = positive_int(
            windows.name, "divisor_override", divisor_override
        )
    options = windows.kernel_size, windows.stride, windows.padding, ceil_mode, count_include_pad

    def averaged(x: Tensor) -> Any:
        # torch has no kernel for three dimensions of halves on the CPU.
        wide = x.to(_wide(x)) if dims == 3 and x.device.type == "cpu" else x
        return _AVG[dims](wide, *options, **divisor).to(x.dtype)

    return over_windows(windows, averaged)


def _lp_pool(
    dims: int,
    norm_type: float,
    kernel_size: IntOrInts,
    stride: IntOrInts | None,
    ceil_mode: bool,
) -> Layer:
    name = f"lp_pool{dims}d"
    check_number(name, "norm_type", norm_type)
    if not norm_type > 0:
        raise ValueError(f"{name}: expected norm_type > 0, got {norm_type}.")
    windows = windows_of(name, dims, kernel_size, stride, 0, 1, ceil_mode)
    kernel, strides = windows.kernel_size, windows.stride

    def norm(x: Tensor) -> Tensor:
        if norm_type == math.inf:
            largest: Tensor = _MAX[dims](x.abs(), kernel, strides, ceil_mode=ceil_mode)
            return largest
        # The powers of halves soon overflow.
        powers = x.to(_wide(x)).pow(norm_type)
        mean = _AVG[dims](powers, kernel, strides, ceil_mode=ceil_mode)
        total = mean * math.prod(kernel)
        # The slope of the root is infinite at zero, and NaN once multiplied by zero.
        is_zero = total == 0
        root = torch.where(is_zero, 1.0, total).pow(1 / norm_type)
        return torch.where(is_zero, 0.0, root).to(x.dtype)

    return over_windows(windows, norm)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


@dataclass(frozen=True)
class Windows:
    """The checked options of a pooling layer, one value for each spatial dimension."""

    name: str
    kernel_size: Shape
    stride: Shape
    padding: Shape
    dilation: Shape
    ceil_mode: bool

    def spans(self) -> Shape:
        """Return how many elements a window covers, gaps included."""
        pairs = zip(self.kernel_size, self.dilation, strict=True)
        return tuple(dilation * (kernel - 1) + 1 for kernel, dilation in pairs)

    def starts(self, lengths: Sequence[int]) -> list[range]:
        """Return where the windows begin in an input of the given spatial shape."""
        return [
            range(-padding, length + padding - span + (stride if self.ceil_mode else 1), stride)
            for length, span, padding, stride in zip(
                lengths, self.spans(), self.padding, self.stride, strict=True
            )
        ]

    def has_empty_window(self, lengths: Sequence[int]) -> bool:
        """Say whether the gaps of a dilated window that begins in the padding skip the input.

        torch then returns -inf, and its backward pass writes outside of its memory.
        """
        return any(
            start < 0 and start % dilation >= length
            for length, dilation, starts in zip(
                lengths, self.dilation, self.starts(lengths), strict=True
            )
            if length < dilation
            for start in starts
        )


def windows_of(
    name: str,
    dims: int,
    kernel_size: IntOrInts,
    stride: IntOrInts | None,
    padding: IntOrInts,
    dilation: IntOrInts,
    ceil_mode: bool,
) -> Windows:
    """Return the checked options.

    >>> windows_of("max_pool2d", 2, 3, None, 0, 1, False).stride
    (3, 3)
    """
    check_bools(name, ceil_mode=ceil_mode)
    kernel = int_per_dim(name, "kernel_size", kernel_size, dims)
    strides = kernel if stride is None else int_per_dim(name, "stride", stride, dims)
    pads = int_per_dim(name, "padding", padding, dims, minimum=0)
    dilations = int_per_dim(name, "dilation", dilation, dims)
    windows = Windows(name, kernel, strides, pads, dilations, ceil_mode)
    for pad, span in zip(pads, windows.spans(), strict=True):
        if pad > span // 2:
            raise ValueError(
                f"{name}: expected padding of at most half the kernel's span of {span}, got {pad}."
            )
    return windows


def over_windows(windows: Windows, function: Callable[[Tensor], Any]) -> Layer:
    """Return the layer that computes `function` of inputs that have a value in every window."""
    dims = len(windows.kernel_size)

    def pool(x: Tensor) -> Any:
        check_maybe_batched(windows.name, x, dims)
        lengths = x.shape[-dims:]
        if 0 in lengths or not all(windows.starts(lengths)):
            raise LayerError(
                f"{windows.name} expected an input at least as large as its kernel of "
                f"{windows.kernel_size} with padding {windows.padding}, got shape "
                f"{tuple(x.shape)}."
            )
        if windows.has_empty_window(lengths):
            raise LayerError(
                f"{windows.name} expected every window to hold more than padding, which dilation "
                f"{windows.dilation} and padding {windows.padding} prevent for shape "
                f"{tuple(x.shape)}."
            )
        return function(x)

    return lift(pool, windows.name)
