"""Arithmetic of whole trees, leaf by leaf: optax's `tree_utils`, under the short names.

What `purefn.functional.tree` has is not repeated here: `dot`, `norm`, `zeros_like`, `cast` and the
like. Corresponding leaves have equal shapes, nothing is broadcast but numbers and 0-d tensors given
beside trees; dtypes promote as torch's do, and such a number widens no leaf.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..functional import random, tree
from . import checks, moments
from .leafwise import Scalar, leafwise
from .whole_tree import cast_like, widened

__all__ = [
    "add",
    "add_scale",
    "bias_correction",
    "cast_like",
    "clip",
    "conj",
    "div",
    "full_like",
    "max",
    "min",
    "mul",
    "random_like",
    "real",
    "scale",
    "sub",
    "sum",
    "update_infinity_moment",
    "update_moment",
    "where",
]


def add(x: tree.PyTree, y: tree.PyTree, *others: tree.PyTree) -> tree.PyTree:
    """Return `x + y`, or the sum of more trees.

    >>> add({"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([10.0, 20.0])})
    {'w': tensor([11., 22.])}
    """
    more = {f"others[{place}]": other for place, other in enumerate(others)}
    return _map(lambda *leaves: functools.reduce(operator.add, leaves), x=x, y=y, **more)


def sub(x: tree.PyTree, y: tree.PyTree) -> tree.PyTree:
    """Return `x - y`.

    >>> sub({"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([10.0, 20.0])})
    {'w': tensor([ -9., -18.])}
    """
    return _map(operator.sub, x=x, y=y)


def mul(x: tree.PyTree, y: tree.PyTree) -> tree.PyTree:
    """Return the products of corresponding elements.

    >>> mul({"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([10.0, 20.0])})
    {'w': tensor([10., 40.])}
    """
    return _map(operator.mul, x=x, y=y)


def div(x: tree.PyTree, y: tree.PyTree) -> tree.PyTree:
    """Return the quotients of corresponding elements.

    >>> div({"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([10.0, 20.0])})
    {'w': tensor([0.1000, 0.1000])}
    """
    return _map(operator.truediv, x=x, y=y)


def scale(scalar: Scalar, x: tree.PyTree) -> tree.PyTree:
    """Return `scalar x`.

    >>> scale(3.0, {"w": torch.tensor([1.0, 2.0])})
    {'w': tensor([3., 6.])}
    """
    return tree.map(lambda leaf: _no_wider(scalar * leaf, leaf), x)


def add_scale(x: tree.PyTree, scalar: Scalar, y: tree.PyTree) -> tree.PyTree:
    """Return `x + scalar y`.

    >>> add_scale({"w": torch.tensor([1.0])}, -0.5, {"w": torch.tensor([4.0])})
    {'w': tensor([-1.])}
    """
    return _map(lambda a, b: a + _no_wider(scalar * b, b), x=x, y=y)


def where(condition: bool | Tensor, x: tree.PyTree, y: tree.PyTree) -> tree.PyTree:
    """Return `x` if the condition holds and `y` otherwise, also where it is a traced tensor.

    >>> where(torch.tensor(False), {"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])})
    {'w': tensor([2.])}
    """
    return _map(
        lambda a, b: torch.where(torch.as_tensor(condition, device=a.device), a, b), x=x, y=y
    )


def clip(
    x: tree.PyTree, min_value: Scalar | None = None, max_value: Scalar | None = None
) -> tree.PyTree:
    """Return `x` with its elements moved into `[min_value, max_value]`; None is no bound.

    >>> clip({"w": torch.tensor([-3.0, 0.5, 3.0])}, -1.0, 1.0)
    {'w': tensor([-1.0000,  0.5000,  1.0000])}
    """

    def clipped(leaf: Tensor) -> Tensor:
        above = leaf if min_value is None else leaf.clamp(min=min_value)
        return _no_wider(above if max_value is None else above.clamp(max=max_value), leaf)

    return tree.map(clipped, x)


def full_like(x: tree.PyTree, fill_value: Scalar, dtype: torch.dtype | None = None) -> tree.PyTree:
    """Return a tree of `fill_value` with the shapes of `x`, in `dtype` or each leaf's own.

    >>> full_like({"w": torch.zeros(2)}, 7.0)
    {'w': tensor([7., 7.])}
    """

    def full(leaf: Tensor) -> Tensor:
        if not isinstance(fill_value, Tensor):
            return torch.full_like(leaf, fill_value, dtype=dtype)
        filled = fill_value.to(leaf.device, dtype or leaf.dtype)  # it may be traced
        return filled + torch.zeros_like(leaf, dtype=filled.dtype)

    return tree.map(full, x)


def random_like(
    key: Tensor,
    x: tree.PyTree,
    sampler: Callable[[Tensor, tuple[int, ...], torch.dtype], Tensor] = random.normal,
    dtype: torch.dtype | None = None,
) -> tree.PyTree:
    """Return random numbers with the shapes of `x`, in `dtype` or each leaf's own.

    The key is split, one for each leaf in their order, as in optax, of which these are the numbers.
    `sampler(key, shape, dtype)` draws them: standard normal ones, unless another function of
    `purefn.functional.random` is given.

    >>> random_like(random.key(0), {"b": torch.zeros(()), "w": torch.zeros(2)})
    {'b': tensor(1.0040), 'w': tensor([-2.4425, -2.0357])}
    """
    leaves, structure = tree.flatten(x)
    keys = random.split(key, len(leaves) or 1)
    drawn = [
        sampler(own, tuple(leaf.shape), dtype or leaf.dtype).to(leaf.device)
        for own, leaf in zip(keys, leaves, strict=False)
    ]
    return tree.unflatten(structure, drawn)


def max(x: tree.PyTree) -> Tensor:  # noqa: A001 - optax's name
    """Return the largest element of all leaves, a 0-d tensor; -inf if there is none.

    >>> max({"b": torch.tensor(5.0), "w": torch.tensor([7.0, -9.0])})
    tensor(7.)
    """
    largest = [leaf.amax() for leaf in tree.leaves(x) if leaf.numel()]
    return functools.reduce(torch.maximum, largest) if largest else torch.tensor(-math.inf)


def min(x: tree.PyTree) -> Tensor:  # noqa: A001 - optax's name
    """Return the smallest element of all leaves, a 0-d tensor; inf if there is none.

    >>> min({"b": torch.tensor(5.0), "w": torch.tensor([7.0, -9.0])})
    tensor(-9.)
    """
    smallest = [leaf.amin() for leaf in tree.leaves(x) if leaf.numel()]
    return functools.reduce(torch.minimum, smallest) if smallest else torch.tensor(math.inf)


def sum(x: tree.PyTree) -> Tensor:  # noqa: A001 - optax's name
    """Return the sum of all elements, a 0-d tensor, in float32 for leaves in half precision.

    >>> sum({"b": torch.tensor(5.0), "w": torch.tensor([7.0, -9.0])})
    tensor(3.)
    """
    sums = [leaf.sum() for leaf in tree.leaves(widened(x))]
    return functools.reduce(torch.add, sums) if sums else torch.zeros(())


def conj(x: tree.PyTree) -> tree.PyTree:
    """Return the complex conjugate; real leaves as they are.

    >>> conj({"w": torch.tensor([1.0 + 2.0j])})
    {'w': tensor([1.-2.j])}
    """
    return tree.map(lambda leaf: leaf.conj().resolve_conj(), x)


def real(x: tree.PyTree) -> tree.PyTree:
    """Return the real parts; real leaves as they are.

    >>> real({"w": torch.tensor([1.0 + 2.0j])})
    {'w': tensor([1.])}
    """
    return tree.map(lambda leaf: leaf.real.clone() if leaf.is_complex() else leaf, x)


def update_moment(
    updates: tree.PyTree, moments: tree.PyTree, decay: Scalar, order: int
) -> tree.PyTree:
    """Return `decay moments + (1 - decay) updates^order`, in the dtypes of `moments`.

    Of complex numbers the real and the imaginary part have a moment each, as in Adam.

    >>> update_moment({"w": torch.tensor([3.0])}, {"w": torch.tensor([1.0])}, 0.5, order=2)
    {'w': tensor([5.])}
    """
    return leafwise(
        lambda m, g: decay * m + (1 - decay) * g**order,
        {"moments": moments, "updates": updates},
        same_dtypes=False,
    )


def update_infinity_moment(
    updates: tree.PyTree, moments: tree.PyTree, decay: Scalar, eps: Scalar
) -> tree.PyTree:
    """Return `max(decay moments, |updates| + eps)`, in the dtypes of `moments`.

    >>> update_infinity_moment({"w": torch.tensor([-3.0])}, {"w": torch.tensor([4.0])}, 0.5, 0.0)
    {'w': tensor([3.])}
    """
    return leafwise(
        lambda m, g: torch.maximum(decay * m, g.abs() + eps),
        {"moments": moments, "updates": updates},
        same_dtypes=False,
    )


def bias_correction(moment: tree.PyTree, decay: Scalar, count: int | Tensor) -> tree.PyTree:
    """Return `moment / (1 - decay^count)`, an average made free of its start at zero.

    The divisor is `moments.bias_correction`, which keeps its digits when `decay` is near 1.

    >>> bias_correction({"w": torch.tensor([3.0])}, decay=0.5, count=2)
    {'w': tensor([4.])}
    """
    checks.step(count)
    weight = moments.bias_correction(decay, torch.as_tensor(count))
    return leafwise(lambda m: m / weight, {"moment": moment})


def _map(function: Callable[..., Tensor], **trees: tree.PyTree) -> tree.PyTree:
    """Apply `function` to corresponding leaves of `trees`, which have equal shapes."""
    (like_name, like), *others = trees.items()
    places = itertools.count()

    def apply(*leaves: Any) -> Tensor:
        place = next(places)
        first, *rest = leaves
        for (name, _), leaf in zip(others, rest, strict=True):
            shape = getattr(leaf, "shape", None)
            if shape != first.shape:
                path = tree.path_strings(like, "")[place]
                found = f"{leaf!r}, no tensor" if shape is None else f"of shape {tuple(shape)}"
                raise ValueError(
                    f"{name}{path} is {found}, but {like_name}{path} is of shape "
                    f"{tuple(first.shape)}: they must agree, nothing is broadcast."
                )
        return function(*leaves)

    return tree.map(apply, *trees.values(), names=tuple(trees))


def _no_wider(result: Tensor, leaf: Tensor) -> Tensor:
    """Return a result in the dtype of its leaf, if a 0-d tensor beside it has made it wider."""
    same_kind = leaf.is_complex() or (leaf.is_floating_point() and not result.is_complex())
    return result.to(leaf.dtype) if same_kind else result
