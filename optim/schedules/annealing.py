"""Descents along half a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import checks
from ..leafwise import Scalar
from .curves import Schedule, half_cosine, of_step

__all__ = ["cosine", "cosine_decay", "cosine_warm_restarts"]


def cosine(lr: Scalar, T_max: int, eta_min: Scalar = 0.0) -> Schedule:  # noqa: N803 - torch's name
    """Descend along half a cosine from `lr` to `eta_min` in `T_max` steps (`CosineAnnealingLR`).

    ::

        eta_min + (lr - eta_min) (1 + cos(pi t / T_max)) / 2

    Beyond `T_max` it goes on as the cosine does, up again, as in torch; `cosine_decay` stays below.

    >>> cosine(1.0, T_max=100)(torch.tensor([0, 50, 100, 200]))
    tensor([1.0000, 0.5000, 0.0000, 1.0000], dtype=torch.float64)
    """
    checks.non_negative("lr", lr)
    checks.count("T_max", T_max)
    checks.non_negative("eta_min", eta_min)
    # A remainder is exact, so that the cosine of a late step keeps its digits.
    return of_step(lambda t: half_cosine(lr, eta_min, torch.remainder(t, 2 * T_max) / T_max))


def cosine_decay(
    lr: Scalar, decay_steps: int, alpha: Scalar = 0.0, exponent: Scalar = 1.0
) -> Schedule:
    """Descend along half a cosine from `lr` to `alpha * lr` in `decay_steps`, and stay there.

    optax's `cosine_decay_schedule`::

        lr (alpha + (1 - alpha) ((1 + cos(pi min(t, decay_steps) / decay_steps)) / 2)^exponent)

    >>> cosine_decay(1.0, decay_steps=100, alpha=0.1)(torch.tensor([0, 50, 100, 200]))
    tensor([1.0000, 0.5500, 0.1000, 0.1000], dtype=torch.float64)
    """
    checks.non_negative("lr", lr)
    checks.count("decay_steps", decay_steps)
    checks.non_negative("alpha", alpha)
    checks.non_negative("exponent", exponent)

    def rate(t: Tensor) -> Tensor:
        descent = half_cosine(1.0, 0.0, torch.clamp(t / decay_steps, max=1))
        return lr * (alpha + (1 - alpha) * descent**exponent)

    return of_step(rate)


def cosine_warm_restarts(
    lr: Scalar,
    T_0: int,  # noqa: N803 - torch's name
    T_mult: int = 1,  # noqa: N803
    eta_min: Scalar = 0.0,
) -> Schedule:
    """Descend from `lr` to `eta_min` time and again (`CosineAnnealingWarmRestarts`).

    The first descent takes `T_0` steps, each other `T_mult` times as many as the one before.

    >>> cosine_warm_restarts(1.0, T_0=2, T_mult=2)(torch.arange(7))
    tensor([1.0000, 0.5000, 1.0000, 0.8536, 0.5000, 0.1464, 1.0000],
           dtype=torch.float64)
    """
    checks.non_negative("lr", lr)
    checks.count("T_0", T_0)
    checks.count("T_mult", T_mult)
    checks.non_negative("eta_min", eta_min)

    def growing(t: Tensor) -> Tensor:
        def length(n: Tensor) -> Tensor:
            return T_0 * torch.round(T_mult**n)

        def start(n: Tensor) -> Tensor:
            return (length(n) - T_0) / (T_mult - 1)

        n = torch.floor(torch.log1p(t * (T_mult - 1) / T_0) / math.log(T_mult))
        n = n + (t >= start(n + 1)).double() - (t < start(n)).double()  # the logarithm is rounded
        return (t - start(n)) / length(n)

    def progress(t: Tensor) -> Tensor:
        return torch.remainder(t, T_0) / T_0 if T_mult == 1 else growing(t)

    return of_step(lambda t: half_cosine(lr, eta_min, progress(t)))
