"""What the nodes of a graph mean in terms of the products that they are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from .labels import Axes, Label, Renaming, Row, flat, fresh, matched, renamed, size, viewed
from .products import Operand, Selection, Term, Weight

aten = torch.ops.aten


@dataclass(frozen=True)
class Meaning:
    """A sum of products, or the squares of its elements; summed over the labels it has no more.

    With `rooted`, the square root of that.
    """

    terms: tuple[Term, ...]
    axes: Axes
    squared: bool = False
    rooted: bool = False
    #: The labels summed over; of a square, after squaring.
    summed: Row = ()

    def renamed(self, renaming: Renaming) -> Meaning:
        """Return the same with other labels."""
        if not renaming:
            return self
        return replace(
            self,
            terms=tuple(term.renamed(renaming) for term in self.terms),
            axes=renamed(self.axes, renaming),
            summed=flat(renamed((self.summed,), renaming)),
        )

    def relabelled(self) -> Meaning:
        """Return the same with labels of its own."""
        labels = dict.fromkeys(label for term in self.terms for label in term.labels)
        return self.renamed({label: (Label(label.size),) for label in (*labels, *flat(self.axes))})


#: Gives what a node means, given what its arguments do; None if nothing that is known here.
Rule = Callable[[fx.Node, dict[fx.Node, Meaning]], Meaning | None]


def meaning(node: fx.Node, of: dict[fx.Node, Meaning]) -> Meaning | None:
    """Return what a node means that reads some of the nodes `of` which the meaning is known."""
    rule = _RULES.get(node.target)
    value = node.meta.get("val")
    if rule is None or not isinstance(value, Tensor):
        return None
    found = rule(node, of)
    # Rounding to a narrower type is part of what a program computes.
    narrower = any(
        n in of and n.meta["val"].dtype.itemsize > value.dtype.itemsize
        for n in node.all_input_nodes
    )
    return None if narrower or not value.dtype.is_floating_point else found


def _arguments(node: fx.Node) -> tuple[Any, ...]:
    return node.args


def _same(node: fx.Node, of: dict[fx.Node, Meaning]) -> Meaning | None:
    (value,) = _arguments(node)[:1]
    return of[value]


def _view(node: fx.Node, of: dict[fx.Node, Meaning]) -> Meaning | None:
    value = of[_arguments(node)[0]]
    found = viewed(value.axes, node.meta["val"].shape)
    if found is None:
        return None
    axes, splits = found
    return replace(value.renamed(splits), axes=axes)


def _permute(node: fx.Node, of: dict[fx.Node, Meaning]) -> Meaning | None:
    value = of[_arguments(node)[0]]
    dims = len(value.axes)
    order = list(range(dims))
    if node.target is aten.permute.default:
        order = [axis % dims for axis in _arguments(node)[1]]
    elif dims > 1:
        first, second = _arguments(node)[1:] or (0, 1)  # `t` exchanges two
        order[first], order[second] = order[second], order[first]
    return replace(value, axes=tuple(value.axes[axis] for axis in order))


def _power(node: fx.Node, of: dict[fx.Node, Meaning]) -> Meaning | None:
    base, exponent = _arguments(node)
    return _square(of.get(base)) if exponent == 2 else None


def _square(value: Meaning | None) -> Meaning | None:
    if value is None or value.squared or value.summed:
        return None
    return replace(value, squared=True)


def _multiply(node: fx.Node, of: dict[fx.Node, Meaning]) -> Meaning | None:
    left, right = _arguments(node)
    return _times(node, left, right, of)


def _divide(node: fx.Node, of: dict[fx.Node, Meaning]) -> Meaning | None:
    left, right = _arguments(node)[:2]
    if right in of or node.kwargs:
        return None
    if not isinstance(right, fx.Node):
        return _scaled(of[left], 1 / right) if right else None
    return _weighted(of[left], right, len(node.meta["val"].shape), divides=True)


def _negate(node: fx.Node, of: dict[fx.Node, Meaning]) -> Meaning | None:
    return _scaled(of[_arguments(node)[0]], -1.0)


def _scaled(value: Meaning, scale: float) -> Meaning | None:
    if value.squared or isinstance(scale, complex):
        return None
    return replace(value, terms=tuple(replace(t, scale=t.scale * scale) for t in value.terms))


def _times(node: fx.Node, left: Any, right: Any, of: dict[fx.Node, Meaning]) -> Meaning | None:
    if left in of and right in of:
        return _product(of[left], of[right])
    known, other = (of[left], right) if left in of else (of[right], left)
    if not isinstance(other, fx.Node):
        return _scaled(known, other)
    return _weighted(known, other, len(node.meta["val"].shape))


def _product(first: Meaning, second: Meaning) -> Meaning | None:
    """Return the square of a value that is multiplied by itself."""
    return _square(first) if first == second else None


def _weighted(value: Meaning, other: fx.Node, dims: int, divides: bool = False) -> Meaning | None:
    """Multiply with a tensor that has some of the axes, and never more than an operand has."""
    shape = other.meta["val"].shape
    if dims != len(value.axes) or not other.meta["val"].dtype.is_floating_point:
        return None
    axes = _axes_within(shape, value.axes[dims - len(shape) :])
    return None if axes is None else _with_weight(value, Weight(Operand(other, axes), divides))


def _axes_within(shape: Sequence[int], rows: Axes) -> Axes | None:
    """Return a weight's axes, each as long as the row of labels that it is multiplied with."""
    axes = tuple(row if length != 1 else () for length, row in zip(shape, rows, strict=True))
    fits = all(size(row) == length for length, row in zip(shape, axes, strict=True))
    return axes if fits else None


