"""ResNet-18 on images of 32 x 32: batch 32, SGD with momentum, batch norm in training.

He et al. 2015, Deep residual learning for image recognition, with the stem usual for CIFAR: one
3 x 3 convolution of stride 1 and no pooling. The running statistics go in and come out as state.
"""

from __future__ import annotations

from typing import Any

import torch

from purefn.functional import nn

from ..frameworks import jax
from . import jax_layers
from .rules import MOMENTUM
from .workload import Training, integers, normal

#: Channels in, channels out and stride of each block.
BLOCKS = (
    (64, 64, 1),
    (64, 64, 1),
    (64, 128, 2),
    (128, 128, 1),
    (128, 256, 2),
    (256, 256, 1),
    (256, 512, 2),
    (512, 512, 1),
)


def resnet18() -> Training:
    """Return the network on 32 images, for 10 classes."""
    torch.manual_seed(0)
    layer = _purefn()
    return Training(
        MOMENTUM,
        _torch(),
        lambda params, state, x: layer(params, state, x, train=True),
        _jax,
        normal(0, 32, 3, 32, 32),
        integers(1, 10, 32),
    )


def _torch() -> torch.nn.Module:
    def convolution(channels: int, after: int, size: int, stride: int) -> list[torch.nn.Module]:
        padding = size // 2
        weights = torch.nn.Conv2d(channels, after, size, stride, padding, bias=False)
        return [weights, torch.nn.BatchNorm2d(after)]

    def block(channels: int, after: int, stride: int) -> list[torch.nn.Module]:
        first = convolution(channels, after, 3, stride)
        second = convolution(after, after, 3, 1)
        body = torch.nn.Sequential(*first, torch.nn.ReLU(), *second)
        if channels == after:
            return [Residual(body, torch.nn.Identity()), torch.nn.ReLU()]
        shortcut = torch.nn.Sequential(*convolution(channels, after, 1, stride))
        return [Residual(body, shortcut), torch.nn.ReLU()]

    stem = [*convolution(3, 64, 3, 1), torch.nn.ReLU()]
    blocks = [layer for sizes in BLOCKS for layer in block(*sizes)]
    head = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(512, 10)]
    return torch.nn.Sequential(*stem, *blocks, *head)


class Residual(torch.nn.Module):
    """The sum of a body and a shortcut."""

    def __init__(self, body: torch.nn.Module, shortcut: torch.nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum."""
        return self.shortcut(x) + self.body(x)


def _purefn() -> nn.StatefulLayer:
    def convolution(after: int, size: int, stride: int) -> list[Any]:
        weights = nn.conv2d(after, size, stride=stride, padding=size // 2, bias=False)
        return [weights, nn.batch_norm()]

    def block(channels: int, after: int, stride: int) -> list[Any]:
        first, second = convolution(after, 3, stride), convolution(after, 3, 1)
        body = nn.serial(*first, nn.relu, *second)
        if channels == after:
            return [nn.residual(body), nn.relu]
        return [nn.residual(body, nn.serial(*convolution(after, 1, stride))), nn.relu]

    stem = [*convolution(64, 3, 1), nn.relu]
    blocks = [layer for sizes in BLOCKS for layer in block(*sizes)]
    head = [nn.adaptive_avg_pool2d(1), nn.flatten(), nn.linear(10)]
    return nn.serial(*stem, *blocks, *head)


def _jax(params: Any, state: Any, x: Any) -> tuple[Any, Any]:
    def convolution(path: tuple[str, ...], index: int, x: Any, stride: int = 1) -> Any:
        """Run the convolution `index` of the chain at `path`, and the batch norm after it."""
        weights, statistics = _at(params, path), _at(state, path)
        padding = weights[str(index)]["weight"].shape[-1] // 2
        x = jax_layers.conv2d(weights[str(index)], x, stride, padding)
        after = str(index + 1)
        x, new = jax_layers.batch_norm(weights[after], statistics[after], x)
        _put(new_state, (*path, after), new)
        return x

    new_state: dict[str, Any] = {}
    x = jax.nn.relu(convolution((), 0, x))
    for number, (channels, after, stride) in enumerate(BLOCKS):
        name = str(3 + 2 * number)
        y = jax.nn.relu(convolution((name, "body"), 0, x, stride))
        y = convolution((name, "body"), 3, y)
        kept = x if channels == after else convolution((name, "shortcut"), 0, x, stride)
        x = jax.nn.relu(kept + y)
    return jax_layers.linear(params[str(5 + 2 * len(BLOCKS))], x.mean((2, 3))), new_state


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def _put(tree: Any, path: tuple[str, ...], value: Any) -> None:
    *parents, last = path
    for name in parents:
        tree = tree.setdefault(name, {})
    tree[last] = value
