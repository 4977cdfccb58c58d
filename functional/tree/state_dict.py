"""Trees to and from flat dicts with torch's dotted names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .pytree import PyTree, leaves_with_path, structure, unflatten


def to_state_dict(tree: PyTree) -> dict[str, Tensor]:
    """Return `{"conv1.weight": tensor, ...}`: torch's names for the leaves of `tree`.

    Keys, indices and field names along the path are joined by dots.

    Raises
    ------
    ValueError
        Two leaves would have the same name (a key with a dot in it).

    Examples
    --------
    >>> import torch
    >>> to_state_dict({"fc": {"weight": torch.ones(1), "bias": torch.zeros(1)}})
    {'fc.bias': tensor([0.]), 'fc.weight': tensor([1.])}
    """
    result: dict[str, Tensor] = {}
    for path, leaf in leaves_with_path(tree):
        name = ".".join(str(entry) for entry in path)
        if name in result:
            raise ValueError(f"to_state_dict: two leaves would be called {name!r}.")
        result[name] = leaf
    return result


def from_state_dict(state_dict: Mapping[str, Tensor], like: PyTree | None = None) -> PyTree:
    """Return the tree whose dotted names are the keys of `state_dict`.

    Without `like` the result is nested dicts, which is what models of this library use: any torch
    checkpoint loads, `from_state_dict(module.state_dict())`. With `like`, a tree of tensors or
    `ShapeDtype`s, it has the structure of `like`, and names, shapes and dtypes must agree.

    Raises
    ------
    ValueError
        A name is missing or unknown, or a leaf has another shape or dtype than in `like`.

    Examples
    --------
    >>> import torch
    >>> from_state_dict({"fc.weight": torch.ones(1), "fc.bias": torch.zeros(1)})
    {'fc': {'weight': tensor([1.]), 'bias': tensor([0.])}}
    """
    if like is None:
        return _nested(state_dict)
    expected = to_state_dict(like)
    missing = [name for name in expected if name not in state_dict]
    unknown = [name for name in state_dict if name not in expected]
    if missing or unknown:
        raise ValueError(f"from_state_dict: missing names {missing}, unknown names {unknown}.")
    for name, leaf in expected.items():
        given = state_dict[name]
        if given.shape != leaf.shape or given.dtype != leaf.dtype:
            raise ValueError(
                f"from_state_dict: {name!r} has shape {tuple(given.shape)} and dtype "
                f"{given.dtype}, expected {tuple(leaf.shape)} and {leaf.dtype}."
            )
    return unflatten(structure(like), [state_dict[name] for name in expected])


def _nested(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, leaf in state_dict.items():
        *parents, last = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(f"from_state_dict: {name!r} lies below another leaf's name.")
        if last in node:
            raise ValueError(f"from_state_dict: {name!r} is also the beginning of another name.")
        node[last] = leaf
    return tree
