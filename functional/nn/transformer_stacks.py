"""Transformers: encoder and decoder layers one after the other, and both together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .. import random
from ..initializers import Initializer
from .activations import relu
from .checks import positive_int
from .combinators import check_names, stateless_parts
from .layer import Layer, LayerError, Params, StatefulLayer, describe, in_part
from .normalization import layer_norm
from .transformer_layers import Activation, transformer_decoder_layer, transformer_encoder_layer


def transformer_encoder(layer: Layer, num_layers: int, norm: Layer | None = None) -> Layer:
    """Return `num_layers` encoder layers one after the other, and perhaps a norm after the last.

    The input is that of `layer`, such as `nn.transformer_encoder_layer(...)`: `x` or `(x, mask)`,
    and every layer receives the same mask. Each layer has parameters of its own (torch's start as
    copies of one). They have the names of `torch.nn.TransformerEncoder`: `layers.0`, `layers.1`,
    ... and `norm`. Layer `i` receives the key `random.split(key, num_layers + 1)[i]`.

    Parameters
    ----------
    layer
        What each layer is; its output has the shape of `x`.
    num_layers
        How many there are.
    norm
        A layer for the end, such as `nn.layer_norm()`; with `norm_first` there should be one.

    Raises
    ------
    TypeError, ValueError
        An argument is not one of the above.
    LayerError
        A part refuses its input or parameters (the message begins with its name), or there are
        parameters that no part has.

    Examples
    --------
    >>> import torch
    >>> from purefn.functional import nn
    >>> model = nn.transformer_encoder(nn.transformer_encoder_layer(2, 16), 3, nn.layer_norm())
    >>> x = torch.ones(8, 5, 6)
    >>> params = model.init(random.key(0), x)
    >>> sorted(params), sorted(params["layers"])
    (['layers', 'norm'], ['0', '1', '2'])
    >>> model(params, x).shape
    torch.Size([8, 5, 6])
    """
    return _stack("transformer_encoder", layer, num_layers, norm)


def transformer_decoder(layer: Layer, num_layers: int, norm: Layer | None = None) -> Layer:
    """Return `num_layers` decoder layers one after the other, and perhaps a norm after the last.

    The input is that of `layer`, such as `nn.transformer_decoder_layer(...)`: a tuple
    `(x, memory, ...)` of which every layer receives the same memory and masks. Otherwise as
    `transformer_encoder`; parameters have the names of `torch.nn.TransformerDecoder`.

    Examples
    --------
    >>> import torch
    >>> from purefn.functional import nn
    >>> model = nn.transformer_decoder(nn.transformer_decoder_layer(2, 16, causal=True), 2)
    >>> pair = torch.ones(8, 5, 6), torch.ones(8, 7, 6)
    >>> model(model.init(random.key(0), pair), pair).shape
    torch.Size([8, 5, 6])
    """
    return _stack("transformer_decoder", layer, num_layers, norm)


def transformer(
    nhead: int = 8,
    num_encoder_layers: int = 6,
    num_decoder_layers: int = 6,
    dim_feedforward: int = 2048,
    *,
    dropout: float = 0.1,
    activation: Activation = relu,
    layer_norm_eps: float = 1e-5,
    norm_first: bool = False,
    bias: bool = True,
    causal: bool = False,
    weight_init: Initializer | None = None,
    bias_init: Initializer | None = None,
) -> Layer:
    """Return an encoder of one sequence and a decoder of another that attends to what it returns.

    The input is a tuple `(source, target)` of shapes `(N, S, E)` and `(N, L, E)` or without `N`,
    and perhaps the masks `source_mask`, `target_mask` and `memory_mask` after them, each `None` or
    as for `multi_head_attention`, where True takes part. `causal` is about the target. Each half
    ends with a norm. Parameters have the names of `torch.nn.Transformer`: `encoder.layers.0`, ...,
    `encoder.norm`, `decoder.layers.0`, ..., `decoder.norm`. Vaswani et al. 2017, Attention is all
    you need (arXiv:1706.03762).

    Options and errors are those of `transformer_encoder_layer` and of `transformer_encoder`.

    Examples
    --------
    >>> import torch
    >>> model = transformer(2, 1, 1, 16, causal=True)
    >>> pair = torch.ones(8, 7, 6), torch.ones(8, 5, 6)
    >>> params = model.init(random.key(0), pair)
    >>> sorted(params)
    ['decoder', 'encoder']
    >>> model(params, pair).shape
    torch.Size([8, 5, 6])
    """
    options: dict[str, Any] = {
        "dropout": dropout,
        "activation": activation,
        "layer_norm_eps": layer_norm_eps,
        "norm_first": norm_first,
        "bias": bias,
        "weight_init": weight_init,
        "bias_init": bias_init,
    }
    norm = layer_norm(eps=layer_norm_eps, bias=bias)
    encoder_layer = transformer_encoder_layer(nhead, dim_feedforward, **options)
    decoder_layer = transformer_decoder_layer(nhead, dim_feedforward, causal=causal, **options)
    return _both(
        {
            "encoder": transformer_encoder(encoder_layer, num_encoder_layers, norm),
            "decoder": transformer_decoder(decoder_layer, num_decoder_layers, norm),
        }
    )


def _both(halves: dict[str, Layer]) -> Layer:
    """Return the decoder of one sequence that attends to the encoder of another."""

    def init(key: Tensor, x: Any) -> Params:
        source, target, *_ = _unpack(x)
        keys = random.split(key)
        inputs = {"encoder": source, "decoder": (target, source)}
        rows = zip(halves.items(), keys, strict=True)
        return {name: in_part(name, half.init, key, inputs[name]) for (name, half), key in rows}

    def apply(params: Params, x: Any, *, key: Tensor | None = None, train: bool = False) -> Any:
        check_names("transformer", "parameters", halves, params)
        source, target, source_mask, target_mask, memory_mask = _unpack(x)
        keys = (None, None) if key is None else random.split(key).unbind(0)

        def run(name: str, x: Any, key: Tensor | None) -> Any:
            return in_part(name, halves[name].apply, params.get(name, {}), x, key=key, train=train)

        memory = run("encoder", (source, source_mask), keys[0])
        return run("decoder", (target, memory, target_mask, memory_mask), keys[1])

    def rebuild(parts: Mapping[str, Layer | StatefulLayer]) -> Layer:
        return _both(stateless_parts("transformer", parts))

    uses_key = any(half.uses_key for half in halves.values())
    return Layer(init, apply, uses_key, kind="transformer", parts=halves, rebuild=rebuild)


def _unpack(x: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Return source, target and the three masks."""
    if not isinstance(x, tuple) or len(x) not in range(2, 6):
        raise LayerError(
            "transformer expected (source, target) and perhaps source_mask, target_mask and "
            f"memory_mask, got {describe(x)}."
        )
    source, target, source_mask, target_mask, memory_mask = (*x, None, None, None)[:5]
    return source, target, source_mask, target_mask, memory_mask


