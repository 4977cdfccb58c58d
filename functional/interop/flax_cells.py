"""Recurrent cells of flax, linen's and nnx's, to torch's names and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .layouts import GATES

#: What holds the kernels of a cell: a dense layer for each gate, or one for all.
_LSTM = {f"{side}{gate}" for side in "ih" for gate in "ifgo"}
_GRU = {f"{side}{gate}" for side in "ih" for gate in "rzn"}
_SIMPLE = {"i", "h"}
_DENSE = {"dense_i", "dense_h"}


def is_cell(node: Any) -> bool:
    """Say whether a dict holds the layers of a recurrent cell."""
    if not isinstance(node, Mapping) or not all(
        isinstance(part, Mapping) for part in node.values()
    ):
        return False
    return {name.rstrip("_") for name in node} in (_LSTM, _GRU, _SIMPLE, _DENSE)


def cell_from_flax(node: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return `weight_ih`, `weight_hh`, `bias_ih` and `bias_hh` of a cell."""
    params: dict[str, Tensor] = {}
    parts = {name.rstrip("_"): part for name, part in node.items()}
    for side in "ih":
        own = [parts[name] for name in _names(parts, side)]
        weights = [part["kernel"].T for part in own]
        params[f"weight_{side}h"] = torch.cat(weights)
        params[f"bias_{side}h"] = torch.cat(
            [
                part["bias"] if "bias" in part else weight.new_zeros(len(weight))
                for part, weight in zip(own, weights, strict=True)
            ]
        )
    return params


def cell_to_flax(
    params: Mapping[str, Tensor], like: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Tensor]]:
    """Return a cell of flax, with layers and biases where `like` has them.

    A gate's two biases are added where flax has but one of them; only those of a GRU's new gate,
    of which the hidden one is multiplied by the reset gate, cannot be.
    """
    spelled = {name.rstrip("_"): name for name in like}
    names = {side: _names(spelled, side) for side in "ih"}
    hidden = params["weight_hh"].shape[1]
    gates = GATES[len(params["weight_hh"]) // hidden]
    biases = {
        side: dict(zip(gates, _bias(params, side).split(hidden), strict=True)) for side in "ih"
    }
    has_bias = {
        side: {
            gate: "bias" in like[spelled[names[side][0 if len(names[side]) == 1 else index]]]
            for index, gate in enumerate(gates)
        }
        for side in "ih"
    }
    for gate in gates:
        for side, other in ("ih", "hi"):
            if has_bias[side][gate]:
                continue
            bias = biases[side][gate]
            if bias.any() and (gate == "n" or not has_bias[other][gate]):
                raise ValueError(
                    f"to_flax: bias_{side}h of gate {gate!r} is not zero, and the cell has no "
                    "place for it."
                )
            biases[other][gate] = biases[other][gate] + bias
    found: dict[str, dict[str, Tensor]] = {}
    for side in "ih":
        weights = params[f"weight_{side}h"].chunk(len(names[side]))
        rows = torch.cat([biases[side][gate] for gate in gates]).chunk(len(names[side]))
        for name, weight, bias in zip(names[side], weights, rows, strict=True):
            part = {"kernel": weight.T}
            if "bias" in like[spelled[name]]:
                part["bias"] = bias
            found[spelled[name]] = part
    return found


def _names(parts: Mapping[str, Any], side: str) -> list[str]:
    """Return the names of one side's layers in the order of torch's gates."""
    names = set(parts)
    if names == _DENSE:
        return [f"dense_{side}"]
    if names == _SIMPLE:
        return [side]
    return [f"{side}{gate}" for gate in ("ifgo" if names == _LSTM else "rzn")]


def _bias(params: Mapping[str, Tensor], side: str) -> Tensor:
    if f"bias_{side}h" in params:
        return params[f"bias_{side}h"]
    return params["weight_hh"].new_zeros(len(params["weight_hh"]))
