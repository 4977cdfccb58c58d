"""Convolutional networks for images."""

from __future__ import annotations

from typing import Any

import torch

from purefn.functional import nn

from ...frameworks import DEVICE, jax
from .. import convolutional, jax_layers
from ..workload import integers, normal
from .workload import CROSS_ENTROPY, PerExample, of_training

#: Channels of the convolutions of 3 x 3 in front of each pooling.
BLOCKS = ((32, 32), (64, 64), (128, 128))


def mnist_cnn(batch: int) -> PerExample:
    """Return 26,010 parameters: two convolutions, two linear layers."""
    return of_training(convolutional.mnist_cnn(), batch)


def cifar_cnn(batch: int) -> PerExample:
    """Return 605,226 parameters: eight convolutions and a mean over what is left of the image.

    Papernot et al. 2020, Making the shoe fit: architectures, initializations, and tuning for
    learning with privacy; average pooling as in Subramani et al.
    """
    torch.manual_seed(0)
    inputs, labels = normal(0, batch, 3, 32, 32), integers(1, 10, batch)
    return PerExample(
        _torch().to(DEVICE),
        _purefn(),
        _jax,
        CROSS_ENTROPY,
        inputs.to(DEVICE),
        labels.to(DEVICE),
    )


def _torch() -> torch.nn.Module:
    layers: list[torch.nn.Module] = []
    before = 3
    for block in BLOCKS:
        for channels in block:
            layers += [torch.nn.Conv2d(before, channels, 3, padding=1), torch.nn.ReLU()]
            before = channels
        layers.append(torch.nn.AvgPool2d(2))
    layers += [torch.nn.Conv2d(before, 256, 3, padding=1), torch.nn.ReLU()]
    layers += [torch.nn.Conv2d(256, 10, 3, padding=1), torch.nn.AdaptiveAvgPool2d(1)]
    return torch.nn.Sequential(*layers, torch.nn.Flatten())


def _purefn() -> nn.Layer:
    layers: list[Any] = []
    for block in BLOCKS:
        for channels in block:
            layers += [nn.conv2d(channels, 3, padding=1), nn.relu]
        layers.append(nn.avg_pool2d(2))
    layers += [nn.conv2d(256, 3, padding=1), nn.relu, nn.conv2d(10, 3, padding=1)]
    return nn.serial(*layers, nn.adaptive_avg_pool2d(1), nn.flatten())


def _jax(params: Any, x: Any) -> Any:
    index = 0
    for block in BLOCKS:
        for _ in block:
            x = jax.nn.relu(jax_layers.conv2d(params[str(index)], x, padding=1))
            index += 2
        x = jax_layers.avg_pool2d(x, 2)
        index += 1
    x = jax.nn.relu(jax_layers.conv2d(params[str(index)], x, padding=1))
    return jax_layers.conv2d(params[str(index + 2)], x, padding=1).mean((2, 3))