def _with_weight(value: Meaning, weight: Weight) -> Meaning | None:
    labels = set(weight.operand.labels)
    if value.squared or value.summed:
        return None
    if not all(_takes(term, labels | term.weighted_labels) for term in value.terms):
        return None
    terms = tuple(replace(term, weights=(*term.weights, weight)) for term in value.terms)
    return replace(value, terms=terms)


def _takes(term: Term, labels: set[Label]) -> bool:
    """Say whether one operand has all labels and can be multiplied."""
    return any(
        labels <= set(operand.labels) and not isinstance(operand, Selection)
        for operand in (term.left, term.right)
    )


def _add(node: fx.Node, of: dict[fx.Node, Meaning]) -> Meaning | None:
    left, right = _arguments(node)
    if left not in of or right not in of:
        return None
    first, second = of[left], of[right].relabelled()
    if first.squared or second.squared or first.summed or second.summed:
        return None
    alpha: Any = node.kwargs.get("alpha", 1)
    scale = -alpha if node.target is aten.sub.Tensor else alpha
    added = _scaled(second, scale)
    found = None
    if first.axes and len(first.axes) == len(second.axes):
        found = matched(first.axes, second.axes)
    if found is None or added is None:
        return None
    first, added = first.renamed(found[0]), added.renamed(found[1])
    if first.axes != added.axes:
        return None
    return replace(first, terms=first.terms + added.terms)


def _sum(node: fx.Node, of: dict[fx.Node, Meaning]) -> Meaning | None:
    dims, keep = _reduced(node)
    return _summed(of[_arguments(node)[0]], dims, keep)


def _mean(node: fx.Node, of: dict[fx.Node, Meaning]) -> Meaning | None:
    value = of[_arguments(node)[0]]
    if value.squared:
        return None
    dims, keep = _reduced(node)
    places = dims or range(len(value.axes))
    count = size(flat(tuple(value.axes[axis] for axis in places)))
    scaled = _scaled(value, 1 / count)
    return None if scaled is None else _summed(scaled, dims, keep)


