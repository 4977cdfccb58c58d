"""Assertions about the shape and dtype of tensors; they work inside `jit`, `vmap` and `grad`.

Where `inputs` is a list or tuple, each of its entries is looked at, and every one that fails is
named. A Python number has shape `()`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence, Set
from types import EllipsisType
from typing import Any, NamedTuple

import torch

__all__ = [
    "assert_axis_dimension",
    "assert_axis_dimension_comparator",
    "assert_axis_dimension_gt",
    "assert_axis_dimension_gteq",
    "assert_axis_dimension_lt",
    "assert_axis_dimension_lteq",
    "assert_equal_rank",
    "assert_equal_shape",
    "assert_equal_shape_prefix",
    "assert_equal_shape_suffix",
    "assert_equal_size",
    "assert_is_broadcastable",
    "assert_rank",
    "assert_shape",
    "assert_size",
    "assert_type",
]

#: One side of an expected shape: a size, several that are allowed, any (None), or any number of
#: sides (...), at most once in a shape.
Side = int | Set[int] | None | EllipsisType
Shape = Sequence[Side]


def assert_shape(inputs: Any, expected_shapes: Shape | Sequence[Shape]) -> None:
    """Require shapes, in which None, sets and `...` stand for several.

    One shape is for all inputs, a list of shapes has one for each.

    >>> x, y = torch.ones(2, 3), torch.ones(())
    >>> assert_shape(x, (2, 3))
    >>> assert_shape(x, (2, None))
    >>> assert_shape(x, (..., {1, 3}))
    >>> assert_shape([x, y], [(2, 3), ()])
    >>> assert_shape([x, y], (2, ...))
    Traceback (most recent call last):
    ...
    AssertionError: assert_shape: inputs[1] has shape (), expected (2, ...).
    """
    if not isinstance(expected_shapes, list | tuple):
        raise TypeError(
            f"assert_shape: expected a shape or a list of shapes, got {expected_shapes!r}."
        )
    one_each = bool(expected_shapes) and isinstance(expected_shapes[0], list | tuple)
    _check(
        "assert_shape",
        inputs,
        list(expected_shapes) if one_each else _OneForAll(expected_shapes),
        lambda x, expected: _shape_matches(_shape(x), expected),
        lambda x: f"shape {_shape(x)}",
        _shown_shape,
    )


def assert_rank(inputs: Any, expected_ranks: int | Set[int] | Sequence[int | Set[int]]) -> None:
    """Require numbers of axes: one for all inputs or a list; a set allows several.

    >>> assert_rank(torch.ones(2, 3), 2)
    >>> assert_rank([torch.ones(2), 3.0], [{1, 2}, 0])
    >>> assert_rank(torch.ones(2, 3), {0, 1})
    Traceback (most recent call last):
    ...
    AssertionError: assert_rank: the input has rank 2 (shape (2, 3)), expected {0, 1}.
    """
    _check(
        "assert_rank",
        inputs,
        expected_ranks,
        lambda x, expected: len(_shape(x)) in _options(expected),
        lambda x: f"rank {len(_shape(x))} (shape {_shape(x)})",
    )


def assert_size(inputs: Any, expected_sizes: Side | Sequence[Side]) -> None:
    """Require numbers of elements: one for all inputs or a list; None and `...` are any.

    >>> assert_size(torch.ones(2, 3), 6)
    >>> assert_size([torch.ones(2, 3), 1.0], [{5, 6}, None])
    >>> assert_size(torch.ones(2, 3), 2)
    Traceback (most recent call last):
    ...
    AssertionError: assert_size: the input has size 6 (shape (2, 3)), expected 2.
    """
    _check(
        "assert_size",
        inputs,
        expected_sizes,
        lambda x, expected: expected in (None, ...) or _size(x) in _options(expected),
        lambda x: f"size {_size(x)} (shape {_shape(x)})",
    )


def assert_type(inputs: Any, expected_types: Any) -> None:
    """Require dtypes, or kinds of number: `float`, `int`, `complex` or `bool`.

    One is for all inputs, a list has one for each. `float` is any floating-point dtype, `int` any
    integer one; a Python number has no dtype but a kind.

    >>> assert_type(torch.ones(2), torch.float32)
    >>> assert_type([torch.ones(2, dtype=torch.bfloat16), 3], [float, int])
    >>> assert_type([torch.ones(2), True], [torch.float64, bool])
    Traceback (most recent call last):
    ...
    AssertionError: assert_type: inputs[0] has type torch.float32, expected torch.float64.
    """
    wanted = expected_types if isinstance(expected_types, list | tuple) else [expected_types]
    for expected in wanted:
        if not isinstance(expected, torch.dtype) and expected not in (float, int, complex, bool):
            raise TypeError(
                "assert_type: expected a torch.dtype, float, int, complex or bool, got "
                f"{expected!r}."
            )
    _check(
        "assert_type",
        inputs,
        expected_types,
        _has_type,
        lambda x: f"type {_shown_type(_type(x))}",
        _shown_type,
    )


def assert_equal_shape(inputs: Sequence[Any], *, dims: int | Sequence[int] | None = None) -> None:
    """Require that all inputs have one shape, or one in the axes `dims`.

    >>> assert_equal_shape([torch.ones(2, 3), torch.zeros(2, 3)])
    >>> assert_equal_shape([torch.ones(2, 3), torch.zeros(2, 4)], dims=0)
    >>> assert_equal_shape([torch.ones(2, 3), torch.zeros(2, 4)])
    Traceback (most recent call last):
    ...
    AssertionError: assert_equal_shape: the shapes differ: (2, 3), (2, 4).
    """
    axes = (dims,) if isinstance(dims, int) else dims
    _check_equal(
        "assert_equal_shape",
        inputs,
        _shape if axes is None else lambda x: tuple(_side(x, axis) for axis in axes),
        "shapes" if dims is None else f"shapes in the axes {dims}",
    )


def assert_equal_shape_prefix(inputs: Sequence[Any], prefix_len: int) -> None:
    """Require that the shapes of all inputs begin with the same `prefix_len` sides.

    >>> assert_equal_shape_prefix([torch.ones(2, 3), torch.ones(2, 4)], 1)
    >>> assert_equal_shape_prefix([torch.ones(2, 3), torch.ones(2, 4)], 2)
    Traceback (most recent call last):
    ...
    AssertionError: assert_equal_shape_prefix: the first 2 sides differ: (2, 3), (2, 4).
    """
    name = "assert_equal_shape_prefix"
    _check_long_enough(name, inputs, prefix_len)
    _check_equal(name, inputs, lambda x: _shape(x)[:prefix_len], f"first {prefix_len} sides")


def assert_equal_shape_suffix(inputs: Sequence[Any], suffix_len: int) -> None:
    """Require that the shapes of all inputs end with the same `suffix_len` sides.

    >>> assert_equal_shape_suffix([torch.ones(2, 3), torch.ones(5, 3)], 1)
    >>> assert_equal_shape_suffix([torch.ones(2, 3), torch.ones(2, 4)], 1)
    Traceback (most recent call last):
    ...
    AssertionError: assert_equal_shape_suffix: the last 1 sides differ: (3,), (4,).
    """
    name = "assert_equal_shape_suffix"
    _check_long_enough(name, inputs, suffix_len)

    def suffix(x: Any) -> tuple[int, ...]:
        return _shape(x)[len(_shape(x)) - suffix_len :]

    _check_equal(name, inputs, suffix, f"last {suffix_len} sides")


def assert_equal_size(inputs: Sequence[Any]) -> None:
    """Require that all inputs have one number of elements.

    >>> assert_equal_size([torch.ones(2, 3), torch.ones(6)])
    >>> assert_equal_size([torch.ones(2, 3), torch.ones(2)])
    Traceback (most recent call last):
    ...
    AssertionError: assert_equal_size: the sizes differ: 6, 2.
    """
    _check_equal("assert_equal_size", inputs, _size, "sizes")


def assert_equal_rank(inputs: Sequence[Any]) -> None:
    """Require that all inputs have one number of axes.

    >>> assert_equal_rank([torch.ones(2, 3), torch.ones(1, 1)])
    >>> assert_equal_rank([torch.ones(2, 3), torch.ones(2)])
    Traceback (most recent call last):
    ...
    AssertionError: assert_equal_rank: the ranks differ: 2, 1.
    """
    _check_equal("assert_equal_rank", inputs, lambda x: len(_shape(x)), "ranks")


def assert_axis_dimension_comparator(
    tensor: Any, axis: int, pass_fn: Callable[[int], bool], error_string: str
) -> None:
    """Require that `pass_fn` is true of the size of an axis; `error_string` says what it wants.

    >>> assert_axis_dimension_comparator(torch.ones(4), 0, lambda size: size % 2 == 0, "an even")
    >>> assert_axis_dimension_comparator(torch.ones(3), 0, lambda size: size % 2 == 0, "even")
    Traceback (most recent call last):
    ...
    AssertionError: assert_axis_dimension_comparator: axis 0 of shape (3,) is 3, expected even.
    """
    _check_axis("assert_axis_dimension_comparator", tensor, axis, pass_fn, error_string)


def assert_axis_dimension(tensor: Any, axis: int, expected: int) -> None:
    """Require the size of an axis, which may be negative.

    >>> assert_axis_dimension(torch.ones(2, 3), -1, 3)
    >>> assert_axis_dimension(torch.ones(2, 3), 0, 3)
    Traceback (most recent call last):
    ...
    AssertionError: assert_axis_dimension: axis 0 of shape (2, 3) is 2, expected 3.
    """
    _check_axis("assert_axis_dimension", tensor, axis, lambda n: n == expected, f"{expected}")


def assert_axis_dimension_gt(tensor: Any, axis: int, val: int) -> None:
    """Require that an axis is longer than `val`.

    >>> assert_axis_dimension_gt(torch.ones(2, 3), 1, 2)
    """
    _check_axis("assert_axis_dimension_gt", tensor, axis, lambda n: n > val, f"> {val}")


def assert_axis_dimension_gteq(tensor: Any, axis: int, val: int) -> None:
    """Require that an axis has at least the size `val`.

    >>> assert_axis_dimension_gteq(torch.ones(2, 3), 1, 3)
    """
    _check_axis("assert_axis_dimension_gteq", tensor, axis, lambda n: n >= val, f">= {val}")


def assert_axis_dimension_lt(tensor: Any, axis: int, val: int) -> None:
    """Require that an axis is shorter than `val`.

    >>> assert_axis_dimension_lt(torch.ones(2, 3), 1, 4)
    """
    _check_axis("assert_axis_dimension_lt", tensor, axis, lambda n: n < val, f"< {val}")


def assert_axis_dimension_lteq(tensor: Any, axis: int, val: int) -> None:
    """Require that an axis has at most the size `val`.

    >>> assert_axis_dimension_lteq(torch.ones(2, 3), 1, 3)
    """
    _check_axis("assert_axis_dimension_lteq", tensor, axis, lambda n: n <= val, f"<= {val}")


def assert_is_broadcastable(shape_a: Sequence[int], shape_b: Sequence[int]) -> None:
    """Require that a tensor of `shape_a` can be expanded to `shape_b`.

    >>> assert_is_broadcastable((3, 1), (2, 3, 4))
    >>> assert_is_broadcastable((2,), (2, 3))
    Traceback (most recent call last):
    ...
    AssertionError: assert_is_broadcastable: shape (2,) does not expand to (2, 3).
    """
    ends = zip(reversed(shape_a), reversed(shape_b), strict=False)
    if len(shape_a) > len(shape_b) or any(a not in (1, b) for a, b in ends):
        raise AssertionError(
            f"assert_is_broadcastable: shape {tuple(shape_a)} does not expand to {tuple(shape_b)}."
        )


# --- one check for all ---------------------------------------------------------------------------


class _OneForAll(NamedTuple):
    """A list or tuple that is not a list of expectations but one of them."""

    expected: Any


def _check(
    who: str,
    inputs: Any,
    expected: Any,
    holds: Callable[[Any, Any], bool],
    describe: Callable[[Any], str],
    show: Callable[[Any], str] = str,
) -> None:
    """Hold each input against its expectation, or all against the only one; name all failures."""
    several = isinstance(inputs, list | tuple)
    entries = list(inputs) if several else [inputs]
    if isinstance(expected, _OneForAll):
        wanted = [expected.expected] * len(entries)
    else:
        one_each = isinstance(expected, list | tuple)
        wanted = list(expected) if one_each else [expected] * len(entries)
    if len(wanted) != len(entries):
        raise AssertionError(
            f"{who}: {len(entries)} inputs, but {len(wanted)} expectations; give one for each or "
            "one for all."
        )
    failures = [
        f"{f'inputs[{index}]' if several else 'the input'} has {describe(x)}, expected {show(want)}"
        for index, (x, want) in enumerate(zip(entries, wanted, strict=True))
        if not holds(x, want)
    ]
    if failures:
        raise AssertionError(f"{who}: {'; '.join(failures)}.")


def _check_equal(who: str, inputs: Sequence[Any], of: Callable[[Any], Any], what: str) -> None:
    if not isinstance(inputs, list | tuple):
        raise TypeError(f"{who}: expected a list or tuple of tensors, got {type(inputs).__name__}.")
    found = [of(x) for x in inputs]
    if any(each != found[0] for each in found):
        raise AssertionError(f"{who}: the {what} differ: {', '.join(map(str, found))}.")


def _check_axis(
    who: str, tensor: Any, axis: int, holds: Callable[[int], bool], expected: str
) -> None:
    shape = _shape(tensor)
    if not -len(shape) <= axis < len(shape):
        raise AssertionError(f"{who}: there is no axis {axis} in shape {shape}.")
    if not holds(shape[axis]):
        raise AssertionError(
            f"{who}: axis {axis} of shape {shape} is {shape[axis]}, expected {expected}."
        )


def _check_long_enough(who: str, inputs: Sequence[Any], length: int) -> None:
    short = [
        f"inputs[{i}] has {_shape(x)}" for i, x in enumerate(inputs) if len(_shape(x)) < length
    ]
    if short:
        raise AssertionError(f"{who}: expected at least {length} sides, {'; '.join(short)}.")


def _shape(x: Any) -> tuple[int, ...]:
    return tuple(getattr(x, "shape", ()))


def _size(x: Any) -> int:
    return math.prod(_shape(x))


def _side(x: Any, axis: int) -> int:
    shape = _shape(x)
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"assert_equal_shape: there is no axis {axis} in shape {shape}.")
    return shape[axis]


def _options(expected: Any) -> Collection[Any]:
    return expected if isinstance(expected, Set) else (expected,)


def _shape_matches(shape: tuple[int, ...], expected: Shape) -> bool:
    if ... in expected:
        at = list(expected).index(...)
        before, after = expected[:at], expected[at + 1 :]
        if len(shape) < len(before) + len(after):
            return False
        return _shape_matches(shape[:at], before) and _shape_matches(
            shape[len(shape) - len(after) :], after
        )
    return len(shape) == len(expected) and all(
        side is None or size in _options(side) for size, side in zip(shape, expected, strict=True)
    )


def _shown_shape(expected: Shape) -> str:
    sides = ["..." if side is ... else str(side) for side in expected]
    return f"({', '.join(sides)}{',' if len(sides) == 1 else ''})"


def _type(x: Any) -> Any:
    return getattr(x, "dtype", type(x))


def _shown_type(expected: Any) -> str:
    return str(getattr(expected, "__name__", expected))


def _has_type(x: Any, expected: Any) -> bool:
    found = _type(x)
    if isinstance(expected, torch.dtype) or not isinstance(found, torch.dtype):
        return bool(found == expected)
    if expected is float:
        return found.is_floating_point
    if expected is complex:
        return found.is_complex
    if expected is bool:
        return found is torch.bool
    return not (found.is_floating_point or found.is_complex or found is torch.bool)
