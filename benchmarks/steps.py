"""Training steps: purefn's functional ones against torch's imperative ones.

    python -m benchmarks.steps

Each network is written once in torch.nn and once in `nn`; both start from the same parameters, and
their losses after three steps of Adam must agree before anything is timed.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import purefn.functional as pf
from purefn import optim
from purefn.functional import losses, nn, random, tree

from .measure import describe_machine, interleave, print_table

REFERENCE = "torch eager + fused Adam"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Workload(NamedTuple):
    """The same network twice, and a batch for it."""

    module: torch.nn.Module
    layer: nn.Layer
    images: Tensor
    labels: Tensor


def mlp(depth: int, width: int) -> Workload:
    """Return `depth` hidden layers and a head, for 64 inputs and 10 classes."""
    sizes = [64, *[width] * depth]
    modules: list[torch.nn.Module] = []
    layers: list[Any] = []
    for size, after in itertools.pairwise(sizes):
        modules += [torch.nn.Linear(size, after), torch.nn.ReLU()]
        layers += [nn.linear(after), nn.relu]
    module = torch.nn.Sequential(*modules, torch.nn.Linear(width, 10))
    return Workload(module, nn.serial(*layers, nn.linear(10)), *batch(64))


def cnn() -> Workload:
    """Return the convolutional network of the examples, without dropout, for 8 x 8 images."""
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(32, 64, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(1024, 128),
        torch.nn.ReLU(),
        torch.nn.Linear(128, 10),
    )
    layer = nn.serial(
        nn.conv2d(32, 3, padding=1),
        nn.relu,
        nn.max_pool2d(2),
        nn.conv2d(64, 3, padding=1),
        nn.relu,
        nn.flatten(),
        nn.linear(128),
        nn.relu,
        nn.linear(10),
    )
    return Workload(module, layer, *batch(1, 8, 8))


def batch(*shape: int) -> tuple[Tensor, Tensor]:
    """Return 64 random inputs and labels."""
    images = random.normal(random.key(0), (64, *shape)).to(DEVICE)
    return images, random.randint(random.key(1), (64,), 0, 10).long().to(DEVICE)


def imperative(workload: Workload, compiled: bool) -> Callable[[], Tensor]:
    """Return torch's own step: a module, a fused optimizer, the forward and backward compiled."""
    module = copy.deepcopy(workload.module).to(DEVICE)
    optimizer = torch.optim.Adam(module.parameters(), fused=True)
    network = torch.compile(module, fullgraph=True, dynamic=False) if compiled else module

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        value = torch.nn.functional.cross_entropy(network(workload.images), workload.labels)
        value.backward()
        optimizer.step()
        return value.detach()

    return step


def functional(workload: Workload, transform: Callable[[Any], Any]) -> Callable[[], Tensor]:
    """Return the pure step under `transform`, threading its own parameters and state."""
    optimizer = optim.adam()

    def loss(params: Any, images: Tensor, labels: Tensor) -> Tensor:
        return losses.cross_entropy(workload.layer(params, images), labels).mean()

    def pure(params: Any, state: Any, images: Tensor, labels: Tensor) -> tuple[Any, Any, Tensor]:
        value, grads = pf.value_and_grad(loss)(params, images, labels)
        updates, state = optimizer.update(grads, state, params)
        return optim.apply_updates(params, updates), state, value

    step = transform(pure)
    params = tree.from_state_dict(copy.deepcopy(workload.module.state_dict()))
    params = tree.map(lambda leaf: leaf.to(DEVICE), params)
    run = [params, optimizer.init(params)]
    del params

    def advance() -> Tensor:
        run[0], run[1], value = step(*run, workload.images, workload.labels)
        return value

    return advance


def contenders(workload: Workload) -> dict[str, Callable[[], Tensor]]:
    """Return every way of taking a step, each with parameters of its own."""
    return {
        REFERENCE: imperative(workload, compiled=False),
        "torch.compile(module) + fused Adam": imperative(workload, compiled=True),
        "purefn eager": functional(workload, lambda step: step),
        "purefn jit": functional(workload, pf.jit),
        "purefn jit, donated": functional(workload, pf.jit(donate_argnums=(0, 1))),
    }


def check_agreement(steps: dict[str, Callable[[], Tensor]]) -> None:
    """Take three steps with each and compare the losses."""
    values = {name: [step().item() for _ in range(3)] for name, step in steps.items()}
    expected = torch.tensor(values[REFERENCE])
    for name, value in values.items():
        if not torch.allclose(torch.tensor(value), expected, rtol=1e-4, atol=1e-5):
            raise AssertionError(f"{name} computes {value}, torch {values[REFERENCE]}")


def main() -> None:
    """Print a table for each workload."""
    print(describe_machine())
    workloads = {
        "MLP 10 x 64, batch 64": mlp(10, 64),
        "MLP 10 x 512, batch 64": mlp(10, 512),
        "CNN on 8 x 8 images, batch 64": cnn(),
    }
    for title, workload in workloads.items():
        steps = contenders(workload)
        check_agreement(steps)
        print_table(title, interleave(steps), REFERENCE)


if __name__ == "__main__":
    main()
