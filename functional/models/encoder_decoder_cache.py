"""The decoder of an encoder-decoder, going on where it stopped."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import nn
from ..nn.checks import check_input
from ..nn.combinators import check_names, named_parts
from ..nn.layer import describe, in_part

_NAME = "encoder_decoder_transformer"

#: What the sides of the model have besides their half of the transformer.
_SIDES = {"encoder": ("source_embedding",), "decoder": ("target_embedding", "head")}

#: What each layer of the decoder has.
_PARTS = ("self_attn", "multihead_attn", "linear1", "linear2", "norm1", "norm2", "norm3")


@dataclass(frozen=True)
class DecoderSizes:
    """The options of a decoder that its computation depends on."""

    target_embeddings: int
    d_model: int
    nhead: int
    num_layers: int
    activation: Callable[[Tensor], Tensor]
    norm_first: bool


def side(params: Any, half: str) -> nn.Params:
    """Return the parameters of one side of the model, or refuse what are not the model's.

    >>> params = {"source_embedding": 1, "transformer": {"encoder": 2, "decoder": 3}, "head": 4}
    >>> side(params, "encoder")
    {'transformer': {'encoder': 2}, 'source_embedding': 1}
    """
    names = ("source_embedding", "target_embedding", "transformer", "head")
    parts = named_parts("model", (), dict.fromkeys(names, nn.identity))
    check_names(_NAME, "parameters", parts, params)
    both = _dict_of(("decoder", "encoder"), "'transformer'", params.get("transformer"))
    own = {name: params[name] for name in _SIDES[half] if name in params}
    return {"transformer": {half: both[half]}, **own}


def _dict_of(names: Sequence[str], what: str, value: Any) -> Mapping[str, Any]:
    """Return a dict of these names, or refuse what is none."""
    if not isinstance(value, Mapping) or set(value) != set(names):
        raise nn.LayerError(
            f"{_NAME} expected {what} as a dict of {sorted(names)}, got {describe(value)}."
        )
    return value


def cached_decoder(
    init_params: Callable[[Tensor, Any], nn.Params],
    sizes: DecoderSizes,
    memory: Tensor,
    mask: Tensor | None,
    max_length: int,
) -> nn.StatefulLayer:
    """Return the layer from the next tokens `(N, L)` to their logits.

    Its parameters are the whole model's, as `init_params` draws them for a source and a target. The
    state is that of `nn.cached_attention` for each layer, and the `position` of the next token; it
    begins as `{}`.
    """
    attention = nn.cached_attention(sizes.nhead, max_length)
    table = nn.embedding(sizes.target_embeddings, sizes.d_model)
    norm, head = nn.serial(norm=nn.layer_norm()), nn.serial(head=nn.linear(sizes.target_embeddings))
    layers = [str(index) for index in range(sizes.num_layers)]

    def beginning() -> nn.State:
        depth = sizes.d_model // sizes.nhead
        empty = memory.new_zeros(memory.shape[0], sizes.nhead, max_length, depth)
        start = torch.zeros((), dtype=torch.int64, device=memory.device)
        cache = {"keys": empty, "values": empty, "position": start}
        return {"layers": dict.fromkeys(layers, cache), "position": start}

    def init(key: Tensor, tokens: Any) -> tuple[nn.Params, nn.State]:
        return init_params(key, (tokens, tokens)), beginning()

    def apply(
        params: nn.Params,
        state: nn.State,
        x: Any,
        *,
        key: Tensor | None = None,
        train: bool = False,
    ) -> tuple[Tensor, nn.State]:
        check_input(f"{_NAME} (target)", x, (memory.shape[0], "L"), floating=False)
        own, state = side(params, "decoder"), beginning() if state == {} else state
        state = _dict_of(("layers", "position"), "the decoder's state, if not {},", state)
        decoder = _dict_of(("layers", "norm"), "'decoder'", own["transformer"]["decoder"])
        parts = _dict_of(layers, "the decoder's 'layers'", decoder["layers"])
        seen = _dict_of(layers, "the 'layers' of the decoder's state", state["layers"])
        position = state["position"]
        x = in_part("target_embedding", table, own.get("target_embedding", {}), x)
        x, caches = nn.sinusoidal_positions(math.sqrt(sizes.d_model) * x, position), {}
        for index in layers:
            at = _dict_of(_PARTS, f"layer {index}", parts[index]), seen[index]
            x, caches[index] = _advance(sizes, attention, *at, x, (memory, mask))
        x = norm({"norm": decoder["norm"]}, x)
        state = {"layers": caches, "position": position + x.shape[1]}
        return head({"head": own.get("head", {})}, x), state

    return nn.StatefulLayer(init, apply, uses_key=False)


def _advance(
    sizes: DecoderSizes,
    attention: nn.StatefulLayer,
    params: nn.Params,
    cache: nn.State,
    x: Tensor,
    source: tuple[Tensor, Tensor | None],
) -> tuple[Tensor, nn.State]:
    """Return what `nn.transformer_decoder_layer` makes of the next positions, and its new cache."""
    across, norm = nn.multi_head_attention(sizes.nhead), nn.layer_norm()
    inside = nn.linear(params["linear1"]["weight"].shape[0])
    outside = nn.linear(sizes.d_model)

    def within(x: Tensor) -> Tensor:
        nonlocal cache
        y, cache = attention(params["self_attn"], cache, x)
        return y  # type: ignore[no-any-return]

    def to_memory(x: Tensor) -> Tensor:
        return across(params["multihead_attn"], (x, *source))  # type: ignore[no-any-return]

    def network(x: Tensor) -> Tensor:
        hidden = sizes.activation(inside(params["linear1"], x))
        return outside(params["linear2"], hidden)  # type: ignore[no-any-return]

    for index, block in enumerate((within, to_memory, network)):
        own = params[f"norm{index + 1}"]
        x = x + block(norm(own, x)) if sizes.norm_first else norm(own, x + block(x))
    return x, cache
