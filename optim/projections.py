"""Nearest points of a set, for a whole tree: what keeps parameters where they must be.

Each function returns the tree of the set that is nearest to the given one in the Euclidean norm of
all its elements together, a tree of the same structure, shapes and dtypes. After a step,

>>> import torch
>>> from purefn import optim
>>> from purefn.optim import projections
>>> params, updates = {"w": torch.tensor([0.5, 0.5])}, {"w": torch.tensor([0.1, -0.2])}
>>> projections.simplex(optim.apply_updates(params, updates))
{'w': tensor([0.6500, 0.3500])}

Names are optax's without their prefix: `projection_simplex` is `projections.simplex`. All are
differentiable wherever the nearest point is. Inner products and thresholds are computed in float64.
Complex leaves are refused, except by `l2_ball` and `l2_sphere`. Where optax gives NaN or a point
outside the set (what is nearest to zero on a sphere, the multiples of a vector that is zero), the
function says what it gives.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..functional import tree
from . import checks
from .leafwise import Scalar, leafwise, working
from .pieces.clipping import global_norm

__all__ = [
    "box",
    "halfspace",
    "hypercube",
    "hyperplane",
    "l1_ball",
    "l1_sphere",
    "l2_ball",
    "l2_sphere",
    "linf_ball",
    "non_negative",
    "simplex",
    "vector",
]

PyTree = tree.PyTree


def non_negative(x: PyTree) -> PyTree:
    """Project onto the trees without negative elements.

    >>> non_negative({"w": torch.tensor([-1.0, 2.0])})
    {'w': tensor([0., 2.])}
    """
    return box(x, 0.0, math.inf)


def box(x: PyTree, lower: Scalar | PyTree, upper: Scalar | PyTree) -> PyTree:
    """Project onto the trees with every element in `[lower, upper]`.

    A bound is a number (infinite ones are allowed), a 0-d tensor, or a tree like `x`. Where a lower
    bound is above the upper one, which only numbers are refused for, the result is the upper.

    >>> box({"w": torch.tensor([-1.0, 0.5, 2.0])}, 0.0, {"w": torch.tensor([1.0, 1.0, 1.5])})
    {'w': tensor([0.0000, 0.5000, 1.5000])}

    Raises
    ------
    TypeError
        A leaf or a bound is complex or no number.
    ValueError
        `lower` is above `upper`, or a tree of bounds has not the structure, shapes and dtypes of
        `x`.
    """
    _check("box", x)
    for name, bound in (("lower", lower), ("upper", upper)):
        if _is_number(bound) and math.isnan(bound):
            raise ValueError(f"{name}: expected a number that is not NaN.")
    if _is_number(lower) and _is_number(upper) and lower > upper:
        raise ValueError(f"lower: expected at most upper={upper!r}, got {lower!r}.")
    trees = {"x": x, "lower": _like(x, lower), "upper": _like(x, upper)}
    return leafwise(lambda x, low, high: torch.minimum(torch.maximum(x, low), high), trees)


def hypercube(x: PyTree, scale: Scalar | PyTree = 1.0) -> PyTree:
    """Project onto the trees with every element in `[0, scale]`.

    >>> hypercube({"w": torch.tensor([-1.0, 0.5, 2.0])})
    {'w': tensor([0.0000, 0.5000, 1.0000])}
    """
    return box(x, 0.0, scale)


def linf_ball(x: PyTree, scale: Scalar = 1.0) -> PyTree:
    """Project onto the trees with every element in `[-scale, scale]`.

    >>> linf_ball({"w": torch.tensor([-3.0, 0.5])})
    {'w': tensor([-1.0000,  0.5000])}
    """
    checks.positive("scale", scale)
    return box(x, -scale, scale)


def simplex(x: PyTree, scale: Scalar = 1.0) -> PyTree:
    """Project onto the trees without negative elements that sum to `scale`.

    It is `max(x - tau, 0)`, and `tau` is found by sorting (Duchi et al. 2008, Efficient projections
    onto the l1-ball).

    >>> simplex({"w": torch.tensor([0.75, 1.25]), "b": torch.tensor(-3.0)})
    {'w': tensor([0.2500, 0.7500]), 'b': tensor(0.)}

    Raises
    ------
    TypeError
        A leaf is complex or no tensor.
    ValueError
        `scale` is not positive, or the tree has no elements.
    """
    checks.positive("scale", scale)
    tau = _threshold(_elements("simplex", x), scale)
    return leafwise(lambda x: torch.relu(x - tau), {"x": x})


def l1_sphere(x: PyTree, scale: Scalar = 1.0) -> PyTree:
    """Project onto the trees whose absolute values sum to `scale`.

    An element that is 0 counts as positive: of two nearest points it picks one of the set (where
    optax leaves the element 0, and the result may not be on the sphere).

    >>> l1_sphere({"w": torch.tensor([-3.0, 2.5, 0.0])})
    {'w': tensor([-0.7500,  0.2500,  0.0000])}
    """
    checks.positive("scale", scale)
    tau = _threshold(_elements("l1_sphere", x).abs(), scale)

    def shrunk(x: Tensor) -> Tensor:
        sign = torch.where(x < 0, -1.0, 1.0).to(x.dtype)
        return sign * torch.relu(sign * x - tau)

    return leafwise(shrunk, {"x": x})


def l1_ball(x: PyTree, scale: Scalar = 1.0) -> PyTree:
    """Project onto the trees whose absolute values sum to at most `scale`.

    >>> l1_ball({"w": torch.tensor([-3.0, 2.5])}), l1_ball({"w": torch.tensor([0.25, 0.5])})
    ({'w': tensor([-0.7500,  0.2500])}, {'w': tensor([0.2500, 0.5000])})
    """
    checks.positive("scale", scale)
    inside = _elements("l1_ball", x).abs().sum() <= scale
    trees = {"x": x, "nearest": l1_sphere(x, scale)}
    return leafwise(lambda x, nearest: torch.where(inside, x, nearest), trees)


def l2_sphere(x: PyTree, scale: Scalar = 1.0) -> PyTree:
    """Project onto the trees of Euclidean norm `scale`.

    To zero all of them are equally near: there the result has equal elements.

    >>> l2_sphere({"w": torch.tensor([3.0]), "b": torch.tensor([4.0])})
    {'w': tensor([0.6000]), 'b': tensor([0.8000])}
    """
    checks.positive("scale", scale)
    norm = global_norm(x).double()
    is_zero = norm == 0
    length_of_ones = math.sqrt(sum(working(leaf).numel() for leaf in tree.leaves(x)))
    divisor = torch.where(is_zero, length_of_ones, norm)

    def scaled(x: Tensor) -> Tensor:
        return torch.where(is_zero, torch.ones_like(x), x) / divisor * scale

    return leafwise(scaled, {"x": x})


def l2_ball(x: PyTree, scale: Scalar = 1.0) -> PyTree:
    """Project onto the trees of Euclidean norm at most `scale`.

    >>> l2_ball({"w": torch.tensor([3.0]), "b": torch.tensor([4.0])}, scale=10.0)
    {'w': tensor([3.]), 'b': tensor([4.])}
    """
    checks.positive("scale", scale)
    norm = global_norm(x).double()
    divisor = torch.maximum(norm, torch.zeros_like(norm) + scale)
    return leafwise(lambda x: torch.where(norm <= scale, x, x / divisor * scale), {"x": x})


def vector(x: PyTree, a: PyTree) -> PyTree:
    """Project onto the multiples of the tree `a`: `a <x, a> / <a, a>`; zero where `a` is.

    >>> vector({"w": torch.tensor([2.0, 3.0])}, {"w": torch.tensor([0.0, 2.0])})
    {'w': tensor([0., 3.])}
    """
    along = _quotient(_dot("vector", x, a), _dot("vector", a, a))
    return leafwise(lambda x, a: along * a, {"x": x, "a": a})


def hyperplane(x: PyTree, a: PyTree, b: Scalar) -> PyTree:
    """Project onto the trees `y` with `<a, y> = b`; a zero `a` leaves `x` as it is.

    >>> hyperplane({"w": torch.tensor([2.0, 3.0])}, {"w": torch.tensor([1.0, 1.0])}, b=1.0)
    {'w': tensor([0., 1.])}
    """
    checks.scalar("b", b)
    distance = _quotient(b - _dot("hyperplane", x, a), _dot("hyperplane", a, a))
    return leafwise(lambda x, a: x + distance * a, {"x": x, "a": a})


def halfspace(x: PyTree, a: PyTree, b: Scalar) -> PyTree:
    """Project onto the trees `y` with `<a, y> <= b`; a zero `a` leaves `x` as it is.

    >>> halfspace({"w": torch.tensor([2.0, 3.0])}, {"w": torch.tensor([1.0, 1.0])}, b=9.0)
    {'w': tensor([2., 3.])}
    """
    checks.scalar("b", b)
    distance = _quotient(b - _dot("halfspace", x, a), _dot("halfspace", a, a)).clamp(max=0)
    return leafwise(lambda x, a: x + distance * a, {"x": x, "a": a})


def _threshold(values: Tensor, scale: Scalar) -> Tensor:
    """Return the `tau` for which `max(values - tau, 0)` sums to `scale`."""
    largest = values.amax()  # differences from it lose no digits, however large the values
    descending = torch.sort(values - largest, descending=True).values
    counts = torch.arange(1, len(values) + 1, dtype=torch.float64, device=values.device)
    candidates = (torch.cumsum(descending, 0) - scale) / counts
    # tau is the largest of these means: an element below the mean of those before it lowers it.
    tau: Tensor = largest + candidates.amax()
    return tau


def _elements(who: str, x: PyTree) -> Tensor:
    """Return the elements of all leaves in one vector of float64."""
    _check(who, x)
    if tree.size(x) == 0:
        raise ValueError(f"{who}: expected a tree with at least one element.")
    return torch.cat([working(leaf).double().reshape(-1) for leaf in tree.leaves(x)])


def _dot(who: str, x: PyTree, a: PyTree) -> Tensor:
    """Return the inner product of trees that are alike, in float64."""
    checks.same_leaves({"x": x, "a": a})
    _check(who, x)
    return tree.dot(tree.cast(x, torch.float64), tree.cast(a, torch.float64))


def _quotient(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return the quotient, or 0 where the denominator is."""
    is_zero = denominator == 0
    return torch.where(is_zero, 0.0, numerator / torch.where(is_zero, 1.0, denominator))


def _like(x: PyTree, bound: Any) -> PyTree:
    """Return a bound as a tree like `x`."""
    if _is_number(bound):
        return tree.map(lambda leaf: torch.full_like(leaf, bound), x)
    if isinstance(bound, Tensor) and bound.ndim == 0:
        return tree.map(lambda leaf: torch.zeros_like(leaf) + bound.to(leaf.dtype), x)
    return bound


def _is_number(bound: Any) -> bool:
    return isinstance(bound, int | float) and not isinstance(bound, bool)


def _check(who: str, x: PyTree) -> None:
    """Require tensors of real floating-point numbers."""
    checks.trainable(x, "x")
    for path, leaf in zip(tree.path_strings(x, "x"), tree.leaves(x), strict=True):
        if leaf.is_complex():
            raise TypeError(f"{who}: {path} is a tensor of {leaf.dtype}, expected real numbers.")
