"""What every workload of per-example gradients says of itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

from purefn.functional import losses, tree

from ...frameworks import jax, jnp
from ..workload import Training, integers, normal


@dataclasses.dataclass(frozen=True)
class Criterion:
    """A loss of one number for each example: torch's, of a batch, and JAX's, of one example."""

    torch: Callable[[Tensor, Tensor], Tensor]
    jax: Callable[[Any, Any], Any]


@dataclasses.dataclass(frozen=True)
class PerExample:
    """A network, the same in each framework over the state dict of `module`, and its batch."""

    module: torch.nn.Module
    apply: Callable[[Any, Tensor], Tensor]
    jax_apply: Callable[[Any, Any], Any]
    criterion: Criterion
    inputs: Tensor
    labels: Tensor

    @property
    def params(self) -> tree.PyTree:
        """A copy of the parameters, as nested dicts."""
        parameters = {name: p.detach().clone() for name, p in self.module.named_parameters()}
        return tree.from_state_dict(parameters)

    @property
    def batch(self) -> tuple[Tensor, Tensor]:
        """The inputs and the labels."""
        return self.inputs, self.labels

    def losses(self, params: Any, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each example."""
        return self.criterion.torch(self.apply(params, inputs), labels)

    def loss(self, params: Any, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of one example, which has no batch axis."""
        return self.losses(params, x[None], y[None])[0]

    def jax_loss(self, params: Any, x: Any, y: Any) -> Any:
        """Return the loss of one example, which has no batch axis."""
        return self.criterion.jax(self.jax_apply(params, x[None])[0], y)


def of_training(training: Training, batch: int) -> PerExample:
    """Return the network of a step of training, on another number of examples."""
    inputs, labels = (_alike(tensor, batch) for tensor in training.batch)
    return PerExample(
        training.module,
        lambda params, inputs: training.purefn_apply(params, {}, inputs)[0],
        lambda params, inputs: training.jax_apply(params, {}, inputs)[0],
        CROSS_ENTROPY,
        inputs,
        labels,
    )


def _alike(tensor: Tensor, batch: int) -> Tensor:
    """Return random examples of the shape and range of those in `tensor`."""
    shape = tensor.shape[1:]
    if tensor.is_floating_point():
        return normal(0, batch, *shape).to(tensor.device)
    return integers(1, int(tensor.max()) + 1, batch, *shape).to(tensor.device)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    rows = losses.cross_entropy(logits.flatten(0, -2), labels.flatten())
    return rows.view(len(labels), -1).mean(1)


def _jax_cross_entropy(logits: Any, labels: Any) -> Any:
    log_probabilities = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_probabilities, labels[..., None], axis=-1).mean()


def _logistic(logits: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits[:, 0], labels, reduction="none")


def _jax_logistic(logits: Any, label: Any) -> Any:
    return jax.nn.softplus(logits[0]) - label * logits[0]


#: Of logits `(batch, ..., classes)` for labels `(batch, ...)`: the mean over what is between.
CROSS_ENTROPY = Criterion(_cross_entropy, _jax_cross_entropy)
#: Of logits `(batch, 1)` for labels `(batch,)` of 0.0 and 1.0.
LOGISTIC = Criterion(_logistic, _jax_logistic)
