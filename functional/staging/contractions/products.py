"""Products with one result for each example: what they are made of, and where a graph has them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from .labels import Axes, Label, Renaming, Row, flat, fresh, renamed, size

aten = torch.ops.aten


@dataclass(frozen=True)
class Operand:
    """A tensor of the graph, with the labels of its axes."""

    node: fx.Node
    axes: Axes

    @property
    def labels(self) -> Row:
        """The labels that it has."""
        return flat(self.axes)

    def renamed(self, renaming: Renaming) -> Operand:
        """Return the same tensor with other labels."""
        return replace(self, axes=renamed(self.axes, renaming))

    def value(self) -> Tensor:
        """Return the tensor, one axis for each row; its meaning in the graph being recorded."""
        value: Tensor = self.node.meta["val"]
        return value


@dataclass(frozen=True)
class Patches(Operand):
    """What a convolution's kernel sees: of the input `node`, an axis for each of `axes`.

    Those are the batch, the groups, the channels of a group, the places in the kernel, and the
    places that the kernel is laid on.
    """

    geometry: Geometry

    def value(self) -> Tensor:
        """Return the patches, views of the padded input."""
        x: Tensor = super().value()
        geometry = self.geometry
        dims = len(geometry.kernel)
        padding = [amount for pad in reversed(geometry.padding) for amount in (pad, pad)]
        if any(padding):
            x = aten.constant_pad_nd.default(x, padding, 0.0)
        for axis in range(dims):
            reach = geometry.dilation[axis] * (geometry.kernel[axis] - 1) + 1
            x = x.unfold(2 + axis, reach, geometry.stride[axis])
            x = x.narrow(2 + axis, 0, geometry.places[axis])
        for axis in range(dims):
            places = 2 + dims + axis
            x = aten.slice.Tensor(x, places, 0, x.shape[places], geometry.dilation[axis])
        x = x.unflatten(1, (geometry.groups, -1))
        return x.permute(0, 1, 2, *range(3 + dims, 3 + 2 * dims), *range(3, 3 + dims))


@dataclass(frozen=True)
class Geometry:
    """The settings of a convolution, an entry for each axis of space."""

    groups: int
    kernel: tuple[int, ...]
    places: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]


@dataclass(frozen=True)
class Selection(Operand):
    """A one where an entry of the integer tensor `node` names a row: axes of it, then of rows.

    It is never formed.
    """

    def value(self) -> Tensor:
        """Return the indices of the rows, whose axes are those but the last."""
        return super().value()


@dataclass(frozen=True)
class Weight:
    """What a product is multiplied with, or divided by."""

    operand: Operand
    divides: bool = False

    def renamed(self, renaming: Renaming) -> Weight:
        """Return the same with other labels."""
        return replace(self, operand=self.operand.renamed(renaming))


@dataclass(frozen=True)
class Term:
    """`scale * weights * left * right`, summed over the labels that no result has.

    `source` is the node that forms it.
    """

    source: fx.Node
    left: Operand
    right: Operand
    weights: tuple[Weight, ...] = ()
    scale: float = 1.0

    def renamed(self, renaming: Renaming) -> Term:
        """Return the same with other labels."""
        return replace(
            self,
            left=self.left.renamed(renaming),
            right=self.right.renamed(renaming),
            weights=tuple(weight.renamed(renaming) for weight in self.weights),
        )

    @property
    def labels(self) -> Row:
        """Every label of the two operands, once."""
        return tuple(dict.fromkeys((*self.left.labels, *self.right.labels)))

    @property
    def flops(self) -> int:
        """How many multiplications it takes to form it."""
        sides = (self.left, self.right)
        rows = {n for side in sides if isinstance(side, Selection) for n in side.axes[-1]}
        return size(label for label in self.labels if label not in rows)

    @property
    def weighted_labels(self) -> set[Label]:
        """The labels of all weights."""
        return {label for weight in self.weights for label in weight.operand.labels}

    def flipped(self) -> Term:
        """Return the same product with its operands in the other order."""
        return replace(self, left=self.right, right=self.left)


Found = tuple[Term, Axes]


def _arguments(node: fx.Node) -> tuple[Any, ...]:
    return node.args


def product(node: fx.Node) -> Found | None:
    """Return the product that a node forms and the axes of the node; None if it forms none."""
    recognise = _PRODUCTS.get(node.target)
    if recognise is None or not _is_real(node) or any(map(_is_empty, node.all_input_nodes)):
        return None
    found = recognise(node)
    if found is None:
        return None
    term, _ = found
    left, right = set(term.left.labels), set(term.right.labels)
    result = set(flat(found[1]))
    # Neither operand has all of it: else it is no larger than what it is made of.
    return found if (left - right) & result and (right - left) & result else None


def _is_real(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype.is_floating_point


def _is_empty(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and not value.numel()


def _shape(node: Any) -> torch.Size:
    shape: torch.Size = node.meta["val"].shape
    return shape


def _bmm(node: fx.Node) -> Found | None:
    left, right = _arguments(node)
    if not isinstance(left, fx.Node) or not isinstance(right, fx.Node):
        return None
    b, i, t, j = fresh([*_shape(left), _shape(right)[2]])
    return Term(node, Operand(left, (b, i, t)), Operand(right, (b, t, j))), (b, i, j)


def _mm(node: fx.Node) -> Found | None:
    """Recognise a column times a row; the examples are among the rows of the column."""
    left, right = _arguments(node)
    if not isinstance(left, fx.Node) or not isinstance(right, fx.Node) or _shape(left)[1] != 1:
        return None
    i, j = fresh([_shape(left)[0], _shape(right)[1]])
    return Term(node, Operand(left, (i, ())), Operand(right, ((), j))), (i, j)


def _mul(node: fx.Node) -> Found | None:
    """Recognise tensors that broadcast against each other, and have an axis in common."""
    left, right = _arguments(node)
    if not isinstance(left, fx.Node) or not isinstance(right, fx.Node):
        return None
    if not (_is_real(left) and _is_real(right)):
        return None
    axes = fresh(_shape(node))
    first, second = (_broadcast(side, axes) for side in (left, right))
    shared = set(first.labels) & set(second.labels)
    return (Term(node, first, second), axes) if shared else None


def _broadcast(node: fx.Node, axes: Axes) -> Operand:
    """Return an operand of fewer axes; what was repeated to have more is seen as it was before."""
    if node.target is aten.expand.default:
        node = _arguments(node)[0]
    shape = _shape(node)
    rows = zip(axes[len(axes) - len(shape) :], shape, strict=True)
    return Operand(node, tuple(row if length != 1 else () for row, length in rows))


def _convolution(node: fx.Node) -> Found | None:
    """Recognise the gradient of kernels; functorch makes the examples groups of one convolution."""
    call, which = _arguments(node)
    if which != 1 or not isinstance(call, fx.Node):
        return None
    if call.target is not aten.convolution_backward.default:
        return None
    grad, x, weight, _, stride, padding, dilation, transposed, _, groups, _ = _arguments(call)
    if transposed or groups == 1:
        return None
    batch, out, *places = _shape(grad)
    kernel = _shape(weight)[2:]
    settings = (tuple(s) * (len(kernel) // len(s)) for s in (stride, padding, dilation))
    geometry = Geometry(groups, tuple(kernel), tuple(places), *settings)
    n, g, o, c = fresh([batch, groups, out // groups, _shape(weight)[1]])
    k, at = fresh(kernel), fresh(places)
    left = Operand(grad, (n, g + o, *at))
    right = Patches(x, (n, g, c, *k, *at), geometry)
    return Term(node, left, right), (g + o, c, *k)


def _lookup(node: fx.Node) -> Found | None:
    """Recognise the gradient of tables; functorch puts those of all examples into one."""
    grad, indices, rows, padding, by_frequency = _arguments(node)
    examples = _shape(indices)[0] if _shape(indices) else 1
    own = _without_offsets(indices, rows // examples)
    if own is None or padding != -1 or by_frequency:
        return None
    b, *places, d = fresh(_shape(grad))
    if math.prod(_shape(grad)[:-1]) != math.prod(_shape(indices)) or not b:
        return None
    row = fresh([rows // examples])[0]
    left = Selection(own, (b, *places, row))
    return Term(node, left, Operand(grad, (b, *places, d))), (b + row, d)


def _without_offsets(indices: Any, rows: int) -> fx.Node | None:
    """Return `x` of `x + arange(examples)[:, None] * rows`, which functorch adds backwards.

    Who adds that to look rows up, forwards, may mean other rows than those of an example.
    """
    if getattr(indices, "target", None) is not aten.add.Tensor:
        return None
    own, offsets = indices.args
    if any(user.target is not aten.embedding_dense_backward.default for user in indices.users):
        return None
    if _shape(own) != _shape(indices) or not _varies_by_example(offsets, _shape(own)):
        return None
    while getattr(offsets, "target", None) in (aten.view.default, aten.unsqueeze.default):
        offsets = offsets.args[0]
    if getattr(offsets, "target", None) not in (aten.arange.start_step, aten.arange.start):
        return None
    start, _, step = (*offsets.args, 1)[:3]
    return own if start == 0 and step == rows else None


def _varies_by_example(offsets: Any, shape: Sequence[int]) -> bool:
    """Say whether numbers that are added to a tensor differ along its first axis only."""
    return isinstance(offsets, fx.Node) and _shape(offsets) == (shape[0], *[1] * (len(shape) - 1))


_PRODUCTS: dict[Any, Callable[[fx.Node], Found | None]] = {
    aten.bmm.default: _bmm,
    aten.mm.default: _mm,
    aten.mul.Tensor: _mul,
    aten.embedding_dense_backward.default: _lookup,
    operator.getitem: _convolution,
}
