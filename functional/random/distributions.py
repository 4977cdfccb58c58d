"""Continuous distributions, as functions of uniform variates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .cipher import named
from .elementary import erf, erf_inv, fma, log, log1p
from .threefry import Shape, encipher, word32, word64

Bound = float | Tensor


def uniform(
    key: Tensor,
    shape: Shape = (),
    dtype: torch.dtype = torch.float32,
    minval: Bound = 0.0,
    maxval: Bound = 1.0,
) -> Tensor:
    """Return numbers uniformly distributed over `[minval, maxval)`.

    With `k` the upper bits of a random word, as many as the mantissa of `dtype` holds, `m`:

        u = k / 2^m,    max(u (maxval - minval) + minval, minval)

    Parameters
    ----------
    minval, maxval
        Numbers, or tensors that broadcast to `shape`.

    Raises
    ------
    TypeError
        `dtype` is not float16, bfloat16, float32 or float64; `key` is not a key.
    ValueError
        `key` is a batch of keys; a bound does not broadcast to `shape`.

    Examples
    --------
    >>> uniform(key(0), (3,))
    tensor([0.9477, 0.9786, 0.3323])
    """
    unit = unit_uniform("uniform", key, shape, dtype)
    if _is_number(minval, 0) and _is_number(maxval, 1):
        return unit
    low = _bound("uniform", "minval", minval, unit)
    high = _bound("uniform", "maxval", maxval, unit)
    return _between(unit, low, high)


def normal(key: Tensor, shape: Shape = (), dtype: torch.dtype = torch.float32) -> Tensor:
    """Return standard normal numbers: `sqrt(2) erf_inv(u)` of `u` uniform over (-1, 1).

    >>> normal(key(0), (3,))
    tensor([ 1.6226,  2.0253, -0.4336])
    """

    def transform(unit: Tensor) -> Tensor:
        # The neighbour of -1: erf_inv(-1) is infinite.
        lowest = -1 + torch.finfo(dtype).eps / 2
        return _scaled_erf_inv(_rounded(unit * 2 + lowest, dtype), dtype)

    return unit_uniform("normal", key, shape, dtype, transform)


def truncated_normal(
    key: Tensor,
    lower: Bound,
    upper: Bound,
    shape: Shape | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return standard normal numbers that lie in the open interval `(lower, upper)`.

    With `u` uniform over `(erf(lower / sqrt(2)), erf(upper / sqrt(2)))`:

        sqrt(2) erf_inv(u)

    Parameters
    ----------
    lower, upper
        Numbers, or tensors that broadcast to `shape`.
    shape
        The shape of the result, by default that to which `lower` and `upper` broadcast.

    Examples
    --------
    >>> truncated_normal(key(0), -2.0, 2.0, (3,))
    tensor([ 1.4560,  1.7147, -0.4127])
    """
    if shape is None:
        shape = torch.broadcast_shapes(
            *[bound.shape for bound in (lower, upper) if isinstance(bound, Tensor)]
        )
    unit = unit_uniform("truncated_normal", key, shape, dtype)
    low = _bound("truncated_normal", "lower", lower, unit)
    high = _bound("truncated_normal", "upper", upper, unit)
    u = _between(unit, _erf_of_scaled(low), _erf_of_scaled(high))
    value = _scaled_erf_inv(held(u.detach()), dtype).to(dtype)
    inner_low = torch.nextafter(low.detach(), torch.full_like(low, math.inf))
    inner_high = torch.nextafter(high.detach(), torch.full_like(high, -math.inf))
    value = torch.minimum(torch.maximum(value, inner_low), inner_high)
    return _with_slope(value, u, math.sqrt(math.pi / 2) * torch.exp(value.square() / 2))


def exponential(key: Tensor, shape: Shape = (), dtype: torch.dtype = torch.float32) -> Tensor:
    """Return numbers of the exponential distribution with mean 1: `-log(1 - u)`.

    >>> exponential(key(0), (3,))
    tensor([2.9501, 3.8434, 0.4039])
    """
    return unit_uniform("exponential", key, shape, dtype, lambda unit: -_of(log1p, -unit, dtype))


def gumbel(key: Tensor, shape: Shape = (), dtype: torch.dtype = torch.float32) -> Tensor:
    """Return numbers of the standard Gumbel distribution: `-log(-log(u))`.

    `u` is at least the smallest normal number of `dtype`.

    >>> gumbel(key(0), (3,))
    tensor([ 2.9234,  3.8326, -0.0969])
    """

    def transform(unit: Tensor) -> Tensor:
        return -_of(log, -_of(log, unit.clamp(min=torch.finfo(dtype).tiny), dtype), dtype)

    return unit_uniform("gumbel", key, shape, dtype, transform)


class _Float(NamedTuple):
    """How variates of one dtype are drawn."""

    #: The width of the random word, and how many of its upper bits a variate keeps.
    word: int
    mantissa: int
    #: The dtype in which the elementary functions are computed.
    precision: torch.dtype
    #: The dtype that holds variates on the way. Compilers leave out the rounding to a narrow dtype
    #: between operations in float32, but not between operations in float64.
    holder: torch.dtype
    #: `sqrt(2)`, and what XLA multiplies by to divide by it.
    root2: float
    inverse_root2: float


