"""Multi-layer perceptrons: 64 inputs, equal hidden layers, 10 classes, batch 64, Adam."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from purefn.functional import nn

from ..frameworks import jax
from . import jax_layers
from .rules import ADAM
from .workload import Training, integers, normal, stateless


def mlp(depth: int, width: int, inputs: int = 64) -> Training:
    """Return `depth` hidden layers of one width and a head."""
    torch.manual_seed(0)
    return Training(
        ADAM,
        _torch(depth, width, inputs),
        stateless(_purefn(depth, width)),
        stateless(_jax(depth)),
        normal(0, 64, inputs),
        integers(1, 10, 64),
    )


def _torch(depth: int, width: int, inputs: int) -> torch.nn.Module:
    hidden: list[torch.nn.Module] = []
    for size, after in itertools.pairwise([inputs, *[width] * depth]):
        hidden += [torch.nn.Linear(size, after), torch.nn.ReLU()]
    return torch.nn.Sequential(*hidden, torch.nn.Linear(width, 10))


def _purefn(depth: int, width: int) -> nn.Layer:
    hidden = [nn.linear(width), nn.relu] * depth
    return nn.serial(*hidden, nn.linear(10))


def _jax(depth: int) -> Any:
    def apply(params: Any, x: Any) -> Any:
        for index in range(depth):
            x = jax.nn.relu(jax_layers.linear(params[str(2 * index)], x))
        return jax_layers.linear(params[str(2 * depth)], x)

    return apply
