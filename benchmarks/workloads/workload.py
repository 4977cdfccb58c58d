"""What every workload says of itself, so that a contender can be made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

import purefn.functional as pf
from purefn.functional import losses, tree

from ..frameworks import DEVICE, jax, jnp
from .rules import Optimizer

#: `(params, state, *batch) -> (loss, gradients, state)`, over the nested state dict.
Gradients = Callable[..., tuple[Any, Any, Any]]
#: `(params, state, inputs) -> (logits, state)`.
Apply = Callable[[Any, Any, Any], tuple[Any, Any]]


class Workload(Protocol):
    """One step of training: where it starts and how each framework finds the gradients."""

    module: torch.nn.Module
    optimizer: Optimizer
    batch: Any
    has_network: bool

    def backward(self, network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
        """Leave the gradients in the parameters of `network`, and return the loss."""

    def torch_gradients(self) -> Gradients:
        """Return the gradients by torch.func."""

    def purefn_gradients(self) -> Gradients:
        """Return the gradients by purefn."""

    def jax_gradients(self) -> Gradients:
        """Return the gradients by JAX."""


class Training:
    """Cross-entropy of a network that gives logits `(..., classes)` for labels `(...)`."""

    has_network = True

    def __init__(
        self,
        optimizer: Optimizer,
        module: torch.nn.Module,
        purefn_apply: Apply,
        jax_apply: Apply,
        inputs: Tensor,
        labels: Tensor,
    ) -> None:
        self.optimizer = optimizer
        self.module = module.to(DEVICE).train()
        self.batch = (inputs.to(DEVICE), labels.to(DEVICE))
        self.purefn_apply = purefn_apply
        self.jax_apply = jax_apply

    def backward(self, network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
        """Do what a training loop in torch does."""
        inputs, labels = self.batch
        optimizer.zero_grad(set_to_none=True)
        loss = _cross_entropy(network(inputs), labels)
        loss.backward()
        return loss.detach()

    def torch_gradients(self) -> Gradients:
        """Run the module on other tensors than its own; batch norm writes into a copy."""

        def loss(params: Any, state: Any, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Any]:
            tensors = tree.to_state_dict(params), tree.to_state_dict(state)
            logits = torch.func.functional_call(self.module, tensors, inputs)
            return _cross_entropy(logits, labels), state

        def gradients(params: Any, state: Any, *batch: Tensor) -> tuple[Tensor, Any, Any]:
            state = tree.map(torch.clone, state)
            transformed = torch.func.grad_and_value(loss, has_aux=True)
            grads, (value, state) = transformed(params, state, *batch)
            return value, grads, state

        return gradients

    def purefn_gradients(self) -> Gradients:
        """Differentiate a pure function."""

        def loss(params: Any, state: Any, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Any]:
            logits, state = self.purefn_apply(params, state, inputs)
            rows = logits.flatten(0, -2)
            return losses.cross_entropy(rows, labels.flatten()).mean(), state

        return _gradients(pf.value_and_grad(loss, has_aux=True))

    def jax_gradients(self) -> Gradients:
        """Differentiate a pure function."""

        def loss(params: Any, state: Any, inputs: Any, labels: Any) -> tuple[Any, Any]:
            logits, state = self.jax_apply(params, state, inputs)
            log_probabilities = jax.nn.log_softmax(logits)
            chosen = jnp.take_along_axis(log_probabilities, labels[..., None], axis=-1)
            return -chosen.mean(), state

        return _gradients(jax.value_and_grad(loss, has_aux=True))


def stateless(apply: Callable[[Any, Any], Any]) -> Apply:
    """Return `apply(params, inputs)` as a network whose state stays as it is."""
    return lambda params, state, inputs: (apply(params, inputs), state)


def normal(seed: int, *shape: int) -> Tensor:
    """Return numbers from the standard normal distribution."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def integers(seed: int, bound: int, *shape: int) -> Tensor:
    """Return integers from 0 up to `bound`."""
    return torch.randint(bound, shape, generator=torch.Generator().manual_seed(seed))


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten())


def _gradients(value_and_grad: Callable[..., Any]) -> Gradients:
    def gradients(params: Any, state: Any, *batch: Any) -> tuple[Any, Any, Any]:
        (value, state), grads = value_and_grad(params, state, *batch)
        return value, grads, state

    return gradients
