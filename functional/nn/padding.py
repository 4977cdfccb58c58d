"""Padding of one, two and three spatial dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

from .checks import (
    SPATIAL,
    Shape,
    check_input,
    check_int,
    check_maybe_batched,
    check_number,
)
from .layer import Layer, LayerError, lift

IntOrInts = int | Sequence[int]


def constant_pad1d(padding: IntOrInts, value: float) -> Layer:
    """Return the layer that pads the last dimension; see `constant_pad2d`.

    >>> import torch
    >>> constant_pad1d((1, 2), 9.0)({}, torch.tensor([[1.0, 2.0]]))
    tensor([[9., 1., 2., 9., 9.]])
    """
    return _constant("constant_pad1d", 1, padding, value)


def constant_pad2d(padding: IntOrInts, value: float) -> Layer:
    """Return the layer that pads the last two dimensions with `value`.

    Parameters
    ----------
    padding
        One integer for every side, or one for each: `(left, right, top, bottom)`, the last
        dimension first as in torch, and then `front, back` in three dimensions. A negative one
        crops.
    value
        What the padding holds; for an integer input an integer.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        The input has too few dimensions, or fewer elements than are cropped.

    Examples
    --------
    >>> import torch
    >>> constant_pad2d((0, 1, -1, 0), 9.0)({}, torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
    tensor([[[3., 4., 9.]]])
    """
    return _constant("constant_pad2d", 2, padding, value)


def constant_pad3d(padding: IntOrInts, value: float) -> Layer:
    """Return the layer that pads the last three dimensions; see `constant_pad2d`.

    >>> import torch
    >>> constant_pad3d(1, 9.0)({}, torch.ones(2, 3, 4, 4, 4)).shape
    torch.Size([2, 3, 6, 6, 6])
    """
    return _constant("constant_pad3d", 3, padding, value)


def zero_pad1d(padding: IntOrInts) -> Layer:
    """Return the layer that pads the last dimension with zeros; see `constant_pad2d`.

    >>> import torch
    >>> zero_pad1d(1)({}, torch.tensor([[1.0, 2.0]]))
    tensor([[0., 1., 2., 0.]])
    """
    return _constant("zero_pad1d", 1, padding, 0)


def zero_pad2d(padding: IntOrInts) -> Layer:
    """Return the layer that pads the last two dimensions with zeros; see `constant_pad2d`.

    >>> import torch
    >>> zero_pad2d((1, 0, 0, 1))({}, torch.tensor([[[1.0, 2.0]]]))
    tensor([[[0., 1., 2.],
             [0., 0., 0.]]])
    """
    return _constant("zero_pad2d", 2, padding, 0)


def zero_pad3d(padding: IntOrInts) -> Layer:
    """Return the layer that pads the last three dimensions with zeros; see `constant_pad2d`.

    >>> import torch
    >>> zero_pad3d(1)({}, torch.ones(2, 3, 4, 4, 4)).shape
    torch.Size([2, 3, 6, 6, 6])
    """
    return _constant("zero_pad3d", 3, padding, 0)


def reflection_pad1d(padding: IntOrInts) -> Layer:
    """Return the layer that reflects inputs `(N, C, L)` or `(C, L)`; see `reflection_pad2d`.

    >>> import torch
    >>> reflection_pad1d(2)({}, torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[3., 2., 1., 2., 3., 2., 1.]])
    """
    return _filled_from_input("reflection_pad1d", 1, padding, "reflect")


def reflection_pad2d(padding: IntOrInts) -> Layer:
    """Return the layer that pads inputs `(N, C, H, W)` or `(C, H, W)` with their reflection.

    The elements at the border are not repeated, so that a side takes less padding than the input
    is long.

    Parameters
    ----------
    padding
        One integer for every side, or one for each: `(left, right, top, bottom)`, the last
        dimension first as in torch, and then `front, back` in three dimensions. A negative one
        crops, when the other sides have been filled.

    Raises
    ------
    TypeError, ValueError
        `padding` is not of the above.
    LayerError
        The input does not have the right dimensions, is not floating-point, is too small to fill
        the padding, or nothing is left of it.

    Examples
    --------
    >>> import torch
    >>> reflection_pad2d((1, 0, 0, 1))({}, torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
    tensor([[[2., 1., 2.],
             [4., 3., 4.],
             [2., 1., 2.]]])
    """
    return _filled_from_input("reflection_pad2d", 2, padding, "reflect")


def reflection_pad3d(padding: IntOrInts) -> Layer:
    """Return the layer that reflects inputs `(N, C, D, H, W)` or `(C, D, H, W)`.

    Options and errors are those of `reflection_pad2d`.

    >>> import torch
    >>> reflection_pad3d(1)({}, torch.ones(2, 3, 4, 4, 4)).shape
    torch.Size([2, 3, 6, 6, 6])
    """
    return _filled_from_input("reflection_pad3d", 3, padding, "reflect")


def replication_pad1d(padding: IntOrInts) -> Layer:
    """Return the layer that repeats the ends of inputs `(N, C, L)` or `(C, L)`.

    Options and errors are those of `replication_pad2d`.

    >>> import torch
    >>> replication_pad1d(2)({}, torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[1., 1., 1., 2., 3., 3., 3.]])
    """
    return _filled_from_input("replication_pad1d", 1, padding, "replicate")


def replication_pad2d(padding: IntOrInts) -> Layer:
    """Return the layer that pads inputs `(N, C, H, W)` or `(C, H, W)` with their border.

    Options and errors are those of `reflection_pad2d`, but the padding may be of any length.

    Examples
    --------
    >>> import torch
    >>> replication_pad2d((1, 0, 0, 1))({}, torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
    tensor([[[1., 1., 2.],
             [3., 3., 4.],
             [3., 3., 4.]]])
    """
    return _filled_from_input("replication_pad2d", 2, padding, "replicate")


def replication_pad3d(padding: IntOrInts) -> Layer:
    """Return the layer that repeats the border of inputs `(N, C, D, H, W)` or `(C, D, H, W)`.

    Options and errors are those of `replication_pad2d`.

    >>> import torch
    >>> replication_pad3d(1)({}, torch.ones(2, 3, 4, 4, 4)).shape
    torch.Size([2, 3, 6, 6, 6])
    """
    return _filled_from_input("replication_pad3d", 3, padding, "replicate")


def circular_pad1d(padding: IntOrInts) -> Layer:
    """Return the layer that goes on at the other end of inputs `(N, C, L)` or `(C, L)`.

    Options and errors are those of `circular_pad2d`.

    >>> import torch
    >>> circular_pad1d((1, 2))({}, torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[3., 1., 2., 3., 1., 2.]])
    """
    return _filled_from_input("circular_pad1d", 1, padding, "circular")


def circular_pad2d(padding: IntOrInts) -> Layer:
    """Return the layer that pads inputs `(N, C, H, W)` or `(C, H, W)` with their opposite side.

    Options and errors are those of `reflection_pad2d`, but the padding may be as long as the
    input, which may be of any dtype.

    Examples
    --------
    >>> import torch
    >>> circular_pad2d((1, 0, 0, 1))({}, torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
    tensor([[[2., 1., 2.],
             [4., 3., 4.],
             [2., 1., 2.]]])
    """
    return _filled_from_input("circular_pad2d", 2, padding, "circular")


def circular_pad3d(padding: IntOrInts) -> Layer:
    """Return the layer that goes on at the other side of `(N, C, D, H, W)` or `(C, D, H, W)`.

    Options and errors are those of `circular_pad2d`.

    >>> import torch
    >>> circular_pad3d(1)({}, torch.ones(2, 3, 4, 4, 4)).shape
    torch.Size([2, 3, 6, 6, 6])
    """
    return _filled_from_input("circular_pad3d", 3, padding, "circular")


def _constant(name: str, dims: int, padding: IntOrInts, value: float) -> Layer:
    pads = _sides(name, dims, padding)
    check_number(name, "value", value)

    def pad(x: Tensor) -> Tensor:
        check_input(name, x, ("...", *SPATIAL[dims]), floating=False)
        if isinstance(value, float) and not (x.dtype.is_floating_point or x.dtype.is_complex):
            raise LayerError(f"{name} expected an integer value for {x.dtype}, got {value}.")
        for length, before, after in _by_dimension(x, pads):
            if length + min(before, 0) + min(after, 0) < 0:
                raise _cropped_too_much(name, x, length, before, after)
        return F.pad(x, pads, value=value)

    return lift(pad, name)


def _filled_from_input(
    name: str, dims: int, padding: IntOrInts, mode: Literal["reflect", "replicate", "circular"]
) -> Layer:
    pads = _sides(name, dims, padding)
    # torch's circular padding of one side reads past the end where it crops the other.
    filled, cropped = ([limit(pad, 0) for pad in pads] for limit in (max, min))
    # How much more than its length a dimension can fill on one side.
    room = {"reflect": -1, "circular": 0}.get(mode)

    def pad(x: Tensor) -> Tensor:
        check_maybe_batched(name, x, dims, floating=mode != "circular")
        if 0 in x.shape[-dims - 1 :]:
            raise LayerError(f"{name} expected a non-empty input, got shape {tuple(x.shape)}.")
        for length, before, after in _by_dimension(x, pads):
            if room is not None and max(before, after) > length + room:
                raise LayerError(
                    f"{name} can pad {length} elements by at most {length + room}, got padding "
                    f"{max(before, after)} for an input of shape {tuple(x.shape)}."
                )
            if length + before + after < 1:
                raise _cropped_too_much(name, x, length, before, after)
        x = F.pad(x, filled, mode=mode)
        return F.pad(x, cropped) if any(cropped) else x

    return lift(pad, name)


def _cropped_too_much(name: str, x: Tensor, length: int, before: int, after: int) -> LayerError:
    return LayerError(
        f"{name} cannot crop {length} elements by {before} and {after}, got shape {tuple(x.shape)}."
    )


def _sides(name: str, dims: int, padding: Any) -> Shape:
    """Return the padding of every side, last dimension first; a single integer serves for all."""
    pads = tuple(padding) if isinstance(padding, Sequence) else (padding,) * (2 * dims)
    if len(pads) != 2 * dims:
        raise ValueError(
            f"{name}: expected one or {2 * dims} integers for padding, got {padding!r}."
        )
    for pad in pads:
        check_int(name, "padding", pad)
    return pads


def _by_dimension(x: Tensor, pads: Shape) -> list[tuple[int, int, int]]:
    """Return the length of each padded dimension and what is put before and after it."""
    lengths = reversed(x.shape[-len(pads) // 2 :])
    return list(zip(lengths, pads[::2], pads[1::2], strict=True))
