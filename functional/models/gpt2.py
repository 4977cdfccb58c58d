"""GPT: a causal transformer that predicts each next token of a sequence.

Radford et al. 2019, Language models are unsupervised multitask learners (GPT-2), after Vaswani et
al. 2017 (arXiv:1706.03762), with the norm before each branch and one after the last. Parameters
have the names of the published checkpoints, `transformer.h.0.attn.c_attn.weight` and so on, in the
layouts of `torch.nn.Linear`; `gpt2_params` loads a checkpoint, whose matrices are transposed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from .. import nn, random
from ..initializers import normal, zeros
from ..nn.attention import Rotation
from ..nn.checks import check_bools, check_input, positive_int
from ..nn.combinators import check_names
from ..nn.layer import State, describe, in_part
from .gpt2_cache import beginning, continued_positions

#: The standard deviation of every matrix at the start.
_STDDEV = 0.02
#: A layer of either kind.
_Part = nn.Layer | nn.StatefulLayer
#: Two places of a model with one matrix.
_TIES = {"lm_head.weight": "transformer.wte.weight"}
#: The activation of GPT-2.
_gelu_tanh = functools.partial(nn.gelu, approximate="tanh")


def gpt(
    vocabulary_size: int,
    context_length: int,
    *,
    num_layers: int,
    num_heads: int,
    embedding_dim: int,
    mlp_dim: int | None = None,
    dropout: float = 0.0,
    activation: Callable[[Tensor], Tensor] = _gelu_tanh,
    rotary: Rotation | None = None,
    bias: bool = True,
    tied: bool = True,
) -> nn.Layer:
    """Return a GPT, which maps tokens `(N, L)` to logits `(N, L, vocabulary_size)` of the next.

    With the embeddings `W` of tokens `t` and `P` of positions,

        x = W[t] + P[:L]
        x = x + attention(ln_1(x)),  x = x + mlp(ln_2(x))      num_layers times
        logits = ln_f(x) W^T,

    where `mlp(x) = c_proj(activation(c_fc(x)))` and a position attends to itself and those before
    it. Radford et al. 2019, section 2.3. Matrices begin normal of deviation 0.02, those that end a
    branch of `0.02 / sqrt(2 num_layers)`, biases as zero. GPT-2 is
    `gpt(50257, 1024, num_layers=12, num_heads=12, embedding_dim=768, dropout=0.1)`.

    Parameters
    ----------
    vocabulary_size
        How many tokens there are; tokens are integers from 0.
    context_length
        How many positions a sequence has at most.
    num_layers, num_heads
        How many blocks there are and how many heads their attention has.
    embedding_dim, mlp_dim
        How many features a position has, a multiple of `num_heads`, and how many the network of a
        block has inside, four times as many unless given.
    dropout
        The probability with which features of the embedding and of each branch, and weights of the
        attention, are set to zero in training.
    activation
        A pure function of a tensor; GPT-2's is `gelu` by its approximation with `tanh`.
    rotary
        `nn.rotary`, or a partial of it, in the place of `P`.
    bias
        Whether matrices (but the last) and norms have biases.
    tied
        Whether the last matrix is `W`, one leaf of the parameters, or `lm_head`, one of its own.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        On use: the tokens are not int32 or int64 of shape `(N, L)` or `(L,)`, one is outside of the
        vocabulary, or there are more than `context_length`; no key is given for dropout in
        training; or the parameters are not this model's.

    Examples
    --------
    >>> import torch
    >>> from purefn.functional import models, random, tree
    >>> model = models.gpt(100, 16, num_layers=2, num_heads=2, embedding_dim=8)
    >>> tokens = torch.tensor([[3, 1, 4, 1, 5]])
    >>> params = model.init(random.key(0), tokens)
    >>> model(params, tokens).shape
    torch.Size([1, 5, 100])
    >>> [name for name in tree.to_state_dict(params) if ".0.attn." in name]
    ['transformer.h.0.attn.c_attn.bias', 'transformer.h.0.attn.c_attn.weight', \
'transformer.h.0.attn.c_proj.bias', 'transformer.h.0.attn.c_proj.weight']
    """
    _check_sizes(vocabulary_size, context_length, num_layers, num_heads, embedding_dim, mlp_dim)
    attention = nn.multi_head_attention(
        num_heads, bias=bias, dropout=dropout, causal=True, rotary=rotary
    )
    positions = None if rotary is not None else nn.learned_positions(context_length)
    network: nn.Layer = _network(
        vocabulary_size,
        context_length,
        _embeddings(vocabulary_size, embedding_dim, positions),
        [
            _block(attention, num_layers, embedding_dim, mlp_dim, dropout, activation, bias)
            for _ in range(num_layers)
        ],
        dropout=dropout,
        bias=bias,
        tied=tied,
    )
    return network


def gpt_decoder(
    vocabulary_size: int,
    context_length: int,
    *,
    num_layers: int,
    num_heads: int,
    embedding_dim: int,
    mlp_dim: int | None = None,
    activation: Callable[[Tensor], Tensor] = _gelu_tanh,
    rotary: Rotation | None = None,
    bias: bool = True,
    tied: bool = True,
) -> nn.StatefulLayer:
    """Return `gpt` with a cache, for `generate` and other decoding token by token.

    Parameters are those of `gpt`. The state holds the keys and values of all positions seen so far,
    as for `nn.cached_attention`, so that tokens fed in pieces of any length give the logits that
    `gpt` gives for the whole. It begins as `{}`, or as what `init` returns, an empty cache of
    float32. Options are those of `gpt`, but for dropout: this is not for training.

    Raises
    ------
    TypeError, ValueError
        An option is not one of those of `gpt`.
    LayerError
        On use: the tokens are refused as by `gpt`, or do not fit into the rest of the cache (where
        values cannot be seen, under `jit` and `vmap`, the logits are NaN instead); or the state is
        not this model's.

    Examples
    --------
    >>> import torch
    >>> from purefn.functional import models, random
    >>> sizes = dict(num_layers=2, num_heads=2, embedding_dim=8)
    >>> model, decoder = models.gpt(100, 16, **sizes), models.gpt_decoder(100, 16, **sizes)
    >>> tokens = torch.tensor([[3, 1, 4, 1, 5]])
    >>> params = model.init(random.key(0), tokens)
    >>> first, cache = decoder(params, {}, tokens[:, :3])
    >>> second, cache = decoder(params, cache, tokens[:, 3:])
    >>> torch.allclose(torch.cat([first, second], 1), model(params, tokens), atol=1e-6)
    True
    """
    _check_sizes(vocabulary_size, context_length, num_layers, num_heads, embedding_dim, mlp_dim)
    attention = beginning(
        nn.cached_attention(num_heads, context_length, bias=bias, rotary=rotary),
        (num_heads, context_length, embedding_dim // num_heads),
    )
    positions = None if rotary is not None else continued_positions(context_length)
    network: nn.StatefulLayer = _network(
        vocabulary_size,
        context_length,
        _embeddings(vocabulary_size, embedding_dim, positions),
        [
            _block(attention, num_layers, embedding_dim, mlp_dim, 0.0, activation, bias)
            for _ in range(num_layers)
        ],
        dropout=0.0,
        bias=bias,
        tied=tied,
    )
    return network


def _check_sizes(
    vocabulary_size: int,
    context_length: int,
    num_layers: int,
    num_heads: int,
    embedding_dim: int,
    mlp_dim: int | None,
) -> None:
    """Refuse sizes that are not positive, and heads that do not divide the features."""
    sizes = {"vocabulary_size": vocabulary_size, "context_length": context_length}
    sizes |= {"num_layers": num_layers, "num_heads": num_heads, "embedding_dim": embedding_dim}
    sizes |= {} if mlp_dim is None else {"mlp_dim": mlp_dim}
    for argument, value in sizes.items():
        positive_int("gpt", argument, value)
    if embedding_dim % num_heads:
        raise ValueError(
            f"gpt: expected embedding_dim to be a multiple of num_heads={num_heads}, got "
            f"{embedding_dim}."
        )


def _network(
    vocabulary_size: int,
    context_length: int,
    embeddings: Mapping[str, _Part],
    blocks: Sequence[_Part],
    *,
    dropout: float,
    bias: bool,
    tied: bool,
) -> Any:
    """Return embeddings, blocks and the last matrix in a chain."""
    check_bools("gpt", tied=tied)
    network: Any = nn.serial(
        tokens=_tokens(context_length),
        transformer=nn.serial(
            **embeddings,
            drop=nn.dropout(dropout),
            h=nn.serial(*blocks),
            ln_f=nn.layer_norm(bias=bias),
        ),
        lm_head=nn.linear(vocabulary_size, bias=False, weight_init=normal(_STDDEV)),
    )
    return nn.tie(network, _TIES) if tied else network


def _tokens(context_length: int) -> nn.Layer:
    """Return the layer that hands tokens on, refusing sequences that are too long."""

    def tokens(x: Any) -> Any:
        check_input("gpt", x, ("...", "L"), floating=False)
        if len(x.shape) > 2:
            raise nn.LayerError(f"gpt expected tokens of shape (N, L) or (L,), got {describe(x)}.")
        if x.shape[-1] > context_length:
            raise nn.LayerError(
                f"gpt expected at most context_length={context_length} tokens, got "
                f"{x.shape[-1]} in shape {tuple(x.shape)}."
            )
        return x

    return nn.lift(tokens)


def _embeddings(
    vocabulary_size: int, embedding_dim: int, positions: _Part | None
) -> dict[str, _Part]:
    tokens = nn.embedding(vocabulary_size, embedding_dim, weight_init=normal(_STDDEV))
    return {"wte": tokens} if positions is None else {"wte": tokens, "wpe": positions}


def _block(
    attention: _Part,
    num_layers: int,
    embedding_dim: int,
    mlp_dim: int | None,
    dropout: float,
    activation: Callable[[Tensor], Tensor],
    bias: bool,
) -> _Part:
    """Return `x = x + attention(ln_1(x))` and then `x = x + mlp(ln_2(x))`."""
    # Every branch adds its variance to x, and there are 2 num_layers of them.
    stddev = _STDDEV / math.sqrt(2 * num_layers)
    network = nn.serial(
        c_fc=_matrix(mlp_dim or 4 * embedding_dim, _STDDEV, bias),
        act=nn.lift(activation, "activation"),
        c_proj=_matrix(embedding_dim, stddev, bias),
    )
    parts: dict[str, _Part] = {
        "ln_1": nn.layer_norm(bias=bias),
        "attn": _attention(attention, embedding_dim, stddev, bias),
        "ln_2": nn.layer_norm(bias=bias),
        "mlp": network,
    }
    return _residual_branches(parts, nn.dropout(dropout))


def _residual_branches(parts: Mapping[str, _Part], drop: nn.Layer) -> _Part:
    """Return the block of these parts.

    Unlike in `nn.residual`, the parts of both branches stand beside each other: GPT-2's names.
    """

    def init(key: Tensor, x: Any) -> tuple[nn.Params, State]:
        keys = random.split(key, len(parts)).unbind(0)
        drawn = {
            name: in_part(name, _drawn, part, part_key, x)
            for (name, part), part_key in zip(parts.items(), keys, strict=True)
        }
        # Norms without biases have parameters all the same, but a part of a user's may have none.
        params = {name: params for name, (params, _) in drawn.items() if params}
        return params, {name: state for name, (_, state) in drawn.items() if state}

    def apply(
        params: nn.Params,
        state: State,
        x: Tensor,
        *,
        key: Tensor | None = None,
        train: bool = False,
    ) -> tuple[Tensor, State]:
        check_names("block", "parameters", parts, params)
        check_names("block", "a state", parts, state)
        keys = iter((None,) * 6 if key is None else random.split(key, 6).unbind(0))
        new_state = {}

        def run(name: str, x: Tensor) -> Any:
            own = params.get(name, {}), state.get(name, {})
            y, new = in_part(name, _applied, parts[name], *own, x, key=next(keys), train=train)
            new_state.update({name: new} if new else {})
            return y

        for norm, branch in (("ln_1", "attn"), ("ln_2", "mlp")):
            y = run(branch, run(norm, x))
            x = x + drop({}, y, key=next(keys), train=train)
        return x, new_state

    uses_key = drop.uses_key or any(part.uses_key for part in parts.values())
    block = nn.StatefulLayer(
        init,
        apply,
        uses_key,
        kind="block",
        parts=parts,
        rebuild=lambda parts: _residual_branches(parts, drop),
    )
    is_stateful = any(isinstance(part, nn.StatefulLayer) for part in parts.values())
    return block if is_stateful else _stateless(block)


def _attention(attention: _Part, embedding_dim: int, stddev: float, bias: bool) -> _Part:
    """Return `attention` with GPT-2's names and initial values of its parameters."""
    ours = {"c_attn": _matrix(3 * embedding_dim, _STDDEV, bias)}
    ours["c_proj"] = _matrix(embedding_dim, stddev, bias)

    def init(key: Tensor, x: Any) -> tuple[nn.Params, State]:
        keys = random.split(key, 3).unbind(0)
        params = {
            name: in_part(name, part.init, part_key, x)
            for (name, part), part_key in zip(ours.items(), keys[:2], strict=True)
        }
        return params, _drawn(attention, keys[2], x)[1]

    def apply(
        params: nn.Params,
        state: State,
        x: Tensor,
        *,
        key: Tensor | None = None,
        train: bool = False,
    ) -> tuple[Tensor, State]:
        check_names("attention", "parameters", ours, params)
        renamed: dict[str, Any] = {
            f"in_proj_{name}": value for name, value in params.get("c_attn", {}).items()
        }
        renamed["out_proj"] = params.get("c_proj", {})
        return _applied(attention, renamed, state, x, key=key, train=train)

    layer = nn.StatefulLayer(init, apply, attention.uses_key, kind=attention.kind)
    return layer if isinstance(attention, nn.StatefulLayer) else _stateless(layer)


