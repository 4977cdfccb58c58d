"""Rectangles painted over, so that a network does not rest on one part of an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...functional import random
from .arguments import (
    Interval,
    check_images,
    check_interval,
    check_number,
    check_size,
    filling,
    select,
    whole_per_image,
)
from .drawing import integers, uniforms
from .rectangles import draw_corners, draw_rectangles, inside_rectangle


def erase(
    images: Tensor,
    top: int | Tensor,
    left: int | Tensor,
    height: int | Tensor,
    width: int | Tensor,
    *,
    fill: float | Sequence[float] = 0.0,
) -> Tensor:
    """Return the images with a rectangle of one colour; what lies outside an image is nothing.

    Parameters
    ----------
    images
        Shape `(N, C, H, W)`, floating-point.
    top, left, height, width
        Integers, or integer tensors of shape `(N,)`.
    fill
        A number, or one for each channel.

    Raises
    ------
    TypeError, ValueError
        An argument is not one of the above.

    Examples
    --------
    >>> erase(torch.ones(1, 1, 2, 3), top=0, left=-1, height=2, width=2)
    tensor([[[[0., 1., 1.],
              [0., 1., 1.]]]])
    """
    check_images("erase", images)
    place = {"top": top, "left": left, "height": height, "width": width}
    rectangle = [whole_per_image("erase", name, value, images) for name, value in place.items()]
    return torch.where(inside_rectangle(images, *rectangle), filling("erase", fill, images), images)


def random_erasing(
    key: Tensor,
    images: Tensor,
    *,
    p: float = 0.5,
    scale: Interval = (0.02, 0.33),
    ratio: Interval = (0.3, 3.3),
    fill: float | Sequence[float] = 0.0,
) -> Tensor:
    """Paint over a rectangle of an image, with probability `p`, each image on its own.

    Zhong et al. 2017, Random erasing data augmentation (arXiv:1708.04896); torchvision's
    `RandomErasing`: area uniform, ratio of height to width uniform in its logarithm, any place
    inside the image. An image in which ten tries do not fit stays as it is.

    Parameters
    ----------
    key
        A random key.
    images
        Shape `(N, C, H, W)`, floating-point.
    p
        The probability.
    scale
        The interval of the area, as a part of that of the image.
    ratio
        The interval of height over width.
    fill
        A number, or one for each channel.

    Raises
    ------
    TypeError, ValueError
        An argument is not one of the above.

    Examples
    --------
    >>> images = torch.ones(4, 3, 16, 16)
    >>> erased = random_erasing(random.key(0), images, p=1.0)
    >>> (erased == 0).any(dim=(1, 2, 3))
    tensor([True, True, True, True])
    """
    check_images("random_erasing", images)
    p = check_number("random_erasing", "p", p, 0, 1)
    scale = check_interval("random_erasing", "scale", scale, 1e-6, 1.0)
    low, high = check_interval("random_erasing", "ratio", ratio, 1e-6)
    decision, shape, place = random.split(key, 3).unbind()
    smaller = (images.shape[2] - 1, images.shape[3] - 1)
    height, width, fits = draw_rectangles(
        shape, images, scale, (1 / high, 1 / low), (0, 0), smaller
    )
    top, left = draw_corners(place, images, height, width)
    chosen = random.bernoulli(decision, p, images.shape[:1]) & fits
    return select(chosen, erase(images, top, left, height, width, fill=fill), images)


def cutout(
    key: Tensor,
    images: Tensor,
    size: int | tuple[int, int],
    *,
    fill: float | Sequence[float] = 0.0,
) -> Tensor:
    """Paint over a rectangle of one size whose middle is any pixel, drawn for each image.

    DeVries & Taylor 2017, Improved regularization of convolutional neural networks with cutout
    (arXiv:1708.04552). What lies outside the image is cut off, so that an image may lose less.

    Parameters
    ----------
    key
        A random key.
    images
        Shape `(N, C, H, W)`, floating-point.
    size
        `(height, width)`, or one number for both.
    fill
        A number, or one for each channel; 0 is what the paper paints on normalized images.

    Raises
    ------
    TypeError, ValueError
        An argument is not one of the above.

    Examples
    --------
    >>> images = cutout(random.key(0), torch.ones(8, 1, 16, 16), 6)
    >>> (images == 0).sum(dim=(1, 2, 3)).max()
    tensor(36)
    """
    check_images("cutout", images)
    height, width = check_size("cutout", "size", size)
    for_row, for_column = uniforms(key, images, 2)
    top = integers(for_row, 0, images.shape[2]) - height // 2
    left = integers(for_column, 0, images.shape[3]) - width // 2
    return erase(images, top, left, height, width, fill=fill)
