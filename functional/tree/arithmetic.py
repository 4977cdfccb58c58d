"""Vector-space operations on trees of tensors."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .pytree import (
    PyTree,
    _columns,
    flatten,
    leaves,
    map,  # noqa: A004 - JAX's name
    path_strings,
    unflatten,
)


def zeros_like(tree: PyTree, dtype: torch.dtype | None = None) -> PyTree:
    """Return a tree of zeros with the shapes of `tree`, in `dtype` or each leaf's own.

    >>> zeros_like({"w": torch.ones(2)})
    {'w': tensor([0., 0.])}
    """
    return map(lambda leaf: torch.zeros_like(leaf, dtype=dtype), tree)


def ones_like(tree: PyTree, dtype: torch.dtype | None = None) -> PyTree:
    """Return a tree of ones with the shapes of `tree`, in `dtype` or each leaf's own.

    >>> ones_like({"w": torch.zeros(2)}, dtype=torch.int64)
    {'w': tensor([1, 1])}
    """
    return map(lambda leaf: torch.ones_like(leaf, dtype=dtype), tree)


def cast(tree: PyTree, dtype: torch.dtype) -> PyTree:
    """Convert the floating-point leaves to `dtype`; integers, booleans and keys stay as they are.

    >>> cast({"w": torch.ones(1), "step": torch.tensor(3)}, torch.bfloat16)
    {'w': tensor([1.], dtype=torch.bfloat16), 'step': tensor(3)}
    """
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"tree.cast: expected a torch.dtype for dtype, got {dtype!r}.")
    return map(lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf, tree)


def dot(left: PyTree, right: PyTree) -> Tensor:
    """Return the inner product `sum_i conj(left_i) right_i` over all leaves, a 0-d tensor.

    Corresponding leaves have equal shapes; the dtype is the one to which the leaves promote.

    >>> dot({"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([3.0, 4.0])})
    tensor(11.)
    """
    values, spec = flatten(left)
    (others,) = _columns(spec, left, (right,), ("left", "right"))
    _check_shapes("tree.dot", left, "left", others, "right")
    products = [torch.sum(x.conj() * y) for x, y in zip(values, others, strict=True)]
    return functools.reduce(torch.add, products) if products else torch.zeros(())


def norm(tree: PyTree) -> Tensor:
    """Return the Euclidean norm of all leaves taken as one vector, a 0-d tensor.

    It is the norm of the leaves' norms, as in `torch.nn.utils.get_total_norm`: a leaf's squares
    must fit in its dtype. An empty tree has norm 0.

    >>> norm({"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])})
    tensor(5.)
    """
    norms = [torch.linalg.vector_norm(leaf) for leaf in leaves(tree)]
    if not norms:
        return torch.zeros(())
    dtype = functools.reduce(torch.promote_types, [leaf.dtype for leaf in norms])
    total: Tensor = torch.linalg.vector_norm(torch.stack([leaf.to(dtype) for leaf in norms]))
    return total


def mean(trees: Sequence[PyTree], weights: Sequence[float] | None = None) -> PyTree:
    """Return the mean of equal trees, leaf by leaf, or `sum_i w_i tree_i / sum_i w_i`.

    Of the parameters of one model trained several times from one start it is a *model soup*
    (Wortsman et al. 2022, arXiv:2203.05482). Narrower leaves than float32 are averaged in float32
    and rounded once.

    Parameters
    ----------
    trees
        At least one; all of one structure, shapes and dtypes.
    weights
        A number of at least 0 for each tree, by default equal ones; not all are 0.

    Raises
    ------
    TypeError
        A leaf is not floating-point or complex (a mean of counts is none).
    ValueError
        The trees differ, or the weights are not as above.

    Examples
    --------
    >>> soup = [{"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 6.0])}]
    >>> mean(soup)
    {'w': tensor([2., 4.])}
    >>> mean(soup, weights=[3, 1])
    {'w': tensor([1.5000, 3.0000])}
    """
    if not isinstance(trees, Sequence):
        raise TypeError(f"tree.mean: expected a list or tuple of trees, got {trees!r}.")
    if not trees:
        raise ValueError("tree.mean: expected at least one tree, got none.")
    stacked = stack(trees)
    for path, leaf in zip(path_strings(stacked, "trees[0]"), leaves(stacked), strict=True):
        if not (leaf.is_floating_point() or leaf.is_complex()):
            raise TypeError(f"tree.mean: expected floating-point leaves, {path} is {leaf.dtype}.")
    shares = _shares(len(trees), weights)

    def average(leaf: Tensor) -> Tensor:
        wide = leaf.to(torch.promote_types(leaf.dtype, torch.float32))
        total: Tensor = torch.tensordot(wide.new_tensor(shares), wide, dims=1)
        return total.to(leaf.dtype)

    return map(average, stacked)


def _shares(count: int, weights: Sequence[float] | None) -> list[float]:
    """Return weights that sum to one."""
    weights = [1.0] * count if weights is None else [float(weight) for weight in weights]
    total = sum(weights)
    if len(weights) != count or min(weights) < 0 or not 0 < total < math.inf:
        raise ValueError(
            f"tree.mean: expected {count} finite weights >= 0 that are not all 0, got {weights}."
        )
    return [weight / total for weight in weights]


def size(tree: PyTree) -> int:
    """Return the number of elements in all leaves.

    >>> size({"w": torch.ones(3, 2), "b": torch.ones(3)})
    9
    """
    return sum(math.prod(leaf.shape) for leaf in leaves(tree))


def nbytes(tree: PyTree) -> int:
    """Return the number of bytes that the elements of all leaves take.

    >>> nbytes({"w": torch.ones(3, 2), "b": torch.ones(3, dtype=torch.float64)})
    48
    """
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves(tree))


def ravel(tree: PyTree) -> tuple[Tensor, Callable[[Tensor], PyTree]]:
    """Return all leaves as one vector, and the function that undoes it.

    The vector has the dtype to which the leaves promote; `unravel` takes a vector of that dtype and
    restores each leaf's own.

    >>> vector, unravel = ravel({"w": torch.ones(1, 2), "b": torch.zeros(1)})
    >>> vector
    tensor([0., 1., 1.])
    >>> unravel(vector + 1)
    {'w': tensor([[2., 2.]]), 'b': tensor([1.])}
    """
    values, spec = flatten(tree)
    shapes = [leaf.shape for leaf in values]
    dtypes = [leaf.dtype for leaf in values]
    sizes = [math.prod(shape) for shape in shapes]
    common = functools.reduce(torch.promote_types, dtypes) if dtypes else torch.get_default_dtype()
    vector = torch.cat([leaf.reshape(-1).to(common) for leaf in values] or [torch.zeros(0)])

    def unravel(vector: Tensor) -> PyTree:
        if vector.shape != (sum(sizes),):
            raise ValueError(
                f"unravel: expected a vector of shape ({sum(sizes)},), got {tuple(vector.shape)}."
            )
        if vector.dtype != common:
            raise TypeError(f"unravel: expected a vector of {common}, got {vector.dtype}.")
        parts = torch.split(vector, sizes)
        return unflatten(
            spec,
            [
                part.reshape(shape).to(dtype)
                for part, shape, dtype in zip(parts, shapes, dtypes, strict=True)
            ],
        )

    return vector, unravel


def stack(trees: Sequence[PyTree]) -> PyTree:
    """Stack equal trees leaf by leaf along a new leading axis.

    >>> stack([{"w": torch.zeros(2)}, {"w": torch.ones(2)}])
    {'w': tensor([[0., 0.],
            [1., 1.]])}
    """
    if not trees:
        raise ValueError("tree.stack: expected at least one tree, got none.")
    names = [f"trees[{index}]" for index in range(len(trees))]
    values, spec = flatten(trees[0])
    columns = _columns(spec, trees[0], trees[1:], names)
    for path, leaf in zip(path_strings(trees[0], names[0]), values, strict=True):
        if not isinstance(leaf, Tensor):
            raise TypeError(f"tree.stack: expected tensors, {path} is {leaf!r}.")
    for name, column in zip(names[1:], columns, strict=True):
        _check_shapes("tree.stack", trees[0], names[0], column, name)
        for place, first, other in zip(path_strings(trees[0], name), values, column, strict=True):
            if first.dtype != other.dtype:
                raise TypeError(f"tree.stack: {place} is {other.dtype}, expected {first.dtype}.")
    return unflatten(spec, [torch.stack(row) for row in zip(values, *columns, strict=True)])


def unstack(tree: PyTree) -> list[PyTree]:
    """Undo `stack`: return one tree for each index of the leading axis.

    >>> unstack({"w": torch.tensor([1.0, 2.0])})
    [{'w': tensor(1.)}, {'w': tensor(2.)}]
    """
    values, spec = flatten(tree)
    lengths = {leaf.shape[0] if leaf.ndim else None for leaf in values}
    if len(lengths) != 1 or None in lengths:
        raise ValueError(
            "tree.unstack: expected leaves with one common leading length, "
            f"got shapes {[tuple(leaf.shape) for leaf in values]}."
        )
    return [
        unflatten(spec, list(row)) for row in zip(*[leaf.unbind(0) for leaf in values], strict=True)
    ]


def _check_shapes(
    caller: str, tree: PyTree, name: str, others: Sequence[Tensor], other_name: str
) -> None:
    """Refuse leaves whose shapes differ from those of `tree`, naming the path."""
    for place, (leaf, other) in enumerate(zip(leaves(tree), others, strict=True)):
        shape = getattr(other, "shape", None)
        if shape != leaf.shape:
            path = path_strings(tree, "")[place]
            found = "is no tensor" if shape is None else f"has shape {tuple(shape)}"
            raise ValueError(
                f"{caller}: {other_name}{path} {found}, {name}{path} has {tuple(leaf.shape)}."
            )
