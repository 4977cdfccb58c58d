"""What a module takes and gives, as plain trees of tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .. import tree
from ..nn import LayerError


def arguments(x: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and keyword arguments that an input stands for.

    >>> arguments((1, 2)), arguments({"mask": 3}), arguments([4])
    (((1, 2), {}), ((), {'mask': 3}), (([4],), {}))
    """
    if type(x) is tuple:
        return x, {}
    if isinstance(x, Mapping) and all(isinstance(name, str) for name in x):
        return (), dict(x)
    return (x,), {}


def copied(x: Any) -> Any:
    """Return `x` with its tensors copied, so that a module may write them."""
    if isinstance(x, Mapping) and not isinstance(x, dict):
        x = dict(x)
    return tree.map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, x)


def plain(name: str, value: Any, path: tuple[str, ...] = ()) -> Any:
    """Return an output of module `name` as dicts, tuples and lists of tensors.

    Mappings and dataclasses, such as the ones HuggingFace's models return, become dicts, of which
    entries that are `None` are left out.

    Raises
    ------
    LayerError
        Something else is in it; the message says where.

    Examples
    --------
    >>> from collections import OrderedDict
    >>> class Output(OrderedDict): ...
    >>> plain("model", (Output(logits=1.0, loss=None), [2]))
    ({'logits': 1.0}, [2])
    """
    if value is None or isinstance(value, Tensor | bool | int | float | complex):
        return value
    if isinstance(value, Mapping):
        entries = dict(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        entries = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        fields = zip(value._fields, value, strict=True)
        return type(value)(*(plain(name, part, (*path, field)) for field, part in fields))
    elif isinstance(value, tuple | list):
        parts = [plain(name, part, (*path, str(i))) for i, part in enumerate(value)]
        return parts if isinstance(value, list) else tuple(parts)
    else:
        where = f"output{''.join(f'[{key!r}]' for key in path)}"
        raise LayerError(
            f"{name} returned {where} of type {type(value).__name__}, which holds no tensors that "
            "could be found; choose what is returned with from_module(module, forward=...), as in "
            "`forward=lambda module, x: module(x).logits`."
        )
    return {
        key: plain(name, part, (*path, str(key)))
        for key, part in entries.items()
        if part is not None
    }
