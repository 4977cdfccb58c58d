"""What the registry knows of a layer."""

from dataclasses import dataclass
from typing import Any

import torch

from purefn.functional import nn, random


@dataclass
class Case:
    """A layer with some settings, and the torch module that it is to equal."""

    name: str
    layer: Any
    #: None where torch has none.
    module: torch.nn.Module | None
    #: Of an input, of which the first axis is the batch.
    shape: tuple[int, ...]
    integers: bool = False
    #: What tells it from others of the same name.
    variant: str = ""
    #: The standard deviation of the input.
    scale: float = 1.0
    #: Whether it draws numbers in training, which cannot be torch's.
    draws: bool = False
    #: Whether an example's output depends on the others of its batch, outside of training too.
    mixes: bool = False

    def __post_init__(self):
        if not isinstance(self.layer, nn.Layer | nn.StatefulLayer):
            self.layer = nn.lift(self.layer)

    def example(self, dtype=torch.float32, seed=0):
        generator = torch.Generator().manual_seed(seed)
        if self.integers:
            return torch.randint(0, 7, self.shape, generator=generator)
        return (self.scale * torch.randn(self.shape, generator=generator)).to(dtype)

    def init(self, x, seed=0):
        made = self.layer.init(random.key(seed), x)
        return made if isinstance(self.layer, nn.StatefulLayer) else (made, {})
