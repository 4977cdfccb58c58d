"""Bringing images to zero mean and unit variance, channel by channel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor


class Statistics(NamedTuple):
    """Mean and standard deviation of each channel, for pixels from 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


#: Published statistics of training parts. Those of `imagenet` are what torchvision's pretrained
#: models expect; the others are what `channel_statistics` gives, rounded to four digits. (The often
#: copied std .2023, .1994, .2010 for CIFAR-10 is an average over images of each one's own.)
STATISTICS: Mapping[str, Statistics] = MappingProxyType(
    {
        "digits": Statistics((0.3051,), (0.3762,)),
        "mnist": Statistics((0.1307,), (0.3081,)),
        "fashion_mnist": Statistics((0.2860,), (0.3530,)),
        "cifar10": Statistics((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        "cifar100": Statistics((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
        "imagenet": Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    }
)


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return `(images - mean) / std`, channel by channel.

    Parameters
    ----------
    images
        Shape `(..., channels, height, width)`, floating-point; the result has its dtype.
    mean, std
        One number for each channel; for known data sets `*STATISTICS["mnist"]`.

    Raises
    ------
    TypeError
        The images are not floating-point, or `mean` or `std` is no sequence of numbers.
    ValueError
        `mean` or `std` is not one finite number for each channel, or a `std` is not positive.

    Examples
    --------
    >>> normalize(torch.full((1, 1, 1, 2), 0.75), mean=[0.5], std=[0.25])
    tensor([[[[1., 1.]]]])
    """
    if not images.is_floating_point():
        raise TypeError(
            f"normalize: expected floating-point images, got {images.dtype}; "
            "pixels from 0 to 255 become `images.float() / 255`."
        )
    if images.ndim < 3:
        raise ValueError(
            "normalize: expected images of shape (..., channels, height, width), "
            f"got {tuple(images.shape)}."
        )
    for name, values in (("mean", mean), ("std", std)):
        if not isinstance(values, Sequence) or not all(isinstance(value, Real) for value in values):
            raise TypeError(
                f"normalize: expected {name} to be a sequence with one number for each channel, "
                f"such as (0.5,), got {values!r}."
            )
        if len(values) != images.shape[-3]:
            raise ValueError(
                f"normalize: {name} has {len(values)} entries for images with "
                f"{images.shape[-3]} channels (shape {tuple(images.shape)})."
            )
        if not all(math.isfinite(value) for value in values):
            raise ValueError(f"normalize: expected finite numbers in {name}, got {tuple(values)}.")
    if not all(value > 0 for value in std):
        raise ValueError(f"normalize: expected every std to be positive, got {tuple(std)}.")

    def by_channel(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=images.dtype, device=images.device)[:, None, None]

    return (images - by_channel(mean)) / by_channel(std)


def channel_statistics(images: Tensor) -> Statistics:
    """Return mean and standard deviation of each channel, for `normalize`.

    They are taken over all pixels of all images, in double precision, dividing by the number of
    pixels. Use the training part alone: the test part is not yours to know.

    Parameters
    ----------
    images
        Shape `(n, channels, height, width)`, floating-point.

    Raises
    ------
    TypeError
        The images are not floating-point.
    ValueError
        The shape is another one, or there is no pixel.

    Examples
    --------
    >>> channel_statistics(torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1))
    Statistics(mean=(0.5,), std=(0.5,))
    """
    if not images.is_floating_point():
        raise TypeError(f"channel_statistics: expected floating-point images, got {images.dtype}.")
    if images.ndim != 4 or images.numel() == 0:
        raise ValueError(
            "channel_statistics: expected images of shape (n, channels, height, width) with at "
            f"least one pixel, got {tuple(images.shape)}."
        )
    # One channel at a time: a double-precision copy of a whole data set would not be small.
    moments = [torch.std_mean(channel.double(), correction=0) for channel in images.unbind(1)]
    return Statistics(
        mean=tuple(mean.item() for _, mean in moments), std=tuple(std.item() for std, _ in moments)
    )
