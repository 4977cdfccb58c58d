"""Operators written out, for problems small enough to look at."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import tree
from ..batching import vmap
from .coordinates import Coordinates, Operator


def dense(operator: Operator, like: tree.PyTree) -> Tensor:
    """Return the matrix of an operator, in the order of elements that `tree.ravel` has.

    Parameters
    ----------
    operator
        A linear function `v -> A v` of trees.
    like
        A tree of n floating elements in all: what `operator` takes.

    Returns
    -------
    Tensor
        Shape `(n, n)`, in the dtype to which the leaves promote, and at least float32.

    Raises
    ------
    TypeError, ValueError
        What the operator returns is not like what it got; the message names the leaf.

    Examples
    --------
    >>> swap = lambda v: {"a": 2 * v["b"], "b": v["a"]}
    >>> dense(swap, {"a": torch.zeros(1), "b": torch.zeros(1)})
    tensor([[0., 2.],
            [1., 0.]])
    """
    space = Coordinates("dense", "like", like)
    identity = torch.eye(space.size, dtype=space.dtype, device=space.device)
    columns: Tensor = vmap(space.operator(operator), out_axes=1)(identity)
    return columns
