"""The arguments with respect to which a function is differentiated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import tree
from ..border import argument_name, describe, numbers_to_tensors

Argnums = int | Sequence[int]


class Inputs:
    """The leaves of the arguments selected by `argnums`, and the way back.

    `leaves` are tensors of floating (or, where `complex_allowed`, complex) dtype, Python floats
    among them made 0-d tensors of the widest floating dtype in the call. torch.func wants at least
    one tensor, so where there is no leaf `leaves` holds a zero that `arguments` and `like` ignore.
    """

    def __init__(
        self,
        transform: str,
        fun: Callable[..., Any],
        argnums: Argnums,
        args: Sequence[Any],
        complex_allowed: bool = False,
    ) -> None:
        self._args = args
        self._single = isinstance(argnums, int)
        self._positions = _positions(transform, argnums, len(args))
        selected = tuple(args[position] for position in self._positions)
        leaves, self._structure = tree.flatten(selected)
        for index, leaf in enumerate(leaves):
            if not isinstance(leaf, float) and not _is_differentiable(leaf, complex_allowed):
                raise TypeError(self._refusal(transform, fun, index, leaf))
        everything = [leaf for leaf in tree.leaves(args) if isinstance(leaf, Tensor)]
        leaves = numbers_to_tensors([*leaves, *everything])[: len(leaves)]
        self._count = len(leaves)
        self.leaves: tuple[Tensor, ...] = tuple(leaves) or (torch.zeros(()),)

    def arguments(self, leaves: Sequence[Any]) -> list[Any]:
        """Return the positional arguments with `leaves` in the place of the selected ones."""
        args = list(self._args)
        selected = tree.unflatten(self._structure, leaves[: self._count])
        for position, arg in zip(self._positions, selected, strict=True):
            args[position] = arg
        return args

    def like(self, leaves: Sequence[Any]) -> tree.PyTree:
        """Return a tree like the selected argument, or a tuple of them where several were asked."""
        selected = tree.unflatten(self._structure, leaves[: self._count])
        return selected[0] if self._single else selected

    def _refusal(self, transform: str, fun: Callable[..., Any], index: int, leaf: Any) -> str:
        names = [
            name
            for position in self._positions
            for name in tree.path_strings(self._args[position], argument_name(fun, position))
        ]
        given = f"{transform}: {names[index]} is {describe(leaf)}"
        if isinstance(leaf, complex) or (isinstance(leaf, Tensor) and leaf.is_complex()):
            return f"{given}, expected real numbers. Use vjp or jvp for complex inputs."
        return (
            f"{given}, and only floating-point tensors and Python floats have a derivative. Cast "
            "it to a floating-point dtype, or close over it or pass it as an argument that is not "
            "differentiated (see argnums)."
        )


def check_argnums(transform: str, argnums: Argnums) -> Argnums:
    """Return `argnums` as an int or a tuple of ints, or raise a `TypeError`."""
    wanted = [argnums] if isinstance(argnums, int) else argnums
    if not isinstance(wanted, tuple | list) or any(
        isinstance(number, bool) or not isinstance(number, int) for number in wanted
    ):
        raise TypeError(
            f"{transform}: expected an int or a tuple of ints for argnums, got {argnums!r}."
        )
    return argnums if isinstance(argnums, int) else tuple(argnums)


def _positions(transform: str, argnums: Argnums, count: int) -> tuple[int, ...]:
    """Return the non-negative positions that `argnums` selects among `count` arguments."""
    wanted = (argnums,) if isinstance(argnums, int) else argnums
    for number in wanted:
        if not -count <= number < count:
            raise ValueError(
                f"{transform}: argnums={argnums!r} selects argument {number}, but the function was "
                f"called with {count} positional arguments. Pass what is to be differentiated by "
                "position, not by keyword."
            )
    positions = tuple(number % count for number in wanted)
    if len(set(positions)) < len(positions):
        raise ValueError(f"{transform}: argnums={argnums!r} selects an argument twice.")
    return positions


def _is_differentiable(leaf: Any, complex_allowed: bool) -> bool:
    return isinstance(leaf, Tensor) and (
        leaf.is_floating_point() or (complex_allowed and leaf.is_complex())
    )
