"""What layers check at the door: options when they are built, inputs when they are used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..abstract import ShapeDtype
from .layer import LayerError, describe

Shape = tuple[int, ...]

#: The letters of the spatial dimensions, by their number.
SPATIAL = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}


def positive_int(layer: str, argument: str, value: int, minimum: int = 1) -> int:
    """Return `value`, an integer of at least `minimum`, or refuse it.

    >>> positive_int("linear", "out_features", 0)
    Traceback (most recent call last):
    ValueError: linear: expected out_features >= 1, got 0.
    """
    check_int(layer, argument, value)
    if value < minimum:
        raise ValueError(f"{layer}: expected {argument} >= {minimum}, got {value}.")
    return value


def check_int(layer: str, argument: str, value: Any) -> None:
    """Refuse an option that is not an integer."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{layer}: expected an integer for {argument}, got {value!r}.")


def check_number(layer: str, argument: str, value: Any) -> None:
    """Refuse an option that is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{layer}: expected a number for {argument}, got {value!r}.")


def check_positive(layer: str, argument: str, value: Any) -> None:
    """Refuse an option that is not a number above zero."""
    check_number(layer, argument, value)
    if not 0 < value < math.inf:
        raise ValueError(f"{layer}: expected a finite {argument} > 0, got {value}.")


def check_bools(layer: str, **options: Any) -> None:
    """Refuse options that are not Python booleans, such as a size in the place of one.

    >>> check_bools("linear", bias=10)
    Traceback (most recent call last):
    TypeError: linear: expected True or False for bias, got 10; the input size is inferred and not \
given.
    """
    for argument, value in options.items():
        if not isinstance(value, bool):
            is_size = isinstance(value, int)
            advice = "; the input size is inferred and not given." if is_size else "."
            raise TypeError(
                f"{layer}: expected True or False for {argument}, got {value!r}{advice}"
            )


def int_per_dim(
    layer: str, argument: str, value: int | Sequence[int], dims: int, minimum: int = 1
) -> Shape:
    """Return one integer for each of `dims` spatial dimensions; a single one serves for all.

    >>> int_per_dim("conv2d", "stride", 2, 2)
    (2, 2)
    """
    values = tuple(value) if isinstance(value, Sequence) else (value,) * dims
    if len(values) != dims:
        raise ValueError(f"{layer}: expected one or {dims} integers for {argument}, got {value!r}.")
    return tuple(positive_int(layer, argument, item, minimum) for item in values)


def check_input(layer: str, x: Any, expected: Sequence[int | str], floating: bool = True) -> None:
    """Refuse an input that is not a tensor of the expected shape, floating-point if asked.

    `expected` has a length or, where any will do, a letter for each dimension; "..." at
    the beginning or end stands for any number of dimensions.

    >>> import torch
    >>> check_input("conv2d", torch.ones(8, 1, 28, 28), ("N", 3, "H", "W"))
    Traceback (most recent call last):
    purefn.functional.nn.LayerError: conv2d expected an input of shape (N, 3, H, W), \
got (8, 1, 28, 28).
    """
    if not isinstance(x, Tensor | ShapeDtype):
        raise LayerError(f"{layer} expected a tensor, got {describe(x)}.")
    if not fits(x.shape, expected):
        pattern = ", ".join(str(length) for length in expected)
        raise LayerError(f"{layer} expected an input of shape ({pattern}), got {tuple(x.shape)}.")
    if floating and not x.dtype.is_floating_point:
        raise LayerError(
            f"{layer} expected a floating-point input, got {x.dtype} of shape {tuple(x.shape)}; "
            "convert it first, as in `x.float()`."
        )


def check_maybe_batched(
    layer: str, x: Any, dims: int, channels: int | str = "C", floating: bool = True
) -> None:
    """Refuse an input of another shape than `(N, channels, *spatial)` or that without `N`.

    >>> import torch
    >>> check_maybe_batched("unfold", torch.ones(28, 28), 2)
    Traceback (most recent call last):
    purefn.functional.nn.LayerError: unfold expected an input of shape (N, C, H, W) or (C, H, W), \
got (28, 28).
    """
    pattern = (channels, *SPATIAL[dims])
    if isinstance(x, Tensor | ShapeDtype) and not (
        fits(x.shape, pattern) or fits(x.shape, ("N", *pattern))
    ):
        letters = ", ".join(str(length) for length in pattern)
        raise LayerError(
            f"{layer} expected an input of shape (N, {letters}) or ({letters}), got "
            f"{tuple(x.shape)}."
        )
    check_input(layer, x, ("...", *pattern), floating)


def check_flag(layer: str, argument: str, value: Any) -> None:
    """Refuse a flag that is not a Python boolean: a tensor cannot be branched on when traced."""
    if not isinstance(value, bool):
        raise LayerError(
            f"{layer} expected True or False for {argument}, got {describe(value)}; "
            "under jit, mark the argument static."
        )


def needed_key(layer: str, key: Tensor | None) -> Tensor:
    """Return the key that a layer draws from in training, or refuse its absence."""
    if key is None:
        raise LayerError(
            f"{layer} needs a key in training: call the model with key=... (and a new key for "
            "each step), or with train=False."
        )
    return key


def check_probability(layer: str, argument: str, value: Any) -> None:
    """Refuse an option that is not a number within `[0, 1]`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(
            f"{layer}: expected a probability {argument} within [0, 1], got {value!r}."
        )


def fits(shape: Sequence[int], expected: Sequence[int | str]) -> bool:
    """Say whether `shape` has the expected lengths; see `check_input`."""
    if expected and expected[0] == "...":
        expected = expected[1:]
        shape = shape[max(len(shape) - len(expected), 0) :]
    elif expected and expected[-1] == "...":
        expected = expected[:-1]
        shape = shape[: len(expected)]
    return len(shape) == len(expected) and all(
        isinstance(wanted, str) or length == wanted
        for length, wanted in zip(shape, expected, strict=True)
    )
