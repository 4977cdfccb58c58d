"""Networks that read the words of a film review, as IMDb has them, and tell whether it is good.

Parameters are those of the torch modules: the LSTM is two linear layers, applied at every step, so
their gradients are sums over time.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

import purefn.functional as pf

from ...frameworks import DEVICE, jax, jnp
from .. import jax_layers
from ..workload import integers
from .workload import CROSS_ENTROPY, PerExample

VOCABULARY, WORDS, WIDTH = 10_004, 256, 16
#: The LSTM reads fewer words.
STEPS, HIDDEN = 32, 100


def bag_of_words(batch: int) -> PerExample:
    """Return 160,098 parameters: the mean embedding of 256 words, and a linear layer."""
    torch.manual_seed(0)
    words = integers(0, VOCABULARY, batch, WORDS)
    return _reviews(BagOfWords(), _bag_of_words, _jax_bag_of_words, words)


def lstm(batch: int, loop: Literal["python", "scan"]) -> PerExample:
    """Return 1,081,002 parameters: an LSTM over 32 words, its mean state, and a linear layer."""
    torch.manual_seed(0)
    words = integers(0, VOCABULARY, batch, STEPS)
    apply = {"python": _lstm_in_python, "scan": _lstm_by_scan}[loop]
    return _reviews(Lstm(), apply, _jax_lstm, words)


def _reviews(module: torch.nn.Module, apply: Any, jax_apply: Any, words: Tensor) -> PerExample:
    labels = integers(1, 2, len(words)).to(DEVICE)
    return PerExample(module.to(DEVICE), apply, jax_apply, CROSS_ENTROPY, words.to(DEVICE), labels)


class BagOfWords(torch.nn.Module):
    """The mean of the embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCABULARY, WIDTH)
        self.head = torch.nn.Linear(WIDTH, 2)

    def forward(self, words: Tensor) -> Tensor:
        """Return logits `(batch, 2)`."""
        return self.head(self.embedding(words).mean(1))


def _bag_of_words(params: Any, words: Tensor) -> Tensor:
    x = F.embedding(words, params["embedding"]["weight"]).mean(1)
    return F.linear(x, params["head"]["weight"], params["head"]["bias"])


def _jax_bag_of_words(params: Any, words: Any) -> Any:
    return jax_layers.linear(params["head"], params["embedding"]["weight"][words].mean(1))


class Lstm(torch.nn.Module):
    """A cell of two linear layers: the gates are what they make of the input and of the state."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCABULARY, HIDDEN)
        self.input = torch.nn.Linear(HIDDEN, 4 * HIDDEN)
        self.state = torch.nn.Linear(HIDDEN, 4 * HIDDEN, bias=False)
        self.head = torch.nn.Linear(HIDDEN, 2)

    def forward(self, words: Tensor) -> Tensor:
        """Return logits `(batch, 2)`."""
        x = self.embedding(words)
        state = cell = x.new_zeros(len(x), HIDDEN)
        states = []
        for step in range(STEPS):
            state, cell = _gated(self.input(x[:, step]) + self.state(state), cell)
            states.append(state)
        return self.head(torch.stack(states).mean(0))


def _gated(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Return the state and the cell after one step (Hochreiter and Schmidhuber 1997)."""
    i, f, g, o = gates.chunk(4, -1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


def _step(params: Any, carry: tuple[Tensor, Tensor], x: Tensor) -> tuple[Any, Tensor]:
    state, cell = carry
    gates = F.linear(x, params["input"]["weight"], params["input"]["bias"])
    gates = gates + F.linear(state, params["state"]["weight"])
    state, cell = _gated(gates, cell)
    return (state, cell), state


def _lstm_in_python(params: Any, words: Tensor) -> Tensor:
    x = F.embedding(words, params["embedding"]["weight"])
    zeros = x.new_zeros(len(x), HIDDEN)
    carry, states = (zeros, zeros), []
    for step in range(words.shape[1]):
        carry, state = _step(params, carry, x[:, step])
        states.append(state)
    mean = torch.stack(states).mean(0)
    return F.linear(mean, params["head"]["weight"], params["head"]["bias"])


def _lstm_by_scan(params: Any, words: Tensor) -> Tensor:
    x = F.embedding(words, params["embedding"]["weight"])
    zeros = x.new_zeros(len(x), HIDDEN)
    step = functools.partial(_step, params)
    _, states = pf.scan(step, (zeros, zeros), x.transpose(0, 1))
    return F.linear(states.mean(0), params["head"]["weight"], params["head"]["bias"])


def _jax_lstm(params: Any, words: Any) -> Any:
    def step(carry: Any, x: Any) -> Any:
        state, cell = carry
        gates = jax_layers.linear(params["input"], x) + state @ params["state"]["weight"].T
        i, f, g, o = jnp.split(gates, 4, -1)
        cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        state = jax.nn.sigmoid(o) * jnp.tanh(cell)
        return (state, cell), state

    x = params["embedding"]["weight"][words]
    zeros = jnp.zeros((len(x), HIDDEN), x.dtype)
    _, states = jax.lax.scan(step, (zeros, zeros), x.swapaxes(0, 1))
    return jax_layers.linear(params["head"], states.mean(0))
