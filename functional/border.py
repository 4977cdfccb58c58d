"""The border to torch.func, which knows neither our trees nor the names of arguments.

A transform takes its arguments apart, hands torch.func a function of a flat tuple of tensors, and
puts the results together again. What crosses, and what errors call it, is decided here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch as functorch

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


def is_mapped(value: Any) -> bool:
    """Say whether a vmap, beneath whatever else torch.func has wrapped around, maps `value`."""
    while isinstance(value, Tensor) and functorch.is_functorch_wrapped_tensor(value):
        if functorch.is_batchedtensor(value):
            return True
        value = functorch.get_unwrapped(value)
    return False


def numbers_to_tensors(leaves: Sequence[Any]) -> list[Any]:
    """Return `leaves` with Python numbers made 0-d tensors that neither widen nor lose digits.

    A number takes the widest dtype of its kind among the tensors beside it, floating or integer
    (uint8 and signed ones that can hold it), and torch's default dtype where there is none.

    >>> numbers_to_tensors([torch.ones(2, dtype=torch.float64), 0.1, 3])
    [tensor([1., 1.], dtype=torch.float64), tensor(0.1000, dtype=torch.float64), tensor(3)]
    """
    if all(isinstance(leaf, Tensor) for leaf in leaves):
        return list(leaves)
    dtypes = [leaf.dtype for leaf in leaves if isinstance(leaf, Tensor)]
    real = [
        _REAL.get(dtype, dtype) for dtype in dtypes if dtype in _REAL or dtype.is_floating_point
    ]
    floating = _widest(real, torch.get_default_dtype())
    integer = _widest([dtype for dtype in dtypes if dtype in _INTEGERS], torch.int64)
    return [_from_number(leaf, floating, integer) for leaf in leaves]


_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
# Tables, for Dynamo does not trace `dtype.to_real()` and `dtype.to_complex()`.
_REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}
_COMPLEX = {torch.float64: torch.complex128}


def _from_number(leaf: Any, floating: torch.dtype, integer: torch.dtype) -> Any:
    if isinstance(leaf, bool):
        return torch.tensor(leaf)
    if isinstance(leaf, int):
        fits = torch.iinfo(integer).min <= leaf <= torch.iinfo(integer).max
        return torch.tensor(leaf, dtype=integer if fits else torch.int64)
    if isinstance(leaf, float):
        return torch.tensor(leaf, dtype=floating)
    if isinstance(leaf, complex):
        return torch.tensor(leaf, dtype=_COMPLEX.get(floating, torch.complex64))
    return leaf


def _widest(dtypes: Iterable[torch.dtype], default: torch.dtype) -> torch.dtype:
    widest: torch.dtype | None = None
    for dtype in dtypes:
        widest = dtype if widest is None else torch.promote_types(widest, dtype)
    return default if widest is None else widest


def tensor_leaves(transform: str, name: str, output: tree.PyTree) -> tree.PyTree:
    """Return `output` with numbers made 0-d tensors, by the rule of `numbers_to_tensors`.

    Raises
    ------
    TypeError
        A leaf is neither a tensor nor a number; the message names its path below `name`.
    """
    leaves, structure = tree.flatten(output)
    for index, leaf in enumerate(leaves):
        if not isinstance(leaf, Tensor | bool | int | float | complex):
            raise TypeError(
                f"{transform}: expected tensors and numbers in the output of the function, got "
                f"{tree.path_strings(output, name)[index]} = {leaf!r}."
            )
    return tree.unflatten(structure, numbers_to_tensors(leaves))


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
