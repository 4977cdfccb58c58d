"""Taking a rectangle out of each image: as it is, or brought to another size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from ...functional import random
from .arguments import (
    Interval,
    check_images,
    check_interval,
    check_size,
    filling,
    whole_per_image,
    widened,
)
from .drawing import integers, uniforms
from .rectangles import draw_corners, draw_rectangles

#: What lies outside an image, with torchvision's names.
PaddingMode = Literal["constant", "edge", "reflect", "symmetric"]


def crop(
    images: Tensor,
    top: int | Tensor,
    left: int | Tensor,
    size: int | tuple[int, int],
    *,
    padding_mode: PaddingMode = "constant",
    fill: float | Sequence[float] = 0.0,
) -> Tensor:
    """Return the rectangle of each image that begins at its `top` row and `left` column.

    It may lie partly or wholly outside: there the image is continued. torchvision's `crop`.

    Parameters
    ----------
    images
        Shape `(N, C, H, W)`, floating-point.
    top, left
        Integers, or integer tensors of shape `(N,)`; they may be negative.
    size
        `(height, width)` of the result, or one number for both.
    padding_mode
        What is outside: `"constant"` is `fill`, `"edge"` the nearest pixel, `"reflect"` a mirror on
        the last pixel, `"symmetric"` one behind it.
    fill
        For `"constant"`: a number, or one for each channel.

    Raises
    ------
    TypeError, ValueError
        An argument is not one of the above.

    Examples
    --------
    >>> crop(torch.arange(9.0).reshape(1, 1, 3, 3), 1, torch.tensor([-1]), 2)
    tensor([[[[0., 3.],
              [0., 6.]]]])
    """
    check_images("crop", images)
    height, width = check_size("crop", "size", size)
    if padding_mode not in get_args(PaddingMode):
        raise ValueError(
            f"crop: expected padding_mode to be one of {get_args(PaddingMode)}, "
            f"got {padding_mode!r}."
        )
    colour = filling("crop", fill, images)
    rows = _range(whole_per_image("crop", "top", top, images), height)
    columns = _range(whole_per_image("crop", "left", left, images), width)
    row_sources = _inside(rows, images.shape[2], padding_mode)
    column_sources = _inside(columns, images.shape[3], padding_mode)
    cropped = _take(_take(images, 2, row_sources), 3, column_sources)
    if padding_mode != "constant":
        return cropped
    is_inside = (rows == row_sources)[:, None, :, None] & (columns == column_sources)[:, None, None]
    return torch.where(is_inside, cropped, colour)


def center_crop(images: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Return the rectangle of that size in the middle of each image.

    Raises
    ------
    TypeError, ValueError
        An argument is not one that `crop` takes, or `size` is larger than the images.

    Examples
    --------
    >>> center_crop(torch.arange(9.0).reshape(1, 1, 3, 3), 1)
    tensor([[[[4.]]]])
    """
    check_images("center_crop", images)
    height, width = check_size("center_crop", "size", size)
    if height > images.shape[2] or width > images.shape[3]:
        raise ValueError(
            f"center_crop: size {(height, width)} is larger than images of shape "
            f"{tuple(images.shape)}."
        )
    top, left = round((images.shape[2] - height) / 2), round((images.shape[3] - width) / 2)
    return images[:, :, top : top + height, left : left + width].clone()


