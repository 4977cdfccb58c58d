"""Gradients of the weights of convolutions, of one to three dimensions, transposed or not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .factors import NEAR, OVERHEAD, Factor, Outer, weighted

aten = torch.ops.aten
_pad = torch.nn.functional.pad


@dataclass(frozen=True)
class Geometry:
    """How a convolution goes over its input."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int


@dataclass(frozen=True)
class Convolution(Factor):
    """g_b is the correlation of what came in, (B, N, C, *size), with what comes back.

    Over the patches that the kernel meets it is a product of matrices, one for each group, with as
    many positions as there are places in the output.
    """

    gradients: Tensor
    inputs: Tensor
    weight_shape: tuple[int, ...]
    geometry: Geometry

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight."""
        return self.weight_shape

    @property
    def operands(self) -> tuple[Tensor, ...]:
        """What comes back and what came in."""
        return (self.gradients, self.inputs)

    def with_operands(self, operands: Sequence[Tensor]) -> Factor:
        """Return the same convolution of other tensors."""
        gradients, inputs = operands
        return replace(self, gradients=gradients, inputs=inputs)

    def squared_norms(self) -> Tensor:
        """Return the norms of the product over patches."""
        return self.unfolded().squared_norms()

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Return the ordinary derivative of the weight, with what comes back weighted."""
        geometry = self.geometry
        _, total, _ = aten.convolution_backward(
            weighted(weights, self.gradients).flatten(0, 1),
            self.inputs.flatten(0, 1),
            self.inputs.new_empty(self.weight_shape),
            None,
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            geometry.transposed,
            geometry.output_padding,
            geometry.groups,
            (False, True, False),
        )
        return total  # type: ignore[no-any-return]

    def materialized(self) -> Tensor:
        """Return the products over patches."""
        return self.unfolded().materialized().reshape(self.examples, *self.weight_shape)

    def ghost_cost(self) -> float:
        """Return the cost of two Gram matrices over patches."""
        groups, m, n, positions = self._sizes()
        return groups * positions**2 * (m + n + NEAR)

    def dense_cost(self) -> float:
        """Return the cost of the products over patches."""
        groups, m, n, positions = self._sizes()
        return groups * m * n * (OVERHEAD * positions + self.cost_of_memory())

    def unfolded(self) -> Outer:
        """Return the products over patches: blocks are groups, positions are output places.

        For a transposed convolution, which is the derivative of a convolution, incoming and
        outgoing tensors change their roles.
        """
        dense, sliding = self.gradients, self.inputs
        if self.geometry.transposed:
            dense, sliding = sliding, dense
        examples, count, channels, *places = dense.shape
        groups, positions = self.geometry.groups, math.prod(places)
        left = dense.reshape(examples, count, groups, channels // groups, positions)
        left = left.permute(0, 2, 3, 1, 4).flatten(3)
        patches = _patches(sliding.flatten(0, 1), self.geometry, places)
        window = sliding.shape[2] // groups * math.prod(self.geometry.kernel)
        right = patches.reshape(examples, count * positions, groups, window)
        return Outer(left, right.transpose(1, 2))

    def _sizes(self) -> tuple[int, int, int, int]:
        groups = self.geometry.groups
        dense = self.inputs if self.geometry.transposed else self.gradients
        positions = dense.shape[1] * math.prod(dense.shape[3:])
        return groups, self.weight_shape[0] // groups, math.prod(self.weight_shape[1:]), positions


def _patches(sliding: Tensor, geometry: Geometry, places: Sequence[int]) -> Tensor:
    """Return the windows of (N, C, *size) that a kernel meets, (N, *places, C, *kernel)."""
    dims = len(geometry.kernel)
    windows = _pad(sliding, [p for p in reversed(geometry.padding) for _ in range(2)])
    for dim, dilation, kernel, stride, count in zip(
        range(dims), geometry.dilation, geometry.kernel, geometry.stride, places, strict=True
    ):
        reach = dilation * (kernel - 1) + 1
        # There are as many windows as places: what a stride never reaches is not read, and what
        # output padding adds to a transposed convolution is zero.
        needed = reach + stride * (count - 1)
        short = max(0, needed - windows.shape[2 + dim])
        if short:
            windows = _pad(windows, [0, 0] * (windows.ndim - 3 - dim) + [0, short])
        windows = windows.narrow(2 + dim, 0, needed).unfold(2 + dim, reach, stride)
        windows = windows[..., ::dilation]
    order = [0, *range(2, 2 + dims), 1, *range(2 + dims, 2 + 2 * dims)]
    return windows.permute(order)
