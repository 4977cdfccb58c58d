"""Gradients of tables of which some rows were looked up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .factors import NEAR, Factor, Outer, weighted


@dataclass(frozen=True)
class Lookup(Factor):
    """g_b adds `gradients`, (B, k, d), to the rows `indices`, (B, k), of a table of `rows` rows."""

    gradients: Tensor
    indices: Tensor
    rows: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the table."""
        return (self.rows, self.gradients.shape[2])

    @property
    def operands(self) -> tuple[Tensor, ...]:
        """What comes back, and where it goes."""
        return (self.gradients, self.indices)

    def with_operands(self, operands: Sequence[Tensor]) -> Factor:
        """Return the gradients of the same table for other lookups."""
        gradients, indices = operands
        return replace(self, gradients=gradients, indices=indices)

    def squared_norms(self) -> Tensor:
        """Return |sum over equal indices|^2: what goes to one row is added up in one place."""
        examples, k, width = self.gradients.shape
        offsets = k * torch.arange(examples, device=self.indices.device)
        places = (self._first_places() + offsets.unsqueeze(1)).flatten()
        sums = self.gradients.new_zeros(examples * k, width)
        sums = sums.index_add(0, places, self.gradients.flatten(0, 1))
        return sums.view(examples, k * width).square().sum(1)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Return the ordinary derivative of the table, with what comes back weighted."""
        gradients = weighted(weights, self.gradients)
        table = gradients.new_zeros(self.shape)
        return table.index_add(0, self.indices.flatten(), gradients.flatten(0, 1))

    def materialized(self) -> Tensor:
        """Return a table for every example."""
        examples, _, width = self.gradients.shape
        offsets = self.rows * torch.arange(examples, device=self.indices.device)
        places = (self.indices + offsets.unsqueeze(1)).flatten()
        tables = self.gradients.new_zeros(examples * self.rows, width)
        tables = tables.index_add(0, places, self.gradients.flatten(0, 1))
        return tables.view(examples, self.rows, width)

    def ghost_cost(self) -> float:
        """Return the cost of putting equal rows together."""
        return self.indices.shape[1] * self.shape[1] * NEAR

    def dense_cost(self) -> float:
        """Return the cost of whole tables."""
        return (self.rows + self.indices.shape[1]) * self.shape[1] * self.cost_of_memory()

    def _first_places(self) -> Tensor:
        """Return for each position one of those that look up the same row, always the same."""
        examples, k = self.indices.shape
        if examples * self.rows > LARGEST_TABLE:
            ordered, order = self.indices.sort(1)
            steps = (ordered[:, 1:] != ordered[:, :-1]).long().cumsum(1)
            steps = torch.nn.functional.pad(steps, [1, 0])[:, :k]
            return torch.empty_like(order).scatter(1, order, steps)
        offsets = self.rows * torch.arange(examples, device=self.indices.device).unsqueeze(1)
        places = (self.indices + offsets).flatten()
        positions = torch.arange(k, dtype=torch.int32, device=places.device).repeat(examples)
        # Nothing is read from the table but what was written: it needs no first values.
        table = positions.new_empty(examples * self.rows).scatter(0, places, positions)
        return table[places].view(examples, k)


#: How many entries a table of all rows for all examples may have; beyond, indices are sorted.
LARGEST_TABLE = 2**22


def lookup_products(first: Lookup, second: Lookup) -> Tensor:
    """Return sum_{t,s} [i_t = j_s] g_t . h_s for each example, shape (B,)."""
    equal = first.indices.unsqueeze(2) == second.indices.unsqueeze(1)
    return torch.where(equal, first.gradients @ second.gradients.mT, 0).sum((1, 2))


def mixed_products(lookup: Lookup, outer: Outer) -> Tensor:
    """Return sum_t g_t . (P Q)[i_t] for each example, shape (B,)."""
    left, right = outer.left.squeeze(1), outer.right.squeeze(1)
    places = lookup.indices.unsqueeze(2).expand(-1, -1, left.shape[2])
    return (left.gather(1, places) * (lookup.gradients @ right.mT)).sum((1, 2))
