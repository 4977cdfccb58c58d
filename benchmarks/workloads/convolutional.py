"""The convolutional network for MNIST that work on per-example gradients is measured with.

Subramani et al. 2021, Enabling fast differentially private SGD via just-in-time compilation and
vectorization: 26,010 parameters, batch 64, Adam.
"""

from __future__ import annotations

from typing import Any

import torch

from purefn.functional import nn

from ..frameworks import jax
from . import jax_layers
from .rules import ADAM
from .workload import Training, integers, normal, stateless


def mnist_cnn() -> Training:
    """Return the network on 64 images of 28 x 28."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 8, stride=2, padding=3),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2, 1),
        torch.nn.Conv2d(16, 32, 4, stride=2),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2, 1),
        torch.nn.Flatten(),
        torch.nn.Linear(512, 32),
        torch.nn.ReLU(),
        torch.nn.Linear(32, 10),
    )
    layer = nn.serial(
        nn.conv2d(16, 8, stride=2, padding=3),
        nn.relu,
        nn.max_pool2d(2, 1),
        nn.conv2d(32, 4, stride=2),
        nn.relu,
        nn.max_pool2d(2, 1),
        nn.flatten(),
        nn.linear(32),
        nn.relu,
        nn.linear(10),
    )
    images, labels = normal(0, 64, 1, 28, 28), integers(1, 10, 64)
    return Training(ADAM, module, stateless(layer), stateless(_jax), images, labels)


def _jax(params: Any, x: Any) -> Any:
    x = jax.nn.relu(jax_layers.conv2d(params["0"], x, stride=2, padding=3))
    x = jax_layers.max_pool2d(x, 2, 1)
    x = jax.nn.relu(jax_layers.conv2d(params["3"], x, stride=2))
    x = jax_layers.max_pool2d(x, 2, 1)
    x = jax.nn.relu(jax_layers.linear(params["7"], x.reshape(x.shape[0], -1)))
    return jax_layers.linear(params["9"], x)
