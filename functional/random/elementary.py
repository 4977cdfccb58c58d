"""Logarithm, error function and its inverse, rounded step by step as JAX rounds them on a CPU.

Every library has its own idea of the last bits of `log`, torch even several: eager, compiled and
CUDA kernels differ. Samples that are to be the same everywhere, and the same as JAX's, need one
sequence of additions, multiplications and divisions, each correctly rounded. XLA's sequences are
classical (named at each function); what compiles them fuses `a * b + c` into one rounding, `fma`.

Values of float32 are carried in float64 tensors. There a product is exact, so that one conversion
to float32 after the addition rounds as `fma` does, and no backend can fuse anything further. In
eager mode torch's own kernels fuse on most processors, which is faster by far and then used.

Values of float64 use error-free transformations, and differ from JAX where the C library computes
`log` and `erf`: rarely, and then by one unit in the last place.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import coefficients
from .cipher import named
from .threefry import has_no_values, is_eager_on_cpu


def log(x: Tensor) -> Tensor:
    """Return the natural logarithm of normal positive numbers, in float32 or float64."""
    return _in_precision_of(x, lambda x, precision: precision.log(x, precision))


def log1p(x: Tensor) -> Tensor:
    """Return `log(1 + x)` for `-1 < x <= 0`, in float32 or float64."""
    return _in_precision_of(x, _log1p)


def erf_inv(x: Tensor) -> Tensor:
    """Return the inverse of the error function for `-1 <= x <= 1`, in float32 or float64."""
    return _in_precision_of(x, _erf_inv)


def erf(x: Tensor) -> Tensor:
    """Return the error function, in float32 or float64."""
    return _in_precision_of(x, lambda x, precision: precision.erf(x, precision))


def fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Return `a * b + c` rounded once, in float32 or float64."""
    if a.dtype == torch.float64:
        return _fma_double(a, b, c)
    return (a.to(torch.float64) * b.to(torch.float64) + c.to(torch.float64)).to(torch.float32)


class _Precision(NamedTuple):
    """How to compute with numbers of one precision."""

    #: The dtype of the tensors that hold the numbers, and how to round them after an operation.
    holder: torch.dtype
    round: Callable[[Tensor], Tensor]
    fma: Callable[[Tensor, Tensor, Tensor | float], Tensor]
    sqrt: Callable[[Tensor], Tensor]
    log: Callable[[Tensor, _Precision], Tensor]
    erf: Callable[[Tensor, _Precision], Tensor]
    log1p_ratio: tuple[Sequence[float], Sequence[float]]
    erf_inv_pieces: Sequence[tuple[float, float, Sequence[float]]]


def _in_precision_of(x: Tensor, function: Callable[[Tensor, _Precision], Tensor]) -> Tensor:
    if has_no_values():
        return x
    if x.dtype == torch.float64:
        precision = _DOUBLE
    else:
        precision = _FUSED if is_eager_on_cpu(x) and _addcmul_fuses() else _SINGLE
    return function(x.to(precision.holder), precision).to(x.dtype)


@functools.cache
def _addcmul_fuses() -> bool:
    """Whether torch's kernel for this processor rounds `a * b + c` once."""
    a = torch.linspace(1, 2, 99, dtype=torch.float32, device="cpu")
    fused = fma(a, a, -a.square())
    variants = [torch.addcmul(-a.square(), a, a), torch.addcmul(_constant(-1.0), a, a)]
    expected = [fused, fma(a, a, torch.full_like(a, -1.0))]
    return all(map(torch.equal, variants, expected)) and bool(fused.any())


@functools.cache
def _constant(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float32, device="cpu")


def _fma_fused(a: Tensor, b: Tensor, c: Tensor | float) -> Tensor:
    return torch.addcmul(c if isinstance(c, Tensor) else _constant(c), a, b)


def _round_single(x: Tensor) -> Tensor:
    return x.to(torch.float32).to(torch.float64)


def _fma_single(a: Tensor, b: Tensor, c: Tensor | float) -> Tensor:
    product = a * b
    product += c
    return _round_single(product)


def _fma_double(a: Tensor, b: Tensor, c: Tensor | float) -> Tensor:
    """Dekker's product and Knuth's sum, whose errors are exact, added last."""
    a, b = named(a), named(b)
    product = named(a * b)
    a_high, b_high = _upper_half(a), _upper_half(b)
    a_low, b_low = a - a_high, b - b_high
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    total, sum_error = _two_sum(product, c)
    return total + (sum_error + error)


def _sqrt_double(x: Tensor) -> Tensor:
    """Correct the square root, which not every kernel rounds correctly, by a step of Newton's."""
    root = x.clamp(min=torch.finfo(x.dtype).tiny).sqrt()
    return root + _fma_double(-root, root, x) / (2 * root)


def _upper_half(x: Tensor) -> Tensor:
    scaled = x * 134217729.0
    return scaled - (scaled - x)


def _two_sum(a: Tensor, b: Tensor | float) -> tuple[Tensor, Tensor]:
    total = a + b
    from_b = total - a
    return total, (a - (total - from_b)) + (b - from_b)


def _horner(
    x: Tensor,
    polynomial: Sequence[float],
    fma: Callable[[Tensor, Tensor, Tensor | float], Tensor],
) -> Tensor:
    value = torch.full_like(x, polynomial[0])
    for coefficient in polynomial[1:]:
        value = fma(value, x, coefficient)
    return value


