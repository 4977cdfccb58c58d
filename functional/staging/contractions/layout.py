"""How the labels of a sum of products are divided: what is kept, contracted, the examples."""

from __future__ import annotations

from typing import NamedTuple

from .labels import Row, flat, size
from .meaning import Meaning
from .products import Selection, Term


class Layout(NamedTuple):
    """The labels of every term: those of both operands or kept, of the left alone, the right alone.

    What is left of a term's labels it sums over.
    """

    batch: Row
    left: Row
    right: Row

    def flipped(self) -> Layout:
        """Return the layout of the terms turned round."""
        return Layout(self.batch, self.right, self.left)

    def contracted(self, term: Term) -> Row:
        """Return the labels over which a term is summed before anything else."""
        return tuple(
            label for label in term.labels if label not in {*self.batch, *self.left, *self.right}
        )


def of_squares(value: Meaning) -> tuple[tuple[Term, ...], Layout] | None:
    """Return how the squares of a sum of products are summed, and its terms turned to fit."""
    kept = flat(value.axes)
    result = {*kept, *value.summed}
    first = value.terms[0]
    own, other = set(first.left.labels), set(first.right.labels)
    batch = tuple(n for n in first.labels if n in kept or (n in own and n in other and n in result))
    layout = Layout(
        batch,
        tuple(n for n in first.left.labels if n in result and n not in batch),
        tuple(n for n in first.right.labels if n in result and n not in batch),
    )
    return _consistent(value, layout, kept) if result <= set(first.labels) else None


def of_sums(value: Meaning) -> tuple[tuple[Term, ...], Layout] | None:
    """Return how a sum of products is summed, and its terms turned to fit."""
    kept = flat(value.axes)
    first = value.terms[0]
    own, other = set(first.left.labels), set(first.right.labels)
    layout = Layout(
        tuple(n for n in kept if n in own and n in other),
        tuple(n for n in kept if n not in other),
        tuple(n for n in kept if n not in own),
    )
    return _consistent(value, layout, kept) if set(kept) <= set(first.labels) else None


def _consistent(
    value: Meaning, layout: Layout, kept: Row
) -> tuple[tuple[Term, ...], Layout] | None:
    """Turn the terms so that all have the layout; None where one cannot be."""
    left, right = set(layout.left), set(layout.right)
    if not left or not right:
        return None
    terms = []
    for term in value.terms:
        if left <= set(term.right.labels):
            term = term.flipped()
        own, other = set(term.left.labels), set(term.right.labels)
        if not (left <= own and right <= other) or left & other or right & own:
            return None
        selections = (n for n in (term.left, term.right) if isinstance(n, Selection))
        if not all(_is_whole(side, kept, value.squared, layout) for side in selections):
            return None
        terms.append(term)
    return tuple(terms), layout


def _is_whole(side: Selection, kept: Row, squared: bool, layout: Layout) -> bool:
    """Say whether a selection need not be formed: its rows are all summed, or all a result."""
    rows = side.axes[-1]
    if squared:
        return not set(rows) & set(kept) and set(layout.batch) == set(side.axes[0])
    return set(rows) in (set(layout.left), set(layout.right)) and not layout.batch


def flops(value: Meaning) -> int:
    """Return how many multiplications it takes to sum in the order of `computation`."""
    found = of_squares(value) if value.squared else of_sums(value)
    assert found is not None
    terms, layout = found
    if not value.squared:
        return sum(term.flops for term in terms)
    columns = sum(size(layout.contracted(term)) for term in terms)
    sides = ((terms[0].left, layout.left), (terms[0].right, layout.right))
    rows = sum(1 if isinstance(operand, Selection) else size(labels) for operand, labels in sides)
    return size(layout.batch) * rows * columns * columns