def random_crop(
    key: Tensor,
    images: Tensor,
    size: int | tuple[int, int],
    *,
    padding: int | tuple[int, int] = 0,
    padding_mode: PaddingMode = "constant",
    fill: float | Sequence[float] = 0.0,
) -> Tensor:
    """Return a rectangle of each image, all of one size, at a place drawn for each.

    torchvision's `RandomCrop`: every rectangle inside the padded image is equally likely.

    Parameters
    ----------
    key
        A random key.
    images
        Shape `(N, C, H, W)`, floating-point.
    size
        `(height, width)`, or one number for both.
    padding
        By how much each image is continued on every side: `(rows, columns)`, or one number.
    padding_mode, fill
        As for `crop`.

    Raises
    ------
    TypeError, ValueError
        An argument is not one of the above, or `size` is larger than a padded image.

    Examples
    --------
    >>> images = torch.rand(4, 3, 32, 32)
    >>> random_crop(random.key(0), images, 32, padding=4).shape
    torch.Size([4, 3, 32, 32])
    """
    check_images("random_crop", images)
    sides = check_size("random_crop", "size", size)
    margins = check_size("random_crop", "padding", padding, least=0)
    corners = []
    draws = uniforms(key, images, 2)
    for u, side, margin, length in zip(draws, sides, margins, images.shape[2:], strict=True):
        room = length + 2 * margin - side
        if room < 0:
            raise ValueError(
                f"random_crop: size {sides} is larger than images of shape {tuple(images.shape)} "
                f"with padding {margins}."
            )
        corners.append(integers(u, -margin, room - margin + 1))
    top, left = corners
    return crop(images, top, left, sides, padding_mode=padding_mode, fill=fill)


def resized_crop(
    images: Tensor,
    top: int | Tensor,
    left: int | Tensor,
    height: int | Tensor,
    width: int | Tensor,
    size: int | tuple[int, int],
) -> Tensor:
    """Return the rectangle of each image that begins at `top` and `left`, brought to one `size`.

    Bilinear, and antialiased where it gets smaller: torchvision's `resized_crop`. Along each axis
    a pixel is a weighted mean, and the whole is a product with the matrices of weights,

        y = R x C',   R_ij = max(0, 1 - |j + 1/2 - t - (i + 1/2) s| / max(s, 1)) / (sum over j),

    `j` in the rectangle that begins at `t`, with `s` its length over the new one.

    Parameters
    ----------
    images
        Shape `(N, C, H, W)`, floating-point. Half precision is computed in float32.
    top, left, height, width
        Integers, or integer tensors of shape `(N,)`. The rectangle lies inside the image.
    size
        `(height, width)` of the result, or one number for both.

    Raises
    ------
    TypeError, ValueError
        An argument is not one of the above. (The values of a tensor are not looked at.)

    Examples
    --------
    >>> resized_crop(torch.arange(16.0).reshape(1, 1, 4, 4), 1, 1, 2, 2, 1)
    tensor([[[[7.5000]]]])
    """
    check_images("resized_crop", images)
    new = check_size("resized_crop", "size", size)
    values = widened(images)
    weights = []
    for axis, (start_name, start), (name, length) in (
        (0, ("top", top), ("height", height)),
        (1, ("left", left), ("width", width)),
    ):
        total = images.shape[2 + axis]
        if isinstance(start, int) and isinstance(length, int):
            _check_inside(start_name, start, name, length, total)
        begins = whole_per_image("resized_crop", start_name, start, images)
        lengths = whole_per_image("resized_crop", name, length, images)
        weights.append(_resampling(begins, lengths, new[axis], total, values.dtype)[:, None])
    rows, columns = weights
    return (rows @ values @ columns.mT).to(images.dtype)


