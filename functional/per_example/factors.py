"""Gradients of all examples as the products that make them up, which are smaller than they are.

The gradient of a weight is, for one example, a product of two things: what came into its layer and
what the loss sends back. Its norm and its weighted sum over examples follow from these two without
the product (Goodfellow 2015, arXiv:1510.01799; Rochette et al. 2019, arXiv:1912.06015; Li et al.
2022, arXiv:2110.05679; Bu et al. 2023, arXiv:2210.00038). In shapes, B counts examples.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..control.levels import is_batched
from ..staging.tracing import recorder


class Factor(ABC):
    """The gradients g_b of B examples with respect to one tensor of `shape`."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of the gradient of one example."""

    @property
    @abstractmethod
    def operands(self) -> tuple[Tensor, ...]:
        """The tensors that have the examples along their first axis; linear in the first."""

    @abstractmethod
    def with_operands(self, operands: Sequence[Tensor]) -> Factor:
        """Return the same product of other operands."""

    @abstractmethod
    def squared_norms(self) -> Tensor:
        """Return |g_b|^2, shape (B,)."""

    @abstractmethod
    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Return sum_b w_b g_b."""

    @abstractmethod
    def materialized(self) -> Tensor:
        """Return every g_b, shape (B, *shape)."""

    @abstractmethod
    def ghost_cost(self) -> float:
        """Return about how many multiplications the norm of one example takes, ungathered."""

    @abstractmethod
    def dense_cost(self) -> float:
        """Return about how many more it takes to form the gradient of one example."""

    @property
    def examples(self) -> int:
        """How many examples there are."""
        return self.operands[0].shape[0]

    def widened(self) -> Factor:
        """Return the gradients in a dtype that squares can be added up in."""
        return self.with_operands([widened(operand) for operand in self.operands])

    def only(self, examples: slice) -> Factor:
        """Return the gradients of some of the examples."""
        return self.with_operands([operand[examples] for operand in self.operands])

    def without(self, dropped: Tensor) -> Factor:
        """Return the gradients with zeros for the examples that `dropped`, shape (B,), marks."""
        return self.with_operands([_without(dropped, operand) for operand in self.operands])

    def cost_of_memory(self) -> int:
        """Return what one entry of formed gradients costs for being written and read."""
        entries = self.examples * math.prod(self.shape)
        fits = entries * self.operands[0].element_size() <= CACHE
        return NEAR if fits else FAR


# Costs are in multiplications of a product of large matrices, of which a core of 2025 does fifty in
# a nanosecond; measured on CPUs (benchmarks/RESULTS.md).
#: A number that is written and read again: in the cache of so many bytes, and beyond.
NEAR, FAR, CACHE = 24, 64, 2**25
#: A multiplication in the Gram matrices of many examples, which are small.
GRAM = 2.0
#: A product of many small matrices takes this part of the time of the same work in large ones
#: *more*, since the weighted sum, which it spares, would have done that work in one.
OVERHEAD = 0.1


@dataclass(frozen=True)
class Dense(Factor):
    """Gradients that are formed: `values` of shape (B, *shape)."""

    values: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one gradient."""
        return tuple(self.values.shape[1:])

    @property
    def operands(self) -> tuple[Tensor, ...]:
        """The gradients themselves."""
        return (self.values,)

    def with_operands(self, operands: Sequence[Tensor]) -> Factor:
        """Return other gradients."""
        return Dense(*operands)

    def squared_norms(self) -> Tensor:
        """Return the sums of squares."""
        squares = self.values.square()
        return squares.flatten(1).sum(1) if self.shape else squares

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Return the contraction with the weights."""
        values = widened(self.values)
        weights = weights.to(values.dtype)
        if recorder() is None:
            total: Tensor = torch.tensordot(weights, values, 1)
        else:
            # Compiled, the products are never stored, nor are zeros put in the place of examples.
            total = (values * _aligned(weights, values)).sum(0)
        return total.to(self.values.dtype)

    def materialized(self) -> Tensor:
        """Return the gradients."""
        return self.values

    def ghost_cost(self) -> float:
        """Return nothing: they are there."""
        return 0

    def dense_cost(self) -> float:
        """Return nothing: they are there."""
        return 0


@dataclass(frozen=True)
class Outer(Factor):
    """g_b = P_b Q_b: `left` of shape (B, blocks, m, k), `right` of shape (B, blocks, k, n).

    For a linear layer k counts the positions (of a sequence, say) at which it is applied.
    """

    left: Tensor
    right: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Blocks, m and n."""
        return (self.left.shape[1], self.left.shape[2], self.right.shape[3])

    @property
    def rank(self) -> int:
        """How many outer products the gradient of one example is the sum of."""
        return self.left.shape[3]

    @property
    def operands(self) -> tuple[Tensor, ...]:
        """P and Q."""
        return (self.left, self.right)

    @property
    def transposed(self) -> Outer:
        """The gradients with their last two axes exchanged."""
        return Outer(self.right.mT, self.left.mT)

    def with_operands(self, operands: Sequence[Tensor]) -> Factor:
        """Return the product of other matrices."""
        return Outer(*operands)

    def squared_norms(self) -> Tensor:
        """Return |p|^2 |q|^2 where the rank is one, otherwise tr(P'P QQ') or |PQ|^2."""
        if self.rank == 1:
            squares = self.left.square().sum((2, 3)) * self.right.square().sum((2, 3))
            return squares.sum(1)
        if self._cost_of_forming() < self._cost_of_gram():
            return Dense(self.materialized()).squared_norms()
        return outer_products(self, self)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Weight the smaller operand, and contract over examples and positions together."""
        left, right = self.left, self.right
        if left.shape[2] <= right.shape[3]:
            left = weighted(weights, left)
        else:
            right = weighted(weights, right)
        blocks, m, n = self.shape
        if self.rank == 1 and min(m, n) == 1:
            # As small as its operands; compiled, they are weighted as they are read.
            return (left * right).sum(0)
        positions = self.examples * self.rank
        rows = left.permute(1, 0, 3, 2).reshape(blocks, positions, m)
        columns = right.permute(1, 0, 2, 3).reshape(blocks, positions, n)
        if blocks == 1:
            return (rows[0].mT @ columns[0]).unsqueeze(0)
        return rows.mT @ columns

    def materialized(self) -> Tensor:
        """Return the products."""
        if self.rank == 1:
            return self.left * self.right
        return self.left @ self.right

    def ghost_cost(self) -> float:
        """Return the cost of |p|^2 |q|^2, or of the norms by way of the smaller matrices."""
        if self.rank == 1:
            blocks, m, n = self.shape
            return blocks * (m + n)
        return min(self._cost_of_gram(), self._cost_of_forming())

    def dense_cost(self) -> float:
        """Return the cost of the products beyond that of their weighted sum."""
        blocks, m, n = self.shape
        return blocks * m * n * (OVERHEAD * self.rank + self.cost_of_memory())

    def _cost_of_gram(self) -> float:
        blocks, m, n = self.shape
        return blocks * self.rank**2 * (GRAM * (m + n) + NEAR)

    def _cost_of_forming(self) -> float:
        blocks, m, n = self.shape
        return blocks * m * n * (self.rank + NEAR)


def outer_products(first: Outer, second: Outer) -> Tensor:
    """Return <P_b Q_b, R_b S_b> = sum_{k,l} (P_b'R_b)_kl (Q_b S_b')_kl, shape (B,)."""
    return ((first.left.mT @ second.left) * (first.right @ second.right.mT)).sum((1, 2, 3))


def widened(values: Tensor) -> Tensor:
    """Return numbers of half precision in single precision, others as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def weighted(weights: Tensor, operand: Tensor) -> Tensor:
    """Return the operand with a weight on every example, rounded once."""
    wide = widened(operand)
    return (wide * _aligned(weights.to(wide.dtype), wide)).to(operand.dtype)


def computed_once(row: Tensor) -> Tensor:
    """Return a tensor that a compiler computes once, and not at every place that reads it."""
    if recorder() is None or is_batched(row):
        return row
    return row.as_strided(row.shape, row.stride())  # which has to lie in memory


def _without(dropped: Tensor, operand: Tensor) -> Tensor:
    if not operand.is_floating_point():
        return operand
    return operand.masked_fill(_aligned(dropped, operand), 0)


def _aligned(row: Tensor, operand: Tensor) -> Tensor:
    """Return one number for each example so that it multiplies `operand`."""
    return row.reshape(row.shape[0], *[1] * (operand.ndim - 1))
