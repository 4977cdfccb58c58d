"""Finding in the graph of a gradient the products that make it up.

The gradient of a parameter is a sum of what its uses send back. Each term is looked at from the
end: views are undone, numbers that multiply are put aside, and where a product of two tensors
appears, its operands are taken in its place. What is not understood is a term that is formed.
Nothing is assumed of the function: a product is a product wherever it comes from.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from .convolutions import Convolution, Geometry
from .factors import Dense, Factor, Outer, weighted
from .lookups import Lookup

aten = torch.ops.aten

#: Makes a factor of operands that have a batch axis in front.
Make = Callable[[Sequence[Tensor]], Factor]


class View(NamedTuple):
    """An operator that moves entries about, or puts them among zeros, and its other arguments."""

    target: Callable[..., Tensor]
    args: tuple[Any, ...]

    def __call__(self, value: Tensor) -> Tensor:
        """Return the view of a tensor."""
        return self.target(value, *self.args)


@dataclass(frozen=True)
class Term:
    """One summand of a gradient: nodes of one example, what to make of them, how to arrange it."""

    operands: tuple[fx.Node, ...]
    make: Make
    #: The shape of the product.
    shape: tuple[int, ...]
    #: Whether the product is one of two matrices.
    is_matrix: bool = False
    #: What turns the product into the shape of the parameter, innermost first.
    views: tuple[View, ...] = ()

    def scaled(self, scale: float | fx.Node) -> Term:
        """Return the term times a number, or a 0-d tensor that is the same for all examples."""
        make, count = self.make, len(self.operands)

        def make_scaled(operands: Sequence[Tensor]) -> Factor:
            factor = make(operands[:count])
            first, *rest = factor.operands
            if isinstance(scale, fx.Node):
                return factor.with_operands([weighted(operands[count], first), *rest])
            return factor.with_operands([first * scale, *rest])

        more = (scale,) if isinstance(scale, fx.Node) else ()
        return replace(self, operands=(*self.operands, *more), make=make_scaled)

    def widened(self) -> Term:
        """Return the term of parameters that are narrowed where they are used."""
        return replace(self, make=lambda operands: self.make(operands).widened())

    def viewed(self, view: View) -> Term:
        """Return the term with one more view outside of the others."""
        return replace(self, views=(*self.views, view))


def terms(gradient: fx.Node, varying: set[fx.Node]) -> list[Term]:
    """Return the summands of a gradient; `varying` are the nodes that depend on the example.

    No term at all means a gradient that is zero.
    """
    source: Any = gradient.args[0] if gradient.args else None
    if gradient.target in _ZEROS:
        return []
    if gradient.target in _VIEWS and isinstance(source, fx.Node):
        view = View(_VIEWS[gradient.target], tuple(gradient.args[1:]))
        return [term.viewed(view) for term in terms(source, varying)]
    if _is_plain_sum(gradient):
        return [term for part in gradient.args for term in terms(part, varying)]  # type: ignore[arg-type]
    if _is_widening(gradient):
        return [term.widened() for term in terms(source, varying)]
    scale = _scale(gradient, varying)
    if scale is not None:
        return [term.scaled(scale[1]) for term in terms(scale[0], varying)]
    found = _product(gradient, varying)
    return [dense(gradient)] if found is None else found


def dense(node: fx.Node) -> Term:
    """Return a term that is formed."""
    return Term((node,), lambda operands: Dense(operands[0]), tuple(node.meta["val"].shape))


def is_arranging(view: View) -> bool:
    """Say whether a view permutes entries, rather than putting them among zeros."""
    return view.target not in _PLACING


def _same(value: Tensor, *_: Any) -> Tensor:
    return value


#: What to do instead of an operator, for a tensor that lies in memory in any way.
_VIEWS: dict[Any, Callable[..., Tensor]] = {
    aten.t.default: aten.t.default,
    aten.transpose.int: aten.transpose.int,
    aten.permute.default: aten.permute.default,
    aten.view.default: aten.reshape.default,
    aten._unsafe_view.default: aten.reshape.default,
    aten.reshape.default: aten.reshape.default,
    aten.squeeze.default: aten.squeeze.default,
    aten.squeeze.dim: aten.squeeze.dim,
    aten.squeeze.dims: aten.squeeze.dims,
    aten.unsqueeze.default: aten.unsqueeze.default,
    aten.clone.default: _same,
    aten.alias.default: _same,
    aten.detach.default: _same,
    aten.slice_backward.default: aten.slice_backward.default,
    aten.select_backward.default: aten.select_backward.default,
}
_PLACING = (aten.slice_backward.default, aten.select_backward.default)
_ZEROS = (aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default)
_MULTIPLICATIONS = (aten.mul.Scalar, aten.mul.Tensor)
_DIVISIONS = (aten.div.Scalar, aten.div.Tensor)


def _is_plain_sum(node: fx.Node) -> bool:
    return (
        node.target is aten.add.Tensor
        and not node.kwargs
        and all(
            isinstance(part, fx.Node) and part.meta["val"].shape == node.meta["val"].shape
            for part in node.args
        )
    )


def _is_widening(node: fx.Node) -> bool:
    """Say whether a gradient in half precision is made one of float32, as of mixed precision."""
    if node.target is not aten._to_copy.default:
        return False
    source, result = node.args[0].meta["val"], node.meta["val"]  # type: ignore[union-attr]
    is_narrow = source.dtype in (torch.float16, torch.bfloat16)
    return is_narrow and result.dtype == torch.float32 and source.device == result.device


def _scale(node: fx.Node, varying: set[fx.Node]) -> tuple[fx.Node, float | fx.Node] | None:
    """Return a node and the number by which it is multiplied."""
    if node.target is aten.neg.default:
        return node.args[0], -1.0  # type: ignore[return-value]
    divides = node.target in _DIVISIONS
    if not divides and node.target not in _MULTIPLICATIONS:
        return None
    if len(node.args) != 2 or node.kwargs:
        return None
    for value, number in (node.args, node.args[::-1])[: 1 if divides else 2]:
        if not isinstance(value, fx.Node) or value not in varying:
            continue
        if isinstance(number, int | float):
            if divides:
                return (value, 1 / number) if number else None
            return value, number
        alike = isinstance(number, fx.Node) and number not in varying and not divides
        if alike and not number.meta["val"].ndim and value.meta["val"].ndim:  # type: ignore[union-attr]
            return value, number  # type: ignore[return-value]
    return None


def _product(node: fx.Node, varying: set[fx.Node]) -> list[Term] | None:
    if node.target in (aten.mm.default, aten.bmm.default):
        left, right = node.args[:2]
        if left in varying and right in varying:
            return [_outer(left, right, node)]  # type: ignore[arg-type]
        return _reassociated(node, varying) if node.target is aten.mm.default else None
    recognize = _PRODUCTS.get(node.target)
    found = None if recognize is None else recognize(node)
    if found is None or not all(operand in varying for operand in found.operands):
        return None
    return [found]


def _outer(left: fx.Node, right: fx.Node, node: fx.Node) -> Term:
    def make(operands: Sequence[Tensor]) -> Factor:
        # One block is what a matrix product has.
        return Outer(*[o.unsqueeze(1) if o.ndim == 3 else o for o in operands])

    shape = tuple(node.meta["val"].shape)
    return Term((left, right), make, shape, is_matrix=len(shape) == 2)


def _reassociated(node: fx.Node, varying: set[fx.Node]) -> list[Term] | None:
    """Recognize A (P Q) as (A P) Q, and (P Q) A as P (Q A), where A is the same for all examples.

    That is the derivative of a factor of a weight, as of a low-rank adapter that is merged.
    """
    left, right = node.args[:2]
    fixed, inner = (right, left) if left in varying else (left, right)
    if inner not in varying:
        return None
    found = terms(inner, varying)  # type: ignore[arg-type]
    if not all(term.is_matrix for term in found):
        return None
    turned = [order_of(term.shape, term.views) for term in found]
    shape = tuple(inner.meta["val"].shape)  # type: ignore[union-attr]
    shapes = {"kept": shape, "transposed": shape[::-1]}
    if any(shapes.get(order) != term.shape for term, order in zip(found, turned, strict=True)):
        return None

    def multiplied(term: Term, order: str) -> Term:
        def make(operands: Sequence[Tensor]) -> Factor:
            *own, matrix = operands
            product = term.make(own)
            assert isinstance(product, Outer)
            product = product.transposed if order == "transposed" else product
            matrix = matrix.unsqueeze(1)
            if inner is right:
                return Outer(matrix @ product.left, product.right)
            return Outer(product.left, product.right @ matrix)

        shape = tuple(node.meta["val"].shape)
        return Term((*term.operands, fixed), make, shape, is_matrix=True)  # type: ignore[arg-type]

    return [multiplied(term, order) for term, order in zip(found, turned, strict=True)]


def order_of(shape: tuple[int, ...], views: Sequence[View]) -> str:
    """Say how the views of a product lie in memory: "kept", "transposed" or "other".

    They are tried on a tensor without values that is laid out as the product, or its transpose.
    """
    if not all(map(is_arranging, views)):
        return "other"
    if _is_kept(torch.empty(shape, device="meta"), views):
        return "kept"
    if math.prod(shape[:-2]) == 1 and len(shape) >= 2:
        *_, m, n = shape
        strides = (*[m * n] * (len(shape) - 2), 1, m)
        if _is_kept(torch.empty_strided(shape, strides, device="meta"), views):
            return "transposed"
    return "other"


def _is_kept(value: Tensor, views: Sequence[View]) -> bool:
    memory = value.untyped_storage()._cdata
    for view in views:
        value = view(value)
    # A reshape that had to copy has lost what it was asked for.
    return value.is_contiguous() and value.untyped_storage()._cdata == memory


def _convolution(node: fx.Node) -> Term | None:
    """Recognize the second part of a convolution's derivative, which is of its weight."""
    whole, part = node.args
    if not isinstance(whole, fx.Node) or whole.target is not aten.convolution_backward.default:
        return None
    if part != 1:
        return None
    gradients, inputs, _, _, stride, padding, dilation, transposed, output_padding, groups, _ = (
        whole.args
    )
    shape = tuple(node.meta["val"].shape)
    dims = len(shape) - 2
    geometry = Geometry(
        kernel=shape[2:],
        stride=_each(stride, dims),
        padding=_each(padding, dims),
        dilation=_each(dilation, dims),
        transposed=bool(transposed),
        output_padding=_each(output_padding, dims),
        groups=int(groups),  # type: ignore[arg-type]
    )
    nodes: Any = (gradients, inputs)

    def make(operands: Sequence[Tensor]) -> Factor:
        gradients, inputs = operands
        return Convolution(gradients, inputs, shape, geometry)

    return Term(nodes, make, shape)


