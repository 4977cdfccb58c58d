"""Each value replaced by a function of it, and perhaps of the image's other values.

Values are those from 0 to 1, so these belong before `data.normalize`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .arguments import PerImage, check_images, per_image, whole_per_image


def invert(images: Tensor) -> Tensor:
    """Return `1 - images`.

    Raises
    ------
    TypeError, ValueError
        `images` is no batch of floating-point images.

    Examples
    --------
    >>> invert(torch.tensor([[[[0.0, 0.75]]]]))
    tensor([[[[1.0000, 0.2500]]]])
    """
    check_images("invert", images)
    return 1 - images


def solarize(images: Tensor, threshold: PerImage) -> Tensor:
    """Return the images with all values from `threshold` on inverted: torchvision's `solarize`.

    Parameters
    ----------
    images
        Shape `(N, C, H, W)`, floating-point, from 0 to 1.
    threshold
        A number from 0 to 1, or a tensor of shape `(N,)`.

    Raises
    ------
    TypeError, ValueError
        An argument is not one of the above. (The values of a tensor are not looked at.)

    Examples
    --------
    >>> solarize(torch.tensor([[[[0.25, 0.75]]]]), 0.5)
    tensor([[[[0.2500, 0.2500]]]])
    """
    check_images("solarize", images)
    limit = per_image("solarize", "threshold", threshold, images, 0, 1)
    return torch.where(images >= limit, 1 - images, images)


def posterize(images: Tensor, bits: int | Tensor) -> Tensor:
    """Return the images with `2^bits` values only: torchvision's `posterize`.

        y = min(floor(2^bits x), 2^bits - 1) / 2^bits

    Parameters
    ----------
    images
        Shape `(N, C, H, W)`, floating-point, from 0 to 1.
    bits
        An integer from 0 to 8, or an integer tensor of shape `(N,)`.

    Raises
    ------
    TypeError, ValueError
        An argument is not one of the above. (The values of a tensor are not looked at.)

    Examples
    --------
    >>> posterize(torch.tensor([[[[0.3, 0.8, 1.0]]]]), 1)
    tensor([[[[0.0000, 0.5000, 0.5000]]]])
    """
    check_images("posterize", images)
    if isinstance(bits, int) and not 0 <= bits <= 8:
        raise ValueError(f"posterize: expected bits to be from 0 to 8, got {bits}.")
    numbers = whole_per_image("posterize", "bits", bits, images)
    levels = (2**numbers).to(images.dtype)[:, None, None, None]
    return torch.minimum((images * levels).floor().clamp(min=0), levels - 1) / levels


def autocontrast(images: Tensor) -> Tensor:
    """Return the images with every channel stretched to go from 0 to 1.

    A channel of one value stays as it is. torchvision's `autocontrast`.

    Parameters
    ----------
    images
        Shape `(N, C, H, W)` with 1 or 3 channels, floating-point, from 0 to 1.

    Raises
    ------
    TypeError, ValueError
        `images` is not that.

    Examples
    --------
    >>> autocontrast(torch.tensor([[[[0.25, 0.5, 0.75]]]]))
    tensor([[[[0.0000, 0.5000, 1.0000]]]])
    """
    check_images("autocontrast", images, channels=(1, 3))
    lowest = images.amin((2, 3), keepdim=True)
    span = images.amax((2, 3), keepdim=True) - lowest
    is_flat = span == 0
    lowest, span = torch.where(is_flat, 0, lowest), torch.where(is_flat, 1, span)
    return ((images - lowest) / span).clamp(0, 1)


def equalize(images: Tensor) -> Tensor:
    """Return the images with values spread so that all are about equally frequent.

    Values are rounded down to 256 steps, and each channel mapped by its cumulative histogram, as
    Pillow's `equalize` and torchvision's do. A channel of almost one value stays as it is, but for
    the rounding.

    Parameters
    ----------
    images
        Shape `(N, C, H, W)` with 1 or 3 channels, floating-point, from 0 to 1.

    Raises
    ------
    TypeError, ValueError
        `images` is not that.

    Examples
    --------
    >>> ramp = torch.arange(256.0).reshape(1, 1, 16, 16) / 255
    >>> torch.allclose(equalize(ramp**2)[0, 0, -1, -1], torch.tensor(1.0))
    True
    """
    check_images("equalize", images, channels=(1, 3))
    # Slightly less than 256 steps: 1 must be the last of them, as in torchvision's conversion.
    steps = images.float().nan_to_num(0.0) * (255 + 1 - 1e-3)
    values = steps.clamp(0, 255).long().flatten(2)
    counts = torch.zeros_like(values[..., :1]).expand(*values.shape[:2], 256)
    counts = counts.scatter_add(2, values, torch.ones_like(values))
    total = counts.cumsum(2)
    last = total.argmax(2, keepdim=True)  # the greatest value that occurs
    step = (values.shape[2] - counts.gather(2, last)) // 255
    spread = (total + step // 2) // step.clamp(min=1)
    table = torch.cat([torch.zeros_like(last), spread[..., :-1].clamp(0, 255)], 2)
    mapped = torch.where(step == 0, values, table.gather(2, values))
    result = mapped.reshape(images.shape).to(images.dtype) / 255
    return torch.where(images.isnan(), images, result)
