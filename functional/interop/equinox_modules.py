"""Parameters of equinox's modules to ours and back; see `layouts` for the table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .. import tree
from ..nn import Params
from . import layouts
from .arrays import from_numpy, to_own_numpy

_PROJECTIONS = ("query_proj", "key_proj", "value_proj")


def from_equinox(module: Any) -> Params:
    """Return the parameters of an equinox module in our names and layouts.

    Names are those of the attributes, `layers.0.weight`, and arrays are copied. The table in
    `purefn.functional.interop.layouts` says what changes. What is no array stays behind, and so do
    the running statistics of batch norms, which equinox keeps apart from the module.

    Raises
    ------
    TypeError
        `module` is not a dataclass, as equinox's modules are, or a list, tuple or dict of them; or
        an array has a dtype that torch lacks.

    Examples
    --------
    >>> import numpy as np
    >>> @dataclasses.dataclass
    ... class Linear:  # as equinox.nn.Linear has it
    ...     weight: np.ndarray
    ...     bias: np.ndarray
    >>> params = from_equinox([Linear(np.ones((3, 2)), np.zeros(3))])
    >>> params["0"]["weight"].shape
    torch.Size([3, 2])
    """
    if not _is_node(module):
        raise TypeError(f"from_equinox: expected an equinox module, got {module!r}.")
    params = _params(module)
    return {} if params is None else params


def to_equinox(params: Params, like: Any) -> Any:
    """Return a module like `like`, with our parameters in it as numpy arrays.

    Raises
    ------
    TypeError
        `like` is not an equinox module, or a parameter is not a tensor.
    ValueError
        A parameter is missing or not used, or has another shape than in `like`.

    Examples
    --------
    >>> import numpy as np
    >>> @dataclasses.dataclass(frozen=True)
    ... class Linear:  # as equinox.nn.Linear has it
    ...     weight: np.ndarray
    ...     bias: np.ndarray
    >>> like = Linear(np.ones((3, 2)), np.zeros(3))
    >>> to_equinox({"weight": torch.zeros(3, 2), "bias": torch.ones(3)}, like).bias
    array([1., 1., 1.], dtype=float32)
    """
    if not _is_node(like):
        raise TypeError(f"to_equinox: expected an equinox module, got {like!r}.")
    expected, given = tree.to_state_dict(from_equinox(like)), tree.to_state_dict(params)
    missing = [name for name in expected if name not in given]
    unknown = [name for name in given if name not in expected]
    if missing or unknown:
        raise ValueError(f"to_equinox: missing names {missing}, unknown names {unknown}.")
    for name, value in expected.items():
        if not isinstance(given[name], Tensor):
            raise TypeError(f"to_equinox: expected tensors, got {name!r} = {given[name]!r}.")
        if given[name].shape != value.shape:
            raise ValueError(
                f"to_equinox: {name!r} has shape {tuple(given[name].shape)}, the module's has "
                f"{tuple(value.shape)}."
            )
    return _module(params, like)


def _is_node(value: Any) -> bool:
    is_module = dataclasses.is_dataclass(value) and not isinstance(value, type)
    return is_module or isinstance(value, list | tuple | dict)


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and hasattr(value, "shape") and hasattr(value, "dtype")


def _children(node: Any) -> dict[str, Any]:
    """Return what a node holds, by name."""
    if isinstance(node, dict):
        return {str(name): value for name, value in node.items()}
    if isinstance(node, list | tuple):
        return {str(index): value for index, value in enumerate(node)}
    names = [field.name for field in dataclasses.fields(node)]
    return {name: getattr(node, name) for name in names if hasattr(node, name)}


def _kinds(node: Any) -> set[str]:
    return {kind.__name__ for kind in type(node).__mro__}


def _params(node: Any) -> Any:
    """Return the parameters below a node, or `None` where there are none."""
    if _is_array(node):
        return from_numpy(node.__array__())
    if not _is_node(node) or "StateIndex" in _kinds(node):
        return None
    children = {name: _params(value) for name, value in _children(node).items()}
    return _ours(_kinds(node), {n: v for n, v in children.items() if v is not None}) or None


def _ours(kinds: set[str], own: dict[str, Any]) -> dict[str, Any]:
    """Return one layer's parameters in our layout."""
    if "MultiheadAttention" in kinds:
        packed: dict[str, Any] = layouts.packed_projections(
            [own[name]["weight"] for name in _PROJECTIONS],
            [own[name].get("bias") for name in _PROJECTIONS],
        )
        return {**packed, "out_proj": own["output_proj"]}
    if "ConvTranspose" in kinds:
        own = {**own, "weight": _reversed(own["weight"])}
    if kinds & {"Conv", "ConvTranspose"} and "bias" in own:
        own = {**own, "bias": own["bias"].flatten()}
    if "PReLU" in kinds:
        own = {"weight": own["negative_slope"].reshape(-1)}
    if "LSTMCell" in kinds and "bias" in own:
        bias = own.pop("bias")
        own |= {"bias_ih": bias, "bias_hh": torch.zeros_like(bias)}
    if "GRUCell" in kinds and "bias" in own:
        zeros = torch.zeros_like(own["bias"][: len(own["bias_n"]) * 2])
        own |= {"bias_ih": own.pop("bias"), "bias_hh": torch.cat([zeros, own.pop("bias_n")])}
    return own


