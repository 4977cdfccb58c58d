"""A loop or a choice as one operation to torch.func, with derivatives and batches of its own.

While `jit` traces, a loop must stay a loop under every transform. `bind` hands it to torch.func as
a `torch.autograd.Function`, and torch.func applies the rules level by level, from the innermost
transform out. A rule gives operations of the same kind on the next level; below the last one the
operation writes itself into the graph.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from .flat import Axes, Batch, differentiable, placed


class Primitive(ABC):
    """An operation on a flat list of tensors, with its rules.

    A rule receives the operands as they are on the level of the transform that asks.
    """

    #: Whether `pull` reads the outputs, which are then kept for it.
    reads_outputs: ClassVar[bool] = False

    @abstractmethod
    def run(self, operands: Sequence[Tensor]) -> Sequence[Tensor]:
        """Compute the outputs from tensors that no transform has wrapped."""

    @abstractmethod
    def push(
        self, operands: Sequence[Tensor], tangents: Sequence[Tensor | None]
    ) -> Sequence[Tensor]:
        """Return a tangent for each output that can have one."""

    @abstractmethod
    def pull(
        self,
        operands: Sequence[Tensor],
        outputs: Sequence[Tensor],
        cotangents: Sequence[Tensor | None],
        wanted: Sequence[int],
    ) -> Sequence[Tensor]:
        """Return a cotangent for each of the operands `wanted`."""

    @abstractmethod
    def batch(
        self, batch: Batch, axes: Axes, operands: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], Axes]:
        """Return the outputs over a batch and where each has the batch axis."""


def bind(primitive: Primitive, operands: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Compute `primitive` under all transforms that run."""
    return _bind(primitive, *operands)


def _bind(primitive: Primitive, *operands: Tensor) -> tuple[Tensor, ...]:
    # A loop inside the body of another shows it what it reads, as torch's own functions do.
    if has_torch_function(operands):
        outputs = handle_torch_function(_bind, operands, primitive, *operands)
    else:
        outputs = _Apply.apply(primitive, *operands)  # type: ignore[no-untyped-call]
    return outputs


class _Apply(torch.autograd.Function):
    """The bridge from torch.func to the rules of a primitive."""

    @staticmethod
    def forward(primitive: Primitive, *operands: Tensor) -> tuple[Tensor, ...]:
        # torch takes an operand that is returned as it is for one that was written.
        own = set(map(id, operands))
        return tuple([o.view_as(o) if id(o) in own else o for o in primitive.run(operands)])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.primitive, *operands = inputs
        ctx.set_materialize_grads(False)
        ctx.count, ctx.size, ctx.differentiable = len(operands), len(output), differentiable(output)
        integers = set(range(len(output))).difference(ctx.differentiable)
        ctx.mark_non_differentiable(*[output[index] for index in integers])
        ctx.save_for_backward(*operands, *(output if ctx.primitive.reads_outputs else ()))
        ctx.save_for_forward(*operands)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        operands, outputs = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        needed = ctx.needs_input_grad[1:]
        wanted = [index for index in differentiable(operands) if needed[index]]
        found = ctx.primitive.pull(operands, outputs, cotangents, wanted)
        nothing: list[Tensor | None] = [None] * len(operands)
        return (None, *placed(nothing, wanted, found))

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        found = ctx.primitive.push(ctx.saved_tensors, tangents)
        nothing: list[Tensor | None] = [None] * ctx.size
        return tuple(placed(nothing, ctx.differentiable, found))

    @staticmethod
    def vmap(info: Any, in_dims: Axes, primitive: Primitive, *operands: Tensor) -> Any:
        batch = Batch(info.batch_size, info.randomness)
        outputs, axes = primitive.batch(batch, in_dims[1:], operands)
        return tuple(outputs), tuple(axes)
