"""Torch's recurrent operators with dropout between their layers, drawn from keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .batches import beside


def stacked(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    drop: Callable[[Tensor, float], Tensor],
) -> tuple[Tensor, ...]:
    """Return what a stack of recurrent layers returns, with `drop(y, p)` between them.

    `func` is `torch.lstm`, `gru`, `rnn_tanh` or `rnn_relu`, which is called a layer at a time. Its
    arguments are torch's,

        (input, states, weights, bias, layers, p, train, bidirectional, batch_first)

    or, for a packed input,

        (data, batch_sizes, states, weights, bias, layers, p, train, bidirectional).
    """
    # Third from the front are the weights, or the states of a packed input: those are tensors too,
    # but the fourth is a flag or a list.
    inputs = 1 if isinstance(args[3], bool) else 2
    y, *sizes = args[:inputs]
    states, weights, bias, layers, p, train, bidirectional, *batch_first = args[inputs:]
    directions = 2 if bidirectional else 1
    per_layer = len(weights) // layers
    finals = []
    for layer in range(layers):
        start = layer * directions
        own = weights[layer * per_layer : (layer + 1) * per_layer]
        y, *final = func(
            y,
            *sizes,
            _of_layer(states, start, directions, y),
            own,
            bias,
            1,
            0.0,
            train,
            bidirectional,
            *batch_first,
        )
        finals.append(final)
        if layer < layers - 1:
            y = drop(y, p)
    return (y, *(torch.cat(parts) for parts in zip(*finals, strict=True)))


def _of_layer(states: Any, start: int, directions: int, y: Tensor) -> Any:
    """Return one layer's part of the states, one tensor or, of an LSTM, two."""
    if isinstance(states, Tensor):
        return beside(states[start : start + directions], [y])
    return [_of_layer(state, start, directions, y) for state in states]
