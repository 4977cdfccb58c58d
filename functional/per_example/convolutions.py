"""Gradients of the weights of convolutions, of one to three dimensions, transposed or not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .factors import GRAM, NEAR, OVERHEAD, Dense, Factor, Outer, weighted

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
        """Return the norms by way of overlaps, of patches, or of the gradients one by one."""
        if self._cost_of_overlaps() < self._cost_of_others():
            dense, sliding, places = self._roles()
            left = self._left(dense)
            return ((left.mT @ left) * _overlaps(sliding, self.geometry, places)).sum((1, 2, 3))
        if self._has_fast_groups():
            return Dense(self.materialized()).squared_norms()
        return self.unfolded().squared_norms()

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Return the ordinary derivative of the weight, with what comes back weighted."""
        gradients = weighted(weights, self.gradients).flatten(0, 1)
        return self._derivative(gradients, self.inputs.flatten(0, 1), self.weight_shape, 1)

    def materialized(self) -> Tensor:
        """Return the products over patches, or one convolution's with a group for each example."""
        if not self._has_fast_groups():
            return self.unfolded().materialized().reshape(self.examples, *self.weight_shape)
        gradients, inputs = (
            operand.transpose(0, 1).flatten(1, 2) for operand in (self.gradients, self.inputs)
        )
        first, *rest = self.weight_shape
        shape = (self.examples * first, *rest)
        total = self._derivative(gradients, inputs, shape, self.examples)
        return total.reshape(self.examples, *self.weight_shape)

    def _derivative(
        self, gradients: Tensor, inputs: Tensor, shape: tuple[int, ...], examples: int
    ) -> Tensor:
        """Return the derivative of the weight of a convolution with groups for `examples`."""
        geometry = self.geometry
        _, total, _ = aten.convolution_backward(
            gradients,
            inputs,
            inputs.new_empty(shape),  # of which only the shape is read
            None,
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            geometry.transposed,
            geometry.output_padding,
            geometry.groups * examples,
            (False, True, False),
        )
        return total  # type: ignore[no-any-return]

    def ghost_cost(self) -> float:
        """Return the cost of the cheapest way to the norms."""
        return min(self._cost_of_overlaps(), self._cost_of_others())

    def dense_cost(self) -> float:
        """Return the cost of the products, and of the patches, if there are any."""
        groups, m, n, positions = self._sizes()
        formed = m * n * self.cost_of_memory()
        if self._has_fast_groups():
            return groups * (formed + m * n * positions / 2)
        return groups * (formed + n * positions * (OVERHEAD * m + NEAR))

    def _cost_of_overlaps(self) -> float:
        """Return the cost of the Gram matrix of all places, and of its sums over the kernel."""
        groups, m, _, positions = self._sizes()
        _, sliding, places = self._roles()
        count, channels = sliding.shape[1], sliding.shape[2] // groups
        met = count * math.prod(_extent(self.geometry, places))
        sums = NEAR + sum(self.geometry.kernel)
        return groups * (GRAM * (positions**2 * m + met**2 * channels) + positions**2 * sums)

    def _cost_of_others(self) -> float:
        """Return the cost of forming gradients, or of the Gram matrices of patches."""
        groups, m, n, positions = self._sizes()
        formed = self.dense_cost() + groups * m * n * positions
        patches = n * positions * NEAR + positions**2 * (GRAM * (m + n) + NEAR)
        return min(formed, groups * patches)

    def _has_fast_groups(self) -> bool:
        """Say whether to form gradients by a convolution with a group for each example.

        Patches take the more memory, compared with the gradients, the more positions there are;
        elsewhere than in oneDNN, which takes channels by sixteen, groups are a loop or slow.
        """
        groups, m, _, positions = self._sizes()
        channels = min(self.gradients.shape[2], self.inputs.shape[2]) // groups
        return (
            positions >= 4 * m
            and channels >= 16
            and self.inputs.device.type == "cpu"
            and self.inputs.dtype == torch.float32
            and torch.backends.mkldnn.is_available()
        )

    def unfolded(self) -> Outer:
        """Return the products over patches: blocks are groups, positions are output places.

        For a transposed convolution, which is the derivative of a convolution, incoming and
        outgoing tensors change their roles.
        """
        dense, sliding, places = self._roles()
        groups = self.geometry.groups
        patches = _patches(sliding.flatten(0, 1), self.geometry, places)
        window = sliding.shape[2] // groups * math.prod(self.geometry.kernel)
        right = patches.reshape(self.examples, -1, groups, window)
        return Outer(self._left(dense), right.transpose(1, 2))

    def _roles(self) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """Return what has one entry for each place of the kernel, what the kernel slides over."""
        dense, sliding = self.gradients, self.inputs
        if self.geometry.transposed:
            dense, sliding = sliding, dense
        return dense, sliding, tuple(dense.shape[3:])

    def _left(self, dense: Tensor) -> Tensor:
        examples, count, channels, *places = dense.shape
        groups, positions = self.geometry.groups, math.prod(places)
        left = dense.reshape(examples, count, groups, channels // groups, positions)
        return left.permute(0, 2, 3, 1, 4).flatten(3)

    def _sizes(self) -> tuple[int, int, int, int]:
        groups = self.geometry.groups
        dense, _, places = self._roles()
        positions = dense.shape[1] * math.prod(places)
        return groups, self.weight_shape[0] // groups, math.prod(self.weight_shape[1:]), positions


def _extent(geometry: Geometry, places: Sequence[int]) -> tuple[int, ...]:
    """Return the extent of what the kernel meets.

    There are as many windows as places: what a stride never reaches is not read, and what output
    padding adds to a transposed convolution is zero.
    """
    return tuple(
        dilation * (kernel - 1) + 1 + stride * (count - 1)
        for dilation, kernel, stride, count in zip(
            geometry.dilation, geometry.kernel, geometry.stride, places, strict=True
        )
    )


def _met(sliding: Tensor, geometry: Geometry, places: Sequence[int]) -> Tensor:
    """Return of (..., *size) what the kernel meets, zeros around it."""
    size = sliding.shape[-len(places) :]
    needed = _extent(geometry, places)
    after = [a - b - n for a, b, n in zip(needed, geometry.padding, size, strict=True)]
    # What is never met is cut off before zeros are put around the rest.
    for dim, missing in enumerate(after):
        if missing < 0:
            sliding = sliding.narrow(dim - len(places), 0, size[dim] + missing)
    around = [n for pair in zip(geometry.padding, after, strict=True) for n in pair[::-1]]
    around = [max(amount, 0) for amount in reversed(around)]
    return _pad(sliding, around) if any(around) else sliding


def _patches(sliding: Tensor, geometry: Geometry, places: Sequence[int]) -> Tensor:
    """Return the windows of (N, C, *size) that a kernel meets, (N, *places, C, *kernel)."""
    dims = len(places)
    windows = _met(sliding, geometry, places)
    for dim in range(dims):
        windows = _windows(windows, 2 + dim, dim, geometry)
    order = [0, *range(2, 2 + dims), 1, *range(2 + dims, 2 + 2 * dims)]
    return windows.permute(order)


def _windows(values: Tensor, axis: int, dim: int, geometry: Geometry) -> Tensor:
    """Return the places of an axis, and behind all others an axis for what the kernel meets."""
    dilation = geometry.dilation[dim]
    reach = dilation * (geometry.kernel[dim] - 1) + 1
    return values.unfold(axis, reach, geometry.stride[dim])[..., ::dilation]


def _overlaps(sliding: Tensor, geometry: Geometry, places: Sequence[int]) -> Tensor:
    """Return the inner products of all patches of (B, N, C, *size), shape (B, groups, k, k).

    The patches at t and s meet, at the place d of the kernel, what lies at t + d and s + d::

        (Q Q')_ts = sum_d K_(t+d)(s+d),    K = X'X

    with `K` the inner products over channels alone, of which there are as many as places, not as
    many as places times those of the kernel.
    """
    examples, count, channels = sliding.shape[:3]
    groups, dims = geometry.groups, len(places)
    met = _met(sliding, geometry, places)
    size = met.shape[3:]
    x = met.reshape(examples, count, groups, channels // groups, math.prod(size))
    x = x.permute(0, 2, 1, 4, 3).flatten(2, 3)
    sums = (x @ x.mT).reshape(examples, groups, count, *size, count, *size)
    for dim in range(dims):
        # The windows of the one side and of the other, both at the same place of the kernel.
        sums = _windows(sums, 3 + dim, dim, geometry)
        sums = _windows(sums, 4 + dims + dim, dim, geometry)
        sums = sums.diagonal(dim1=-2, dim2=-1).sum(-1)
    positions = count * math.prod(places)
    return sums.reshape(examples, groups, positions, positions)