def _module(params: Any, like: Any) -> Any:
    """Return `like` with `params`, which fit, in the places of its arrays."""
    if _is_array(like):
        value: Tensor = params
        return to_own_numpy(value.detach().reshape(tuple(like.shape)))
    if not _is_node(like) or "StateIndex" in _kinds(like):
        return like
    own = _theirs(_kinds(like), params or {}, like)
    children = {
        name: _module(own.get(name), value) if name in own or _is_node(value) else value
        for name, value in _children(like).items()
    }
    if isinstance(like, dict):
        return {name: children[str(name)] for name in like}
    if isinstance(like, tuple) and hasattr(like, "_fields"):
        return type(like)(*children.values())
    if isinstance(like, list | tuple):
        return type(like)(children.values())
    # Modules are frozen and have constructors of their own: equinox, too, fills them like this.
    new = object.__new__(type(like))
    for name, value in children.items():
        object.__setattr__(new, name, value)
    return new


def _theirs(kinds: set[str], own: Mapping[str, Any], like: Any) -> dict[str, Any]:
    """Return one layer's parameters in equinox's names, and its layout but for shapes."""
    theirs = dict(own)
    if "MultiheadAttention" in kinds:
        weights, biases = layouts.unpacked_projections(own)
        found: dict[str, Any] = {"output_proj": own["out_proj"]}
        for index, name in enumerate(_PROJECTIONS):
            found[name] = {"weight": weights[index]}
            if getattr(like, name).bias is not None and biases is not None:
                found[name]["bias"] = biases[index]
        return found
    if "ConvTranspose" in kinds:
        theirs["weight"] = _reversed(own["weight"])
    if "PReLU" in kinds:
        theirs = {"negative_slope": own["weight"]}
    if "LSTMCell" in kinds and "bias_ih" in own:
        theirs["bias"] = theirs.pop("bias_ih") + theirs.pop("bias_hh")
    if "GRUCell" in kinds and "bias_ih" in own:
        # The biases of the reset and update gates are added; that of the new gate stands alone.
        split = len(own["bias_hh"]) // 3 * 2
        added, theirs["bias_n"] = own["bias_hh"].split([split, split // 2])
        theirs["bias"] = theirs.pop("bias_ih") + torch.cat(
            [added, torch.zeros_like(theirs["bias_n"])]
        )
        del theirs["bias_hh"]
    return theirs


def _reversed(weight: Tensor) -> Tensor:
    """Exchange input and output channels and reverse the kernel: its own inverse."""
    return weight.flip(tuple(range(2, weight.ndim))).transpose(0, 1).contiguous()