def _log1p(x: Tensor, precision: _Precision) -> Tensor:
    """Cephes' log1p: `x - x^2 / 2 + x^3 P(x) / Q(x)` near 0, else `log(1 + x)`."""
    numerator, denominator = precision.log1p_ratio
    ratio = precision.round(
        _horner(x, numerator, precision.fma) / _horner(x, denominator, precision.fma)
    )
    square = precision.round(x * x)
    cube = precision.round(square * x)
    near = precision.round(precision.round(cube * ratio) - 0.5 * square)
    near = precision.round(near + x)
    far = precision.log(precision.round(1 + x), precision)
    return torch.where(x.abs() < coefficients.LOG1P_NEAR, near, far)


def _erf_inv(x: Tensor, precision: _Precision) -> Tensor:
    """Giles' `x P(w)` with `w = -log(1 - x^2)`, of which `sqrt(w)` is taken in the tails.

    M. Giles, "Approximating the erfinv function", GPU Computing Gems, 2011.
    """
    w = -_log1p(precision.round(-x * x), precision)
    root = precision.sqrt(w)
    value = w
    lower = -math.inf
    for upper, centre, polynomial in precision.erf_inv_pieces:
        argument = w if lower == -math.inf else root
        piece = _horner(precision.round(argument - centre), polynomial, precision.fma)
        value = torch.where(w < lower, value, piece)
        lower = upper
    return torch.where(x.abs() == 1, x * math.inf, precision.round(value * x))


def _log_single(x: Tensor, precision: _Precision) -> Tensor:
    """Cephes' logf: with `x = 2^e (1 + f)`, `f - f^2 / 2 + f^3 P(f) + e log 2`."""
    rounded, fma = precision.round, precision.fma
    pattern = x.to(torch.float32).view(torch.int32)
    exponent = (pattern >> 23) - 126
    mantissa = ((pattern & 0x7FFFFF) | 0x3F000000).view(torch.float32).to(x.dtype)
    f, e = _around_one(mantissa, exponent, coefficients.ROOT_HALF_SINGLE)
    square = rounded(f * f)
    cube = rounded(square * f)
    high, middle, low = (_horner(f, part, fma) for part in coefficients.LOG_PARTS)
    tail = fma(fma(high, cube, middle), cube, low)
    tail = fma(tail, cube, rounded(e * coefficients.LOG2_LOW_SINGLE))
    near = rounded(rounded(f - 0.5 * square) + tail)
    # The product is exact: the upper part of log 2 has few digits.
    return rounded(e * coefficients.LOG2_HIGH_SINGLE + near)


def _log_double(x: Tensor, _: _Precision) -> Tensor:
    """With `x = 2^e (1 + f)` and `s = f / (2 + f)`, `2 atanh(s) + e log 2`.

    The two leading terms, `2 s` and `e log 2`, carry their rounding errors along.
    """
    pattern = x.view(torch.int64)
    exponent = (pattern >> 52) - 1022
    mantissa = ((pattern & ((1 << 52) - 1)) | (1022 << 52)).view(torch.float64)
    f, e = _around_one(mantissa, exponent, math.sqrt(0.5))
    divisor = f + 2
    divisor_error = f - (divisor - 2)
    s = f / divisor
    s_error = (_fma_double(-s, divisor, f) - s * divisor_error) / divisor
    square = s * s
    series = _horner(square, coefficients.ATANH, lambda a, b, c: a * b + c) * square * s
    total, error = _two_sum(e * coefficients.LOG2_HIGH_DOUBLE, s + s)
    return total + (error + (e * coefficients.LOG2_LOW_DOUBLE + (2 * s_error + series)))


def _around_one(mantissa: Tensor, exponent: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Turn `m 2^e` with `m` in [0.5, 1) into `(1 + f) 2^e` with `1 + f` around 1."""
    small = mantissa < least
    f = torch.where(small, mantissa + mantissa, mantissa) - 1
    return f, (exponent - small.to(exponent.dtype)).to(f.dtype)


def _erf_single(x: Tensor, precision: _Precision) -> Tensor:
    """Divide two polynomials, odd above and even below."""
    rounded, fma = precision.round, precision.fma
    clamped = x.clamp(-coefficients.ERF_ONE, coefficients.ERF_ONE)
    square = rounded(clamped * clamped)
    numerator = rounded(clamped * _horner(square, coefficients.ERF_NUMERATOR, fma))
    ratio = rounded(numerator / _horner(square, coefficients.ERF_DENOMINATOR, fma))
    return torch.where(x.abs() >= coefficients.ERF_ONE, x.sign(), ratio)


_SINGLE = _Precision(
    holder=torch.float64,
    round=_round_single,
    fma=_fma_single,
    sqrt=lambda x: _round_single(x.sqrt()),
    log=_log_single,
    erf=_erf_single,
    log1p_ratio=(coefficients.LOG1P_NUMERATOR_SINGLE, coefficients.LOG1P_DENOMINATOR_SINGLE),
    erf_inv_pieces=coefficients.ERF_INV_SINGLE,
)
_FUSED = _SINGLE._replace(
    holder=torch.float32,
    round=lambda x: x,
    fma=_fma_fused,
    sqrt=lambda x: x.to(torch.float64).sqrt().to(torch.float32),
)
_DOUBLE = _Precision(
    holder=torch.float64,
    round=lambda x: x,
    fma=_fma_double,
    sqrt=_sqrt_double,
    log=_log_double,
    erf=lambda x, _: torch.erf(x),
    log1p_ratio=(coefficients.LOG1P_NUMERATOR, coefficients.LOG1P_DENOMINATOR),
    erf_inv_pieces=coefficients.ERF_INV_DOUBLE,
)
