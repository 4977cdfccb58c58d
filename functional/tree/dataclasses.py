"""Frozen dataclasses that are pytrees."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar, dataclass_transform

import optree

from .identity import Static
from .pytree import NAMESPACE

T = TypeVar("T")

_STATIC = "purefn.static"


def static(**field_options: Any) -> Any:
    """Mark a field of a `tree.dataclass` as part of the structure instead of a leaf.

    A static value is compared and hashed with the structure, so under `jit` each value, of each
    type, has its own program. Options are those of `dataclasses.field`: `default`, `repr`, ...

    >>> @dataclass
    ... class Interval:
    ...     low: float
    ...     name: str = static(default="x")
    >>> optree.tree_leaves(Interval(1.0), namespace=NAMESPACE)
    [1.0]
    """
    return dataclasses.field(**field_options, metadata={_STATIC: True})


@dataclass_transform(frozen_default=True, field_specifiers=(static, dataclasses.field))
def dataclass(cls: type[T]) -> type[T]:
    """Make `cls` a frozen dataclass whose fields are subtrees, except those marked `static`.

    Transformations make instances with other leaves (tensors without values, `None`, axes) without
    calling `__init__` or `__post_init__`, which may therefore check what a user passes.

    >>> @dataclass
    ... class Interval:
    ...     low: float
    ...     high: float
    ...     name: str = static(default="x")
    >>> optree.tree_map(lambda v: v * 2, Interval(1.0, 2.0), namespace=NAMESPACE)
    Interval(low=2.0, high=4.0, name='x')
    """
    frozen: Any = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(frozen)
    children = tuple(field.name for field in fields if not field.metadata.get(_STATIC))
    statics = tuple(field.name for field in fields if field.metadata.get(_STATIC))

    def flatten(node: Any) -> tuple[tuple[Any, ...], Static, tuple[str, ...]]:
        values = tuple([getattr(node, name) for name in children])
        return values, Static(tuple([getattr(node, name) for name in statics])), children

    def unflatten(metadata: Any, values: Iterable[Any]) -> Any:
        node = object.__new__(frozen)
        for name, value in zip(children, values, strict=True):
            object.__setattr__(node, name, value)
        for name, value in zip(statics, metadata.value, strict=True):
            object.__setattr__(node, name, value)
        return node

    optree.register_pytree_node(
        frozen,
        flatten,
        unflatten,
        path_entry_type=optree.DataclassEntry,
        namespace=NAMESPACE,
    )
    result: type[T] = frozen
    return result
