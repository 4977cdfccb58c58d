"""Derivatives of a model's outputs, by the engine that differentiates losses.

The derivative of output o of an example is the gradient of the loss `w . f(x)` whose weights `w`
pick that output. All outputs are batched over the weights: what does not depend on them, as the
inputs of a layer do not, is computed and kept once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .. import tree
from ..batching import vmap
from ..border import describe, function_name, tensor_leaves
from .calls import Call, LossesFunction
from .leaves import Leaf, Method
from .products import leaves_of, opened

#: `model(params, *inputs)` returns a tensor with the examples along its first axis.
Model = Callable[..., Any]


@dataclass(frozen=True)
class Stacked:
    """Gradients of O losses of B examples with respect to one parameter.

    `leaf` has those of one of the losses, `operands` the tensors of each of its parts with an axis
    for the losses in front. An axis of stride 0 repeats what all losses share.
    """

    leaf: Leaf
    operands: tuple[tuple[Tensor, ...], ...]
    like: Tensor

    def flat(self) -> Leaf:
        """Return the gradients of O * B examples, loss by loss."""
        parts = [
            replace(part, factor=part.factor.with_operands([o.flatten(0, 1) for o in operands]))
            for part, operands in zip(self.leaf.parts, self.operands, strict=True)
        ]
        return replace(self.leaf, parts=tuple(parts), like=self.like.flatten(0, 1))


def stacked(make: Callable[[Any], Call], values: tree.PyTree, method: Method) -> list[Stacked]:
    """Return the gradients of the calls made of the slices of `values`, by parameter."""
    kept: list[Leaf] = []

    def operands(value: Any) -> Any:
        kept[:] = leaves_of_call(make(value), method)
        return [(leaf.like, [part.factor.operands for part in leaf.parts]) for leaf in kept]

    found = vmap(operands)(values)
    return [
        Stacked(leaf, tuple(map(tuple, parts)), like)
        for leaf, (like, parts) in zip(kept, found, strict=True)
    ]


def leaves_of_call(call: Call, method: Method) -> list[Leaf]:
    """Return the gradients of a call by parameter, convolutions written as products of patches."""
    return [
        replace(leaf, parts=tuple(replace(p, factor=opened(p.factor)) for p in leaf.parts))
        for leaf in leaves_of(call, method)
    ]


def weighted_outputs(transform: str, model: Model) -> LossesFunction:
    """Return the losses `w . f(x)`, of which the weights (B, *output) are the last argument."""

    @functools.wraps(model, updated=())
    def losses_fn(params: Any, *inputs_and_weights: Any) -> Tensor:
        *inputs, weights = inputs_and_weights
        outputs = checked_outputs(transform, model, model(params, *inputs))
        products: Tensor = outputs * weights
        return products.reshape(len(products), -1).sum(1)

    return losses_fn


def each_output(transform: str, model: Model, params: Any, inputs: Sequence[Any]) -> Tensor:
    """Return the weights that pick each of the O outputs of an example, (O, B, *output)."""
    call = Call(transform, model, (params, *inputs))
    some = tree.map(lambda leaf: leaf[:1], list(inputs))
    outputs = checked_outputs(transform, model, model(params, *some))
    shape = outputs.shape[1:]
    one_hot = torch.eye(shape.numel(), dtype=outputs.dtype, device=outputs.device)
    return one_hot.reshape(-1, 1, *shape).expand(-1, call.size, *shape)


def checked_outputs(transform: str, model: Model, outputs: Any) -> Tensor:
    """Refuse what is not a floating tensor with the examples along its first axis."""
    if isinstance(outputs, Tensor) and outputs.is_floating_point() and outputs.ndim:
        return outputs
    given = tree.map(describe, tensor_leaves(transform, "outputs", outputs))
    raise TypeError(
        f"{transform}: {function_name(model)} returned {given}, expected a floating tensor with "
        "the examples along its first axis."
    )
