"""What the outputs of a model mean: the distributions of which they are the parameters.

An example is one row of the outputs. What it has beyond a distribution's own axis (positions of a
sequence, pixels) are independent outcomes, so that its log-likelihood is their sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid

from .. import random


class OutputDistribution(NamedTuple):
    """A distribution `p(y | f)` of the labels, with the outputs `f` of a model as its parameters.

    Attributes
    ----------
    log_prob
        `log_prob(outputs, targets)`: `log p(y_n | f_n)` of every example, shape `(N,)`.
    sample
        `sample(key, outputs)`: targets drawn from `p(. | f)`.
    fisher
        `fisher(outputs, tangent)`: a tree like `outputs`, the product `F(f_n) u_n / N` of every
        row, with `F(f) = E_y[s s^T]` and `s` the derivative of `log p(y | f)` with respect to `f`.
        None where there is no closed form.
    """

    log_prob: Callable[[Any, Any], Tensor]
    sample: Callable[[Tensor, Any], Any]
    fisher: Callable[[Any, Any], Any] | None = None


def _categorical_log_prob(logits: Tensor, labels: Tensor) -> Tensor:
    chosen = log_softmax(logits, 1).gather(1, labels.long().unsqueeze(1))
    return _sum_of_example(chosen)


def _categorical_fisher(logits: Tensor, tangent: Tensor) -> Tensor:
    p = logits.softmax(1)
    return p * (tangent - (p * tangent).sum(1, keepdim=True)) / len(logits)


#: Class numbers, of logits of shape `(N, C, d1, ...)`: `F(f) = diag(p) - p p^T`.
categorical = OutputDistribution(
    log_prob=_categorical_log_prob,
    sample=lambda key, logits: random.categorical(key, logits, axis=1),
    fisher=_categorical_fisher,
)


def _bernoulli_log_prob(logits: Tensor, targets: Tensor) -> Tensor:
    return _sum_of_example(torch.where(targets.bool(), logsigmoid(logits), logsigmoid(-logits)))


def _bernoulli_fisher(logits: Tensor, tangent: Tensor) -> Tensor:
    p = logits.sigmoid()
    return p * (1 - p) * tangent / len(logits)


#: Booleans, one of each logit of shape `(N, ...)`: `F(f) = diag(p (1 - p))`.
bernoulli = OutputDistribution(
    log_prob=_bernoulli_log_prob,
    sample=lambda key, logits: random.bernoulli(key, logits.sigmoid()),
    fisher=_bernoulli_fisher,
)


def gaussian(scale: float | Tensor = 1.0) -> OutputDistribution:
    """Return the normal distribution around outputs of shape `(N, ...)`, of a known scale.

    `F(f) = I / scale^2`. The squared error of regression is its negative log-likelihood.

    Parameters
    ----------
    scale
        The standard deviation: a number, or a tensor that broadcasts to the outputs.

    Examples
    --------
    >>> unit = gaussian()
    >>> unit.log_prob(torch.zeros(1, 2), torch.zeros(1, 2))
    tensor([-1.8379])
    >>> gaussian(0.5).fisher(torch.zeros(2, 1), torch.ones(2, 1))
    tensor([[2.],
            [2.]])
    """

    def log_prob(mean: Tensor, targets: Tensor) -> Tensor:
        normalizer = torch.log(torch.as_tensor(scale, dtype=mean.dtype, device=mean.device))
        z = (targets - mean) / scale
        return _sum_of_example(-0.5 * z.square() - normalizer - _HALF_LOG_TAU)

    return OutputDistribution(
        log_prob=log_prob,
        sample=lambda key, mean: mean + scale * random.normal(key, mean.shape, mean.dtype),
        fisher=lambda mean, tangent: tangent / torch.as_tensor(scale).square() / len(mean),
    )


def _pair_log_prob(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
    mean, log_variance = outputs
    z2 = (targets - mean).square() * torch.exp(-log_variance)
    return _sum_of_example(-0.5 * (z2 + log_variance) - _HALF_LOG_TAU)


def _pair_sample(key: Tensor, outputs: tuple[Tensor, Tensor]) -> Tensor:
    mean, log_variance = outputs
    noise = random.normal(key, mean.shape, mean.dtype)
    return mean + torch.exp(0.5 * log_variance) * noise


def _pair_fisher(outputs: Any, tangent: tuple[Tensor, Tensor]) -> Any:
    mean, log_variance = outputs
    along_mean, along_log_variance = tangent
    count = len(mean)
    return along_mean * torch.exp(-log_variance) / count, along_log_variance / (2 * count)


#: Real numbers, of a pair `(mean, log_variance)` of outputs of one shape `(N, ...)`:
#: `F(f) = diag(exp(-log_variance), 1/2)`.
gaussian_with_variance = OutputDistribution(_pair_log_prob, _pair_sample, _pair_fisher)

_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


def _sum_of_example(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1).sum(1)
