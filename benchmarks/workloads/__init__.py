"""What is timed: networks and one bare optimizer, each written once in each framework.

A file for each family holds its torch.nn, purefn and JAX versions side by side, all three over the
same parameter tree, which is the torch module's state dict.
"""

from __future__ import annotations

from collections.abc import Callable

from .convolutional import mnist_cnn
from .gpt import gpt
from .mlp import mlp
from .resnet import resnet18
from .resnet50 import resnet50
from .transformer import transformer
from .update import resnet50_update
from .workload import Workload

WORKLOADS: dict[str, Callable[[], Workload]] = {
    "mlp-10x64": lambda: mlp(10, 64),
    "mlp-30x32": lambda: mlp(30, 32),
    "mlp-10x512": lambda: mlp(10, 512),
    "mnist-cnn": mnist_cnn,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "transformer": transformer,
    "gpt": gpt,
    "resnet50-update": resnet50_update,
}

__all__ = ["WORKLOADS", "Workload", "mlp"]
