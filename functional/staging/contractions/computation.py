"""Sums of products in the order in which no product is formed."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from .labels import Row, flat, size
from .layout import Layout, of_squares, of_sums
from .meaning import Meaning
from .products import Operand, Patches, Selection, Term

aten = torch.ops.aten


def compute(value: Meaning, like: Tensor) -> Tensor:
    """Compute what a node means, in the shape, strides and dtype of its tensor."""
    result = (_squared if value.squared else _summed)(value, like.dtype)
    result = result.reshape(like.shape).to(like.dtype)
    if result.stride() == like.stride():
        return result
    # Views that follow were recorded for the strides of `like`.
    order = sorted(range(like.dim()), key=lambda axis: -like.stride()[axis])
    back = [order.index(axis) for axis in range(like.dim())]
    return result.permute(order).contiguous().permute(back)


class _Labelled(NamedTuple):
    """A tensor with one axis for each label."""

    tensor: Tensor
    labels: Row

    def arranged(self, order: Row) -> Tensor:
        """Return it with the axes in order, of length one where it has none."""
        places = [self.labels.index(label) for label in order if label in self.labels]
        shape = [label.size if label in self.labels else 1 for label in order]
        return self.tensor.permute(places).reshape(shape)

    def matrices(self, batch: Row, rows: Row, columns: Row) -> Tensor:
        """Return it as matrices, with the axes `batch` in front, copied only where it must be."""
        shape = [label.size if label in self.labels else 1 for label in batch]
        if self._is_memory(columns) and self._is_memory(rows):
            across = self.arranged((*batch, *columns, *rows))
            return across.view(*shape, size(columns), size(rows)).mT
        along = self.arranged((*batch, *rows, *columns))
        return along.reshape(*shape, size(rows), size(columns))

    def _is_memory(self, labels: Row) -> bool:
        """Say whether some of the axes can be viewed as one."""
        axes = [self.labels.index(label) for label in labels if label in self.labels]
        sizes, strides = self.tensor.shape, self.tensor.stride()
        return all(strides[a] == strides[b] * sizes[b] for a, b in itertools.pairwise(axes))


def _labelled(operand: Operand, dtype: torch.dtype) -> _Labelled:
    tensor, labels = operand.value(), operand.labels
    tensor = tensor if isinstance(operand, Selection) else tensor.to(dtype)
    if isinstance(operand, Selection):
        labels = flat(operand.axes[:-1])
    return _Labelled(tensor.reshape([label.size for label in labels]), labels)


def _sides(term: Term, dtype: torch.dtype) -> tuple[_Labelled, _Labelled]:
    """Return the two operands of a term, its weights and scale multiplied into the smaller."""
    left, right = _labelled(term.left, dtype), _labelled(term.right, dtype)
    needed = term.weighted_labels
    on_left, on_right = (
        not isinstance(operand, Selection) and needed <= set(side.labels)
        for operand, side in ((term.left, left), (term.right, right))
    )
    if on_left and not (on_right and size(right.labels) < size(left.labels)):
        return _weighted(left, term), right
    return left, _weighted(right, term)


def _weighted(side: _Labelled, term: Term) -> _Labelled:
    tensor = side.tensor if term.scale == 1 else side.tensor * term.scale
    for weight in term.weights:
        factor = _labelled(weight.operand, tensor.dtype).arranged(side.labels)
        tensor = tensor / factor if weight.divides else tensor * factor
    return side._replace(tensor=tensor)


class _Side(NamedTuple):
    """One operand as matrices of rows and contracted columns, or the rows that each column selects.

    Matrices are divided by their largest magnitude, `scale`: the squares of an operand may overflow
    where those of the product do not.
    """

    tensor: Tensor
    scale: Tensor | None


def _squared(value: Meaning, dtype: torch.dtype) -> Tensor:
    """Sum the squares of a sum of products by Gram matrices.

    The equation is ::

        |sum_t p_t q_t'|^2 = sum_ts <p_t, p_s> <q_t, q_s>
    """
    found = of_squares(value)
    assert found is not None
    terms, layout = found
    pairs = _joined(terms, layout, torch.promote_types(dtype, torch.float32))
    total: Tensor | None = None
    for index, first in enumerate(pairs):
        for second in pairs[: index + 1]:
            part = _inner(first, second) * (1 if second is first else 2)
            total = part if total is None else total + part
    assert total is not None
    if len(pairs) > 1 or pairs[0][0].tensor.shape[-1] > 1:
        total = total.clamp(min=0)  # which it is but for rounding
    kept = flat(value.axes)
    order = [layout.batch.index(label) for label in kept]
    order += [axis for axis in range(len(layout.batch)) if axis not in order]
    total = total.permute(order)
    if len(order) > len(kept):
        total = total.sum(list(range(len(kept), len(order))))
    return total.sqrt() if value.rooted else total


_Pair = tuple[_Side, _Side]


def _joined(terms: tuple[Term, ...], layout: Layout, dtype: torch.dtype) -> list[_Pair]:
    """Return the operands of the terms; products of matrices become one, side by side."""
    pairs: list[_Pair] = []
    dense: list[tuple[Tensor, Tensor]] = []
    for term in terms:
        operands, columns = (term.left, term.right), layout.contracted(term)
        sides = _sides(term, dtype)
        if not any(isinstance(operand, Selection) for operand in operands):
            left, right = sides
            dense.append(
                (
                    left.matrices(layout.batch, layout.left, columns),
                    right.matrices(layout.batch, layout.right, columns),
                )
            )
            continue
        first, second = (
            _Side(side.matrices(layout.batch, (), columns).squeeze(-2), None)
            if isinstance(operand, Selection)
            else _normalized(side.matrices(layout.batch, rows, columns))
            for operand, side, rows in zip(operands, sides, layout[1:], strict=True)
        )
        pairs.append((first, second))
    if dense:
        first, second = (_normalized(_beside(side)) for side in zip(*dense, strict=True))
        pairs.append((first, second))
    return pairs


def _beside(matrices: tuple[Tensor, ...]) -> Tensor:
    """Return matrices with the columns of all; batch axes broadcast."""
    if len(matrices) == 1:
        return matrices[0]
    batch = torch.broadcast_shapes(*(matrix.shape[:-2] for matrix in matrices))
    return torch.cat([matrix.expand(*batch, *matrix.shape[-2:]) for matrix in matrices], -1)


def _normalized(matrices: Tensor) -> _Side:
    scale = matrices.abs().amax((-2, -1), keepdim=True)
    scale = torch.where(scale > 0, scale, 1)
    return _Side(matrices / scale, scale[..., 0, 0])


def _inner(first: _Pair, second: _Pair) -> Tensor:
    """Return the inner products of two sums of products, for each element of the batch axes."""
    left, right = (_gram(one, other) for one, other in zip(first, second, strict=True))
    total = (left * right).sum((-2, -1))
    for pair in (first, second):
        scales = [side.scale for side in pair if side.scale is not None]
        total = total * math.prod(scales[1:], start=scales[0])
    return total


def _gram(first: _Side, second: _Side) -> Tensor:
    """Return the inner products of the columns of one with those of the other."""
    if first is second and first.scale is not None and first.tensor.shape[-1] == 1:
        return first.tensor.square().sum(-2, keepdim=True)
    if first.scale is not None and second.scale is not None:
        return first.tensor.mT @ second.tensor
    if first.scale is None and second.scale is None:
        return (first.tensor[..., :, None] == second.tensor[..., None, :]).to(torch.float32)
    if first.scale is not None:
        return _gram(second, first).mT
    rows = first.tensor[..., None].expand(*first.tensor.shape, second.tensor.shape[-1])
    return second.tensor.gather(-2, rows)


def _summed(value: Meaning, dtype: torch.dtype) -> Tensor:
    """Sum products over the examples as one product, the weights multiplied into an operand.

    The equation is ::

        sum_b w_b (sum_t p_bt q_bt') = (w p)' q
    """
    found = of_sums(value)
    assert found is not None
    terms, layout = found
    kept = flat(value.axes)
    if kept and kept[0] in layout.right:  # so that the result is contiguous as it is computed
        terms, layout = tuple(t.flipped() for t in terms), layout.flipped()
    total: Tensor | None = None
    dense: list[tuple[Tensor, Tensor]] = []
    for term in terms:
        part = _special(term, layout, dtype)
        if part is None:
            dense.append(_flattened(term, layout, dtype))
        else:
            total = part if total is None else total + part
    if dense:
        left, right = (_beside(side) for side in zip(*dense, strict=True))
        part = left @ right.mT
        total = part if total is None else total + part
    assert total is not None
    labels = (*layout.batch, *layout.left, *layout.right)
    return _Labelled(total.reshape([label.size for label in labels]), labels).arranged(kept)


def _flattened(term: Term, layout: Layout, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the operands as matrices, what only one of them is summed over summed before."""
    left, right = _sides(term, dtype)
    columns = tuple(n for n in layout.contracted(term) if n in left.labels and n in right.labels)
    left = _without(left, (*layout.batch, *layout.left, *columns))
    right = _without(right, (*layout.batch, *layout.right, *columns))
    return (
        left.matrices(layout.batch, layout.left, columns),
        right.matrices(layout.batch, layout.right, columns),
    )


def _without(side: _Labelled, kept: Row) -> _Labelled:
    over = [axis for axis, label in enumerate(side.labels) if label not in kept]
    if not over:
        return side
    return _Labelled(side.tensor.sum(over), tuple(n for n in side.labels if n in kept))


def _special(term: Term, layout: Layout, dtype: torch.dtype) -> Tensor | None:
    """Sum the products of an operand that is better not formed."""
    if isinstance(term.left, Selection) or isinstance(term.right, Selection):
        return _looked_up(term, layout, dtype)
    if isinstance(term.left, Patches) or isinstance(term.right, Patches):
        return _convolved(term, layout, dtype)
    return None


def _looked_up(term: Term, layout: Layout, dtype: torch.dtype) -> Tensor:
    """Add each column to the row that it belongs to, over all examples."""
    if isinstance(term.right, Selection):
        return _looked_up(term.flipped(), layout.flipped(), dtype).mT
    indices, grad = _sides(term, dtype)
    at = grad.arranged((*indices.labels, *layout.right))
    at = at.reshape(*indices.tensor.shape, size(layout.right))
    total: Tensor = aten.embedding_dense_backward.default(
        at, indices.tensor, size(layout.left), -1, False
    )
    return total


def _convolved(term: Term, layout: Layout, dtype: torch.dtype) -> Tensor | None:
    """Take the gradient of a kernel for all examples at once: what were groups becomes a batch."""
    if isinstance(term.left, Patches):
        turned = _convolved(term.flipped(), layout.flipped(), dtype)
        return None if turned is None else turned.mT
    patches, geometry = term.right, term.right.geometry  # type: ignore[attr-defined]
    dims = len(geometry.kernel)
    n, groups, channels = patches.axes[:3]
    inner, places = flat(patches.axes[2 : 3 + dims]), flat(patches.axes[3 + dims :])
    summed = tuple(label for label in groups if label not in layout.batch)
    weights = term.weighted_labels
    is_kernel = layout.right == inner and set(layout.batch) < set(groups)
    if not is_kernel or not weights <= set(term.left.labels):
        return None
    side = _weighted(_labelled(term.left, dtype), term)
    grad = side.arranged((*summed, *n, *layout.batch, *layout.left, *places))
    batch, out = size((*summed, *n)), size((*layout.batch, *layout.left))
    x = Operand.value(patches).to(dtype)
    space = x.shape[2:]
    spread = x.reshape([label.size for label in (*n, *groups)] + [size(channels), *space])
    order = [(*n, *groups).index(label) for label in (*summed, *n, *layout.batch)]
    spread = spread.permute(*order, *range(len(order), spread.dim()))
    spread = spread.reshape(batch, size((*layout.batch, *channels)), *space)
    total: Tensor = aten.convolution_backward.default(
        # Torch's own convolution of float64 takes no other layout.
        grad.reshape(batch, out, *geometry.places).contiguous(),
        spread.contiguous(),
        grad.new_empty(out, size(channels), *geometry.kernel),
        None,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        False,
        [0] * dims,
        size(layout.batch),
        [False, True, False],
    )[1]
    shape = [label.size for label in layout.batch]
    return total.reshape(*shape, size(layout.left), size(layout.right))
