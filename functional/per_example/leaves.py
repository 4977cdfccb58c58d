"""The gradients of all examples with respect to one parameter: a sum of factors, arranged."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from ..staging.tracing import untraced
from .convolutions import Convolution
from .factorization import Term, View, is_arranging, order_of
from .factors import Dense, Factor, Outer, outer_products, widened
from .lookups import Lookup, lookup_products, mixed_products

#: How to get at what a gradient would tell: by forming it, without, or by whichever costs less.
Method = Literal["auto", "ghost", "materialize"]


def check_method(transform: str, method: str) -> None:
    """Refuse what is not a method."""
    if method not in get_args(Method):
        names = ", ".join(map(repr, get_args(Method)))
        raise ValueError(f"{transform}: expected one of {names} for method, got {method!r}.")


@dataclass(frozen=True)
class Part:
    """A factor and how its product is arranged in the parameter.

    Arranging permutes entries, or puts them among zeros, so a part has the norms of its factor.
    """

    factor: Factor
    #: The shape that the views begin with; None where the product already lies as the parameter.
    start: tuple[int, ...] | None = None
    views: tuple[View, ...] = ()

    def arranged(self, product: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the product of one example, or a sum over examples, as the parameter has it."""
        if self.start is None:
            return product.reshape(shape)
        product = product.reshape(self.start)
        for view in self.views:
            product = view(product)
        return product.reshape(shape)

    def formed(self, shape: tuple[int, ...]) -> Tensor:
        """Return the product of every example."""
        values = self.factor.materialized()
        if self.start is None:
            return values.reshape(values.shape[0], *shape)
        return torch.func.vmap(lambda product: self.arranged(product, shape))(values)


@dataclass(frozen=True)
class Leaf:
    """The gradients with respect to a parameter of `shape`: the sum of `parts`, none for zero.

    `like` has the examples along its first axis.
    """

    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    like: Tensor
    #: Whether no two parts have an entry in common.
    is_disjoint: bool = False

    @property
    def examples(self) -> int:
        """How many examples there are."""
        return self.like.shape[0]

    def squared_norms(self) -> Tensor:
        """Return |g_b|^2, shape (B,)."""
        if not self.parts:
            return widened(self.like.new_zeros(self.examples))
        if len(self.parts) > 1 and not self.is_ghostly:
            return self.formed().squared_norms()
        found = [part.factor.widened() for part in self.parts]
        total = _total([factor.squared_norms() for factor in found])
        if not self.is_disjoint:
            for place, first in enumerate(found):
                for second in found[place + 1 :]:
                    total = total + 2 * _inner_products(first, second)
        return total.clamp_min(0)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Return sum_b w_b g_b, of the parameter's shape."""
        if not self.parts:
            return self.like.new_zeros(self.shape)
        sums = [part.arranged(part.factor.weighted_sum(weights), self.shape) for part in self.parts]
        return _total(sums)

    def materialized(self) -> Tensor:
        """Return every g_b, shape (B, *shape)."""
        if not self.parts:
            return self.like.new_zeros((self.examples, *self.shape))
        return _total([part.formed(self.shape) for part in self.parts])

    def formed(self) -> Leaf:
        """Return the same gradients, formed."""
        return Leaf(self.shape, (Part(Dense(self.materialized())),), self.like)

    def only(self, examples: slice) -> Leaf:
        """Return the gradients of some of the examples."""
        return self._mapped(lambda factor: factor.only(examples), self.like[examples])

    def without(self, dropped: Tensor) -> Leaf:
        """Return the gradients with zeros for the examples that `dropped` marks."""
        return self._mapped(lambda factor: factor.without(dropped), self.like)

    def widened(self) -> Leaf:
        """Return the gradients in a dtype that they can be added up in."""
        return self._mapped(Factor.widened, widened(self.like))

    @property
    def is_ghostly(self) -> bool:
        """Whether the norms of the sum can be had without forming it."""
        if any(isinstance(part.factor, Dense) for part in self.parts):
            return False
        if len(self.parts) < 2 or self.is_disjoint:
            return True
        plain = all(part.start is None for part in self.parts)
        tables = {table(part.factor) for part in self.parts}
        return plain and None not in tables and len(tables) == 1

    def is_cheaper_formed(self) -> bool:
        """Whether norms and sum cost less with the gradients formed."""
        if not self.is_ghostly:
            return True
        ghost = sum(part.factor.ghost_cost() for part in self.parts) * len(self.parts)
        return ghost >= sum(part.factor.dense_cost() for part in self.parts)

    def _mapped(self, change: Callable[[Factor], Factor], like: Tensor) -> Leaf:
        parts = [replace(part, factor=change(part.factor)) for part in self.parts]
        return replace(self, parts=tuple(parts), like=like)


