"""A language model of a recurrent network: the next token from all before it.

Mikolov et al. 2010, Recurrent neural network based language model; as an LSTM with dropout between
its layers, Zaremba et al. 2014, Recurrent neural network regularization (arXiv:1409.2329).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .. import nn, random
from ..abstract import eval_shape
from ..initializers import Initializer, uniform, zeros
from ..nn.checks import check_bools, check_input
from ..nn.combinators import abstract, check_names, stateless_parts
from ..nn.parameters import check_parameters
from .recurrent_classifier import unpack

_NAME = "lstm_language_model"

#: Of the embedding and the head: torch's own would be too large for a head that is tied to it.
_DRAW: Initializer = uniform(-0.1, 0.1)


def lstm_language_model(
    num_embeddings: int,
    embedding_dim: int,
    hidden_size: int,
    *,
    num_layers: int = 1,
    dropout: float = 0.0,
    tied: bool = False,
) -> nn.Layer:
    """Return the network that says after each token which one comes next.

        h_t, c_t = lstm(embedding(token_t), (h_{t-1}, c_{t-1})),    logits_t = head(h_t).

    The input is `tokens`, integers of shape `(N, L)`, or `(tokens, carry)`; the output is
    `(logits, carry)` with logits of shape `(N, L, num_embeddings)`. The carry is that of `nn.lstm`,
    `(h, c)` of shape `(num_layers, N, hidden_size)` each, zero where it is left out or None. Given
    back with the tokens that follow, it makes one long sequence of many windows, and with
    `stop_gradient` of it between them training is truncated backpropagation through time.

    Parameters are those of the torch modules `embedding`, an `Embedding`, `lstm`, an `LSTM`, and
    `head`, a `Linear`. Embedding and head begin uniform within ±0.1, the bias zero, as in Zaremba
    et al.

    Parameters
    ----------
    num_embeddings, embedding_dim
        How many tokens there are, and the length of the vector of each.
    hidden_size, num_layers
        As for `nn.lstm`.
    dropout
        The probability with which features are dropped in training: of the embedding, between
        layers of the LSTM, and before the head.
    tied
        Whether the head's weight is the embedding's, one leaf of the parameters; then `head` has
        a bias alone. Press & Wolf 2016, Using the output embedding to improve language models
        (arXiv:1608.05859).

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above, or weights are `tied` of lengths that differ.
    LayerError
        On use: the tokens are no integers of shape `(N, L)` with at least one step, or lie outside
        the embedding; the carry is not such; no key is given for dropout in training; or the
        parameters are not this network's.

    Examples
    --------
    >>> import torch
    >>> from purefn.functional import stop_gradient
    >>> model = lstm_language_model(100, 16, 16, tied=True)
    >>> windows = torch.ones(3, 2, 8, dtype=torch.int64)
    >>> params = model.init(random.key(0), windows[0])
    >>> carry = None
    >>> for tokens in windows:
    ...     logits, carry = model(params, (tokens, stop_gradient(carry)))
    >>> logits.shape, carry[0].shape
    (torch.Size([2, 8, 100]), torch.Size([1, 2, 16]))
    """
    check_bools(_NAME, tied=tied)
    if tied and embedding_dim != hidden_size:
        raise ValueError(
            f"{_NAME}: expected embedding_dim and hidden_size to be equal where the head is tied "
            f"to the embedding, got {embedding_dim} and {hidden_size}."
        )
    between = 0.0 if num_layers == 1 else dropout
    parts = {
        "embedding": nn.embedding(num_embeddings, embedding_dim, weight_init=_DRAW),
        "lstm": nn.lstm(hidden_size, num_layers=num_layers, dropout=between),
        "head": nn.linear(num_embeddings, weight_init=_DRAW, bias_init=zeros),
    }
    return _language_model(parts, dropout, num_embeddings if tied else None)


def _language_model(parts: Mapping[str, nn.Layer], dropout: float, tied: int | None) -> nn.Layer:
    """Return the network of an embedding, a recurrent layer and a head.

    With a number of embeddings for `tied`, the head has their weight and a bias of its own.
    """
    drop = nn.dropout(dropout)
    read = nn.serial(embedding=parts["embedding"], drop=drop)
    recur = nn.serial(lstm=parts["lstm"])
    answer = nn.serial(drop=drop, head=parts["head"])

    def init(key: Tensor, x: Any) -> nn.Params:
        tokens, _ = unpack(_NAME, "carry", x)
        keys = random.split(key, len(parts)).unbind(0)
        first = read.init(keys[0], tokens)
        vectors = eval_shape(read.apply, *abstract((first, tokens), key))
        second = recur.init(keys[1], vectors)
        states, _ = eval_shape(recur.apply, *abstract((second, vectors), key))
        third = answer.init(keys[2], states)
        if tied is not None:
            third = {"head": {"bias": third["head"]["bias"]}}
        return {**first, **second, **third}

    def apply(params: nn.Params, x: Any, *, key: Tensor | None = None, train: bool = False) -> Any:
        check_names(_NAME, "parameters", parts, params)
        tokens, carry = unpack(_NAME, "carry", x)
        keys = (None,) * len(parts) if key is None else random.split(key, len(parts)).unbind(0)
        own = [{part: params[part]} if part in params else {} for part in parts]
        vectors = read(own[0], tokens, key=keys[0], train=train)
        states, carry = recur(own[1], (vectors, carry), key=keys[1], train=train)
        if tied is not None:
            bias = params.get("head")
            check_parameters(f"{_NAME}: the tied head", bias, {"bias": (tied,)})
            own[2] = {"head": {**bias, "weight": params["embedding"]["weight"]}}
        return answer(own[2], states, key=keys[2], train=train), carry

    def rebuild(parts: Mapping[str, nn.Layer | nn.StatefulLayer]) -> nn.Layer:
        return _language_model(stateless_parts(_NAME, parts), dropout, tied)

    uses_key = any(chain.uses_key for chain in (read, recur, answer))
    return nn.Layer(init, apply, uses_key, kind=_NAME, parts=parts, rebuild=rebuild)


def lstm_decoder(
    num_embeddings: int,
    embedding_dim: int,
    hidden_size: int,
    *,
    num_layers: int = 1,
    tied: bool = False,
) -> nn.StatefulLayer:
    """Return `lstm_language_model` as a layer whose state is the carry, for `generate`.

    It has the same parameters, options and errors. It maps the next tokens `(N, L)` to logits
    `(N, L, num_embeddings)`, of which the last say what follows. The state is `{"h": h, "c": c}`;
    it begins as `{}`, or as the zeros that `init` returns.

    Examples
    --------
    >>> import torch
    >>> from purefn.functional import models
    >>> decoder = lstm_decoder(100, 16, 16, tied=True)
    >>> prompt = torch.tensor([[3, 1, 4], [2, 7, 1]])
    >>> params, _ = decoder.init(random.key(0), prompt)
    >>> logits, state = decoder(params, {}, prompt)
    >>> models.generate(decoder, params, prompt, 5, key=random.key(1), top_k=10).shape
    torch.Size([2, 8])
    """
    model = lstm_language_model(
        num_embeddings, embedding_dim, hidden_size, num_layers=num_layers, tied=tied
    )

    def init(key: Tensor, x: Any) -> tuple[nn.Params, nn.State]:
        check_input("lstm_decoder", x, ("N", "L"), floating=False)
        params = model.init(key, x)
        shape = (num_layers, x.shape[0], hidden_size)
        return params, {part: zeros(key, shape, torch.float32) for part in ("h", "c")}

    def apply(
        params: nn.Params,
        state: nn.State,
        x: Any,
        *,
        key: Tensor | None = None,
        train: bool = False,
    ) -> tuple[Tensor, nn.State]:
        check_input("lstm_decoder", x, ("N", "L"), floating=False)
        shape = (num_layers, "N", hidden_size)
        if state != {}:
            check_parameters("lstm_decoder (state)", state, {"h": shape, "c": shape})
        logits, (h, c) = model(params, (x, (state["h"], state["c"]) if state else None))
        return logits, {"h": h, "c": c}

    return nn.StatefulLayer(init, apply, uses_key=False)
