"""Colours changed: brightness, contrast, saturation, hue. Values are those from 0 to 1.

So they belong before `data.normalize`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...functional import random
from .arguments import (
    Interval,
    PerImage,
    check_images,
    check_interval,
    check_number,
    per_image,
    select,
    widened,
)
from .drawing import between, uniforms

#: The weights of red, green and blue in the luma of ITU-R BT.601, as torchvision rounds them.
LUMA = (0.2989, 0.587, 0.114)


def rgb_to_grayscale(images: Tensor) -> Tensor:
    """Return the luma of each pixel, `0.2989 R + 0.587 G + 0.114 B`, in all three channels.

    torchvision's `rgb_to_grayscale` with three channels. Shape `(N, 3, H, W)`.

    Raises
    ------
    TypeError, ValueError
        `images` is no batch of floating-point images with three channels.

    Examples
    --------
    >>> rgb_to_grayscale(torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1)).flatten()
    tensor([0.2989, 0.2989, 0.2989])
    """
    check_images("rgb_to_grayscale", images, channels=(3,))
    return _luma(images).expand_as(images).clone()


def adjust_brightness(images: Tensor, factor: PerImage) -> Tensor:
    """Return `factor * images`, clipped to [0, 1]: 0 is black, 1 changes nothing.

    torchvision's `adjust_brightness`.

    Parameters
    ----------
    images
        Shape `(N, C, H, W)` with 1 or 3 channels, floating-point, from 0 to 1.
    factor
        A number from 0 on, or a tensor of shape `(N,)`.

    Raises
    ------
    TypeError, ValueError
        An argument is not one of the above. (The values of a tensor are not looked at.)

    Examples
    --------
    >>> adjust_brightness(torch.full((1, 1, 1, 2), 0.4), 2.0)
    tensor([[[[0.8000, 0.8000]]]])
    """
    factor = _factor("adjust_brightness", images, factor)
    return blend(images, torch.zeros_like(images[:, :1]), factor)


def adjust_contrast(images: Tensor, factor: PerImage) -> Tensor:
    """Return the images brought nearer to, or away from, their mean luma, clipped to [0, 1].

    With `m` the mean luma of the image, `factor * x + (1 - factor) * m`: 0 is grey, 1 changes
    nothing. torchvision's `adjust_contrast`; arguments as for `adjust_brightness`.

    Raises
    ------
    TypeError, ValueError
        As for `adjust_brightness`.

    Examples
    --------
    >>> adjust_contrast(torch.tensor([[[[0.2, 0.6]]]]), 0.5)
    tensor([[[[0.3000, 0.5000]]]])
    """
    factor = _factor("adjust_contrast", images, factor)
    return blend(images, _luma(images).mean((1, 2, 3), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: PerImage) -> Tensor:
    """Return the images brought nearer to, or away from, the luma of each pixel, clipped to [0, 1].

    With `y` the luma of the pixel, `factor * x + (1 - factor) * y`: 0 is grey, 1 changes nothing.
    Images of one channel stay as they are. torchvision's `adjust_saturation`; arguments as for
    `adjust_brightness`.

    Raises
    ------
    TypeError, ValueError
        As for `adjust_brightness`.

    Examples
    --------
    >>> adjust_saturation(torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1), 0.0).flatten()
    tensor([0.2989, 0.2989, 0.2989])
    """
    factor = _factor("adjust_saturation", images, factor)
    if images.shape[1] == 1:
        return images.clone()
    return blend(images, _luma(images), factor)


def adjust_hue(images: Tensor, factor: PerImage) -> Tensor:
    """Return the images with their hues turned by `factor` of the full circle.

    Smith 1978, Color gamut transform pairs: hue, saturation and value, of which the first is moved.
    Images of one channel stay as they are. torchvision's `adjust_hue`.

    Parameters
    ----------
    images
        Shape `(N, C, H, W)` with 1 or 3 channels, floating-point, from 0 to 1. Half precision is
        computed in float32.
    factor
        A number from -1/2 to 1/2, or a tensor of shape `(N,)`.

    Raises
    ------
    TypeError, ValueError
        An argument is not one of the above. (The values of a tensor are not looked at.)

    Examples
    --------
    >>> adjust_hue(torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1), 1 / 3).flatten()
    tensor([0., 1., 0.])
    """
    check_images("adjust_hue", images, channels=(1, 3))
    turn = per_image("adjust_hue", "factor", factor, images, -0.5, 0.5)[:, 0]
    if images.shape[1] == 1:
        return images.clone()
    hue, saturation, value = _rgb_to_hsv(widened(images))
    return _hsv_to_rgb((hue + turn).remainder(1), saturation, value).to(images.dtype)


def blend(images: Tensor, others: Tensor, factor: Tensor) -> Tensor:
    """Return `factor * images + (1 - factor) * others`, clipped to [0, 1]."""
    return (factor * images + (1 - factor) * others).clamp(0, 1).to(images.dtype)


def _factor(name: str, images: Tensor, factor: PerImage) -> Tensor:
    check_images(name, images, channels=(1, 3))
    return per_image(name, "factor", factor, images, 0)


def _luma(images: Tensor) -> Tensor:
    """Return the luma, of shape `(N, 1, H, W)`; that of a grey image is the image."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, 1)
    luma: Tensor = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    return luma


