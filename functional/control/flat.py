"""Functions of a flat list of tensors, and what derivatives and batching make of them.

The bodies of loops and choices are such functions and close over nothing that is differentiated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from .levels import is_differentiable

T = TypeVar("T")


class Batch(NamedTuple):
    """A vmap: how many examples, and what it allows of random numbers."""

    size: int
    randomness: str


#: For each tensor its batch axis, None where it has none.
Axes = Sequence[int | None]
#: Takes tensors, returns tensors, always as many.
Flat = Callable[..., Sequence[Tensor]]


def differentiable(tensors: Sequence[Tensor]) -> list[int]:
    """Return the positions of the tensors that derivatives exist for."""
    return [index for index, tensor in enumerate(tensors) if is_differentiable(tensor)]


def split(values: Sequence[T], *sizes: int) -> list[list[T]]:
    """Return consecutive parts of the given sizes, and the rest.

    >>> split([1, 2, 3, 4], 1, 2)
    [[1], [2, 3], [4]]
    """
    parts: list[list[T]] = []
    start = 0
    for size in sizes:
        parts.append(list(values[start : start + size]))
        start += size
    return [*parts, list(values[start:])]


def picked(values: Sequence[T], positions: Sequence[int]) -> list[T]:
    """Return the values at `positions`."""
    return [values[position] for position in positions]


def placed(into: Sequence[T], positions: Sequence[int], values: Sequence[T]) -> list[T]:
    """Return `into` with `values` at `positions`."""
    result = list(into)
    for position, value in zip(positions, values, strict=True):
        result[position] = value
    return result


def pushed(
    fun: Flat, size: int, inputs: Sequence[int]
) -> Callable[..., tuple[list[Tensor], list[Tensor]]]:
    """Return the forward derivative of `fun` of `size` arguments with respect to `inputs`.

    It takes the arguments and then a tangent for each of `inputs`, and returns the outputs, and a
    tangent for each output that can have one.
    """

    def push(*arguments: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        primals, tangents = arguments[:size], arguments[size:]
        if not inputs:
            outputs = list(fun(*primals))
            return outputs, [torch.zeros_like(outputs[i]) for i in differentiable(outputs)]

        def of_inputs(*values: Tensor) -> tuple[Tensor, ...]:
            return tuple(fun(*placed(primals, inputs, values)))

        points = tuple(picked(primals, inputs))
        outputs, directions = torch.func.jvp(of_inputs, points, tuple(tangents))  # type: ignore[misc]
        return list(outputs), picked(directions, differentiable(outputs))

    return push


def pulled(fun: Flat, size: int, inputs: Sequence[int], outputs: Sequence[int]) -> Flat:
    """Return the reverse derivative of `outputs` of `fun` with respect to `inputs`.

    It takes the `size` arguments and then a cotangent for each of `outputs`, and returns a
    cotangent for each of `inputs`. It computes `fun` anew.
    """

    def pull(*arguments: Tensor) -> Sequence[Tensor]:
        primals, cotangents = arguments[:size], arguments[size:]

        def of_inputs(*values: Tensor) -> tuple[Tensor, ...]:
            return tuple(picked(fun(*placed(primals, inputs, values)), outputs))

        points = picked(primals, inputs)
        if not inputs or not outputs:
            return tuple(map(torch.zeros_like, points))
        _, pull_back = torch.func.vjp(of_inputs, *points)  # type: ignore[misc]
        cotangents_of_inputs: Sequence[Tensor] = pull_back(tuple(cotangents))
        return cotangents_of_inputs

    return pull


def mapped(fun: Flat, in_axes: Axes, out_axes: Axes | None, randomness: str) -> Flat:
    """Return `fun` over a batch, with axis 0 or None for each output; 0 for all unless given.

    Where no argument is batched it is `fun` itself.
    """
    if all(axis is None for axis in in_axes):
        return fun

    def as_tuple(*arguments: Tensor) -> tuple[Tensor, ...]:
        return tuple(fun(*arguments))

    batched = torch.func.vmap(as_tuple, in_dims=tuple(in_axes), randomness=randomness)
    if out_axes is None:
        return batched

    # torch refuses None as an output's axis where another vmap has batched the output.
    def first_where_equal(*arguments: Tensor) -> Sequence[Tensor]:
        outputs = batched(*arguments)
        return [o[0] if axis is None else o for o, axis in zip(outputs, out_axes, strict=True)]

    return first_where_equal


def leading(tensor: Tensor, axis: int | None, place: int = 0) -> Tensor:
    """Return `tensor` with its batch axis, where it has one, moved to `place`."""
    return tensor if axis is None else tensor.movedim(axis, place)


def repeated(tensor: Tensor, size: int) -> Tensor:
    """Return `tensor` with a batch axis in front, along which it is the same."""
    return tensor.unsqueeze(0).expand(size, *tensor.shape)


def slices(xs: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors of the shapes of slices along the first axis, which may have none."""
    return [x.new_empty(x.shape[1:]) for x in xs]