def leaf(
    shape: tuple[int, ...], terms: Sequence[Term], made: Sequence[Factor], like: Tensor
) -> Leaf:
    """Return the gradients that factors `made` of terms add up to."""
    parts = [_straightened(term, factor) for term, factor in zip(terms, made, strict=True)]
    parts = _merged(parts)
    return Leaf(shape, tuple(parts), like, _are_disjoint(parts, shape))


def _straightened(term: Term, factor: Factor) -> Part:
    """Return a part that lies as the parameter does, if its views can be undone."""
    order = order_of(term.shape, term.views)
    if order == "kept":
        return Part(factor)
    if order == "transposed" and isinstance(factor, Outer):
        return Part(factor.transposed)
    return Part(factor, term.shape, term.views)


def _merged(parts: Sequence[Part]) -> list[Part]:
    """Put products of one kind together: the sum over uses is a sum over positions."""
    if len(parts) < 2:
        return list(parts)
    alike: dict[object, list[Part]] = {}
    for part in parts:
        if isinstance(part.factor, Convolution):
            part = replace(
                part, factor=part.factor.unfolded(), start=part.start or part.factor.shape
            )
            if part.views == ():
                part = replace(part, start=None)
        views = tuple((view.target, str(view.args)) for view in part.views)
        kind = (type(part.factor), part.factor.shape, part.start, views)
        alike.setdefault(kind, []).append(part)
    return [
        replace(group[0], factor=_joined([part.factor for part in group]))
        for group in alike.values()
    ]


def _joined(group: Sequence[Factor]) -> Factor:
    first = group[0]
    if len(group) == 1:
        return first
    if isinstance(first, Dense):
        return Dense(_total([factor.materialized() for factor in group]))
    if isinstance(first, Lookup):
        operands = [(lookup.gradients, lookup.indices) for lookup in group]  # type: ignore[attr-defined]
        return first.with_operands([torch.cat(c, 1) for c in zip(*operands, strict=True)])
    lefts, rights = zip(*[factor.operands for factor in group], strict=True)
    # Each product's rows of P' stay together in memory.
    return Outer(torch.cat([left.mT for left in lefts], 2).mT, torch.cat(rights, 2))


def _are_disjoint(parts: Sequence[Part], shape: tuple[int, ...]) -> bool:
    """Say whether the parts are put among zeros where no other part is."""
    if len(parts) < 2 or any(all(map(is_arranging, part.views)) for part in parts):
        return False
    with untraced():
        places = [
            part.arranged(torch.ones(part.start or part.factor.shape), shape) for part in parts
        ]
        return bool(functools.reduce(torch.add, places).max() <= 1)


def table(factor: Factor) -> tuple[int, ...] | None:
    """Return the rows and columns of a gradient that has inner products with others of its kind.

    A weight that is used in two shapes has gradients that agree in neither.
    """
    if isinstance(factor, Outer) and factor.shape[0] == 1:
        return factor.shape[1:]
    return factor.shape if isinstance(factor, Lookup) else None


def _inner_products(first: Factor, second: Factor) -> Tensor:
    if isinstance(first, Outer) and isinstance(second, Outer):
        return outer_products(first, second)
    if isinstance(first, Lookup) and isinstance(second, Lookup):
        return lookup_products(first, second)
    if isinstance(first, Outer):
        first, second = second, first
    assert isinstance(first, Lookup)
    assert isinstance(second, Outer)
    return mixed_products(first, second)


def _total(sums: Sequence[Tensor]) -> Tensor:
    return functools.reduce(torch.add, sums)
