"""The decoder that steps of training are timed on, with positions looked up for each example."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..transformer import TOKENS, Decoder
from ..transformer import transformer as training
from .workload import PerExample, of_training


def transformer(batch: int) -> PerExample:
    """Return 891,648 parameters: 4 layers of width 128 over 64 tokens, causal."""
    workload = of_training(training(), batch)
    module = LookedUpPositions().to(workload.inputs.device)
    module.load_state_dict(workload.module.state_dict())
    return dataclasses.replace(workload, module=module)


class LookedUpPositions(Decoder):
    """The same network: a hook sees the gradient of what a module returns for each example."""

    def forward(self, tokens_BT: Tensor) -> Tensor:  # noqa: N803 - shape suffixes
        """Return logits `(batch, tokens, vocabulary)`."""
        positions = torch.arange(TOKENS, device=tokens_BT.device).expand(len(tokens_BT), -1)
        x = self.token(tokens_BT) + self.position(positions)
        return self.head(self.norm(self.blocks(x)))
