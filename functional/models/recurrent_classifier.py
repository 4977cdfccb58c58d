"""A classifier of sequences: what a recurrent network has read, pooled, and a linear layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .. import nn, random
from ..abstract import eval_shape
from ..nn.checks import check_input, positive_int
from ..nn.combinators import abstract, check_names, stateless_parts
from ..nn.layer import describe

_NAME = "lstm_classifier"

#: From `(y, last, valid)` to features `(N, G)` of each sequence; see `last_state`.
Pool = Callable[[Tensor, Tensor, Tensor], Tensor]


def last_state(y: Tensor, last: Tensor, valid: Tensor) -> Tensor:
    """Return the state after the last token, of each direction's last token.

    This and `mean_over_steps` and `max_over_steps` are the poolings of `lstm_classifier`, which may
    be given any function of these arguments.

    Parameters
    ----------
    y
        What the last layer gives at each step, of shape `(N, L, F)`; zero at padding.
    last
        Its last states, of shape `(N, F)`: forwards at the end, backwards at the beginning.
    valid
        Whether a step is none of the padding, boolean of shape `(N, L)`.

    Examples
    --------
    >>> last_state(torch.zeros(1, 2, 3), torch.ones(1, 3), torch.ones(1, 2, dtype=torch.bool))
    tensor([[1., 1., 1.]])
    """
    return last


def mean_over_steps(y: Tensor, last: Tensor, valid: Tensor) -> Tensor:
    """Return the mean over the steps that are valid, zero where none is; see `last_state`.

    >>> y = torch.tensor([[[1.0], [3.0], [0.0]]])
    >>> mean_over_steps(y, y[:, -1], torch.tensor([[True, True, False]]))
    tensor([[2.]])
    """
    total = torch.where(valid[..., None], y, 0.0).sum(1)
    return total / valid.sum(1, keepdim=True).clamp(min=1)


def max_over_steps(y: Tensor, last: Tensor, valid: Tensor) -> Tensor:
    """Return each feature's maximum over the valid steps, zero where none is; see `last_state`.

    >>> y = torch.tensor([[[-1.0], [-3.0], [0.0]]])
    >>> max_over_steps(y, y[:, -1], torch.tensor([[True, True, False]]))
    tensor([[-1.]])
    """
    largest = torch.where(valid[..., None], y, -torch.inf).amax(1)
    return torch.where(valid.any(1, keepdim=True), largest, 0.0)


def lstm_classifier(
    num_classes: int,
    num_embeddings: int,
    embedding_dim: int,
    hidden_size: int,
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    pool: Pool = last_state,
) -> nn.Layer:
    """Return the network that reads a sequence of tokens and says to which class it belongs.

        y_1, ..., y_L = lstm(embedding(tokens)),    logits = head(pool(y_1, ..., y_L)).

    Hochreiter & Schmidhuber 1997, Long short-term memory; in both directions, Graves & Schmidhuber
    2005, Framewise phoneme classification with bidirectional LSTM. The input is `tokens`, integers
    of shape `(N, L)`, or `(tokens, lengths)` with integers of shape `(N,)`: what `tokens` holds
    from step `lengths[i]` on is padding, and neither the logits nor their gradient depend on it.
    The output has shape `(N, num_classes)`.

    Parameters are those of the torch modules `embedding`, an `Embedding`, `lstm`, an `LSTM`, and
    `head`, a `Linear`.

    Parameters
    ----------
    num_classes
        How many logits there are.
    num_embeddings, embedding_dim
        How many tokens there are, and the length of the vector of each.
    hidden_size, num_layers, bidirectional
        As for `nn.lstm`.
    dropout
        The probability with which features are dropped in training: of the embedding, between
        layers of the LSTM, and of what is pooled.
    pool
        `last_state`, `mean_over_steps`, `max_over_steps`, or another function of these arguments,
        to features `(N, G)` of any number.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        On use: the tokens are no integers of shape `(N, L)` with at least one step, or lie outside
        the embedding; the lengths are no integers of shape `(N,)`; no key is given for dropout in
        training; `pool` returned no features `(N, G)`; or the parameters are not this network's.

    Examples
    --------
    >>> model = lstm_classifier(3, num_embeddings=100, embedding_dim=8, hidden_size=16)
    >>> tokens, lengths = torch.ones(2, 5, dtype=torch.int64), torch.tensor([5, 2])
    >>> params = model.init(random.key(0), tokens)
    >>> model(params, (tokens, lengths)).shape
    torch.Size([2, 3])
    """
    positive_int(_NAME, "num_classes", num_classes)
    if not callable(pool):
        raise TypeError(f"{_NAME}: expected a function such as last_state for pool, got {pool!r}.")
    lstm = nn.lstm(
        hidden_size,
        num_layers=num_layers,
        dropout=0.0 if num_layers == 1 else dropout,
        bidirectional=bidirectional,
    )
    embedding = nn.embedding(num_embeddings, embedding_dim)
    parts = {"embedding": embedding, "lstm": lstm, "head": nn.linear(num_classes)}
    return _classifier(parts, 2 if bidirectional else 1, dropout, pool)


def _classifier(
    parts: Mapping[str, nn.Layer], directions: int, dropout: float, pool: Pool
) -> nn.Layer:
    """Return the network of an embedding, a recurrent layer and a head."""
    read = nn.serial(embedding=parts["embedding"], drop=nn.dropout(dropout))
    recur = nn.serial(lstm=parts["lstm"])
    answer = nn.serial(drop=nn.dropout(dropout), head=parts["head"])

    def pooled(y: Tensor, h: Tensor, lengths: Tensor | None) -> Tensor:
        last = h[-directions:].transpose(0, 1).flatten(1)
        steps = torch.arange(y.shape[1], device=y.device).expand(y.shape[:2])
        valid = steps < (y.shape[1] if lengths is None else lengths[:, None])
        return pool(y, last, valid)

    def init(key: Tensor, x: Any) -> nn.Params:
        tokens, _ = unpack(_NAME, "lengths", x)
        keys = random.split(key, len(parts)).unbind(0)
        first = read.init(keys[0], tokens)
        vectors = eval_shape(read.apply, *abstract((first, tokens), key))
        second = recur.init(keys[1], vectors)
        y, (h, _) = eval_shape(recur.apply, *abstract((second, vectors), key))
        features = eval_shape(lambda y, h: pooled(y, h, None), y, h)
        check_input(f"{_NAME} (what pool returned)", features, (y.shape[0], "G"))
        return {**first, **second, **answer.init(keys[2], features)}

    def apply(
        params: nn.Params, x: Any, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        check_names(_NAME, "parameters", parts, params)
        tokens, lengths = unpack(_NAME, "lengths", x)
        keys = (None,) * len(parts) if key is None else random.split(key, len(parts)).unbind(0)
        own = [{part: params[part]} if part in params else {} for part in parts]
        vectors = read(own[0], tokens, key=keys[0], train=train)
        y, (h, _) = recur(own[1], (vectors, None, lengths), key=keys[1], train=train)
        features = pooled(y, h, lengths)
        check_input(f"{_NAME} (what pool returned)", features, (y.shape[0], "G"))
        logits: Tensor = answer(own[2], features, key=keys[2], train=train)
        return logits

    def rebuild(parts: Mapping[str, nn.Layer | nn.StatefulLayer]) -> nn.Layer:
        return _classifier(stateless_parts(_NAME, parts), directions, dropout, pool)

    uses_key = any(chain.uses_key for chain in (read, recur, answer))
    return nn.Layer(init, apply, uses_key, kind=_NAME, parts=parts, rebuild=rebuild)


def unpack(name: str, second: str, x: Any) -> tuple[Any, Any]:
    """Return tokens and what may come with them, None where it does not."""
    tokens, other = x if isinstance(x, tuple | list) and len(x) == 2 else (x, None)
    if isinstance(tokens, tuple | list):
        raise nn.LayerError(f"{name} expected tokens or (tokens, {second}), got {describe(x)}.")
    check_input(name, tokens, ("N", "L"), floating=False)
    if not tokens.shape[1]:
        raise nn.LayerError(f"{name} expected at least one step, got {describe(tokens)}.")
    return tokens, other
