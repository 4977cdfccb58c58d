"""What an initializer is; constants and distributions that ask nothing of the shape."""

from __future__ import annotations

import math
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
    shape = threefry.check_shape("eye", shape)
    if len(shape) != 2:
        raise ValueError(f"eye: expected a shape of two dimensions, got {tuple(shape)}.")
    return torch.eye(*shape, dtype=dtype, device=key.device)


def constant(value: float) -> Initializer:
    """Return the initializer that fills with `value`.

    >>> constant(0.5)(random.key(0), (2,))
    tensor([0.5000, 0.5000])
    """
    check_number("constant", "value", value)

    def init(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        threefry.check_key("constant", key)
        shape = threefry.check_shape("constant", shape)
        return torch.full(shape, value, dtype=dtype, device=key.device)

    return init


def uniform(minval: float = 0.0, maxval: float = 1.0) -> Initializer:
    """Return the initializer that draws uniformly from `[minval, maxval)`.

    >>> values = uniform(-2.0, -1.0)(random.key(0), (100,))
    >>> bool(values.min() >= -2), bool(values.max() < -1)
    (True, True)
    """
    check_number("uniform", "minval", minval)
    check_number("uniform", "maxval", maxval)
    if not -math.inf < minval <= maxval < math.inf:
        raise ValueError(
            f"uniform: expected finite minval <= maxval, got minval={minval!r}, maxval={maxval!r}."
        )

    def init(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        shape = threefry.check_shape("uniform", shape)
        return random.uniform(key, shape, drawing_dtype(dtype), minval, maxval).to(dtype)

    return init


def normal(stddev: float = 1.0, *, mean: float = 0.0) -> Initializer:
    """Return the initializer that draws from the normal distribution.

    >>> normal(0.02)(random.key(0), (3, 2)).shape
    torch.Size([3, 2])
    """
    check_stddev("normal", stddev)
    check_number("normal", "mean", mean)

    def init(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        shape = threefry.check_shape("normal", shape)
        return (mean + stddev * random.normal(key, shape, drawing_dtype(dtype))).to(dtype)

    return init


def truncated_normal(
    stddev: float = 1.0, *, mean: float = 0.0, lower: float = -2.0, upper: float = 2.0
) -> Initializer:
    """Return the initializer that draws from the normal distribution cut off on both sides.

    As in JAX, `lower` and `upper` count standard deviations from the mean (torch's `trunc_normal_`
    has them as values), and `stddev` is that of the distribution before it is cut; an infinite
    bound cuts nothing off.

    >>> values = truncated_normal(0.5)(random.key(0), (100,))
    >>> bool(values.abs().max() <= 1.0)
    True
    """
    caller = "truncated_normal"
    check_stddev(caller, stddev)
    for name, value in {"mean": mean, "lower": lower, "upper": upper}.items():
        check_number(caller, name, value)
    if not (lower < upper and lower < 5 and upper > -5):
        raise ValueError(
            f"{caller}: expected lower < upper, not both beyond 5 on one side, got "
            f"lower={lower!r}, upper={upper!r}."
        )

    def init(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        shape, wide = threefry.check_shape(caller, shape), drawing_dtype(dtype)
        # Beyond, `erf` is 1 in this dtype, and one number in eight million would be the bound.
        reach = 8.2 if wide == torch.float64 else 5.4
        cut = random.truncated_normal(key, max(lower, -reach), min(upper, reach), shape, wide)
        return (mean + stddev * cut).to(dtype)

    return init


def drawing_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype to draw in: float32 for a half, whose own steps would shift the mean."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def check_number(caller: str, name: str, value: float) -> None:
    """Refuse anything but a Python number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"{caller}: expected {name} to be a Python number, got {type(value).__name__}."
        )


def check_stddev(caller: str, stddev: float) -> None:
    """Refuse a standard deviation that is none."""
    check_number(caller, "stddev", stddev)
    if not 0 <= stddev < math.inf:
        raise ValueError(f"{caller}: expected a finite stddev >= 0, got {stddev!r}.")
