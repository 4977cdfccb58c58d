"""What a GPT that writes remembers: where it stands, and keys and values of what it has seen."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .. import nn
from ..initializers import zeros
from ..nn.layer import State
from ..nn.parameters import check_parameters, check_same_dtype


def continued_positions(context_length: int) -> nn.StatefulLayer:
    """Return `nn.learned_positions` that go on where they stopped."""
    layer = nn.learned_positions(context_length)

    def init(key: Tensor, x: Tensor) -> tuple[nn.Params, State]:
        return layer.init(key, x), {"position": zeros(key, (), torch.int64)}

    def apply(
        params: nn.Params,
        state: State,
        x: Tensor,
        *,
        key: Tensor | None = None,
        train: bool = False,
    ) -> tuple[Tensor, State]:
        check_parameters("positions", params, {"weight": (context_length, x.shape[-1])})
        check_same_dtype("positions", x, params)
        if state == {}:
            state = {"position": torch.zeros((), dtype=torch.int64, device=x.device)}
        check_parameters("positions", state, {"position": ()})
        positions = state["position"] + torch.arange(x.shape[-2], device=x.device)
        # What does not fit is the attention's to refuse.
        rows = params["weight"].index_select(0, positions.clamp(max=context_length - 1))
        return x + rows, {"position": state["position"] + x.shape[-2]}

    return nn.StatefulLayer(init, apply, uses_key=False, kind="learned_positions")


def beginning(attention: nn.StatefulLayer, shape: tuple[int, int, int]) -> nn.StatefulLayer:
    """Return `nn.cached_attention` for which `{}` is an empty cache, in the dtype of the input."""

    def apply(
        params: nn.Params,
        state: State,
        x: Tensor,
        *,
        key: Tensor | None = None,
        train: bool = False,
    ) -> tuple[Tensor, State]:
        if state == {}:
            empty = torch.zeros((*x.shape[:-2], *shape), dtype=x.dtype, device=x.device)
            position = torch.zeros((), dtype=torch.int64, device=x.device)
            state = {"keys": empty, "values": empty, "position": position}
        return attention.apply(params, state, x, key=key, train=train)

    return replace(attention, apply=apply)
