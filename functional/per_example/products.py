"""Inner products between the gradients of two batches, from the factors that make them up.

With gradients that are products, `g_b = P_b Q_b` and `h_c = R_c S_c`, all pairs follow from two
small matrices, and no gradient is formed::

    <g_b, h_c> = sum_kl (P_b' R_c)_kl (Q_b S_c')_kl

In shapes, B and C count the examples of the two batches.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .calls import Call
from .convolutions import Convolution
from .factors import Dense, Factor, Outer, widened
from .gradients import by_method, total_of
from .leaves import Leaf, Method, Part, table
from .lookups import Lookup


def leaves_of(call: Call, method: Method, chunk_size: int | None = None) -> list[Leaf]:
    """Return the gradients of a call by parameter, in factors unless `method` is to form them."""
    return by_method(call, "materialize" if method == "materialize" else "ghost", chunk_size).leaves


def inner_products(
    first: Sequence[Leaf], second: Sequence[Leaf], method: Method = "auto"
) -> Tensor:
    """Return <g_b, h_c> over all parameters, shape (B, C)."""
    pairs = zip(first, second, strict=True)
    return total_of([leaf_products(one, other, method) for one, other in pairs], 0)


def leaf_products(first: Leaf, second: Leaf, method: Method = "auto") -> Tensor:
    """Return <g_b, h_c> with respect to one parameter, shape (B, C)."""
    if not first.parts or not second.parts:
        return widened(first.like.new_zeros(first.examples, second.examples))
    meeting = _meeting(first, second)
    if not meeting or (method == "auto" and _is_cheaper_formed(first, second, meeting)):
        return _of_formed(first, second)
    return total_of([factor_products(one, other) for one, other in meeting], 0)


def factor_products(first: Factor, second: Factor) -> Tensor:
    """Return the inner products of all pairs of products, shape (B, C)."""
    match first.widened(), second.widened():
        case Outer() as one, Outer() as other:
            return _outer_products(one, other)
        case Lookup() as one, Lookup() as other:
            return _lookup_products(one, other)
        case Lookup() as one, Outer() as other:
            return _mixed_products(one, other)
        case Outer() as one, Lookup() as other:
            return _mixed_products(other, one).mT
    raise TypeError(f"no inner products of {type(first).__name__} and {type(second).__name__}.")


def _outer_products(first: Outer, second: Outer) -> Tensor:
    lefts = pairs(first.left.mT, second.left.mT)
    rights = pairs(first.right, second.right)
    products: Tensor = lefts * rights
    return products.sum((0, 2, 4))


def pairs(first: Tensor, second: Tensor) -> Tensor:
    """Return the products of all rows of (B, blocks, k, n) and (C, blocks, l, n) in each block.

    The result has the shape (blocks, B, k, C, l).
    """
    rows, columns = (side.transpose(0, 1).flatten(1, 2) for side in (first, second))
    products: Tensor = rows @ columns.mT
    return products.reshape(-1, first.shape[0], first.shape[2], second.shape[0], second.shape[2])


def _lookup_products(first: Lookup, second: Lookup) -> Tensor:
    products = pairs(first.gradients.unsqueeze(1), second.gradients.unsqueeze(1)).squeeze(0)
    equal = first.indices[:, :, None, None] == second.indices
    return torch.where(equal, products, 0).sum((1, 3))


def _mixed_products(lookup: Lookup, outer: Outer) -> Tensor:
    """Return sum_t g_t . (P Q)[i_t]: of the products only the rows that were looked up."""
    rows = outer.left.squeeze(1)[:, lookup.indices]
    columns = pairs(lookup.gradients.unsqueeze(1), outer.right).squeeze(0)
    products: Tensor = rows.permute(1, 2, 0, 3) * columns
    return products.sum((1, 3))


def opened(factor: Factor) -> Factor:
    """Return a convolution as products over patches, and what is no convolution as it is."""
    return factor.unfolded() if isinstance(factor, Convolution) else factor


def _of_formed(first: Leaf, second: Leaf) -> Tensor:
    rows, columns = (
        widened(side.materialized()).reshape(side.examples, -1) for side in (first, second)
    )
    products: Tensor = rows @ columns.mT
    return products


def _meeting(first: Leaf, second: Leaf) -> list[tuple[Factor, Factor]]:
    """Return the factors whose inner products add up to that of the sums; none if not known."""
    pairs = list(itertools.product(first.parts, second.parts))
    if first.is_disjoint and second.is_disjoint and len(first.parts) == len(second.parts):
        pairs = list(zip(first.parts, second.parts, strict=True))
    factors = [(opened(one.factor), opened(other.factor)) for one, other in pairs]
    alike = all(_arrangement(one) == _arrangement(other) for one, other in pairs)
    return factors if alike and all(_multiply(*both) for both in factors) else []


def _arrangement(part: Part) -> object:
    return part.start, [(view.target, str(view.args)) for view in part.views]


def _multiply(first: Factor, second: Factor) -> bool:
    """Say whether the pairs of two products are known without forming either."""
    if isinstance(first, Dense) or isinstance(second, Dense):
        return False
    if isinstance(first, Outer) and isinstance(second, Outer):
        return first.shape == second.shape
    return table(first) is not None and table(first) == table(second)


#: What writing and reading a number costs, in multiplications.
MEMORY = 16


def _is_cheaper_formed(first: Leaf, second: Leaf, meeting: Sequence[tuple[Factor, Factor]]) -> bool:
    """Say whether gradients and their products cost less than the products of factors."""
    count, entries = first.examples * second.examples, math.prod(first.shape)
    ranks = [(_rank(one), _rank(other)) for one, other in meeting]
    forming = entries * sum(
        first.examples * (one + MEMORY) + second.examples * (other + MEMORY) for one, other in ranks
    )
    pairs = zip(meeting, ranks, strict=True)
    ghost = sum(r * q * (_length(one) + MEMORY) for (one, _), (r, q) in pairs)
    return count * ghost >= forming + count * entries


def _rank(factor: Factor) -> int:
    """Return how many products the gradient of one example is the sum of."""
    return factor.rank if isinstance(factor, Outer) else factor.operands[-1].shape[1]


def _length(factor: Factor) -> int:
    if isinstance(factor, Outer):
        blocks, m, n = factor.shape
        return blocks * (m + n)
    return factor.shape[-1]