def _lookup(node: fx.Node) -> Term | None:
    gradients, indices, _, padding, scale_by_frequency = node.args
    if scale_by_frequency:
        return None
    rows, width = shape = tuple(node.meta["val"].shape)
    repeated = _repeated(gradients, width) if padding == -1 else None

    def make(operands: Sequence[Tensor]) -> Factor:
        g, i = operands
        g, i = g.reshape(g.shape[0], -1, width), i.flatten(1)
        if padding != -1:
            g = g.masked_fill(torch.eq(i, padding).unsqueeze(2), 0)  # type: ignore[arg-type]
        return Lookup(g if repeated is None else g * repeated[1], i, rows)

    nodes: Any = (gradients if repeated is None else repeated[0], indices)
    return Term(nodes, make, shape)


def _repeated(node: Any, width: int) -> tuple[fx.Node, float] | None:
    """Return a node of `width` numbers, and a number, whose product is repeated to make another."""
    scale = 1.0
    while node.target in (*_MULTIPLICATIONS, *_DIVISIONS):
        source, number = node.args[:2]
        if not isinstance(source, fx.Node) or not isinstance(number, int | float) or not number:
            return None
        scale = scale * number if node.target in _MULTIPLICATIONS else scale / number
        node = source
    if node.target is not aten.expand.default:
        return None
    source = node.args[0]
    is_single = source.meta["val"].numel() == width == source.meta["val"].shape[-1]
    return (source, scale) if is_single else None


