"""The layers of transformers: attention and a network for each position, with norms between."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from .. import random
from ..abstract import eval_shape
from ..initializers import Initializer, zeros
from .activations import relu
from .attention import multi_head_attention
from .checks import check_bools, check_flag, check_input, positive_int
from .combinators import abstract, check_names, stateless_parts
from .dense import linear
from .layer import Layer, LayerError, Params, StatefulLayer, describe, in_part, lift
from .normalization import layer_norm
from .regularization import dropout as dropout_layer

Activation = Callable[[Tensor], Tensor]
#: Memory and mask of each attention in a layer.
Sources = list[tuple[Any, Any]]
#: How many features has what comes out of the network that is being initialized.
_width: ContextVar[int] = ContextVar("width")


def transformer_encoder_layer(
    nhead: int,
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
    """Return attention within a sequence and a network for each of its positions.

    With `f` first the attention and then `linear2(activation(linear1(x)))`,

        x = norm(x + f(x))    or, with `norm_first`,    x = x + f(norm(x)).

    Vaswani et al. 2017, Attention is all you need; Xiong et al. 2020, On layer normalization in the
    transformer architecture. The input is `x` of shape `(N, L, E)` or `(L, E)`, or a tuple
    `(x, mask)` with a mask as for `multi_head_attention`, where True takes part. Parameters have
    the names of `torch.nn.TransformerEncoderLayer`: `self_attn`, `linear1`, `linear2`, `norm1` and
    `norm2`. With `causal=True` it is the layer of a language model.

    Parameters
    ----------
    nhead
        How many heads there are, a divisor of `E`.
    dim_feedforward
        How many features the network has inside.
    dropout
        The probability with which weights of the attention, features inside the network, and what
        either adds to `x` are set to zero in training.
    activation
        A pure function of a tensor.
    layer_norm_eps
        Added to the variance, above 0.
    norm_first
        Whether the norm comes before `f`.
    bias
        Whether projections, network and norms have biases.
    causal
        Whether a position sees only itself and those before it.
    weight_init, bias_init
        Initializers in the place of the default ones, for every projection and the network.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        A part refuses its input, mask or parameters (the message begins with its name), no key is
        given for dropout in training, or parameters have names that no part has.

    Examples
    --------
    >>> import torch
    >>> layer = transformer_encoder_layer(2, 16)
    >>> params = layer.init(random.key(0), torch.ones(8, 5, 6))
    >>> sorted(params)
    ['linear1', 'linear2', 'norm1', 'norm2', 'self_attn']
    >>> layer(params, torch.ones(8, 5, 6), key=random.key(1), train=True).shape
    torch.Size([8, 5, 6])
    """
    name = "transformer_encoder_layer"
    check_bools(name, causal=causal, norm_first=norm_first, bias=bias)

    def unpack(x: Any) -> tuple[Any, Sources]:
        if not isinstance(x, tuple):
            return x, [(None, None)]
        if len(x) != 2:
            raise LayerError(f"{name} expected a tensor or (x, mask), got {describe(x)}.")
        return x[0], [(None, x[1])]

    attend = partial(
        multi_head_attention, nhead, bias=bias, dropout=dropout, **_drawn(weight_init, bias_init)
    )
    blocks = _Blocks.of(
        name,
        {"self_attn": attend(causal=causal)},
        partial(linear, bias=bias, weight_init=weight_init, bias_init=bias_init),
        dim_feedforward,
        dropout,
        activation,
        layer_norm(eps=layer_norm_eps, bias=bias),
        norm_first,
    )
    return _layer(blocks, unpack, drops=dropout > 0)


def transformer_decoder_layer(
    nhead: int,
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
    """Return attention within a sequence, attention to a memory, and a network for each position.

    The three are put together, and options and errors are, as for `transformer_encoder_layer`. The
    input is a tuple `(x, memory)`, `(x, memory, mask)` or `(x, memory, mask, memory_mask)`, of
    shapes `(N, L, E)` and `(N, S, E)` or without `N`; either mask may be `None`, and in both True
    takes part. Parameters have the names of `torch.nn.TransformerDecoderLayer`: `self_attn`,
    `multihead_attn`, `linear1`, `linear2`, `norm1`, `norm2` and `norm3`. `causal` is about the
    sequence alone.

    Examples
    --------
    >>> import torch
    >>> layer = transformer_decoder_layer(2, 16, causal=True)
    >>> x, memory = torch.ones(8, 5, 6), torch.ones(8, 7, 6)
    >>> params = layer.init(random.key(0), (x, memory))
    >>> sorted(params)
    ['linear1', 'linear2', 'multihead_attn', 'norm1', 'norm2', 'norm3', 'self_attn']
    >>> layer(params, (x, memory)).shape
    torch.Size([8, 5, 6])
    """
    name = "transformer_decoder_layer"
    check_bools(name, causal=causal, norm_first=norm_first, bias=bias)

    def unpack(x: Any) -> tuple[Any, Sources]:
        if not isinstance(x, tuple) or len(x) not in (2, 3, 4) or x[1] is None:
            raise LayerError(
                f"{name} expected (x, memory), (x, memory, mask) or (x, memory, mask, "
                f"memory_mask), got {describe(x)}."
            )
        x, memory, mask, memory_mask = (*x, None, None)[:4]
        return x, [(None, mask), (memory, memory_mask)]

    attend = partial(
        multi_head_attention, nhead, bias=bias, dropout=dropout, **_drawn(weight_init, bias_init)
    )
    blocks = _Blocks.of(
        name,
        {"self_attn": attend(causal=causal), "multihead_attn": attend()},
        partial(linear, bias=bias, weight_init=weight_init, bias_init=bias_init),
        dim_feedforward,
        dropout,
        activation,
        layer_norm(eps=layer_norm_eps, bias=bias),
        norm_first,
    )
    return _layer(blocks, unpack, drops=dropout > 0)


@dataclass(frozen=True)
class _Blocks:
    """Several attentions and one network, each with its norm."""

    layer: str
    parts: dict[str, Layer]
    attention: tuple[str, ...]
    norms: tuple[str, ...]
    dense: Callable[[int], Layer]
    #: Whether linear2 is still the one that there is at first.
    is_back: bool
    drop: Layer
    activation: Layer
    norm_first: bool

    @staticmethod
    def of(
        layer: str,
        attention: dict[str, Layer],
        dense: Callable[[int], Layer],
        dim_feedforward: int,
        dropout: float,
        activation: Activation,
        norm: Layer,
        norm_first: bool,
    ) -> _Blocks:
        """Check the options."""
        positive_int(layer, "dim_feedforward", dim_feedforward)
        if not callable(activation):
            raise TypeError(
                f"{layer}: expected a function such as nn.gelu for activation, got {activation!r}."
            )
        network = {"linear1": dense(dim_feedforward), "linear2": _back(dense)}
        norms = {f"norm{index + 1}": norm for index in range(len(attention) + 1)}
        return _Blocks(
            layer=layer,
            parts={**attention, **network, **norms},
            attention=tuple(attention),
            norms=tuple(norms),
            dense=dense,
            is_back=True,
            drop=dropout_layer(dropout),
            activation=lift(activation, "activation"),
            norm_first=norm_first,
        )

    def init(self, key: Tensor, x: Any, sources: Sources) -> Params:
        """Draw the parameters of every part."""
        check_input(self.layer, x, ("...", "L", "E"))
        inputs = dict.fromkeys(self.parts, x)
        inputs |= {part: (x, source[0]) for part, source in self._sources(sources)}
        keys = random.split(key, len(self.parts)).unbind(0)
        params: dict[str, Params] = {}
        for (part, layer), own in zip(self.parts.items(), keys, strict=True):
            if part == "linear2":
                made = abstract((params["linear1"], x), key)
                inputs[part] = eval_shape(self._inside, *made)
                # By a context where it must be, for Dynamo knows of none.
                layer = self.dense(x.shape[-1]) if self.is_back else _within(x.shape[-1], layer)
            params[part] = in_part(part, layer.init, own, inputs[part])
        return params

    def apply(
        self, params: Params, x: Tensor, sources: Sources, key: Tensor | None, train: bool
    ) -> Tensor:
        """Return what one block after the other makes of `x`."""
        check_flag(self.layer, "train", train)
        check_input(self.layer, x, ("...", "L", "E"))
        check_names(self.layer, "parameters", self.parts, params)
        # Each attention takes one key, the network one inside, and each block one at its end.
        count = 2 * len(self.norms)
        rest = [part for part in self.parts if part not in self.attention]
        rest = [part for part in rest if self.parts[part].uses_key]
        drawn = _split(key, count + len(rest))
        keys, own_keys = iter(drawn[:count]), dict(zip(rest, drawn[count:], strict=True))

        def run(part: str, x: Any, key: Tensor | None = None) -> Any:
            own, key = params.get(part, {}), own_keys.get(part, key)
            return in_part(part, self.parts[part].apply, own, x, key=key, train=train)

        def dropped(x: Tensor) -> Any:
            return self.drop({}, x, key=next(keys), train=train)

        def network(x: Tensor) -> Any:
            y = run("linear2", dropped(self.activation({}, run("linear1", x))))
            return in_part("linear2", _checked_summand, y, x)

        def attend(part: str, memory: Any, mask: Any) -> Callable[[Tensor], Any]:
            def attention(x: Tensor) -> Any:
                y = run(part, (x, memory, mask), next(keys))
                return in_part(part, _checked_summand, y, x)

            return attention

        blocks = [*(attend(part, *source) for part, source in self._sources(sources)), network]
        for norm, block in zip(self.norms, blocks, strict=True):
            if self.norm_first:
                x = x + dropped(block(run(norm, x)))
            else:
                x = run(norm, x + dropped(block(x)))
        return x

    def _sources(self, sources: Sources) -> list[tuple[str, tuple[Any, Any]]]:
        return list(zip(self.attention, sources, strict=True))

    def _inside(self, params: Params, x: Any) -> Any:
        """Return what the second half of the network receives, but for dropout."""
        return self.activation({}, in_part("linear1", self.parts["linear1"].apply, params, x))


def _within(width: int, layer: Layer) -> Layer:
    """Return a layer whose `init` knows how many features what it returns should have."""

    def init(key: Tensor, x: Any) -> Params:
        token = _width.set(width)
        try:
            return layer.init(key, x)
        finally:
            _width.reset(token)

    return replace(layer, init=init)


def _back(dense: Callable[[int], Layer]) -> Layer:
    """Return the second half of a network, as wide as what the first one receives."""

    def init(key: Tensor, x: Any) -> Params:
        width = _width.get(None)
        if width is None:
            raise LayerError(
                "linear2 has as many features as the input of the transformer layer that it is "
                "part of, and is initialized with it; alone, take nn.linear(features)."
            )
        return dense(width).init(key, x)

    def apply(params: Params, x: Any, *, key: Tensor | None = None, train: bool = False) -> Any:
        weight = params.get("weight") if isinstance(params, Mapping) else None
        width = len(weight) if isinstance(weight, Tensor) and weight.ndim else 0
        return dense(width or 1).apply(params, x, key=key, train=train)

    return Layer(init, apply, uses_key=False, kind="linear")


def _checked_summand(y: Any, x: Tensor) -> Any:
    """Refuse what cannot be added to `x` without being broadcast."""
    if not isinstance(y, Tensor) or y.shape != x.shape:
        raise LayerError(
            f"a transformer layer expected this part to return a tensor of shape {tuple(x.shape)}, "
            f"which it adds to its input, got {describe(y)}."
        )
    return y


def _drawn(weight_init: Initializer | None, bias_init: Initializer | None) -> dict[str, Any]:
    """Return the options of attention, whose biases are zero unless told."""
    return {"weight_init": weight_init, "bias_init": bias_init or zeros}


def _split(key: Tensor | None, count: int) -> list[Tensor | None]:
    return [None] * count if key is None else list(random.split(key, count).unbind(0))


def _layer(blocks: _Blocks, unpack: Callable[[Any], tuple[Any, Sources]], drops: bool) -> Layer:
    def init(key: Tensor, x: Any) -> Params:
        return blocks.init(key, *unpack(x))

    def apply(params: Params, x: Any, *, key: Tensor | None = None, train: bool = False) -> Any:
        return blocks.apply(params, *unpack(x), key, train)

    def rebuild(parts: Mapping[str, Layer | StatefulLayer]) -> Layer:
        own = stateless_parts(blocks.layer, parts)
        is_back = blocks.is_back and own["linear2"] is blocks.parts["linear2"]
        return _layer(replace(blocks, parts=own, is_back=is_back), unpack, drops)

    uses_key = drops or any(part.uses_key for part in blocks.parts.values())
    return Layer(init, apply, uses_key, kind=blocks.layer, parts=blocks.parts, rebuild=rebuild)