def _reduced(node: fx.Node) -> tuple[Sequence[int], bool]:
    dims: Any = _arguments(node)[1] if len(node.args) > 1 else node.kwargs.get("dim")
    keep = _arguments(node)[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
    return tuple(dims or ()), bool(keep)


def _summed(value: Meaning, dims: Sequence[int], keep: bool) -> Meaning | None:
    rank = len(value.axes)
    over = {axis % rank for axis in dims} if dims else set(range(rank))
    summed = flat(tuple(value.axes[axis] for axis in sorted(over)))
    axes = [() if axis in over else row for axis, row in enumerate(value.axes)]
    if not keep:
        axes = [row for axis, row in enumerate(axes) if axis not in over]
    if value.rooted or (value.summed and not value.squared):
        return None
    return replace(value, axes=tuple(axes), summed=value.summed + summed)


def _norm(node: fx.Node, of: dict[fx.Node, Meaning]) -> Meaning | None:
    value = _square(of[_arguments(node)[0]])
    order = _arguments(node)[1] if len(node.args) > 1 else 2
    if value is None or order != 2 or value.summed or node.kwargs.get("dtype") is not None:
        return None
    dims = _arguments(node)[2] if len(node.args) > 2 else ()
    keep = bool(node.args[3]) if len(node.args) > 3 else False
    found = _summed(value, tuple(dims or ()), keep)
    return None if found is None else replace(found, rooted=True)


def _matmul(node: fx.Node, of: dict[fx.Node, Meaning]) -> Meaning | None:
    """Take a product of matrices for one with an axis more, summed over the middle one."""
    left, right = _arguments(node)
    first, second = (_operand(side, of) for side in (left, right))
    if any(isinstance(side, Meaning) and side.summed for side in (first, second)):
        return None
    rank = len(first.axes)
    missing: Row = ()
    first_axes = (*first.axes, missing)  # ..., i, k, -
    second_axes = (*second.axes[: rank - 2], missing, *second.axes[rank - 2 :])  # ..., -, k, j
    if len(second.axes) < rank:  # a vector
        first_axes, second_axes = first.axes, ((), *second.axes)
    found = _aligned(first, first_axes, second, second_axes)
    if found is None:
        return None
    return _summed(found, (rank - 1,), False)


def _operand(node: Any, of: dict[fx.Node, Meaning]) -> Meaning | Operand:
    return of[node] if node in of else Operand(node, fresh(node.meta["val"].shape))


def _aligned(
    first: Meaning | Operand, first_axes: Axes, second: Meaning | Operand, second_axes: Axes
) -> Meaning | None:
    """Multiply tensors whose axes stand at the same places, where they have them."""
    axes = tuple(a or b for a, b in zip(first_axes, second_axes, strict=True))
    if isinstance(first, Meaning) and isinstance(second, Meaning):
        clash = any(a and b and a != b for a, b in zip(first_axes, second_axes, strict=True))
        same = replace(first, axes=()) == replace(second, axes=())
        each_once = len(set(flat(axes))) == len(flat(axes))
        squared = _square(first) if same and not clash and each_once else None
        return None if squared is None else replace(squared, axes=axes)
    known, known_axes, other, other_axes = (
        (first, first_axes, second, second_axes)
        if isinstance(first, Meaning)
        else (second, second_axes, first, first_axes)
    )
    assert isinstance(known, Meaning)
    assert isinstance(other, Operand)
    if any(theirs and not ours for ours, theirs in zip(known_axes, other_axes, strict=True)):
        return None
    places = [ours for ours, theirs in zip(known_axes, other_axes, strict=True) if theirs]
    rows = iter(places)
    weight = Operand(other.node, tuple(next(rows) if row else () for row in other.axes))
    found = _with_weight(known, Weight(weight))
    return None if found is None else replace(found, axes=axes)


_RULES: dict[Any, Rule] = {
    **dict.fromkeys(
        (
            aten.view.default,
            aten._unsafe_view.default,
            aten.reshape.default,
            aten.unsqueeze.default,
            aten.squeeze.default,
            aten.squeeze.dim,
            aten.squeeze.dims,
        ),
        _view,
    ),
    **dict.fromkeys(
        (aten.alias.default, aten.clone.default, aten.detach.default, aten._to_copy.default), _same
    ),
    **dict.fromkeys((aten.permute.default, aten.transpose.int, aten.t.default), _permute),
    aten.pow.Tensor_Scalar: _power,
    aten.mul.Tensor: _multiply,
    aten.div.Tensor: _divide,
    aten.neg.default: _negate,
    aten.add.Tensor: _add,
    aten.sub.Tensor: _add,
    **dict.fromkeys((aten.sum.default, aten.sum.dim_IntList), _sum),
    **dict.fromkeys((aten.mean.default, aten.mean.dim), _mean),
    aten.linalg_vector_norm.default: _norm,
    **dict.fromkeys((aten.bmm.default, aten.mm.default, aten.mv.default), _matmul),
}
