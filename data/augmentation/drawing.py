"""What is drawn for each image: uniform numbers, all of one augmentation by one call.

A call costs a compiled step a hundred operations, whatever its length.
"""

from __future__ import annotations

from torch import Tensor

from ...functional import random


def uniforms(key: Tensor, images: Tensor, count: int) -> tuple[Tensor, ...]:
    """Return `count` tensors of shape `(N,)`, float32, uniform over `[0, 1)` and independent.

    >>> import torch
    >>> a, b = uniforms(random.key(0), torch.zeros(3, 1, 8, 8), 2)
    >>> a.shape, torch.equal(a, b)
    (torch.Size([3]), False)
    """
    return random.uniform(key, (count, len(images))).unbind()


def between(u: Tensor, low: float, high: float) -> Tensor:
    """Return what is uniform over `[low, high)` where `u` is over `[0, 1)`.

    >>> import torch
    >>> between(torch.tensor([0.0, 0.5]), 2.0, 4.0)
    tensor([2., 3.])
    """
    value: Tensor = low + (high - low) * u
    return value


def integers(u: Tensor, low: int, high: int | Tensor) -> Tensor:
    """Return what is uniform over `low, ..., high - 1`, to 2^-23 of their number, in int64.

    >>> import torch
    >>> integers(torch.tensor([0.0, 0.5, 0.99]), -1, 2)
    tensor([-1,  0,  1])
    """
    room = high - low
    number: Tensor = low + (u * room).floor().long()
    return number
