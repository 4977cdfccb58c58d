"""Rectangles in images, drawn as torchvision draws them: an area, a ratio, a corner."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...functional import random
from .arguments import Interval
from .drawing import between, integers, uniforms

#: How often a rectangle that does not fit is drawn again.
TRIES = 10


def draw_rectangles(
    key: Tensor,
    images: Tensor,
    scale: Interval,
    ratio: Interval,
    least: tuple[int, int],
    greatest: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return heights and widths, one for each image, and whether one of the tries has fitted.

    With the area of the image `A`, `s` uniform and `r` uniform in its logarithm,

        height = round(sqrt(A s / r)),    width = round(sqrt(A s r)).

    Shapes `(N,)`, int64, int64 and bool.
    """
    area = images.shape[2] * images.shape[3]
    for_scale, for_ratio = random.uniform(key, (2, len(images), TRIES)).unbind()
    s = between(for_scale, *scale)
    log_r = between(for_ratio, math.log(ratio[0]), math.log(ratio[1]))
    heights = (area * s * torch.exp(-log_r)).sqrt().round().long()
    widths = (area * s * torch.exp(log_r)).sqrt().round().long()
    fits = (
        (heights >= least[0])
        & (heights <= greatest[0])
        & (widths >= least[1])
        & (widths <= greatest[1])
    )
    first = fits.long().argmax(1, keepdim=True)
    height, width, fitted = (values.gather(1, first)[:, 0] for values in (heights, widths, fits))
    return height, width, fitted


def draw_corners(
    key: Tensor, images: Tensor, heights: Tensor, widths: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the top row and the left column of each rectangle, uniform where it is inside."""
    for_top, for_left = uniforms(key, images, 2)
    top = integers(for_top, 0, images.shape[2] - heights + 1)
    left = integers(for_left, 0, images.shape[3] - widths + 1)
    return top, left


def inside_rectangle(
    images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor
) -> Tensor:
    """Return which pixels lie in the rectangle of each image, of shape `(N, 1, H, W)`."""
    rows = torch.arange(images.shape[2], device=images.device)[:, None]
    columns = torch.arange(images.shape[3], device=images.device)
    top, left, height, width = (v[:, None, None, None] for v in (top, left, height, width))
    return (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
