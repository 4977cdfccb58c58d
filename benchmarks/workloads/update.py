"""An optimizer alone: Adam on the 161 parameters of ResNet-50, the gradients given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..frameworks import DEVICE
from .rules import ADAM
from .workload import Gradients, normal


def resnet50_update() -> BareUpdate:
    """Return one update of 25,557,032 parameters."""
    module = torch.nn.ParameterDict()
    gradients = {}
    for number, shape in enumerate(resnet50_shapes()):
        name = f"p{number:03}"
        module[name] = torch.nn.Parameter(1e-3 * normal(number, *shape))
        gradients[name] = 0.01 * normal(1000 + number, *shape).to(DEVICE)
    return BareUpdate(module.to(DEVICE), gradients)


def resnet50_shapes() -> Iterator[tuple[int, ...]]:
    """Give the shapes of the weights of ResNet-50 (He et al. 2015, table 1), in order."""

    def convolution(before: int, after: int, size: int) -> list[tuple[int, ...]]:
        return [(after, before, size, size), (after,), (after,)]  # and its batch norm

    yield from convolution(3, 64, 7)
    before = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            yield from convolution(before, width, 1)
            yield from convolution(width, width, 3)
            yield from convolution(width, 4 * width, 1)
            if block == 0:
                yield from convolution(before, 4 * width, 1)
            before = 4 * width
    yield from [(1000, before), (1000,)]


class BareUpdate:
    """A step whose batch is the gradients; the size of the last parameter stands for the loss."""

    optimizer = ADAM
    has_network = False

    def __init__(self, module: torch.nn.Module, gradients: dict[str, Tensor]) -> None:
        self.module = module
        self.batch = (gradients,)

    def backward(self, network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
        """Hand over the gradients."""
        last = max(self.batch[0])
        for name, parameter in network.named_parameters():
            parameter.grad = self.batch[0][name]
        return network.get_parameter(last).detach().square().mean()

    def torch_gradients(self) -> Gradients:
        """Return the gradients given."""
        return _given

    purefn_gradients = jax_gradients = torch_gradients


def _given(params: Any, state: Any, gradients: Any) -> tuple[Any, Any, Any]:
    return (params[max(params)] ** 2).mean(), gradients, state
