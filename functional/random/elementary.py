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

import numpy as np
import torch
from torch import Tensor

from .threefry import is_eager_on_cpu


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
    log: Callable[[Tensor, _Precision], Tensor]
    erf: Callable[[Tensor, _Precision], Tensor]
    log1p_ratio: tuple[Sequence[float], Sequence[float]]
    erf_inv_pieces: Sequence[tuple[float, float, Sequence[float]]]


def _in_precision_of(x: Tensor, function: Callable[[Tensor, _Precision], Tensor]) -> Tensor:
    if x.dtype == torch.float64:
        precision = _DOUBLE
    else:
        precision = _FUSED if is_eager_on_cpu(x) and _addcmul_fuses() else _SINGLE
    return function(x.to(precision.holder), precision).to(x.dtype)


@functools.cache
def _addcmul_fuses() -> bool:
    """Whether torch's kernel for this processor rounds `a * b + c` once."""
    a = torch.linspace(1, 2, 99, dtype=torch.float32)
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
    product = a * b
    a_high, b_high = _upper_half(a), _upper_half(b)
    a_low, b_low = a - a_high, b - b_high
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    total, sum_error = _two_sum(product, c)
    return total + (sum_error + error)


def _upper_half(x: Tensor) -> Tensor:
    scaled = x * 134217729.0
    return scaled - (scaled - x)


def _two_sum(a: Tensor, b: Tensor | float) -> tuple[Tensor, Tensor]:
    total = a + b
    from_b = total - a
    return total, (a - (total - from_b)) + (b - from_b)


def _horner(
    x: Tensor,
    coefficients: Sequence[float],
    fma: Callable[[Tensor, Tensor, Tensor | float], Tensor],
) -> Tensor:
    value = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
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
    return torch.where(x.abs() < _LOG1P_NEAR, near, far)


def _erf_inv(x: Tensor, precision: _Precision) -> Tensor:
    """Giles' `x P(w)` with `w = -log(1 - x^2)`, of which `sqrt(w)` is taken in the tails.

    M. Giles, "Approximating the erfinv function", GPU Computing Gems, 2011.
    """
    w = -_log1p(precision.round(-x * x), precision)
    # Not every kernel's square root of float32 is correctly rounded.
    root = precision.round(w.to(torch.float64).sqrt().to(w.dtype))
    value = w
    lower = -math.inf
    for upper, centre, coefficients in precision.erf_inv_pieces:
        argument = w if lower == -math.inf else root
        piece = _horner(precision.round(argument - centre), coefficients, precision.fma)
        value = torch.where(w < lower, value, piece)
        lower = upper
    return torch.where(x.abs() == 1, x * math.inf, precision.round(value * x))


def _log_single(x: Tensor, precision: _Precision) -> Tensor:
    """Cephes' logf: with `x = 2^e (1 + f)`, `f - f^2 / 2 + f^3 P(f) + e log 2`."""
    rounded, fma = precision.round, precision.fma
    pattern = x.to(torch.float32).view(torch.int32)
    exponent = (pattern >> 23) - 126
    mantissa = ((pattern & 0x7FFFFF) | 0x3F000000).view(torch.float32).to(x.dtype)
    f, e = _around_one(mantissa, exponent, _ROOT_HALF_SINGLE)
    square = rounded(f * f)
    cube = rounded(square * f)
    high, middle, low = (_horner(f, part, fma) for part in _LOG_PARTS)
    tail = fma(fma(high, cube, middle), cube, low)
    tail = fma(tail, cube, rounded(e * _LOG2_LOW_SINGLE))
    near = rounded(rounded(f - 0.5 * square) + tail)
    # The product is exact: the upper part of log 2 has few digits.
    return rounded(e * _LOG2_HIGH_SINGLE + near)


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
    series = _horner(square, _ATANH, lambda a, b, c: a * b + c) * square * s
    total, error = _two_sum(e * _LOG2_HIGH_DOUBLE, s + s)
    return total + (error + (e * _LOG2_LOW_DOUBLE + (2 * s_error + series)))


