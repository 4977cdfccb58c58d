"""ResNet-50, torchvision's: batch 8 of 64 x 64, 1000 classes, SGD with momentum, in training.

He et al. 2015, Deep residual learning for image recognition. The purefn version is
`models.resnet50`. The last scale of each block begins as zero (Goyal et al. 2017,
arXiv:1706.02677): else rounding alone drives three steps apart by more than the losses may differ.
The running statistics go in and come out as state.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

from purefn import data
from purefn.functional import models

from ..frameworks import jax, jnp
from . import jax_layers
from .rules import MOMENTUM
from .workload import Training, integers, normal

#: Blocks in each stage.
DEPTHS = (3, 4, 6, 3)


def resnet50() -> Training:
    """Return the network on 8 images."""
    torch.manual_seed(0)
    data.import_torchvision()
    module = importlib.import_module("torchvision.models").resnet50(zero_init_residual=True)
    layer = models.resnet50()
    return Training(
        MOMENTUM,
        module,
        lambda params, state, x: layer(params, state, x, train=True),
        _jax,
        normal(0, 8, 3, 64, 64),
        integers(1, 1000, 8),
    )


def _jax(params: Any, state: Any, x: Any) -> tuple[Any, Any]:
    new_state: dict[str, Any] = {}
    x = jax_layers.conv2d(params["conv1"], x, 2, 3)
    x, new_state["bn1"] = jax_layers.batch_norm(params["bn1"], state["bn1"], x)
    x = jnp.pad(jax.nn.relu(x), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-jnp.inf)
    x = jax_layers.max_pool2d(x, 3, 2)
    for index, depth in enumerate(DEPTHS):
        stage = f"layer{index + 1}"
        new_state[stage] = {}
        for block in map(str, range(depth)):
            stride = 2 if index > 0 and block == "0" else 1
            own = params[stage][block], state[stage][block]
            x, new_state[stage][block] = _bottleneck(*own, x, stride)
    return jax_layers.linear(params["fc"], x.mean((2, 3))), new_state


def _bottleneck(params: Any, state: Any, x: Any, stride: int) -> tuple[Any, Any]:
    new_state: dict[str, Any] = {}
    y = x
    for number, own_stride, padding in (("1", 1, 0), ("2", stride, 1), ("3", 1, 0)):
        conv, norm = f"conv{number}", f"bn{number}"
        y = jax_layers.conv2d(params[conv], y, own_stride, padding)
        y, new_state[norm] = jax_layers.batch_norm(params[norm], state[norm], y)
        y = y if number == "3" else jax.nn.relu(y)
    if "downsample" in params:
        conv, norm = params["downsample"]["0"], params["downsample"]["1"]
        x = jax_layers.conv2d(conv, x, stride)
        x, new = jax_layers.batch_norm(norm, state["downsample"]["1"], x)
        new_state["downsample"] = {"1": new}
    return jax.nn.relu(x + y), new_state
