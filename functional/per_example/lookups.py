"""Gradients of tables of which some rows were looked up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .. import control
from .factors import NEAR, Factor, Outer, weighted


@dataclass(frozen=True)
class Lookup(Factor):
    """g_b adds what is `sent` back, (B, k, d), to the rows `indices`, (B, k), of a table.

    Of shape (B, 1, d) it is sent to every row, as where the rows were added up. The table has
    `rows` rows.
    """

    sent: Tensor
    indices: Tensor
    rows: int

    @property
    def gradients(self) -> Tensor:
        """What is sent to each row, (B, k, d)."""
        return self.sent.expand(-1, self.indices.shape[1], -1)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the table."""
        return (self.rows, self.sent.shape[2])

    @property
    def operands(self) -> tuple[Tensor, ...]:
        """What comes back, and where it goes."""
        return (self.sent, self.indices)

    def with_operands(self, operands: Sequence[Tensor]) -> Factor:
        """Return the gradients of the same table for other lookups."""
        sent, indices = operands
        return replace(self, sent=sent, indices=indices)

    def squared_norms(self) -> Tensor:
        """Return |sum over equal indices|^2: what goes to one row is added up in one place."""
        examples, k = self.indices.shape
        if self._is_repeated():
            return self.sent.square().sum((1, 2)) * self._equal_pairs().to(self.sent.dtype)
        offsets = k * torch.arange(examples, device=self.indices.device)
        places = (self._first_places() + offsets.unsqueeze(1)).flatten()
        sums = self.sent.new_zeros(examples * k, self.shape[1])
        sums = sums.index_add(0, places, self.gradients.flatten(0, 1))
        return sums.view(examples, k * self.shape[1]).square().sum(1)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Return the ordinary derivative of the table, with what comes back weighted."""
        gradients = replace(self, sent=weighted(weights, self.sent)).gradients
        table = gradients.new_zeros(self.shape)
        return table.index_add(0, self.indices.flatten(), gradients.flatten(0, 1))

    def materialized(self) -> Tensor:
        """Return a table for every example."""
        width = self.shape[1]
        tables = self.sent.new_zeros(self.examples * self.rows, width)
        tables = tables.index_add(0, _places(self.indices, self.rows), self.gradients.flatten(0, 1))
        return tables.view(self.examples, self.rows, width)

    def ghost_cost(self) -> float:
        """Return the cost of putting equal rows together."""
        return self.indices.shape[1] * (1 if self._is_repeated() else self.shape[1]) * NEAR

    def dense_cost(self) -> float:
        """Return the cost of whole tables."""
        return (self.rows + self.indices.shape[1]) * self.shape[1] * self.cost_of_memory()

    def _is_repeated(self) -> bool:
        return self.sent.shape[1] == 1 < self.indices.shape[1]

    def _equal_pairs(self) -> Tensor:
        """Return how many pairs of positions, each with itself too, look up the same row, (B,)."""
        found = self._by_tables(_counted_pairs)
        if found is not None:
            return found
        ordered = self.indices.sort(1).values
        ends = torch.searchsorted(ordered, ordered, right=True)
        return (ends - torch.searchsorted(ordered, ordered)).sum(1)

    def _first_places(self) -> Tensor:
        """Return for each position one of those that look up the same row, always the same."""
        found = self._by_tables(_written_places)
        if found is not None:
            return found.long()
        ordered, order = self.indices.sort(1)
        steps = (ordered[:, 1:] != ordered[:, :-1]).long().cumsum(1)
        steps = torch.nn.functional.pad(steps, [1, 0])[:, : self.indices.shape[1]]
        return torch.empty_like(order).scatter(1, order, steps)

    def _by_tables(self, compute: Callable[[Tensor, int], Tensor]) -> Tensor | None:
        """Return what is computed of indices by a table of all rows; None if tables are large.

        A few examples have their turn at a time, so that the table stays in the caches.
        """
        at_once = LARGEST_TABLE // self.rows
        if at_once >= self.examples:
            return compute(self.indices, self.rows)
        if at_once * MOST_TABLES < self.examples:
            return None
        whole = self.examples - self.examples % at_once
        parts = self.indices[:whole].unflatten(0, (-1, at_once))
        found: Tensor = control.map(lambda part: compute(part, self.rows), parts).flatten(0, 1)
        rest = [compute(self.indices[whole:], self.rows)] if whole < self.examples else []
        return torch.cat([found, *rest])


def _counted_pairs(indices: Tensor, rows: int) -> Tensor:
    places = _places(indices, rows)
    ones = places.new_ones((), dtype=_smallest_integer(indices.shape[1]))
    counts = ones.new_zeros(len(indices) * rows).index_add(0, places, ones.expand(len(places)))
    return counts[places].view(indices.shape).sum(1)


def _written_places(indices: Tensor, rows: int) -> Tensor:
    examples, k = indices.shape
    places = _places(indices, rows)
    positions = torch.arange(k, dtype=_smallest_integer(k), device=places.device)
    # Nothing is read from the table but what was written: it needs no first values.
    table = positions.new_empty(examples * rows).scatter(0, places, positions.repeat(examples))
    return table[places].view(examples, k)


def _places(indices: Tensor, rows: int) -> Tensor:
    """Return the rows of the indices in one table of the rows of all examples, (B * k,)."""
    offsets = rows * torch.arange(len(indices), device=indices.device)
    return (indices + offsets.unsqueeze(1)).flatten()


def _smallest_integer(largest: int) -> torch.dtype:
    """Return a dtype for the entries of a table, of which the caches hold the more so."""
    return torch.int16 if largest < 2**15 else torch.int32


#: How many entries a table of all rows for some examples may have, so that the caches hold it, and
#: how many of them are filled one after the other; beyond, indices are sorted.
LARGEST_TABLE = 5 * 2**17
MOST_TABLES = 16


def lookup_products(first: Lookup, second: Lookup) -> Tensor:
    """Return sum_{t,s} [i_t = j_s] g_t . h_s for each example, shape (B,)."""
    equal = first.indices.unsqueeze(2) == second.indices.unsqueeze(1)
    return torch.where(equal, first.gradients @ second.gradients.mT, 0).sum((1, 2))


def mixed_products(lookup: Lookup, outer: Outer) -> Tensor:
    """Return sum_t g_t . (P Q)[i_t] for each example, shape (B,)."""
    left, right = outer.left.squeeze(1), outer.right.squeeze(1)
    places = lookup.indices.unsqueeze(2).expand(-1, -1, left.shape[2])
    return (left.gather(1, places) * (lookup.gradients @ right.mT)).sum((1, 2))
