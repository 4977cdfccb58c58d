"""What augmentations check at the door, and how a number for each image meets the pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

#: A number for all images, or a tensor of shape `(N,)` with one for each.
PerImage = float | Tensor

#: The two ends of the interval from which something is drawn.
Interval = tuple[float, float]

_HALF = (torch.float16, torch.bfloat16)


def check_images(name: str, images: Any, channels: tuple[int, ...] | None = None) -> None:
    """Refuse what is no batch of floating-point images, with one of these numbers of channels.

    >>> check_images("crop", torch.zeros(3, 8, 8))
    Traceback (most recent call last):
    ValueError: crop: expected images of shape (N, C, H, W), got (3, 8, 8).
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"{name}: expected images to be a tensor, got {images!r}.")
    if not images.is_floating_point():
        raise TypeError(
            f"{name}: expected floating-point images, got {images.dtype}; pixels from 0 to 255 "
            "become `images / 255`."
        )
    if images.ndim != 4:
        raise ValueError(
            f"{name}: expected images of shape (N, C, H, W), got {tuple(images.shape)}."
        )
    if images.numel() == 0:
        raise ValueError(
            f"{name}: expected at least one pixel, got images of shape {tuple(images.shape)}."
        )
    if channels is not None and images.shape[1] not in channels:
        expected = " or ".join(str(number) for number in channels)
        raise ValueError(
            f"{name}: expected {expected} channels, got images of shape {tuple(images.shape)}."
        )


def per_image(
    name: str,
    argument: str,
    value: PerImage,
    images: Tensor,
    least: float = -math.inf,
    greatest: float = math.inf,
) -> Tensor:
    """Return `value` in a shape that broadcasts against images, in their dtype or float32.

    A number is compared with its bounds. The values of a tensor are not looked at: under `jit` and
    `vmap` there are none.
    """
    dtype = torch.float32 if images.dtype in _HALF else images.dtype
    if not isinstance(value, Tensor):
        number = check_number(name, argument, value, least, greatest)
        return torch.full((1, 1, 1, 1), number, dtype=dtype, device=images.device)
    if value.dtype == torch.bool or value.dtype.is_complex:
        raise TypeError(f"{name}: expected {argument} to hold real numbers, got {value.dtype}.")
    if value.shape != images.shape[:1]:
        raise ValueError(
            f"{name}: expected {argument} to be a number or of shape ({len(images)},), one for "
            f"each image, got shape {tuple(value.shape)}."
        )
    return value.to(dtype)[:, None, None, None]


def whole_per_image(name: str, argument: str, value: int | Tensor, images: Tensor) -> Tensor:
    """Return integers, one for each image, of shape `(N,)` and dtype int64.

    >>> whole_per_image("crop", "top", 2, torch.zeros(3, 1, 8, 8))
    tensor([2, 2, 2])
    """
    if not isinstance(value, Tensor):
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name}: expected {argument} to be an int, got {value!r}.")
        return torch.full(images.shape[:1], value, dtype=torch.int64, device=images.device)
    if value.is_floating_point() or value.dtype == torch.bool or value.dtype.is_complex:
        raise TypeError(f"{name}: expected {argument} to hold integers, got {value.dtype}.")
    if value.shape != images.shape[:1]:
        raise ValueError(
            f"{name}: expected {argument} to be an int or of shape ({len(images)},), one for each "
            f"image, got shape {tuple(value.shape)}."
        )
    return value.long()


def check_number(
    name: str,
    argument: str,
    value: Any,
    least: float = -math.inf,
    greatest: float = math.inf,
) -> float:
    """Return `value`, a number between the bounds, or refuse it.

    >>> check_number("solarize", "threshold", 2.0, 0, 1)
    Traceback (most recent call last):
    ValueError: solarize: expected threshold to be from 0 to 1, got 2.0.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected {argument} to be a number, got {value!r}.")
    if not (math.isfinite(value) and least <= value <= greatest):
        if greatest < math.inf:
            range_ = f"from {least:g} to {greatest:g}"
        else:
            range_ = "finite" if least == -math.inf else f"at least {least:g}"
        raise ValueError(f"{name}: expected {argument} to be {range_}, got {value}.")
    return float(value)


def check_interval(
    name: str,
    argument: str,
    value: Any,
    least: float = -math.inf,
    greatest: float = math.inf,
) -> Interval:
    """Return `(low, high)`, numbers between the bounds and in order, or refuse them."""
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise TypeError(f"{name}: expected {argument} to be (low, high), got {value!r}.")
    low, high = (check_number(name, argument, end, least, greatest) for end in value)
    if low > high:
        raise ValueError(f"{name}: expected {argument} to be (low, high), got {value!r}.")
    return low, high


def check_size(name: str, argument: str, value: Any, least: int = 1) -> tuple[int, int]:
    """Return `(height, width)` of a size that may be one number for both.

    >>> check_size("crop", "size", 8)
    (8, 8)
    """
    sides = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(sides) != 2 or not all(isinstance(s, int) and not isinstance(s, bool) for s in sides):
        raise TypeError(
            f"{name}: expected {argument} to be an int or (height, width), got {value!r}."
        )
    if min(sides) < least:
        raise ValueError(f"{name}: expected {argument} to be at least {least}, got {value!r}.")
    return sides[0], sides[1]


def check_count(name: str, argument: str, value: Any, least: int) -> int:
    """Return `value`, an int of at least `least`, or refuse it."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected {argument} to be an int, got {value!r}.")
    if value < least:
        raise ValueError(f"{name}: expected {argument} to be at least {least}, got {value}.")
    return value


def filling(name: str, fill: float | Sequence[float], images: Tensor) -> Tensor:
    """Return the colour that `fill` names, of shape `(C, 1, 1)` in the images' dtype."""
    colour = [fill] if isinstance(fill, int | float) else fill
    if isinstance(fill, bool | str) or not isinstance(colour, Sequence):
        raise TypeError(
            f"{name}: expected fill to be a number or one for each channel, got {fill!r}."
        )
    numbers = [check_number(name, "fill", number) for number in colour]
    if len(numbers) not in (1, images.shape[1]):
        raise ValueError(
            f"{name}: fill has {len(numbers)} entries for images with {images.shape[1]} channels."
        )
    values = [
        torch.full((1, 1, 1), number, dtype=images.dtype, device=images.device)
        for number in numbers
    ]
    return torch.cat(values).expand(images.shape[1], 1, 1)


def widened(images: Tensor) -> Tensor:
    """Return the images in float32 where they are narrower."""
    return images.float() if images.dtype in _HALF else images


def select(chosen: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Return, image by image, `yes` where `chosen`, of shape `(N,)`, is true, and else `no`."""
    return torch.where(chosen[:, None, None, None], yes, no)
