"""Frozen dataclasses that are pytrees."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar, cast, dataclass_transform

import optree.dataclasses

from .pytree import NAMESPACE

T = TypeVar("T")


def static(**field_options: Any) -> Any:
    """Mark a field of a `tree.dataclass` as part of the structure instead of a leaf.

    A static value is compared and hashed with the structure, so under `jit` each value has its own
    program. Options are those of `dataclasses.field`: `default`, `default_factory`, `repr`, ...

    >>> @dataclass
    ... class Scaled:
    ...     value: float
    ...     unit: str = static(default="m")
    >>> optree.tree_leaves(Scaled(2.0), namespace=NAMESPACE)
    [2.0]
    """
    field: Any = optree.dataclasses.field  # mypy takes it for the standard library's
    return field(pytree_node=False, **field_options)


@dataclass_transform(frozen_default=True, field_specifiers=(static, dataclasses.field))
def dataclass(cls: type[T]) -> type[T]:
    """Make `cls` a frozen dataclass whose fields are subtrees, except those marked `static`.

    >>> @dataclass
    ... class Interval:
    ...     low: float
    ...     high: float
    ...     name: str = static(default="x")
    >>> optree.tree_map(lambda v: v * 2, Interval(1.0, 2.0), namespace=NAMESPACE)
    ...                                             # doctest: +ELLIPSIS
    Interval(low=2.0, high=4.0, name='x')
    """
    register: Any = optree.dataclasses.dataclass
    return cast(type[T], register(frozen=True, namespace=NAMESPACE)(cls))
