"""One forward and one backward pass that yield the gradients of all examples, in factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from .. import tree
from ..autodiff import value_and_grad
from ..batching import vmap
from ..staging import graphs
from ..staging.tracing import recorder
from . import factorization
from .calls import Call
from .capture import Captured, capture
from .factors import Dense, Factor
from .independence import check_independence
from .leaves import Leaf, Part, leaf

aten = torch.ops.aten


class Factored(NamedTuple):
    """The losses of a batch, what else their function returned, and the gradients by parameter."""

    values: Tensor
    aux: tree.PyTree
    leaves: list[Leaf]


def factored(call: Call) -> Factored:
    """Return the gradients of all examples in factors.

    The gradient of one example is traced, cut before the products that its leaves are made of, and
    what is before the cut is run for all examples at once. Where a loop or a choice that stands in
    the graph as one node keeps that from being seen, the gradients are formed.
    """
    check_independence(call)
    if not call.size:
        return _mapped(call)
    try:
        captured = capture(call)
        return _mapped(call) if captured is None else _factored(call, captured)
    except NotImplementedError:
        # A derivative of this one is taken around: only what torch.func sees has one.
        return _mapped(call)
    except RuntimeError as error:
        # The graph has what writing into a part of a tensor becomes, as_strided_scatter.
        if "batching rule" not in str(error):
            raise
        return _mapped(call)


def formed(call: Call, chunk_size: int | None = None) -> Factored:
    """Return the gradients of all examples, each formed.

    By vmap of grad; or, where that is traced, from factors, whose products are faster than torch's
    batched derivatives of convolutions.
    """
    if recorder() is not None and chunk_size is None and call.size:
        return _formed_from_factors(call)
    try:
        return _mapped(call, chunk_size)
    except RuntimeError as error:
        # Torch's batched derivative of a convolution does not run for every size and dtype.
        if "to be contiguous" not in str(error) and "must be contiguous" not in str(error):
            raise
        return _formed_from_factors(call)


def _formed_from_factors(call: Call) -> Factored:
    found = factored(call)
    return found._replace(leaves=[leaf.formed() for leaf in found.leaves])


def _mapped(call: Call, chunk_size: int | None = None) -> Factored:
    count = len(call.params)

    def gradient(*leaves: Tensor) -> tuple[Sequence[Tensor], Tensor, tree.PyTree]:
        def loss(params: Sequence[Tensor]) -> tuple[Tensor, tree.PyTree]:
            return call.loss(params, leaves[count:])

        (value, aux), grads = value_and_grad(loss, has_aux=True)(leaves[:count])
        return grads, value, aux

    axes = (None,) * count + (0,) * len(call.batch)
    if chunk_size is not None and call.size <= chunk_size:
        chunk_size = None
    # The fused kernels of attention have no batching rule for their derivatives.
    with sdpa_kernel(SDPBackend.MATH):
        grads, values, aux = vmap(gradient, axes, chunk_size=chunk_size)(*call.params, *call.batch)
    leaves = [
        Leaf(tuple(param.shape), (Part(Dense(grad)),), values)
        for param, grad in zip(call.params, grads, strict=True)
    ]
    return Factored(values, aux, leaves)


class Products(NamedTuple):
    """Of the graph of one example: the nodes of loss and auxiliary output, and its products.

    `terms` are, for each parameter, the summands of its gradient.
    """

    outputs: list[fx.Node]
    terms: list[list[factorization.Term]]

    @property
    def operands(self) -> list[fx.Node]:
        """What the products are made of, each node once."""
        nodes = [node for terms in self.terms for term in terms for node in term.operands]
        return list(dict.fromkeys(nodes))


def products(captured: Captured) -> Products:
    """Return what the gradient of one example is made of."""
    results = list(graphs.results(captured.graph))
    outputs, ends = results[: -captured.params], results[-captured.params :]
    varying = factorization.depending(captured.graph, captured.shared)
    return Products(outputs, [factorization.terms(node, varying) for node in ends])


def _factored(call: Call, captured: Captured) -> Factored:
    outputs, found = parts = products(captured)
    places = graphs.first_places(list(dict.fromkeys([*outputs, *parts.operands])))
    module = _cut(captured.graph, list(places))
    axes = (None,) * captured.shared + (0,) * len(call.batch)
    run = vmap(lambda *inputs: module(*inputs), axes)
    tensors = run(*captured.closed_over, *call.params, *call.batch)
    values, *aux = [tensors[places[node]] for node in outputs]
    leaves = leaves_of_terms(call, found, {n: tensors[p] for n, p in places.items()}, values)
    return Factored(values, tree.unflatten(captured.aux, aux), leaves)


def leaves_of_terms(
    call: Call,
    found: Sequence[Sequence[factorization.Term]],
    values: Mapping[fx.Node, Tensor],
    like: Tensor,
) -> list[Leaf]:
    """Return the gradients of all examples that terms describe, given the value of each node."""

    def made(term: factorization.Term) -> Factor:
        return term.make([values[node] for node in term.operands])

    return [
        leaf(tuple(param.shape), terms, list(map(made, terms)), like)
        for param, terms in zip(call.params, found, strict=True)
    ]


def _cut(graph: fx.Graph, outputs: Sequence[fx.Node]) -> fx.GraphModule:
    """Return what computes some nodes of a graph and no more, for tensors that are batched."""
    copy, stands_for = fx.Graph(), dict[fx.Node, fx.Node]()
    copy.graph_copy(graph, stands_for)
    copy.output(tuple([stands_for[node] for node in outputs]))
    copy.eliminate_dead_code()
    for node in copy.nodes:
        if node.target in (aten.view.default, aten._unsafe_view.default):
            # A batched tensor may lie in memory as the single one does not.
            node.target = aten.reshape.default
        elif node.target is aten.convolution_backward.default:
            used = {user.args[1] for user in node.users}
            mask = [bool(wanted) and part in used for part, wanted in enumerate(node.args[-1])]
            node.args = (*node.args[:-1], mask)
    return fx.GraphModule({}, copy)
