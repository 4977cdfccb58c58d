"""How the mathematics of an optimizer, written for one leaf, runs over whole trees.

Every transformation states its rule as a function of single tensors and hands it to `leafwise`;
what is common to all of them about matching trees, dtypes and speed is decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..functional import tree
from . import checks

#: A hyperparameter: a Python number, or a 0-d tensor (traced, batched or differentiated).
Scalar = float | Tensor


def leafwise(
    rule: Callable[..., Any],
    trees: Mapping[str, tree.PyTree],
    *,
    results: int = 1,
    same_dtypes: bool = True,
) -> Any:
    """Apply an elementwise `rule` to corresponding leaves of `trees`, given by name.

    The rule returns one tensor for a tree, or a tuple of `results` of them for as many trees. They
    have the dtypes of the first tree:

    - float16 and bfloat16 leaves are computed with in float32 and rounded once, so that a constant
      such as Adam's `eps` is not lost; what is stored stays in the leaf's dtype;
    - a 0-d tensor of a wider dtype, a learning rate in float64 say, widens no result;
    - a complex leaf is its real and imaginary parts, two independent real numbers, as in torch.

    Raises
    ------
    TypeError
        A leaf is no tensor of floating-point or complex numbers.
    ValueError
        A tree differs from the first in structure, or in the shape, dtype or device of a leaf.

    Examples
    --------
    >>> x, y = {"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])}
    >>> leafwise(lambda x, y: x + y, {"x": x, "y": y})
    {'w': tensor([3.])}
    >>> leafwise(lambda x, y: (x + y, x - y), {"x": x, "y": y}, results=2)
    ({'w': tensor([3.])}, {'w': tensor([-1.])})
    """
    structure, columns = checks.same_leaves(trees, dtypes=same_dtypes)
    name, first = next(iter(trees.items()))
    checks.trainable(first, name)
    rows = [_on_leaf(rule, *row) for row in zip(*columns, strict=True)]
    if results == 1:
        return tree.unflatten(structure, [row[0] for row in rows])
    return tuple(tree.unflatten(structure, [row[i] for row in rows]) for i in range(results))


def add_scaled(x: Tensor, y: Tensor, coefficient: Scalar) -> Tensor:
    """Return `x + coefficient * y`, by torch's own kernel when the coefficient is a number."""
    if isinstance(coefficient, Tensor):
        return x + coefficient * y
    return torch.add(x, y, alpha=coefficient)


def _on_leaf(rule: Callable[..., Any], first: Tensor, *rest: Tensor) -> list[Tensor]:
    result = rule(working(first), *[working(leaf) for leaf in rest])
    given = result if isinstance(result, tuple) else (result,)
    if first.is_complex():
        return [torch.view_as_complex(value.to(first.dtype.to_real())) for value in given]
    return [value.to(first.dtype) for value in given]


def working(leaf: Tensor) -> Tensor:
    """Return `leaf` in the form in which it is computed with."""
    if leaf.is_complex():
        return torch.view_as_real(leaf)
    return leaf.float() if leaf.dtype in (torch.float16, torch.bfloat16) else leaf
