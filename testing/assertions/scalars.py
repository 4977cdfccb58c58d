"""Assertions about Python numbers, None and devices.

A number is a Python int or float, or a tensor of shape () where that has a value: the range of a
traced tensor cannot be looked at, and is refused.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .concrete import concrete

__all__ = [
    "assert_devices_available",
    "assert_equal",
    "assert_exactly_one_is_none",
    "assert_gpu_available",
    "assert_is_divisible",
    "assert_not_both_none",
    "assert_scalar",
    "assert_scalar_in",
    "assert_scalar_negative",
    "assert_scalar_non_negative",
    "assert_scalar_positive",
]


def assert_scalar(x: Any) -> None:
    """Require a Python number or a tensor of shape ().

    >>> assert_scalar(1.5)
    >>> assert_scalar(torch.tensor(1.5))
    >>> assert_scalar(torch.ones(1))
    Traceback (most recent call last):
    ...
    AssertionError: assert_scalar: expected a number, got a tensor of shape (1,).
    """
    _check_scalar("assert_scalar", x)


def assert_scalar_in(x: Any, min_: Any, max_: Any, included: bool = True) -> None:
    """Require a number between two others, or strictly between (`included=False`).

    >>> assert_scalar_in(1, 0, 1)
    >>> assert_scalar_in(1, 0, 1, included=False)
    Traceback (most recent call last):
    ...
    AssertionError: assert_scalar_in: expected a number in (0, 1), got 1.
    """
    number = _number("assert_scalar_in", x)
    holds = min_ <= number <= max_ if included else min_ < number < max_
    span = f"[{min_}, {max_}]" if included else f"({min_}, {max_})"
    _require(holds, "assert_scalar_in", f"a number in {span}", number)


def assert_scalar_positive(x: Any) -> None:
    """Require a number above 0.

    >>> assert_scalar_positive(1e-3)
    >>> assert_scalar_positive(0)
    Traceback (most recent call last):
    ...
    AssertionError: assert_scalar_positive: expected a number > 0, got 0.
    """
    number = _number("assert_scalar_positive", x)
    _require(number > 0, "assert_scalar_positive", "a number > 0", number)


def assert_scalar_non_negative(x: Any) -> None:
    """Require a number that is at least 0.

    >>> assert_scalar_non_negative(0)
    """
    number = _number("assert_scalar_non_negative", x)
    _require(number >= 0, "assert_scalar_non_negative", "a number >= 0", number)


def assert_scalar_negative(x: Any) -> None:
    """Require a number below 0.

    >>> assert_scalar_negative(-1)
    """
    number = _number("assert_scalar_negative", x)
    _require(number < 0, "assert_scalar_negative", "a number < 0", number)


def assert_is_divisible(numerator: int, denominator: int) -> None:
    """Require that one integer is a multiple of another.

    >>> assert_is_divisible(6, 3)
    >>> assert_is_divisible(7, 3)
    Traceback (most recent call last):
    ...
    AssertionError: assert_is_divisible: 7 is no multiple of 3.
    """
    if denominator == 0 or numerator % denominator:
        raise AssertionError(f"assert_is_divisible: {numerator} is no multiple of {denominator}.")


def assert_equal(first: Any, second: Any) -> None:
    """Require that two values which are no tensors are equal (`==`).

    Tensors and trees of them are for `assert_trees_all_equal`.

    >>> assert_equal((2, 3), tuple(torch.ones(2, 3).shape))
    >>> assert_equal(1, 2)
    Traceback (most recent call last):
    ...
    AssertionError: assert_equal: 1 is not 2.
    """
    if isinstance(first, Tensor) or isinstance(second, Tensor):
        raise TypeError("assert_equal: compare tensors with assert_trees_all_equal.")
    if not first == second:
        raise AssertionError(f"assert_equal: {first!r} is not {second!r}.")


def assert_not_both_none(first: Any, second: Any) -> None:
    """Require that one of two values at least is not None.

    >>> assert_not_both_none(None, 1)
    >>> assert_not_both_none(None, None)
    Traceback (most recent call last):
    ...
    AssertionError: assert_not_both_none: both are None, expected one at least.
    """
    if first is None and second is None:
        raise AssertionError("assert_not_both_none: both are None, expected one at least.")


def assert_exactly_one_is_none(first: Any, second: Any) -> None:
    """Require that one of two values is None and the other is not.

    >>> assert_exactly_one_is_none(None, 1)
    >>> assert_exactly_one_is_none(1, 2)
    Traceback (most recent call last):
    ...
    AssertionError: assert_exactly_one_is_none: neither is None, expected one to be.
    """
    if (first is None) == (second is None):
        found = "both are" if first is None else "neither is"
        raise AssertionError(f"assert_exactly_one_is_none: {found} None, expected one to be.")


def assert_devices_available(n: int, devtype: str, not_less_than: bool = False) -> None:
    """Require that there are `n` devices of a type ("cpu", "cuda", ...), or at least `n`.

    >>> assert_devices_available(1, "cpu")
    >>> assert_devices_available(2, "cpu", not_less_than=True)
    Traceback (most recent call last):
    ...
    AssertionError: assert_devices_available: expected at least 2 of type 'cpu', found 1.
    """
    found = 1 if devtype == "cpu" else torch.get_device_module(devtype).device_count()
    if found < n or (found > n and not not_less_than):
        at_least = "at least " if not_less_than else ""
        raise AssertionError(
            f"assert_devices_available: expected {at_least}{n} of type {devtype!r}, found {found}."
        )


def assert_gpu_available() -> None:
    """Require a CUDA device.

    >>> if torch.cuda.is_available():
    ...     assert_gpu_available()
    """
    if not torch.cuda.is_available():
        raise AssertionError("assert_gpu_available: torch finds no CUDA device.")


def _check_scalar(who: str, x: Any) -> None:
    if isinstance(x, Tensor) and x.ndim == 0:
        return
    if isinstance(x, bool) or not isinstance(x, int | float):
        found = f"a tensor of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"{x!r}"
        raise AssertionError(f"{who}: expected a number, got {found}.")


def _number(who: str, x: Any) -> Any:
    _check_scalar(who, x)
    return concrete(who, x).item() if isinstance(x, Tensor) else x


def _require(holds: bool, who: str, expected: str, number: Any) -> None:
    if not holds:
        raise AssertionError(f"{who}: expected {expected}, got {number!r}.")
