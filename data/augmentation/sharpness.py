"""Images blurred and sharpened: means over the neighbours of a pixel."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

from .arguments import (
    Interval,
    PerImage,
    check_images,
    check_interval,
    per_image,
    widened,
)
from .color import blend
from .drawing import between, uniforms


def gaussian_blur(images: Tensor, kernel_size: int, sigma: PerImage) -> Tensor:
    """Return the images blurred by a Gaussian, cut off and normalized: torchvision's.

        y_i = sum_k w_k x_{i+k},    w_k = exp(-k^2 / (2 sigma^2)) / (sum over k),   |k| <= (K - 1)/2

    along both axes, with the image mirrored on its last pixels.

    Parameters
    ----------
    images
        Shape `(N, C, H, W)`, floating-point. Half precision is computed in float32.
    kernel_size
        `K`, odd, with `(K - 1)/2` less than height and width.
    sigma
        Pixels: a positive number, or a tensor of shape `(N,)`.

    Raises
    ------
    TypeError, ValueError
        An argument is not one of the above. (The values of a tensor are not looked at.)

    Examples
    --------
    >>> gaussian_blur(torch.eye(3).reshape(1, 1, 3, 3), 3, 0.5)[0, 0, 1]
    tensor([0.2515, 0.6420, 0.2515])
    """
    check_images("gaussian_blur", images)
    reach = _reach(kernel_size, images)
    width = per_image("gaussian_blur", "sigma", sigma, images, 1e-9)
    offsets = range(-reach, reach + 1)
    exponents = torch.cat([-(offset**2) / (2 * width**2) for offset in offsets], 1)
    weights = torch.softmax(exponents, 1).split(1, 1)
    values = F.pad(widened(images), (reach,) * 4, mode="reflect")
    for axis, length in ((2, images.shape[2]), (3, images.shape[3])):
        parts = [w * values.narrow(axis, k, length) for k, w in enumerate(weights)]
        values = torch.stack(parts).sum(0)
    return values.to(images.dtype)


def _reach(kernel_size: int, images: Tensor) -> int:
    if isinstance(kernel_size, bool) or not isinstance(kernel_size, int):
        raise TypeError(f"gaussian_blur: expected kernel_size to be an int, got {kernel_size!r}.")
    reach = kernel_size // 2
    if kernel_size < 1 or kernel_size % 2 == 0 or reach >= min(images.shape[2:]):
        raise ValueError(
            "gaussian_blur: expected kernel_size to be odd, positive and less than twice the "
            f"smaller side, got {kernel_size} for images of shape {tuple(images.shape)}."
        )
    return reach


def random_gaussian_blur(
    key: Tensor, images: Tensor, kernel_size: int, *, sigma: Interval = (0.1, 2.0)
) -> Tensor:
    """Blur each image by a Gaussian of its own width, uniform in an interval.

    torchvision's `GaussianBlur`.

    Parameters
    ----------
    key
        A random key.
    images
        Shape `(N, C, H, W)`, floating-point.
    kernel_size
        As for `gaussian_blur`.
    sigma
        The interval, in pixels.

    Raises
    ------
    TypeError, ValueError
        An argument is not one of the above.

    Examples
    --------
    >>> from purefn.functional import random
    >>> random_gaussian_blur(random.key(0), torch.rand(2, 3, 8, 8), 5).shape
    torch.Size([2, 3, 8, 8])
    """
    check_images("random_gaussian_blur", images)
    low, high = check_interval("random_gaussian_blur", "sigma", sigma, 1e-9)
    (u,) = uniforms(key, images, 1)
    return gaussian_blur(images, kernel_size, between(u, low, high))


def adjust_sharpness(images: Tensor, factor: PerImage) -> Tensor:
    """Return the images brought nearer to, or away from, a smoothed copy, clipped to [0, 1].

    With `b` the mean over the 3 x 3 neighbours in which the middle counts five times,
    `factor * x + (1 - factor) * b`: 0 is smooth, 1 changes nothing. Pixels at the border stay.
    torchvision's `adjust_sharpness`.

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
    >>> point = torch.zeros(1, 1, 3, 3)
    >>> point[0, 0, 1, 1] = 0.26
    >>> adjust_sharpness(point, 0.0)[0, 0, 1]
    tensor([0.0000, 0.1000, 0.0000])
    """
    check_images("adjust_sharpness", images, channels=(1, 3))
    weight = per_image("adjust_sharpness", "factor", factor, images, 0)
    height, width = images.shape[2:]
    if min(height, width) <= 2:
        return images.clone()
    rows = range(height - 2), range(width - 2)
    shifted = [
        images[:, :, top : top + len(rows[0]), left : left + len(rows[1])]
        for top in range(3)
        for left in range(3)
    ]
    middle = images[:, :, 1:-1, 1:-1]
    smooth = (torch.stack(shifted).sum(0) + 4 * middle) / 13
    inner = F.pad(smooth - middle, (1, 1, 1, 1))
    return blend(images, images + inner, weight)
