"""The axes of tensors as rows of labels, so that views, transposes and products are bookkeeping.

An axis of length 35 that a view has made of axes of length 7 and 5 is the row of these two labels;
an axis of length one is the empty row. What two tensors have in common is then a label, wherever
the one or the other has it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence


class Label:
    """One direction of summation, compared by identity; it knows its length and its halves."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._split: dict[int, Row] = {}

    def split(self, outer: int) -> Row:
        """Return the two labels that take this one's place when its axis is viewed as two."""
        return self._split.setdefault(outer, (Label(outer), Label(self.size // outer)))


Row = tuple[Label, ...]
Axes = tuple[Row, ...]
#: What takes the place of a label.
Renaming = Mapping[Label, Row]


def fresh(shape: Sequence[int]) -> Axes:
    """Return axes of new labels."""
    return tuple((Label(size),) if size != 1 else () for size in shape)


def flat(axes: Axes) -> Row:
    """Return all labels in order."""
    return tuple(label for row in axes for label in row)


def size(labels: Iterable[Label]) -> int:
    """Return how many elements the labels count together."""
    return math.prod(label.size for label in labels)


def renamed(axes: Axes, renaming: Renaming) -> Axes:
    """Return axes with labels replaced, again and again where a replacement is replaced itself."""
    return tuple(tuple(new for label in row for new in _final(label, renaming)) for row in axes)


def _final(label: Label, renaming: Renaming) -> Row:
    row = renaming.get(label)
    if row is None or row == (label,):
        return (label,)
    return tuple(new for part in row for new in _final(part, renaming))


def viewed(axes: Axes, shape: Sequence[int]) -> tuple[Axes, Renaming] | None:
    """Return the axes of a view of that shape, and the labels that had to be split for it.

    None where a new axis begins within an old one at a place that does not divide it.
    """
    labels = list(reversed(flat(axes)))
    renaming: dict[Label, Row] = {}
    rows: list[Row] = []
    for length in shape:
        row: list[Label] = []
        missing = length
        while missing > 1:
            if not labels:
                return None
            label = labels.pop()
            if missing % label.size:
                if label.size % missing:
                    return None
                label, rest = renaming.setdefault(label, label.split(missing))
                labels.append(rest)
            row.append(label)
            missing //= label.size
        rows.append(tuple(row))
    return (tuple(rows), renaming) if not labels else None


def matched(first: Axes, second: Axes) -> tuple[Renaming, Renaming] | None:
    """Return renamings after which two tensors of broadcastable shapes have equal labels.

    An empty row broadcasts. None where the axes of the one do not divide those of the other.
    """
    left: dict[Label, Row] = {}
    right: dict[Label, Row] = {}
    for ours, theirs in zip(first, second, strict=True):
        if not ours or not theirs:
            continue
        mine, other = list(reversed(ours)), list(reversed(theirs))
        while mine and other:
            a, b = mine.pop(), other.pop()
            if a is b:
                continue
            if a.size < b.size and b.size % a.size == 0:
                b, rest = right.setdefault(b, b.split(a.size))
                other.append(rest)
            elif b.size < a.size and a.size % b.size == 0:
                a, rest = left.setdefault(a, a.split(b.size))
                mine.append(rest)
            if a.size != b.size:
                return None
            if a is not b:
                right[b] = (a,)
        if mine or other:
            return None
    return left, right
