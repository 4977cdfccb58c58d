"""What leaves of the arguments of a call are called in its function: `params['w']`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...functional import tree
from ...functional.border import argument_name


def leaf_names(
    fun: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any] | None = None
) -> list[str]:
    """Return for each leaf of `(args, kwargs)` the expression that reaches it within `fun`.

    >>> leaf_names(lambda params, *rest, lr: 0, ({"w": 1}, 2, 3), {"lr": 4})
    ["params['w']", 'rest[0]', 'rest[1]', 'lr']
    """
    kwargs = kwargs or {}
    named = [(argument_name(fun, position), value) for position, value in enumerate(args)]
    named += [(name, kwargs[name]) for name in sorted(kwargs)]
    return [path for name, value in named for path in tree.path_strings(value, name)]


def function_name(fun: Callable[..., Any]) -> str:
    """Return what an error calls a function."""
    return getattr(fun, "__qualname__", repr(fun)).rpartition("<locals>.")[2]
