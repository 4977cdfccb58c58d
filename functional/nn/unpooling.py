"""Maxima together with their places, and their way back to these places."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

from .checks import SPATIAL, check_maybe_batched, int_per_dim
from .layer import Layer, LayerError, describe, lift
from .pooling import Windows, max_over, windows_of

IntOrInts = int | Sequence[int]

_MAX: dict[int, Callable[..., Any]] = {
    1: F.max_pool1d_with_indices,
    2: F.max_pool2d_with_indices,
    3: F.max_pool3d_with_indices,
}


def max_pool1d_with_indices(
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    dilation: IntOrInts = 1,
    ceil_mode: bool = False,
) -> Layer:
    """Return the maxima over windows and where they are; see `max_pool2d_with_indices`.

    >>> max_pool1d_with_indices(2)({}, torch.tensor([[1.0, 4.0, 3.0, 2.0]]))
    (tensor([[4., 3.]]), tensor([[1, 2]]))
    """
    return _with_indices(1, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool2d_with_indices(
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    dilation: IntOrInts = 1,
    ceil_mode: bool = False,
) -> Layer:
    """Return the maxima over windows, as `max_pool2d` does, and where they are in the input.

    The output is a pair of tensors of one shape. An index of dtype int64 counts along the spatial
    dimensions of the input as if they were one, as in `torch.nn.MaxPool2d(return_indices=True)`;
    of equal elements the first is taken. `max_unpool2d` takes such a pair. Options and errors are
    those of `max_pool2d`.

    Examples
    --------
    >>> x = torch.arange(16.0).reshape(1, 4, 4)
    >>> values, indices = max_pool2d_with_indices(2)({}, x)
    >>> indices
    tensor([[[ 5,  7],
             [13, 15]]])
    >>> torch.equal(x.flatten(1).gather(1, indices.flatten(1)), values.flatten(1))
    True
    """
    return _with_indices(2, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool3d_with_indices(
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    dilation: IntOrInts = 1,
    ceil_mode: bool = False,
) -> Layer:
    """Return the maxima over windows and where they are; see `max_pool2d_with_indices`.

    >>> values, indices = max_pool3d_with_indices(2)({}, torch.ones(8, 3, 4, 4, 4))
    >>> indices.shape
    torch.Size([8, 3, 2, 2, 2])
    """
    return _with_indices(3, kernel_size, stride, padding, dilation, ceil_mode)


def max_unpool1d(
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    output_size: IntOrInts | None = None,
) -> Layer:
    """Return the layer that puts maxima back where they were; see `max_unpool2d`.

    >>> max_unpool1d(2)({}, (torch.tensor([[4.0, 3.0]]), torch.tensor([[1, 2]])))
    tensor([[0., 4., 3., 0.]])
    """
    return _unpool(1, kernel_size, stride, padding, output_size)


def max_unpool2d(
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    output_size: IntOrInts | None = None,
) -> Layer:
    """Return the layer that puts maxima back where they were, with zeros everywhere else.

    The input is the pair `(values, indices)` of `max_pool2d_with_indices`, of one shape
    `(N, C, H, W)` or `(C, H, W)`. Where windows overlapped, several values may have one place; any
    of them may be found there. Zeiler & Fergus 2014, Visualizing and understanding convolutional
    networks; `torch.nn.MaxUnpool2d`.

    Parameters
    ----------
    kernel_size, stride, padding
        Those of the pooling.
    output_size
        The spatial shape of what was pooled, of which the stride leads several to one; unless given
        the smallest, in each dimension

            (length - 1) stride - 2 padding + kernel_size.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        The input is not such a pair, `output_size` cannot be pooled to its shape, or an index is
        outside of the output (under `jit` and `vmap` torch refuses it instead).

    Examples
    --------
    >>> from purefn.functional import nn
    >>> x = torch.tensor([[[1.0, 2.0, 0.0], [4.0, 3.0, 0.0]]])
    >>> model = nn.serial(nn.max_pool2d_with_indices(2), nn.max_unpool2d(2, output_size=(2, 3)))
    >>> model({}, x)
    tensor([[[0., 0., 0.],
             [4., 0., 0.]]])
    """
    return _unpool(2, kernel_size, stride, padding, output_size)


def max_unpool3d(
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    output_size: IntOrInts | None = None,
) -> Layer:
    """Return the layer that puts maxima back where they were; see `max_unpool2d`.

    >>> pair = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1, dtype=torch.int64)
    >>> max_unpool3d(2)({}, pair).shape
    torch.Size([1, 2, 2, 2])
    """
    return _unpool(3, kernel_size, stride, padding, output_size)


def _with_indices(
    dims: int,
    kernel_size: IntOrInts,
    stride: IntOrInts | None,
    padding: IntOrInts,
    dilation: IntOrInts,
    ceil_mode: bool,
) -> Layer:
    name = f"max_pool{dims}d_with_indices"
    windows = windows_of(name, dims, kernel_size, stride, padding, dilation, ceil_mode)
    return max_over(windows, _MAX[dims], ceil_mode)


def _unpool(
    dims: int,
    kernel_size: IntOrInts,
    stride: IntOrInts | None,
    padding: IntOrInts,
    output_size: IntOrInts | None,
) -> Layer:
    name = f"max_unpool{dims}d"
    windows = windows_of(name, dims, kernel_size, stride, padding, 1, False)
    wanted = None
    if output_size is not None:
        wanted = int_per_dim(name, "output_size", output_size, dims)

    def unpooled(pair: Any) -> Tensor:
        values, indices = _pair(name, dims, pair)
        lengths = _output_lengths(windows, values.shape[-dims:], wanted)
        leading, places = values.shape[:-dims], math.prod(lengths)
        y = values.new_zeros(*leading, places)
        y = y.scatter(-1, indices.flatten(-dims), values.flatten(-dims))
        return y.reshape(*leading, *lengths)

    return lift(unpooled, name)


def _pair(name: str, dims: int, pair: Any) -> tuple[Tensor, Tensor]:
    """Return values and indices, or refuse what is no pair of them."""
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise LayerError(f"{name} expected a pair (values, indices), got {describe(pair)}.")
    values, indices = pair
    check_maybe_batched(name, values, dims)
    is_index = isinstance(indices, Tensor) and indices.dtype == torch.int64
    if not is_index or indices.shape != values.shape:
        raise LayerError(
            f"{name} expected indices of torch.int64 and of the shape of the values, got "
            f"{describe(indices)} and {describe(values)}."
        )
    return values, indices


def _output_lengths(
    windows: Windows, lengths: Sequence[int], wanted: Sequence[int] | None
) -> tuple[int, ...]:
    """Return the spatial shape of the output, or refuse one that was not pooled to the input's."""
    rows = zip(lengths, windows.stride, windows.padding, windows.kernel_size, strict=True)
    least = tuple(
        (length - 1) * stride - 2 * padding + kernel for length, stride, padding, kernel in rows
    )
    if wanted is None:
        return least
    pairs = zip(wanted, least, windows.stride, strict=True)
    # As in torch, a length below the least may be given: a window of ceil_mode reached beyond it.
    if any(abs(length - smallest) >= stride for length, smallest, stride in pairs):
        letters = ", ".join(SPATIAL[len(lengths)])
        raise LayerError(
            f"{windows.name} expected output_size ({letters}) within the stride {windows.stride} "
            f"of {least}, got {tuple(wanted)} for an input of spatial shape {tuple(lengths)}."
        )
    return tuple(wanted)
