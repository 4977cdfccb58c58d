"""The optimizers of the workloads, each in the words of every framework."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch

from purefn import optim

from ..frameworks import optax, torchopt


class Optimizer(NamedTuple):
    """One update rule: torch's in place and fused, and three pure ones."""

    torch: Callable[[Iterable[torch.Tensor]], torch.optim.Optimizer]
    purefn: Callable[[], optim.GradientTransformation]
    optax: Callable[[], Any]
    torchopt: Callable[[], Any]


ADAM = Optimizer(
    torch=lambda params: torch.optim.Adam(params, lr=1e-3, fused=True),
    purefn=lambda: optim.adam(lr=1e-3),
    optax=lambda: optax.adam(1e-3),
    torchopt=lambda: torchopt.adam(lr=1e-3),
)
ADAMW = Optimizer(
    torch=lambda params: torch.optim.AdamW(params, lr=1e-3, weight_decay=1e-2, fused=True),
    purefn=lambda: optim.adamw(lr=1e-3, weight_decay=1e-2),
    optax=lambda: optax.adamw(1e-3, weight_decay=1e-2),
    torchopt=lambda: torchopt.adamw(lr=1e-3, weight_decay=1e-2),
)
MOMENTUM = Optimizer(
    torch=lambda params: torch.optim.SGD(params, lr=1e-3, momentum=0.9, fused=True),
    purefn=lambda: optim.sgd(lr=1e-3, momentum=0.9),
    optax=lambda: optax.sgd(1e-3, momentum=0.9),
    torchopt=lambda: torchopt.sgd(lr=1e-3, momentum=0.9),
)