def _around_one(mantissa: Tensor, exponent: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Turn `m 2^e` with `m` in [0.5, 1) into `(1 + f) 2^e` with `1 + f` around 1."""
    small = mantissa < least
    f = torch.where(small, mantissa + mantissa, mantissa) - 1
    return f, (exponent - small.to(exponent.dtype)).to(f.dtype)


def _erf_single(x: Tensor, precision: _Precision) -> Tensor:
    """Divide two polynomials, odd above and even below."""
    rounded, fma = precision.round, precision.fma
    clamped = x.clamp(-_ERF_ONE, _ERF_ONE)
    square = rounded(clamped * clamped)
    numerator = rounded(clamped * _horner(square, _ERF_NUMERATOR, fma))
    ratio = rounded(numerator / _horner(square, _ERF_DENOMINATOR, fma))
    return torch.where(x.abs() >= _ERF_ONE, x.sign(), ratio)


def _single(*values: float) -> tuple[float, ...]:
    return tuple(np.array(values, dtype=np.float32).tolist())


_LOG1P_NEAR = 0.41421356237309503  # sqrt(2) - 1
_LOG1P_NUMERATOR = (
    4.5270000862445199635215e-5,
    4.9854102823193375972212e-1,
    6.5787325942061044846969,
    2.9911919328553073277375e1,
    6.0949667980987787057556e1,
    5.7112963590585538103336e1,
    2.0039553499201281259648e1,
)
_LOG1P_DENOMINATOR = (
    1.0,
    1.5062909083469192043167e1,
    8.3047565967967209469434e1,
    2.2176239823732856465394e2,
    3.0909872225312059774938e2,
    2.1642788614495947685003e2,
    6.0118660497603843919306e1,
)
_ROOT_HALF_SINGLE = _single(math.sqrt(0.5))[0]
_LOG_PARTS = (
    _single(7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1),
    _single(-1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1),
    _single(2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1),
)
_LOG2_HIGH_SINGLE = 0.693359375
_LOG2_LOW_SINGLE = _single(-2.12194440e-4)[0]
_LOG2_HIGH_DOUBLE = 6.93147180369123816490e-01
_LOG2_LOW_DOUBLE = 1.90821492927058770002e-10
_ATANH = tuple(2 / (2 * k + 1) for k in range(13, 0, -1))

_ERF_ONE = _single(3.7439211627767994)[0]
_ERF_NUMERATOR = _single(
    2.2905065861350646e-4,
    3.4082910107109506e-3,
    5.0955695062380861e-2,
    1.8520832239976145e-1,
    1.128379143519084,
)
_ERF_DENOMINATOR = _single(
    -1.1791602954361697e-7,
    2.3547966471313185e-5,
    1.0179625278914885e-3,
    1.4070470171167667e-2,
    1.1098505178285362e-1,
    4.9746925110067538e-1,
    1.0,
)

# (upper bound of w, centre, coefficients from the highest power down); beyond the first piece the
# polynomial is in sqrt(w).
_ERF_INV_SINGLE = (
    (
        5.0,
        2.5,
        _single(
            2.81022636e-08,
            3.43273939e-07,
            -3.5233877e-06,
            -4.39150654e-06,
            0.00021858087,
            -0.00125372503,
            -0.00417768164,
            0.246640727,
            1.50140941,
        ),
    ),
    (
        math.inf,
        3.0,
        _single(
            -0.000200214257,
            0.000100950558,
            0.00134934322,
            -0.00367342844,
            0.00573950773,
            -0.0076224613,
            0.00943887047,
            1.00167406,
            2.83297682,
        ),
    ),
)
_ERF_INV_DOUBLE = (
    (
        6.25,
        3.125,
        (
            -3.6444120640178196996e-21,
            -1.685059138182016589e-19,
            1.2858480715256400167e-18,
            1.115787767802518096e-17,
            -1.333171662854620906e-16,
            2.0972767875968561637e-17,
            6.6376381343583238325e-15,
            -4.0545662729752068639e-14,
            -8.1519341976054721522e-14,
            2.6335093153082322977e-12,
            -1.2975133253453532498e-11,
            -5.4154120542946279317e-11,
            1.051212273321532285e-09,
            -4.1126339803469836976e-09,
            -2.9070369957882005086e-08,
            4.2347877827932403518e-07,
            -1.3654692000834678645e-06,
            -1.3882523362786468719e-05,
            0.0001867342080340571352,
            -0.00074070253416626697512,
            -0.0060336708714301490533,
            0.24015818242558961693,
            1.6536545626831027356,
        ),
    ),
    (
        16.0,
        3.25,
        (
            2.2137376921775787049e-09,
            9.0756561938885390979e-08,
            -2.7517406297064545428e-07,
            1.8239629214389227755e-08,
            1.5027403968909827627e-06,
            -4.013867526981545969e-06,
            2.9234449089955446044e-06,
            1.2475304481671778723e-05,
            -4.7318229009055733981e-05,
            6.8284851459573175448e-05,
            2.4031110387097893999e-05,
            -0.0003550375203628474796,
            0.00095328937973738049703,
            -0.0016882755560235047313,
            0.0024914420961078508066,
            -0.0037512085075692412107,
            0.005370914553590063617,
            1.0052589676941592334,
            3.0838856104922207635,
        ),
    ),
    (
        math.inf,
        5.0,
        (
            -2.7109920616438573243e-11,
            -2.5556418169965252055e-10,
            1.5076572693500548083e-09,
            -3.7894654401267369937e-09,
            7.6157012080783393804e-09,
            -1.4960026627149240478e-08,
            2.9147953450901080826e-08,
            -6.7711997758452339498e-08,
            2.2900482228026654717e-07,
            -9.9298272942317002539e-07,
            4.5260625972231537039e-06,
            -1.9681778105531670567e-05,
            7.5995277030017761139e-05,
            -0.00021503011930044477347,
            -0.00013871931833623122026,
            1.0103004648645343977,
            4.8499064014085844221,
        ),
    ),
)

_SINGLE = _Precision(
    holder=torch.float64,
    round=_round_single,
    fma=_fma_single,
    log=_log_single,
    erf=_erf_single,
    log1p_ratio=(_single(*_LOG1P_NUMERATOR), _single(*_LOG1P_DENOMINATOR)),
    erf_inv_pieces=_ERF_INV_SINGLE,
)
_FUSED = _SINGLE._replace(holder=torch.float32, round=lambda x: x, fma=_fma_fused)
_DOUBLE = _Precision(
    holder=torch.float64,
    round=lambda x: x,
    fma=_fma_double,
    log=_log_double,
    erf=lambda x, _: torch.erf(x),
    log1p_ratio=(_LOG1P_NUMERATOR, _LOG1P_DENOMINATOR),
    erf_inv_pieces=_ERF_INV_DOUBLE,
)
