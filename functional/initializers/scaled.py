"""Weights whose variance follows from how many numbers go in and out: Glorot's, He's, LeCun's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from .. import random
from ..random import threefry
from .plain import Initializer, check_number, drawing_dtype

Mode = Literal["fan_in", "fan_out", "fan_avg", "fan_geo_avg"]
Distribution = Literal["uniform", "normal", "truncated_normal"]

#: Standard deviation of the standard normal distribution truncated to [-2, 2].
_TRUNCATED_STDDEV = 0.87962566103423978


def fans(shape: Sequence[int]) -> tuple[int, int]:
    """Return `(fan_in, fan_out)` of a weight of shape `(out, in / groups, *kernel)`.

    >>> fans((32, 3, 5, 5))
    (75, 800)
    """
    shape = threefry.check_shape("fans", shape)
    if len(shape) < 2:
        raise ValueError(
            f"fans: expected a shape (out, in, *kernel) of at least two dimensions, got "
            f"{tuple(shape)}; fan_in and fan_out are not defined for it."
        )
    kernel = math.prod(shape[2:])
    return shape[1] * kernel, shape[0] * kernel


def variance_scaling(
    scale: float = 1.0, mode: Mode = "fan_in", distribution: Distribution = "truncated_normal"
) -> Initializer:
    """Return the initializer with mean zero and variance `scale / fan`.

    The fan is `fan_in`, `fan_out`, their arithmetic mean (`fan_avg`) or their geometric mean
    (`fan_geo_avg`). With `truncated_normal` the cut at two standard deviations is allowed for: the
    result has the variance asked for.

    Raises
    ------
    ValueError
        `scale` is not positive, or `mode` or `distribution` is none of the above; on use, the shape
        has fewer than two dimensions.

    Examples
    --------
    >>> weight = variance_scaling(3.0, "fan_in", "uniform")(random.key(0), (100, 9))
    >>> bool(weight.abs().max() <= 1.0)
    True
    """
    check_number("variance_scaling", "scale", scale)
    if not 0 < scale < math.inf:
        raise ValueError(f"variance_scaling: expected a finite scale > 0, got {scale!r}.")
    if mode not in ("fan_in", "fan_out", "fan_avg", "fan_geo_avg"):
        raise ValueError(
            "variance_scaling: expected mode 'fan_in', 'fan_out', 'fan_avg' or 'fan_geo_avg', got "
            f"{mode!r}."
        )
    if distribution not in ("uniform", "normal", "truncated_normal"):
        raise ValueError(
            "variance_scaling: expected distribution 'uniform', 'normal' or 'truncated_normal', "
            f"got {distribution!r}."
        )

    def init(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        fan_in, fan_out = fans(shape)
        fan = {
            "fan_in": fan_in,
            "fan_out": fan_out,
            "fan_avg": (fan_in + fan_out) / 2,
            "fan_geo_avg": math.sqrt(fan_in * fan_out),
        }[mode]
        stddev = math.sqrt(scale / max(fan, 1))  # a fan of 0 belongs to a weight without elements
        shape, wide = tuple(shape), drawing_dtype(dtype)
        if distribution == "uniform":
            values = stddev * math.sqrt(3) * random.uniform(key, shape, wide, -1.0, 1.0)
        elif distribution == "normal":
            values = stddev * random.normal(key, shape, wide)
        else:
            cut = random.truncated_normal(key, -2.0, 2.0, shape, wide)
            values = stddev / _TRUNCATED_STDDEV * cut
        return values.to(dtype)

    return init


def lecun_uniform() -> Initializer:
    """Return `variance_scaling(1, "fan_in", "uniform")` (LeCun et al. 1998, Efficient BackProp).

    >>> lecun_uniform()(random.key(0), (3, 2)).shape
    torch.Size([3, 2])
    """
    return variance_scaling(1.0, "fan_in", "uniform")


def lecun_normal() -> Initializer:
    """Return `variance_scaling(1, "fan_in", "truncated_normal")`.

    >>> lecun_normal()(random.key(0), (3, 2)).shape
    torch.Size([3, 2])
    """
    return variance_scaling(1.0, "fan_in", "truncated_normal")


def glorot_uniform() -> Initializer:
    """Return `variance_scaling(1, "fan_avg", "uniform")`, the same as `xavier_uniform()`.

    >>> glorot_uniform()(random.key(0), (3, 2)).shape
    torch.Size([3, 2])
    """
    return variance_scaling(1.0, "fan_avg", "uniform")


def glorot_normal() -> Initializer:
    """Return `variance_scaling(1, "fan_avg", "truncated_normal")`; `xavier_normal` is not cut.

    >>> glorot_normal()(random.key(0), (3, 2)).shape
    torch.Size([3, 2])
    """
    return variance_scaling(1.0, "fan_avg", "truncated_normal")


def he_uniform() -> Initializer:
    """Return `variance_scaling(2, "fan_in", "uniform")`, the same as `kaiming_uniform()`.

    >>> he_uniform()(random.key(0), (3, 2)).shape
    torch.Size([3, 2])
    """
    return variance_scaling(2.0, "fan_in", "uniform")


def he_normal() -> Initializer:
    """Return `variance_scaling(2, "fan_in", "truncated_normal")`; `kaiming_normal` is not cut.

    >>> he_normal()(random.key(0), (3, 2)).shape
    torch.Size([3, 2])
    """
    return variance_scaling(2.0, "fan_in", "truncated_normal")


def xavier_uniform(gain: float = 1.0) -> Initializer:
    """Return the initializer uniform within `±gain sqrt(6 / (fan_in + fan_out))`.

    Glorot & Bengio 2010, Understanding the difficulty of training deep feedforward neural networks.

    >>> xavier_uniform(calculate_gain("tanh"))(random.key(0), (3, 2)).shape
    torch.Size([3, 2])
    """
    return variance_scaling(_squared("xavier_uniform", gain), "fan_avg", "uniform")


def xavier_normal(gain: float = 1.0) -> Initializer:
    """Return the normal initializer of variance `gain^2 2 / (fan_in + fan_out)`.

    >>> xavier_normal()(random.key(0), (3, 2)).shape
    torch.Size([3, 2])
    """
    return variance_scaling(_squared("xavier_normal", gain), "fan_avg", "normal")


def kaiming_uniform(
    a: float = 0.0, *, mode: Mode = "fan_in", nonlinearity: str = "leaky_relu"
) -> Initializer:
    """Return the initializer uniform within `±gain sqrt(3 / fan)`.

    `gain` is `calculate_gain(nonlinearity, a)`, so `a` is the negative slope of a leaky ReLU.
    He et al. 2015, Delving deep into rectifiers.

    >>> kaiming_uniform(mode="fan_out")(random.key(0), (3, 2)).shape
    torch.Size([3, 2])
    """
    return variance_scaling(calculate_gain(nonlinearity, a) ** 2, mode, "uniform")


def kaiming_normal(
    a: float = 0.0, *, mode: Mode = "fan_in", nonlinearity: str = "leaky_relu"
) -> Initializer:
    """Return the normal initializer of variance `gain^2 / fan`; see `kaiming_uniform`.

    >>> kaiming_normal(nonlinearity="relu")(random.key(0), (3, 2)).shape
    torch.Size([3, 2])
    """
    return variance_scaling(calculate_gain(nonlinearity, a) ** 2, mode, "normal")


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """Return the factor by which a nonlinearity wants its layer's weights scaled, as in torch.

    `param` is the negative slope of `leaky_relu`, 0.01 where none is given.

    >>> calculate_gain("tanh")
    1.6666666666666667
    """
    slope = 0.01 if param is None else param
    check_number("calculate_gain", "param, the slope of leaky_relu,", slope)
    gains = {
        "linear": 1.0,
        "conv1d": 1.0,
        "conv2d": 1.0,
        "conv3d": 1.0,
        "conv_transpose1d": 1.0,
        "conv_transpose2d": 1.0,
        "conv_transpose3d": 1.0,
        "sigmoid": 1.0,
        "tanh": 5 / 3,
        "relu": math.sqrt(2),
        "leaky_relu": math.sqrt(2 / (1 + slope**2)),
        "selu": 3 / 4,
    }
    if nonlinearity not in gains:
        raise ValueError(f"calculate_gain: expected one of {sorted(gains)}, got {nonlinearity!r}.")
    return gains[nonlinearity]


def _squared(caller: str, gain: float) -> float:
    check_number(caller, "gain", gain)
    if not 0 < gain < math.inf:
        raise ValueError(f"{caller}: expected a finite gain > 0, got {gain!r}.")
    return gain**2