def resize(images: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Return the images brought to one size, bilinear and antialiased.

    Raises
    ------
    TypeError, ValueError
        An argument is not one that `resized_crop` takes.

    Examples
    --------
    >>> resize(torch.ones(2, 3, 8, 6), 4).shape
    torch.Size([2, 3, 4, 4])
    """
    check_images("resize", images)
    return resized_crop(images, 0, 0, images.shape[2], images.shape[3], size)


def random_resized_crop(
    key: Tensor,
    images: Tensor,
    size: int | tuple[int, int],
    *,
    scale: Interval = (0.08, 1.0),
    ratio: Interval = (3 / 4, 4 / 3),
) -> Tensor:
    """Return a part of each image, of an area and a shape drawn for each, brought to one size.

    Szegedy et al. 2014, Going deeper with convolutions (arXiv:1409.4842); torchvision's
    `RandomResizedCrop`: area uniform, ratio of width to height uniform in its logarithm. Of ten
    tries the first that fits in is taken, and the largest part in the middle if none does.

    Parameters
    ----------
    key
        A random key.
    images
        Shape `(N, C, H, W)`, floating-point.
    size
        `(height, width)` of the result, or one number for both.
    scale
        The interval of the area, as a part of that of the image.
    ratio
        The interval of width over height.

    Raises
    ------
    TypeError, ValueError
        An argument is not one of the above.

    Examples
    --------
    >>> images = torch.rand(4, 3, 40, 30)
    >>> random_resized_crop(random.key(0), images, 24).shape
    torch.Size([4, 3, 24, 24])
    """
    check_images("random_resized_crop", images)
    scale = check_interval("random_resized_crop", "scale", scale, 1e-6, 1.0)
    ratio = check_interval("random_resized_crop", "ratio", ratio, 1e-6)
    shape, place = random.split(key).unbind()
    height, width = images.shape[2:]
    heights, widths, fits = draw_rectangles(shape, images, scale, ratio, (1, 1), (height, width))
    top, left = draw_corners(place, images, heights, widths)
    large = _largest(height, width, ratio)
    return resized_crop(
        images,
        torch.where(fits, top, (height - large[0]) // 2),
        torch.where(fits, left, (width - large[1]) // 2),
        torch.where(fits, heights, large[0]),
        torch.where(fits, widths, large[1]),
        size,
    )


def _largest(height: int, width: int, ratio: Interval) -> tuple[int, int]:
    """Return height and width of the largest rectangle in an image with a ratio in the interval."""
    low, high = ratio
    if width / height < low:
        return round(width / low), width
    if width / height > high:
        return height, round(height * high)
    return height, width


def _range(start: Tensor, length: int) -> Tensor:
    """Return the positions from `start` on, of shape `(N, length)`."""
    return start[:, None] + torch.arange(length, device=start.device)


def _inside(positions: Tensor, length: int, padding_mode: PaddingMode) -> Tensor:
    """Return the pixel that each position shows, one of `0, ..., length - 1`."""
    if padding_mode == "reflect" and length > 1:
        folded = positions.remainder(2 * (length - 1))
        return torch.minimum(folded, 2 * (length - 1) - folded)
    if padding_mode == "symmetric":
        folded = positions.remainder(2 * length)
        return torch.minimum(folded, 2 * length - 1 - folded)
    return positions.clamp(0, length - 1)


def _take(images: Tensor, axis: int, positions: Tensor) -> Tensor:
    """Return the rows or columns at `positions`, of shape `(N, length)`, of each image."""
    index = positions[:, None, :, None] if axis == 2 else positions[:, None, None, :]
    shape = [*images.shape]
    shape[axis] = positions.shape[1]
    return images.gather(axis, index.expand(shape))


def _resampling(start: Tensor, length: Tensor, size: int, total: int, dtype: torch.dtype) -> Tensor:
    """Return the weights `R` of shape `(N, size, total)` of `total` pixels in `size` new ones."""
    device = start.device
    pixels = torch.arange(total, device=device)
    first, count = start[:, None, None], length[:, None, None]
    step = count.to(dtype) / size
    centres = first + (torch.arange(size, device=device, dtype=dtype)[:, None] + 0.5) * step
    distance = (pixels + 0.5 - centres).abs() / step.clamp(min=1)
    is_in = (pixels >= first) & (pixels < first + count)
    weights = torch.where(is_in, (1 - distance).clamp(min=0), 0)
    return weights / weights.sum(2, keepdim=True)


def _check_inside(start_name: str, start: int, name: str, length: int, total: int) -> None:
    if start < 0 or length < 1 or start + length > total:
        raise ValueError(
            f"resized_crop: expected a rectangle of at least one pixel inside the image, got "
            f"{start_name} {start} and {name} {length} for an image of {name} {total}."
        )
