"""Shapes without values: what a function would return, found without computing it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
)

from . import tree
from .border import tensor_leaves


@dataclass(frozen=True)
class ShapeDtype:
    """The shape, dtype and device of a tensor that has no values; a leaf of a tree.

    Parameters
    ----------
    shape
        The lengths of the dimensions, none negative.
    dtype
        A torch dtype.
    device
        A device or the name of one.

    Raises
    ------
    TypeError
        `dtype` is not a `torch.dtype`, or a length is not an integer.
    ValueError
        A length is negative.

    Examples
    --------
    >>> ShapeDtype((2, 3))
    ShapeDtype(shape=(2, 3), dtype=torch.float32, device='cpu')
    >>> ShapeDtype((2, 3)).ndim
    2
    """

    shape: torch.Size | Sequence[int]
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        """Bring the fields to `torch.Size` and `torch.device`, so that equal ones compare equal."""
        if not isinstance(self.dtype, torch.dtype):
            raise TypeError(f"ShapeDtype: expected a torch.dtype for dtype, got {self.dtype!r}.")
        for length in self.shape:
            if isinstance(length, bool) or not isinstance(length, int | torch.SymInt):
                raise TypeError(f"ShapeDtype: expected integers for shape, got {self.shape!r}.")
            if length < 0:
                raise ValueError(f"ShapeDtype: expected lengths >= 0, got shape {self.shape!r}.")
        object.__setattr__(self, "shape", torch.Size(self.shape))
        object.__setattr__(self, "device", torch.device(self.device))

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    def __repr__(self) -> str:
        """Show the call that makes it."""
        shape = tuple(self.shape)
        return f"ShapeDtype(shape={shape}, dtype={self.dtype}, device={str(self.device)!r})"


def eval_shape(fun: Callable[..., Any], *args: Any, **kwargs: Any) -> tree.PyTree:
    """Return the tree of `ShapeDtype` that `fun(*args, **kwargs)` would have, without computing it.

    No memory is taken for the values and no random state moves. Numbers and other arguments that
    are neither tensors nor `ShapeDtype` reach `fun` as they are, and `fun` may close over tensors,
    those that `jit` is tracing included; the traced graph does not show that it ran. (Under
    `torch.compile` it is traced on zeros, which the compiler then removes.)

    Parameters
    ----------
    fun
        A pure function of trees. It may not look at the values of tensors.
    args, kwargs
        Its arguments; a leaf may be a tensor or a `ShapeDtype` in the place of one.

    Raises
    ------
    TypeError
        A leaf of the output is neither a tensor nor a number; the message names its path.
    ValueError
        The shapes depend on values: `fun` branches on a tensor or calls `item` on it.

    Examples
    --------
    >>> x = ShapeDtype((64, 10), torch.bfloat16)
    >>> eval_shape(lambda x: {"mean": x.mean(0), "rows": len(x)}, x)
    ... # doctest: +NORMALIZE_WHITESPACE
    {'mean': ShapeDtype(shape=(10,), dtype=torch.bfloat16, device='cpu'),
     'rows': ShapeDtype(shape=(), dtype=torch.int64, device='cpu')}
    """
    if torch.compiler.is_compiling():
        args, kwargs = tree.map(_zeros, (args, kwargs))
        return _abstract(fun(*args, **kwargs))
    # `staging` takes ShapeDtype from here.
    from .staging.scratch import without_values

    with without_values():
        args, kwargs = tree.map(_empty, (args, kwargs))
        try:
            return _abstract(fun(*args, **kwargs))
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise ValueError(
                "eval_shape: fun looks at the value of a tensor (a branch on it, .item(), or an "
                f"output whose shape depends on values), which has none here: {error}."
            ) from error


def _empty(leaf: Any) -> Any:
    """Return a tensor to stand for `leaf`, with its strides, which decide what `view` allows."""
    if isinstance(leaf, ShapeDtype):
        return torch.empty(leaf.shape, dtype=leaf.dtype, device=leaf.device)
    if isinstance(leaf, Tensor):
        return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=leaf.device)
    return leaf


def _zeros(leaf: Any) -> Any:
    """Return zeros for a `ShapeDtype`: unlike uninitialised memory, they are valid as indices."""
    if isinstance(leaf, ShapeDtype):
        return torch.zeros(leaf.shape, dtype=leaf.dtype, device=leaf.device)
    return leaf


def _abstract(output: tree.PyTree) -> tree.PyTree:
    return tree.map(
        lambda leaf: ShapeDtype(leaf.shape, leaf.dtype, leaf.device),
        tensor_leaves("eval_shape", "output", output),
    )
