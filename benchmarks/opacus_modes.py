"""Opacus's ways to the sum of clipped gradients, without noise and without the step after it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .frameworks import optional
from .workloads.per_example import PerExample

opacus = optional("opacus")


def opacus_gradient(workload: PerExample, mode: str, max_norm: float) -> Callable[[], Any]:
    """Return what `PrivacyEngine.make_private(grad_sample_mode=mode)` puts together."""
    from opacus.grad_sample import wrap_model

    module = copy.deepcopy(workload.module)
    ghost = {"max_grad_norm": max_norm} if mode == "ghost" else {}
    network = wrap_model(module, mode, loss_reduction="sum", **ghost)
    optimizer = _optimizer(module, mode, max_norm)
    backward = (_backward_twice if mode == "ghost" else _backward)(workload, network, optimizer)

    def gradient() -> Any:
        optimizer.zero_grad(set_to_none=True)
        backward()
        return {name: p.summed_grad for name, p in module.named_parameters()}

    return gradient


def _optimizer(module: torch.nn.Module, mode: str, max_norm: float) -> Any:
    from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping

    kind = DPOptimizerFastGradientClipping if mode == "ghost" else DPOptimizer
    return kind(
        torch.optim.SGD(module.parameters(), lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=max_norm,
        expected_batch_size=None,
        loss_reduction="sum",
    )


def _backward(workload: PerExample, network: Any, optimizer: Any) -> Callable[[], None]:
    def backward() -> None:
        inputs, labels = workload.batch
        workload.criterion.torch(network(inputs), labels).sum().backward()
        optimizer.clip_and_accumulate()

    return backward


def _backward_twice(workload: PerExample, network: Any, optimizer: Any) -> Callable[[], None]:
    from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping

    def criterion(logits: Tensor, labels: Tensor) -> Tensor:
        return workload.criterion.torch(logits, labels)

    criterion.reduction = "sum"  # type: ignore[attr-defined] - which it sets to "none"
    loss = DPLossFastGradientClipping(network, optimizer, criterion, "sum")

    def backward() -> None:
        inputs, labels = workload.batch
        loss(network(inputs), labels).backward()
        optimizer.accumulate()

    return backward
