"""What the accountants refuse at the door."""

from __future__ import annotations

import math
from typing import Any


def number(name: str, value: Any) -> None:
    """Require a finite Python number: what is accounted for must be known, not traced.

    >>> number("delta", 1e-6)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(
            f"{name}: expected a Python number, got {value!r} ({type(value).__name__})."
        )
    if not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value!r}.")


def probability(name: str, value: Any) -> None:
    """Require a Python number strictly between 0 and 1.

    >>> probability("delta", 1e-6)
    """
    number(name, value)
    if not 0 < value < 1:
        raise ValueError(f"{name}: expected a number in (0, 1), got {value!r}.")


def budget(name: str, value: Any) -> None:
    """Require a Python number above 0.

    >>> budget("epsilon", 8.0)
    """
    number(name, value)
    if not value > 0:
        raise ValueError(f"{name}: expected a number greater than 0, got {value!r}.")


def multiplier(name: str, value: Any) -> None:
    """Require a Python number that is at least 0.

    >>> multiplier("noise_multiplier", 1.1)
    """
    number(name, value)
    if value < 0:
        raise ValueError(f"{name}: expected a number that is at least 0, got {value!r}.")
