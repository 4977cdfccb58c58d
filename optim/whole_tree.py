"""What rules with one number for all parameters have in common: sums over trees, kept in float64.

Such a rule takes its sums first, and then is elementwise with 0-d tensors. Leaves are summed in the
dtype in which they are computed with (float32 where they are narrower), and the sums of the leaves
added, and accumulated over the steps, in float64: a number costs nothing, and a sum over millions
of steps keeps its digits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from ..functional import tree
from . import checks
from .leafwise import HALF, Scalar, working
from .pieces.clipping import global_norm
from .schedules import Schedule


def total(x: tree.PyTree) -> Tensor:
    """Return the sum of all elements, a 0-d float64 tensor.

    >>> total({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(-4.0)})
    tensor(-1., dtype=torch.float64)
    """
    return _sum(x, torch.sum)


def absolute_sum(x: tree.PyTree) -> Tensor:
    """Return the sum of the absolute values of all elements, a 0-d float64 tensor.

    >>> absolute_sum({"a": torch.tensor([1.0, -2.0]), "b": torch.tensor(-3.0)})
    tensor(6., dtype=torch.float64)
    """
    return _sum(x, lambda leaf: torch.sum(leaf.abs()))


def norm(x: tree.PyTree) -> Tensor:
    """Return the Euclidean norm of all leaves taken as one vector, a 0-d float64 tensor.

    >>> norm({"a": torch.tensor([3.0]), "b": torch.tensor(-4.0)})
    tensor(5., dtype=torch.float64)
    """
    return global_norm(x).double()


def ratio(numerator: Tensor, denominator: Tensor, otherwise: Tensor) -> Tensor:
    """Return the quotient, or `otherwise` where the denominator is zero.

    >>> ratio(torch.tensor([1.0, 1.0]), torch.tensor([2.0, 0.0]), otherwise=torch.tensor(7.0))
    tensor([0.5000, 7.0000])
    """
    is_zero = denominator == 0
    safe = torch.where(is_zero, torch.ones_like(denominator), denominator)
    return torch.where(is_zero, otherwise, numerator / safe)


def number(value: Scalar, params: tree.PyTree) -> Tensor:
    """Return `value` as a 0-d float64 tensor on the device of the parameters.

    >>> number(0.5, {"w": torch.ones(3)})
    tensor(0.5000, dtype=torch.float64)
    """
    leaves = tree.leaves(params)
    zero = torch.zeros((), dtype=torch.float64, device=leaves[0].device if leaves else None)
    return zero + value


def rate_at(lr: Scalar | Schedule, step: Tensor) -> Scalar:
    """Return the learning rate of a step, the value of a schedule checked to be one.

    >>> rate_at(lambda step: 1 / (step + 1), torch.tensor(3))
    tensor(0.2500)
    """
    if not callable(lr):
        return lr
    rate = lr(step)
    checks.non_negative("lr(step)", rate)
    return rate


def widened(x: tree.PyTree) -> tree.PyTree:
    """Return `x` with its float16 and bfloat16 leaves in float32.

    >>> widened({"a": torch.ones(1, dtype=torch.bfloat16), "b": torch.ones(1)})
    {'a': tensor([1.]), 'b': tensor([1.])}
    """
    return tree.map(lambda leaf: leaf.float() if leaf.dtype in HALF else leaf, x)


def cast_like(x: tree.PyTree, like: tree.PyTree) -> tree.PyTree:
    """Return `x` with the dtypes of `like`.

    >>> cast_like({"a": torch.ones(1)}, {"a": torch.ones(1, dtype=torch.bfloat16)})
    {'a': tensor([1.], dtype=torch.bfloat16)}
    """
    return tree.map(lambda leaf, other: leaf.to(other.dtype), x, like)


def _sum(x: tree.PyTree, of_leaf: Callable[[Tensor], Tensor]) -> Tensor:
    sums = [of_leaf(working(leaf)).double() for leaf in tree.leaves(x)]
    return functools.reduce(torch.add, sums) if sums else torch.zeros((), dtype=torch.float64)
