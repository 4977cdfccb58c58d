"""What makes two static values the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Any

from torch import Tensor


class Static:
    """A value that is part of a structure: equal only to one of the same types throughout.

    For Python `1 == 1.0 == True` and `0.0 == -0.0`; programs compiled for them differ.

    >>> Static((1, 2.0)) == Static((1, 2.0)), Static((1, 2.0)) == Static((1, 2))
    (True, False)
    """

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Static) and _identity(self.value) == _identity(other.value)

    def __hash__(self) -> int:
        return hash(_identity(self.value))

    def __repr__(self) -> str:
        return repr(self.value)


def _identity(value: Any) -> Hashable:
    """Return a hashable that says what `value` is, types and signs of zero included."""
    kind = type(value)
    if kind is float:
        return kind, value.hex()
    if kind is complex:
        return kind, value.real.hex(), value.imag.hex()
    if isinstance(value, tuple):
        return kind, tuple(_identity(item) for item in value)
    if isinstance(value, frozenset):
        return kind, frozenset(_identity(item) for item in value)
    if dataclasses.is_dataclass(kind) and kind.__hash__ is not None:
        fields = (getattr(value, field.name) for field in dataclasses.fields(value))
        return kind, tuple(_identity(field) for field in fields)
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"a static value must be hashable, got {kind.__name__} {value!r}. Use a tuple or a "
            "frozen dataclass."
        ) from None
    if isinstance(value, Tensor):
        raise TypeError("a static value must not be a tensor: tensors are leaves, and traced.")
    return kind, value
