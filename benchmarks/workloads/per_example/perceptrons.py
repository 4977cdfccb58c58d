"""Networks of linear layers alone."""

from __future__ import annotations

from typing import Any

import torch

from purefn.functional import nn

from ...frameworks import DEVICE, jax
from .. import jax_layers
from ..mlp import mlp
from ..workload import integers, normal
from .workload import CROSS_ENTROPY, LOGISTIC, PerExample, of_training

#: How many columns the Adult data set has once its categories are one-hot.
FEATURES = 104


def logistic_regression(batch: int) -> PerExample:
    """Return 105 parameters: the probability of one of two classes."""
    torch.manual_seed(0)
    inputs, labels = normal(0, batch, FEATURES), integers(1, 2, batch).float()
    return PerExample(
        torch.nn.Linear(FEATURES, 1).to(DEVICE),
        nn.linear(1),
        jax_layers.linear,
        LOGISTIC,
        inputs.to(DEVICE),
        labels.to(DEVICE),
    )


def two_layers(batch: int) -> PerExample:
    """Return 5,352 parameters: one hidden layer of 50."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Linear(FEATURES, 50), torch.nn.ReLU(), torch.nn.Linear(50, 2)
    )
    inputs, labels = normal(0, batch, FEATURES), integers(1, 2, batch)
    return PerExample(
        module.to(DEVICE),
        nn.serial(nn.linear(50), nn.relu, nn.linear(2)),
        _jax_two_layers,
        CROSS_ENTROPY,
        inputs.to(DEVICE),
        labels.to(DEVICE),
    )


def _jax_two_layers(params: Any, x: Any) -> Any:
    return jax_layers.linear(params["2"], jax.nn.relu(jax_layers.linear(params["0"], x)))


def linear_stack(batch: int) -> PerExample:
    """Return 15 million parameters: 15 hidden layers of 1000."""
    return of_training(mlp(15, 1000, 1000), batch)