def _stack(name: str, layer: Layer, num_layers: int, norm: Layer | None) -> Layer:
    for argument, part in (("layer", layer), ("norm", norm)):
        if not isinstance(part, Layer) and (part is not None or argument == "layer"):
            raise TypeError(
                f"{name}: expected a Layer, which has no state, for {argument}, got {part!r}."
            )
    numbers = range(positive_int(name, "num_layers", num_layers))
    layers = _one_after_another(name, {str(index): layer for index in numbers})
    return _with_norm(name, layers, norm, num_layers)


def _with_norm(name: str, layers: Layer, norm: Layer | None, count: int) -> Layer:
    """Return `count` layers, and perhaps a norm after them."""
    parts = {"layers": layers, **({} if norm is None else {"norm": norm})}
    norm_uses_key = norm is not None and norm.uses_key

    def init(key: Tensor, x: Any) -> Params:
        params = {"layers": in_part("layers", layers.init, key, x)}
        if norm is not None:
            norm_key = random.split(key, count + 1)[count]
            params["norm"] = in_part("norm", norm.init, norm_key, _split(x)[0])
        return params

    def apply(params: Params, x: Any, *, key: Tensor | None = None, train: bool = False) -> Any:
        check_names(name, "parameters", parts, params)
        own = params.get("layers", {})
        y = in_part("layers", layers.apply, own, x, key=key, train=train)
        if norm is None:
            return y
        if key is not None and norm_uses_key:
            key = random.split(key, count + 1)[count]
        return in_part("norm", norm.apply, params.get("norm", {}), y, key=key, train=train)

    def rebuild(parts: Mapping[str, Layer | StatefulLayer]) -> Layer:
        own = stateless_parts(name, parts)
        return _with_norm(name, own["layers"], own.get("norm"), count)

    uses_key = layers.uses_key or norm_uses_key
    return Layer(init, apply, uses_key, kind=name, parts=parts, rebuild=rebuild)


def _one_after_another(name: str, parts: dict[str, Layer]) -> Layer:
    """Return layers of which each receives what the one before it returns, and what all receive.

    The key after theirs is for a norm after them.
    """
    count = len(parts)

    def init(key: Tensor, x: Any) -> Params:
        rows = zip(parts.items(), random.split(key, count + 1)[:-1], strict=True)
        return {number: in_part(number, layer.init, one, x) for (number, layer), one in rows}

    def apply(params: Params, x: Any, *, key: Tensor | None = None, train: bool = False) -> Any:
        _check_layers(name, list(parts), params)
        keys = [None] * count if key is None else random.split(key, count + 1)[:-1]
        y, rest = _split(x)
        for (number, layer), one in zip(parts.items(), keys, strict=True):
            x = (y, *rest) if rest else y
            y = in_part(number, layer.apply, params.get(number, {}), x, key=one, train=train)
        return y

    def rebuild(parts: Mapping[str, Layer | StatefulLayer]) -> Layer:
        return _one_after_another(name, stateless_parts(name, parts))

    uses_key = any(layer.uses_key for layer in parts.values())
    return Layer(init, apply, uses_key, kind="layers", parts=parts, rebuild=rebuild)


def _check_layers(name: str, numbers: list[str], given: Any) -> None:
    unknown = [part for part in given if part not in numbers] if isinstance(given, Mapping) else []
    if not isinstance(given, Mapping) or unknown:
        raise LayerError(
            f"{name} expected 'layers' to be a dict by number (0 to {len(numbers) - 1}), got "
            f"{describe(given)}."
        )


def _split(x: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return what goes from layer to layer, and what all of them receive."""
    return (x[0], tuple(x[1:])) if isinstance(x, tuple) and x else (x, ())