_FLOATS = {
    torch.float16: _Float(16, 10, torch.float32, torch.float64, 1.4140625, 0.70703125),
    torch.bfloat16: _Float(8, 7, torch.float32, torch.float64, 1.4140625, 0.7071823477745056),
    torch.float32: _Float(
        32, 23, torch.float32, torch.float32, 1.4142135381698608, 0.7071067690849304
    ),
    torch.float64: _Float(
        64, 52, torch.float64, torch.float64, 1.4142135623730951, 0.7071067811865475
    ),
}


def unit_uniform(
    name: str,
    key: Tensor,
    shape: Shape,
    dtype: torch.dtype,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return `transform(u)` in `dtype`, of `u` that is uniform over [0, 1) and held."""
    if dtype not in _FLOATS:
        raise TypeError(
            f"{name}: expected dtype to be one of {', '.join(map(str, _FLOATS))}, got {dtype}."
        )
    kind = _FLOATS[dtype]

    def finish(x0: Tensor, x1: Tensor) -> Tensor:
        word = word64(x0, x1) if kind.word == 64 else word32(x0, x1)
        word >>= kind.word - kind.mantissa
        word &= (1 << kind.mantissa) - 1
        unit = named(word).to(kind.holder)
        unit *= 2.0**-kind.mantissa
        return (unit if transform is None else transform(unit)).to(dtype)

    return encipher(name, key, shape, finish)


def held(x: Tensor) -> Tensor:
    """Return `x` in the dtype that holds numbers of its dtype between operations."""
    return x.to(_FLOATS[x.dtype].holder)


def _rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x if x.dtype == dtype else x.to(dtype).to(x.dtype)


def _of(function: Callable[[Tensor], Tensor], x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return an elementary function of held numbers of `dtype`."""
    return _rounded(function(x.to(_FLOATS[dtype].precision)).to(x.dtype), dtype)


def log_of(x: Tensor) -> Tensor:
    """Return the logarithm of `x`, which is -inf up to 0, held."""
    logarithm = _of(log, held(x).clamp(min=torch.finfo(x.dtype).tiny), x.dtype)
    return torch.where(x > 0, logarithm, -math.inf)


def sum_of(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the sum of held numbers of `dtype`."""
    return _rounded(a + b, dtype)


def _between(unit: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return `max(u (high - low) + low, low)`, with one rounding in the dtypes that have `fma`."""
    dtype = unit.dtype
    unit, low, high = held(unit), held(low), held(high)
    span = _rounded(high - low, dtype)
    if unit.dtype == dtype:
        value = fma(unit, span, low)
    else:
        value = _rounded(_rounded(unit * span, dtype) + low, dtype)
    return torch.maximum(value, low).to(dtype)


def _scaled_erf_inv(u: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `sqrt(2) erf_inv(u)` of held numbers of `dtype`."""
    return _rounded(_of(erf_inv, u, dtype) * _FLOATS[dtype].root2, dtype)


def _erf_of_scaled(x: Tensor) -> Tensor:
    """Return `erf(x / sqrt(2))`."""
    scaled = _rounded(held(x.detach()) * _FLOATS[x.dtype].inverse_root2, x.dtype)
    value = _of(erf, scaled, x.dtype).to(x.dtype)
    return _with_slope(value, x, math.sqrt(2 / math.pi) * torch.exp(-x.detach().square() / 2))


def _with_slope(value: Tensor, x: Tensor, slope: Tensor) -> Tensor:
    """Return `value`, with the given derivative with respect to `x` instead of its polynomials'."""
    finite = torch.where(x.isfinite(), x, 0.0)  # an infinite bound moves nothing
    return value + (finite - finite.detach()) * slope.clamp(max=torch.finfo(x.dtype).max)


def _bound(name: str, argument: str, value: Bound, like: Tensor) -> Tensor:
    """Return a bound as a tensor of the dtype and device of the variates that it bounds."""
    bound = as_tensor(value, like.dtype, like.device)
    check_broadcast(name, argument, bound, like.shape)
    return bound


def check_broadcast(name: str, argument: str, value: Tensor, shape: Shape) -> None:
    """Refuse a parameter that does not broadcast to the shape of the result."""
    lengths = zip(reversed(value.shape), reversed(shape), strict=False)
    if value.ndim > len(shape) or any(length not in (1, target) for length, target in lengths):
        raise ValueError(
            f"{name}: expected {argument} to broadcast to shape {tuple(shape)}, "
            f"got shape {tuple(value.shape)}."
        )


def as_tensor(value: Bound, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a number or a tensor as a tensor of `dtype`; a number gets the given device."""
    if isinstance(value, Tensor):
        return value.to(dtype)
    # Rounded by a conversion: compilers take the constant of a narrow dtype as it is written.
    return torch.full((), value, dtype=torch.float64, device=device).to(dtype)


def _is_number(value: Bound, number: float) -> bool:
    return not isinstance(value, Tensor) and value == number