def _rgb_to_hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return hue, saturation and value, each of shape `(N, H, W)`; grey has hue 0."""
    red, green, blue = images.unbind(1)
    value = images.amax(1)
    chroma = value - images.amin(1)
    is_grey = chroma == 0
    saturation = chroma / torch.where(is_grey, 1, value)
    divisor = torch.where(is_grey, 1, chroma)
    sector = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    return (sector / 6).remainder(1), saturation, value


def _hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Return `v - v s max(0, min(k, 4 - k, 1))` with `k = (n + 6 h) mod 6`, `n = 5, 3, 1`."""
    channels = []
    for n in (5, 3, 1):
        k = (n + 6 * hue).remainder(6)
        channels.append(value - value * saturation * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, 1)


def random_grayscale(key: Tensor, images: Tensor, *, p: float = 0.1) -> Tensor:
    """Take the colour out of an image with probability `p`, each image on its own.

    Parameters
    ----------
    key
        A random key.
    images
        Shape `(N, 3, H, W)`, floating-point.
    p
        The probability.

    Raises
    ------
    TypeError, ValueError
        An argument is not one of the above.

    Examples
    --------
    >>> images = random_grayscale(random.key(0), torch.rand(2, 3, 4, 4), p=1.0)
    >>> torch.equal(images[:, 0], images[:, 2])
    True
    """
    check_images("random_grayscale", images, channels=(3,))
    p = check_number("random_grayscale", "p", p, 0, 1)
    return select(random.bernoulli(key, p, images.shape[:1]), rgb_to_grayscale(images), images)


def color_jitter(
    key: Tensor,
    images: Tensor,
    *,
    brightness: float | Interval = 0.0,
    contrast: float | Interval = 0.0,
    saturation: float | Interval = 0.0,
    hue: float | Interval = 0.0,
) -> Tensor:
    """Change the colours of each image by factors of its own, in an order of its own.

    torchvision's `ColorJitter`: every factor uniform in its interval, every order equally likely.

    Parameters
    ----------
    key
        A random key.
    images
        Shape `(N, C, H, W)` with 1 or 3 channels, floating-point, from 0 to 1.
    brightness, contrast, saturation
        The interval of the factor, or a number `d` for `(max(0, 1 - d), 1 + d)`; 0 is nothing.
    hue
        The interval, from -1/2 to 1/2, or a number `d` for `(-d, d)`; 0 is nothing.

    Raises
    ------
    TypeError, ValueError
        An argument is not one of the above.

    Examples
    --------
    >>> images = torch.rand(4, 3, 8, 8)
    >>> color_jitter(random.key(0), images, brightness=0.4, hue=0.1).shape
    torch.Size([4, 3, 8, 8])
    """
    check_images("color_jitter", images, channels=(1, 3))
    steps: list[tuple[Callable[[Tensor, Tensor], Tensor], Interval]] = [
        (adjust_brightness, _around_one("brightness", brightness)),
        (adjust_contrast, _around_one("contrast", contrast)),
        (adjust_saturation, _around_one("saturation", saturation)),
        (adjust_hue, _hues(hue)),
    ]
    steps = [(adjust, ends) for adjust, ends in steps if not _is_neutral(adjust, ends)]
    draws = uniforms(key, images, 2 * len(steps))
    factors = [between(u, *ends) for u, (_, ends) in zip(draws, steps, strict=False)]
    order = _order(draws[len(steps) :])
    for place in range(len(steps)):
        changed = images
        for number, ((adjust, _), factor) in enumerate(zip(steps, factors, strict=True)):
            changed = select(order[number] == place, adjust(images, factor), changed)
        images = changed
    return images


def _order(draws: tuple[Tensor, ...]) -> list[Tensor]:
    """Return the rank of each draw among those of its image."""
    return [sum((u > other for other in draws), torch.zeros_like(u)) for u in draws]


def _is_neutral(adjust: Callable[[Tensor, Tensor], Tensor], ends: Interval) -> bool:
    return ends == ((0.0, 0.0) if adjust is adjust_hue else (1.0, 1.0))


def _around_one(argument: str, value: float | Interval) -> Interval:
    if isinstance(value, int | float):
        reach = check_number("color_jitter", argument, value, 0)
        return max(0.0, 1 - reach), 1 + reach
    return check_interval("color_jitter", argument, value, 0)


def _hues(value: float | Interval) -> Interval:
    if isinstance(value, int | float):
        reach = check_number("color_jitter", "hue", value, 0, 0.5)
        return -reach, reach
    return check_interval("color_jitter", "hue", value, -0.5, 0.5)