def _accumulated(node: fx.Node) -> Term | None:
    """Recognize the derivative of `table[indices]`: rows added into zeros."""
    table, places, values, *accumulate = node.args
    if not (accumulate and accumulate[0] and isinstance(table, fx.Node)):
        return None
    if table.target not in _ZEROS or len(places) != 1:  # type: ignore[arg-type]
        return None
    rows, *width = table.meta["val"].shape
    indices = places[0]  # type: ignore[index]
    if not width or not isinstance(indices, fx.Node) or not isinstance(values, fx.Node):
        return None
    index = indices.meta["val"]
    if index.dtype == torch.bool or values.meta["val"].shape != (*index.shape, *width):
        return None

    def make(operands: Sequence[Tensor]) -> Factor:
        g, i = operands
        g = g.reshape(g.shape[0], index.numel(), math.prod(width))
        return Lookup(g, (i % rows).reshape(i.shape[0], index.numel()), rows)

    view = View(aten.reshape.default, ((rows, *width),))
    return Term((values, indices), make, (rows, math.prod(width)), views=(view,))


_PRODUCTS: dict[Any, Callable[[fx.Node], Term | None]] = {
    aten.embedding_dense_backward.default: _lookup,
    aten.index_put.default: _accumulated,
    aten._unsafe_index_put.default: _accumulated,
    operator.getitem: _convolution,
}


def _each(setting: Any, dims: int) -> tuple[int, ...]:
    numbers = tuple(setting)
    return numbers * dims if len(numbers) == 1 else numbers


def depending(graph: fx.Graph, shared: int) -> set[fx.Node]:
    """Return the nodes that depend on an input after the first `shared`."""
    found: set[fx.Node] = set()
    for index, node in enumerate(graph.nodes):
        own = node.op == "placeholder" and index >= shared
        if own or any(argument in found for argument in node.all_input_nodes):
            found.add(node)
    return found
