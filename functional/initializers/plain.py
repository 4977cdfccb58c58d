"""What an initializer is; constants and distributions that ask nothing of the shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from .. import random
from ..random import threefry


class Initializer(Protocol):
    """The type of an initializer."""

    def __call__(
        self, key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Return a tensor of the given shape and dtype, drawn with `key`."""


def zeros(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Return zeros.

    >>> zeros(random.key(0), (2,))
    tensor([0., 0.])
    """
    threefry.check_key("zeros", key)
    return torch.zeros(shape, dtype=dtype, device=key.device)


def ones(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Return ones.

    >>> ones(random.key(0), (2,))
    tensor([1., 1.])
    """
    threefry.check_key("ones", key)
    return torch.ones(shape, dtype=dtype, device=key.device)


def eye(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the identity matrix, cut or padded with zeros to a shape of two dimensions.

    >>> eye(random.key(0), (2, 3))
    tensor([[1., 0., 0.],
            [0., 1., 0.]])
    """
    threefry.check_key("eye", key)
    if len(shape) != 2:
        raise ValueError(f"eye: expected a shape of two dimensions, got {tuple(shape)}.")
    return torch.eye(*shape, dtype=dtype, device=key.device)


def constant(value: float) -> Initializer:
    """Return the initializer that fills with `value`.

    >>> constant(0.5)(random.key(0), (2,))
    tensor([0.5000, 0.5000])
    """

    def init(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        threefry.check_key("constant", key)
        return torch.full(tuple(shape), value, dtype=dtype, device=key.device)

    return init


def uniform(minval: float = 0.0, maxval: float = 1.0) -> Initializer:
    """Return the initializer that draws uniformly from `[minval, maxval)`.

    >>> values = uniform(-2.0, -1.0)(random.key(0), (100,))
    >>> bool(values.min() >= -2), bool(values.max() < -1)
    (True, True)
    """

    def init(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return random.uniform(key, tuple(shape), dtype, minval, maxval)

    return init


def normal(stddev: float = 1.0, *, mean: float = 0.0) -> Initializer:
    """Return the initializer that draws from the normal distribution.

    >>> normal(0.02)(random.key(0), (3, 2)).shape
    torch.Size([3, 2])
    """

    def init(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return mean + stddev * random.normal(key, tuple(shape), dtype)

    return init


def truncated_normal(
    stddev: float = 1.0, *, mean: float = 0.0, lower: float = -2.0, upper: float = 2.0
) -> Initializer:
    """Return the initializer that draws from the normal distribution cut off on both sides.

    As in JAX, `lower` and `upper` count standard deviations from the mean (torch's `trunc_normal_`
    has them as values), and `stddev` is that of the distribution before it is cut.

    >>> values = truncated_normal(0.5)(random.key(0), (100,))
    >>> bool(values.abs().max() <= 1.0)
    True
    """

    def init(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return mean + stddev * random.truncated_normal(key, lower, upper, tuple(shape), dtype)

    return init