def _matrix(features: int, stddev: float, bias: bool) -> nn.Layer:
    return nn.linear(features, bias=bias, weight_init=normal(stddev), bias_init=zeros)


def _drawn(layer: _Part, key: Tensor, x: Any) -> tuple[nn.Params, State]:
    """Return parameters and state, `{}` where there is none."""
    if isinstance(layer, nn.StatefulLayer):
        return layer.init(key, x)
    return layer.init(key, x), {}


def _applied(
    layer: _Part, params: nn.Params, state: State, x: Any, **options: Any
) -> tuple[Any, State]:
    """Return output and next state, `{}` where there is none."""
    if isinstance(layer, nn.StatefulLayer):
        return layer.apply(params, state, x, **options)
    return layer.apply(params, x, **options), {}


def _stateless(layer: nn.StatefulLayer) -> nn.Layer:
    """Return a layer without its state, which is always empty."""

    def apply(params: nn.Params, x: Any, *, key: Tensor | None = None, train: bool = False) -> Any:
        return layer.apply(params, {}, x, key=key, train=train)[0]

    return nn.Layer(
        lambda key, x: layer.init(key, x)[0],
        apply,
        layer.uses_key,
        kind=layer.kind,
        parts=layer.parts,
        rebuild=layer.rebuild,
    )
