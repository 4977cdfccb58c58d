"""Eager updates against torch.optim's lists: `python -m benchmarks.eager_optimizers`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from purefn import optim

from .measure import interleave, medians, table
from .workloads.update import resnet50_shapes

PARAMETERS = {
    "20 of 64 x 64": [(64, 64)] * 20,
    "300 of 32 x 32": [(32, 32)] * 300,
    "ResNet-50": [*resnet50_shapes()],
}
OPTIMIZERS: dict[str, tuple[Callable[[Any], Any], optim.GradientTransformation]] = {
    "Adam": (lambda p: torch.optim.Adam(p, foreach=True), optim.adam()),
    "AdamW": (lambda p: torch.optim.AdamW(p, foreach=True), optim.adamw()),
    "SGD, momentum": (
        lambda p: torch.optim.SGD(p, momentum=0.9, foreach=True),
        optim.sgd(momentum=0.9),
    ),
}


def ours(
    optimizer: optim.GradientTransformation, shapes: Sequence[tuple[int, ...]]
) -> Callable[[], Any]:
    params = {str(index): torch.randn(shape) for index, shape in enumerate(shapes)}
    grads = {name: torch.randn_like(param) for name, param in params.items()}
    state = optimizer.init(params)

    def step() -> Any:
        nonlocal params, state
        updates, state = optimizer.update(grads, state, params)
        params = optim.apply_updates(params, updates)
        return params["0"]

    return step


def torchs(make: Callable[[Any], Any], shapes: Sequence[tuple[int, ...]]) -> Callable[[], Any]:
    params = [torch.randn(shape, requires_grad=True) for shape in shapes]
    for param in params:
        param.grad = torch.randn_like(param)
    optimizer = make(params)

    def step() -> Any:
        optimizer.step()
        return params[0]

    return step


def main() -> None:
    for size, shapes in PARAMETERS.items():
        for name, (make, optimizer) in OPTIMIZERS.items():
            contenders = {"torch": torchs(make, shapes), "purefn": ours(optimizer, shapes)}
            rows = {
                contender: {"step": seconds}
                for contender, seconds in medians(interleave(contenders)).items()
            }
            print(f"\n{name}, {size}")
            print(table(rows, 1e3, "ms", references=("torch",)))


if __name__ == "__main__":
    main()
