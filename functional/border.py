"""The border to torch.func, which knows neither our trees nor the names of arguments.

A transform takes its arguments apart, hands torch.func a function of a flat tuple of tensors, and
puts the results together again. What crosses, and what errors call it, is decided here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import polyfills as polyfills
from . import tree


def check_callable(transform: str, fun: Any) -> None:
    """Raise a `TypeError` where a transform got the value of a function instead of the function."""
    if not callable(fun):
        raise TypeError(
            f"{transform}: expected a function, got {describe(fun)}. Pass the function itself and "
            "call the result: grad(loss)(params)."
        )


def argument_name(fun: Callable[..., Any], position: int) -> str:
    """Return the name that the signature of `fun` gives to a positional argument.

    >>> def loss(params, *batch): ...
    >>> argument_name(loss, 0), argument_name(loss, 2), argument_name(max, 0)
    ('params', 'batch[1]', 'args[0]')
    """
    if torch.compiler.is_compiling():
        return f"args[{position}]"
    try:
        parameters = list(inspect.signature(fun).parameters.values())
    except (TypeError, ValueError):
        return f"args[{position}]"
    names = [
        parameter.name
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if position < len(names):
        return names[position]
    rest = [
        parameter.name for parameter in parameters if parameter.kind == parameter.VAR_POSITIONAL
    ]
    return f"{rest[0]}[{position - len(names)}]" if rest else f"args[{position}]"


def function_name(fun: Callable[..., Any]) -> str:
    """Return what errors call `fun`."""
    return getattr(fun, "__name__", type(fun).__name__)


def describe(leaf: Any) -> str:
    """Say what `leaf` is: dtype and shape of a tensor, otherwise type and value.

    >>> describe(torch.zeros(2, 3)), describe("adam")
    ('float32 of shape (2, 3)', "the str 'adam'")
    """
    if isinstance(leaf, Tensor):
        return f"{str(leaf.dtype).removeprefix('torch.')} of shape {tuple(leaf.shape)}"
    return f"the {type(leaf).__name__} {leaf!r}"


def number_to_tensor(number: complex) -> Tensor:
    """Return a 0-d tensor of torch's default dtype for the kind of number.

    >>> number_to_tensor(2.0).dtype, number_to_tensor(True).dtype
    (torch.float32, torch.bool)
    """
    return torch.tensor(number)


def tensor_leaves(transform: str, name: str, output: tree.PyTree) -> tree.PyTree:
    """Return `output` with numbers made 0-d tensors.

    Raises
    ------
    TypeError
        A leaf is neither a tensor nor a number; the message names its path below `name`.
    """
    leaves, structure = tree.flatten(output)
    for index, leaf in enumerate(leaves):
        if isinstance(leaf, bool | int | float | complex):
            leaves[index] = number_to_tensor(leaf)
        elif not isinstance(leaf, Tensor):
            raise TypeError(
                f"{transform}: expected tensors and numbers in the output of the function, got "
                f"{tree.path_strings(output, name)[index]} = {leaf!r}."
            )
    return tree.unflatten(structure, leaves)


class Carrier:
    """Carries one tree out of a function that torch.func transforms.

    torch.func lets only tuples of tensors through, and changes them on the way. `pack`, called
    inside the function, gives it the tensors and keeps the rest; `unpack`, called outside, puts
    changed tensors, or whatever stands for them now, into the tree.
    """

    def __init__(self) -> None:
        self._leaves: list[Any] = []
        self._structure = tree.structure(None)

    def pack(self, packed: tree.PyTree) -> tuple[Tensor, ...]:
        """Return the tensors among the leaves of `packed`, and remember where they were.

        torch.func wants at least one, so where there is none a zero is returned, which `unpack`
        ignores.
        """
        leaves, self._structure = tree.flatten(packed)
        self._leaves = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        tensors = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
        return tensors or (torch.zeros(()),)

    def unpack(self, tensors: Sequence[Any]) -> tree.PyTree:
        """Return the tree that was packed, with `tensors` in the place of its tensors."""
        remaining = list(tensors)
        leaves = [remaining.pop(0) if leaf is None else leaf for leaf in self._leaves]
        return tree.unflatten(self._structure, leaves)
