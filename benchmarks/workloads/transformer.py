"""A decoder-only transformer: 4 layers, width 128, 4 heads, 64 tokens, batch 16, AdamW.

Layers are normalised before each sublayer, positions are learned, attention is causal; a vocabulary
of 256 with a head of its own. Vaswani et al. 2017, Attention is all you need; Radford et al. 2019.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

from purefn.functional import nn

from ..frameworks import jax
from . import jax_layers
from .rules import ADAMW
from .workload import Training, integers, stateless

LAYERS, WIDTH, HEADS, TOKENS, VOCABULARY, BATCH = 4, 128, 4, 64, 256, 16


def transformer() -> Training:
    """Return the network that predicts each next one of random tokens."""
    torch.manual_seed(0)
    text = integers(1, VOCABULARY, BATCH, TOKENS + 1)
    inputs, labels = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    return Training(ADAMW, Decoder(), stateless(_purefn), stateless(_jax), inputs, labels)


class Decoder(torch.nn.Module):
    """The network in torch.nn."""

    def __init__(self) -> None:
        super().__init__()
        self.token = torch.nn.Embedding(VOCABULARY, WIDTH)
        self.position = torch.nn.Embedding(TOKENS, WIDTH)
        self.blocks = torch.nn.Sequential(*[Block() for _ in range(LAYERS)])
        self.norm = torch.nn.LayerNorm(WIDTH)
        self.head = torch.nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens_BT: Tensor) -> Tensor:  # noqa: N803 - shape suffixes
        """Return logits `(batch, tokens, vocabulary)`."""
        x = self.token(tokens_BT) + self.position.weight
        return self.head(self.norm(self.blocks(x)))


class Block(torch.nn.Module):
    """Attention and a perceptron, each added to what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = torch.nn.LayerNorm(WIDTH)
        self.qkv = torch.nn.Linear(WIDTH, 3 * WIDTH)
        self.out = torch.nn.Linear(WIDTH, WIDTH)
        self.norm2 = torch.nn.LayerNorm(WIDTH)
        self.up = torch.nn.Linear(WIDTH, 4 * WIDTH)
        self.down = torch.nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` after both."""
        x = x + self.out(_attention(self.qkv(self.norm1(x))))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


def _attention(qkv_BTC: Tensor) -> Tensor:  # noqa: N803
    batch, tokens, _ = qkv_BTC.shape
    heads = qkv_BTC.view(batch, tokens, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
    return y.transpose(1, 2).reshape(batch, tokens, WIDTH)


def _purefn(params: Any, tokens: Tensor) -> Tensor:
    norm = nn.layer_norm()
    x = nn.embedding(VOCABULARY, WIDTH)(params["token"], tokens) + params["position"]["weight"]
    for index in range(LAYERS):
        block = params["blocks"][str(index)]
        qkv = nn.linear(3 * WIDTH)(block["qkv"], norm(block["norm1"], x))
        x = x + nn.linear(WIDTH)(block["out"], _attention(qkv))
        hidden = nn.gelu(nn.linear(4 * WIDTH)(block["up"], norm(block["norm2"], x)))
        x = x + nn.linear(WIDTH)(block["down"], hidden)
    return nn.linear(VOCABULARY)(params["head"], norm(params["norm"], x))


def _jax(params: Any, tokens: Any) -> Any:
    linear, norm = jax_layers.linear, jax_layers.layer_norm
    x = params["token"]["weight"][tokens] + params["position"]["weight"]
    for index in range(LAYERS):
        block = params["blocks"][str(index)]
        qkv = linear(block["qkv"], norm(block["norm1"], x))
        x = x + linear(block["out"], jax_layers.causal_attention(qkv, HEADS))
        hidden = jax.nn.gelu(linear(block["up"], norm(block["norm2"], x)), approximate=False)
        x = x + linear(block["down"], hidden)
    return linear(params["head"], norm(params["norm"], x))
