"""The transformer that turns one sequence into another: an encoder and a decoder.

Vaswani et al. 2017, Attention is all you need (arXiv:1706.03762), figure 1: `torch.nn.Transformer`
after two embeddings and before a linear layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .. import nn, random, tree
from ..abstract import ShapeDtype
from ..initializers import normal, xavier_uniform
from ..nn.checks import check_input, positive_int
from ..nn.combinators import combination, named_parts
from ..nn.layer import Apply, describe
from .encoder_decoder_cache import DecoderSizes, cached_decoder, side

_NAME = "encoder_decoder_transformer"


@dataclass(frozen=True)
class EncoderDecoder(nn.Layer):
    """A layer `(source, target) -> logits` whose halves can be used alone.

    Parameters
    ----------
    encode
        `encode(params, source) -> memory` or with `(source, source_mask)`, of shape `(N, S, E)`.
    decode
        `decode(params, (target, memory)) -> logits`, or with `(target, memory, target_mask,
        source_mask)`.
    decoder
        `decoder(memory, source_mask, max_length)` is the second half as a layer whose state
        remembers the target so far, at most `max_length` tokens, so that it can be given in pieces;
        the mask may be None. See `translate`.

    Examples
    --------
    >>> model = encoder_decoder_transformer(9, 9, d_model=8, nhead=2, dim_feedforward=16)
    >>> source, target = torch.ones(1, 4, dtype=torch.int64), torch.ones(1, 3, dtype=torch.int64)
    >>> params = model.init(random.key(0), (source, target))
    >>> memory = model.encode(params, source)
    >>> torch.allclose(model.decode(params, (target, memory)), model(params, (source, target)))
    True
    """

    encode: Apply = field(kw_only=True)
    decode: Apply = field(kw_only=True)
    decoder: Callable[[Tensor, Tensor | None, int], nn.StatefulLayer] = field(kw_only=True)


def encoder_decoder_transformer(
    source_embeddings: int,
    target_embeddings: int,
    *,
    d_model: int = 512,
    nhead: int = 8,
    num_encoder_layers: int = 6,
    num_decoder_layers: int = 6,
    dim_feedforward: int = 2048,
    dropout: float = 0.1,
    activation: Callable[[Tensor], Tensor] = nn.relu,
    norm_first: bool = False,
) -> EncoderDecoder:
    """Return the network that says, given a source, which token follows each one of a target.

        memory = encoder(sqrt(E) source_embedding(source) + positions)
        logits = head(decoder(sqrt(E) target_embedding(target) + positions, memory))

    where a position of the target sees itself, those before it and the whole source. The input is
    `(source, target)`, integers of shapes `(N, S)` and `(N, T)`, or `(source, target, source_mask,
    target_mask)` with boolean masks of the same shapes, either of which may be None: True is a
    token, False is padding, on which no logits of a token depend. The output has shape
    `(N, T, target_embeddings)`; in training the target is what the decoder is given, and the token
    after each of its positions is the label. Positions are `nn.sinusoidal_positions`.

    Parameters are those of the torch modules `source_embedding` and `target_embedding`, an
    `Embedding` each, `transformer`, a `Transformer`, and `head`, a `Linear`. All matrices begin
    Glorot uniform, as in `torch.nn.Transformer`, embeddings with a standard deviation of
    `1 / sqrt(d_model)`.

    Parameters
    ----------
    source_embeddings, target_embeddings
        How many tokens there are in either language.
    d_model, nhead
        How many features `E` a position has, and how many heads, a divisor of it.
    num_encoder_layers, num_decoder_layers
        How many `nn.transformer_encoder_layer` and `nn.transformer_decoder_layer` there are; a norm
        follows each stack.
    dim_feedforward, activation, norm_first
        As for these layers: `norm_first=False` is the paper's, True that of Xiong et al. 2020
        (arXiv:2002.04745).
    dropout
        That of these layers, and of the embedded tokens with their positions.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        On use: sequences or masks are not as above, a token lies outside its embedding, no key is
        given for dropout in training, or the parameters are not this network's.

    Examples
    --------
    >>> model = encoder_decoder_transformer(50, 40, d_model=16, nhead=2, dim_feedforward=32)
    >>> source, target = torch.ones(2, 7, dtype=torch.int64), torch.ones(2, 5, dtype=torch.int64)
    >>> params = model.init(random.key(0), (source, target))
    >>> is_token = torch.arange(7) < torch.tensor([[7], [4]])
    >>> model(params, (source, target, is_token, None)).shape
    torch.Size([2, 5, 40])
    """
    counts = {"d_model": d_model, "num_encoder_layers": num_encoder_layers}
    counts |= {"num_decoder_layers": num_decoder_layers}
    for argument, value in counts.items():
        positive_int(_NAME, argument, value)
    options: dict[str, Any] = {"dropout": dropout, "activation": activation}
    options |= {"norm_first": norm_first}
    encoder_layer = nn.transformer_encoder_layer(nhead, dim_feedforward, **options)
    decoder_layer = nn.transformer_decoder_layer(nhead, dim_feedforward, causal=True, **options)
    if d_model % nhead:
        raise ValueError(
            f"{_NAME}: expected d_model to be a multiple of nhead={nhead}, got {d_model}."
        )
    halves = _Halves(
        d_model=d_model,
        source_side=nn.serial(
            source_embedding=_embedding(source_embeddings, d_model, dropout),
            transformer=nn.serial(encoder=_stack(encoder_layer, num_encoder_layers)),
        ),
        target_side=nn.serial(
            target_embedding=_embedding(target_embeddings, d_model, dropout),
            transformer=nn.serial(decoder=_stack(decoder_layer, num_decoder_layers)),
            head=nn.linear(target_embeddings),
        ),
    )
    sizes = DecoderSizes(
        target_embeddings, d_model, nhead, num_decoder_layers, activation, norm_first
    )

    def decoder(memory: Tensor, source_mask: Tensor | None, max_length: int) -> nn.StatefulLayer:
        positive_int(_NAME, "max_length", max_length)
        check_input(f"{_NAME} (memory)", memory, ("N", "S", d_model))
        mask = _attended("source_mask", source_mask, memory[..., 0])
        return cached_decoder(halves.init, sizes, memory, mask, max_length)

    return EncoderDecoder(
        halves.init,
        halves.apply,
        uses_key=encoder_layer.uses_key,
        encode=halves.encode,
        decode=halves.decode,
        decoder=decoder,
    )


@dataclass(frozen=True)
class _Halves:
    """Both sides of the model, each a chain."""

    d_model: int
    source_side: nn.Layer
    target_side: nn.Layer

    def init(self, key: Tensor, x: Any) -> nn.Params:
        """Draw the parameters of both."""
        source, target, _, _ = _unpack(x)
        source_key, target_key, matrix_key = random.split(key, 3).unbind(0)
        memory = ShapeDtype((*source.shape, self.d_model), device=key.device)
        first = self.source_side.init(source_key, (source, None))
        second = self.target_side.init(target_key, (target, memory, None, None))
        transformer = {**first["transformer"], **second["transformer"]}
        return {**first, **second, "transformer": _with_glorot_matrices(matrix_key, transformer)}

    def encode(
        self, params: nn.Params, x: Any, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        """Return the memory of a source."""
        source, mask = x if isinstance(x, tuple) and len(x) == 2 else (x, None)
        check_input(f"{_NAME} (source)", source, ("N", "S"), floating=False)
        half = side(params, "encoder")
        inputs = (source, _attended("source_mask", mask, source))
        memory: Tensor = self.source_side(half, inputs, key=key, train=train)
        return memory

    def decode(
        self, params: nn.Params, x: Any, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        """Return the logits of a target."""
        if not isinstance(x, tuple) or len(x) not in (2, 4):
            raise nn.LayerError(
                f"{_NAME} expected (target, memory) or (target, memory, target_mask, source_mask), "
                f"got {describe(x)}."
            )
        target, memory, target_mask, source_mask = (*x, None, None)[:4]
        check_input(f"{_NAME} (target)", target, ("N", "T"), floating=False)
        check_input(f"{_NAME} (memory)", memory, (target.shape[0], "S", self.d_model))
        target_mask = _attended("target_mask", target_mask, target)
        source_mask = _attended("source_mask", source_mask, memory[..., 0])
        inputs = (target, memory, target_mask, source_mask)
        logits: Tensor = self.target_side(side(params, "decoder"), inputs, key=key, train=train)
        return logits

    def apply(
        self, params: nn.Params, x: Any, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        """Return the logits of a target, given its source."""
        source, target, source_mask, target_mask = _unpack(x)
        keys = (None, None) if key is None else random.split(key).unbind(0)
        memory = self.encode(params, (source, source_mask), key=keys[0], train=train)
        inputs = (target, memory, target_mask, source_mask)
        return self.decode(params, inputs, key=keys[1], train=train)


def _embedding(count: int, d_model: int, dropout: float) -> nn.Layer:
    """Return the layer from `(tokens, *rest)` to `(vectors with their positions, *rest)`."""
    table = nn.embedding(count, d_model, weight_init=normal(d_model**-0.5))
    drop = nn.dropout(dropout)

    def init(key: Tensor, x: Any) -> nn.Params:
        return table.init(key, x[0])

    def apply(params: nn.Params, x: Any, *, key: Tensor | None = None, train: bool = False) -> Any:
        vectors = nn.sinusoidal_positions(math.sqrt(d_model) * table(params, x[0]))
        return (drop({}, vectors, key=key, train=train), *x[1:])

    return nn.Layer(init, apply, drop.uses_key)


def _stack(layer: nn.Layer, count: int) -> nn.Layer:
    """Return layers one after another and a norm; what comes beside `x` goes to each of them."""
    layers: Any = combination(
        "layers",
        named_parts("layers", (layer,) * count, {}),
        next_input=lambda name, x, y: (y, *x[1:]),
        result=lambda outputs, x: x[0],
    )
    stack: nn.Layer = nn.serial(layers=layers, norm=nn.layer_norm())
    return stack


def _with_glorot_matrices(key: Tensor, params: nn.Params) -> nn.Params:
    """Return parameters in which all matrices are drawn anew, as torch.nn.Transformer does it."""
    leaves, structure = tree.flatten(params)
    draw = xavier_uniform()
    keys = random.split(key, len(leaves)).unbind(0)
    drawn = [
        draw(own, leaf.shape, leaf.dtype) if leaf.ndim > 1 else leaf
        for own, leaf in zip(keys, leaves, strict=True)
    ]
    return tree.unflatten(structure, drawn)


def _unpack(x: Any) -> tuple[Any, Any, Any, Any]:
    if not isinstance(x, tuple) or len(x) not in (2, 4):
        raise nn.LayerError(
            f"{_NAME} expected (source, target) or (source, target, source_mask, target_mask), got "
            f"{describe(x)}."
        )
    source, target, source_mask, target_mask = (*x, None, None)[:4]
    check_input(f"{_NAME} (source)", source, ("N", "S"), floating=False)
    check_input(f"{_NAME} (target)", target, (source.shape[0], "T"), floating=False)
    return source, target, source_mask, target_mask


def _attended(argument: str, mask: Any, tokens: Tensor) -> Tensor | None:
    """Return a mask of padding as attention takes it, for every head and position that looks."""
    if mask is None:
        return None
    is_mask = isinstance(mask, Tensor) and mask.dtype == torch.bool
    if not is_mask or mask.shape != tokens.shape:
        raise nn.LayerError(
            f"{_NAME} expected {argument} as booleans of shape {tuple(tokens.shape)}, where True "
            f"is a token, got {describe(mask)}."
        )
    attended: Tensor = mask[:, None, None]
    return attended
