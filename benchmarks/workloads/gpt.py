"""GPT-2 made small: 4 layers, width 256, 4 heads, 64 tokens, batch 8, the last matrix tied; AdamW.

Radford et al. 2019, Language models are unsupervised multitask learners; a vocabulary of 512. The
purefn version is `models.gpt`, over the same names as the torch module.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

from purefn.functional import models

from ..frameworks import jax
from . import jax_layers
from .rules import ADAMW
from .workload import Training, integers, stateless

LAYERS, WIDTH, HEADS, TOKENS, VOCABULARY, BATCH = 4, 256, 4, 64, 512, 8


def gpt() -> Training:
    """Return the network that predicts each next one of random tokens."""
    torch.manual_seed(0)
    text = integers(1, VOCABULARY, BATCH, TOKENS + 1)
    inputs, labels = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    model = models.gpt(VOCABULARY, TOKENS, num_layers=LAYERS, num_heads=HEADS, embedding_dim=WIDTH)
    return Training(ADAMW, GPT(), stateless(model), stateless(_jax), inputs, labels)


class GPT(torch.nn.Module):
    """The network in torch.nn."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = torch.nn.ModuleDict(
            {
                "wte": torch.nn.Embedding(VOCABULARY, WIDTH),
                "wpe": torch.nn.Embedding(TOKENS, WIDTH),
                "h": torch.nn.Sequential(*[Block() for _ in range(LAYERS)]),
                "ln_f": torch.nn.LayerNorm(WIDTH),
            }
        )
        self.lm_head = torch.nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                depth = (2 * LAYERS) ** 0.5 if "c_proj" in name else 1.0
                torch.nn.init.normal_(parameter, std=0.02 / depth)

    def forward(self, tokens_BT: Tensor) -> Tensor:  # noqa: N803 - shape suffixes
        """Return logits `(batch, tokens, vocabulary)`."""
        parts = self.transformer
        x = parts["wte"](tokens_BT) + parts["wpe"].weight
        return self.lm_head(parts["ln_f"](parts["h"](x)))


class Block(torch.nn.Module):
    """Attention and a perceptron, each added to what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1 = torch.nn.LayerNorm(WIDTH)
        self.attn = Attention()
        self.ln_2 = torch.nn.LayerNorm(WIDTH)
        self.mlp = Perceptron()

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` after both."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Attention(torch.nn.Module):
    """Causal attention of several heads."""

    def __init__(self) -> None:
        super().__init__()
        self.c_attn = torch.nn.Linear(WIDTH, 3 * WIDTH)
        self.c_proj = torch.nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Return what each position gathers from itself and those before."""
        batch, tokens, _ = x.shape
        heads = self.c_attn(x).view(batch, tokens, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(batch, tokens, WIDTH))


class Perceptron(torch.nn.Module):
    """The network of each position."""

    def __init__(self) -> None:
        super().__init__()
        self.c_fc = torch.nn.Linear(WIDTH, 4 * WIDTH)
        self.c_proj = torch.nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Return both matrices with the activation between."""
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


def _jax(params: Any, tokens: Any) -> Any:
    linear, norm = jax_layers.linear, jax_layers.layer_norm
    parts = params["transformer"]
    x = parts["wte"]["weight"][tokens] + parts["wpe"]["weight"]
    for index in range(LAYERS):
        block = parts["h"][str(index)]
        attention, network = block["attn"], block["mlp"]
        qkv = linear(attention["c_attn"], norm(block["ln_1"], x))
        x = x + linear(attention["c_proj"], jax_layers.causal_attention(qkv, HEADS))
        hidden = jax.nn.gelu(linear(network["c_fc"], norm(block["ln_2"], x)), approximate=True)
        x = x + linear(network["c_proj"], hidden)
    return norm(parts["ln_f"], x) @ parts["wte"]["weight"].T
