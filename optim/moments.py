"""Running averages of gradients, of their squares, and the correction of their start at zero."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..functional import tree
from . import checks
from .leafwise import Scalar


def first_step(params: tree.PyTree) -> Tensor:
    """Return the count of steps before the first: an int64 zero on the parameters' device."""
    leaves = tree.leaves(params)
    return torch.zeros((), dtype=torch.int64, device=leaves[0].device if leaves else None)


def zeros(params: tree.PyTree, dtype: torch.dtype | None = None) -> tree.PyTree:
    """Return zeros of the shapes of `params`, in their own dtypes or in `dtype`.

    >>> zeros({"w": torch.ones(2)}, torch.bfloat16)
    {'w': tensor([0., 0.], dtype=torch.bfloat16)}

    Raises
    ------
    TypeError
        `dtype` is given, and a leaf is complex.
    """
    if dtype is None:
        return tree.zeros_like(params)
    checks.real(f"a state in {dtype}", params)
    return tree.zeros_like(params, dtype)


def first_moment(m: Tensor, g: Tensor, decay: Scalar) -> Tensor:
    """Return `decay * m + (1 - decay) * g`, by torch's own kernel when `decay` is a number.

    >>> first_moment(torch.tensor([0.0]), torch.tensor([1.0]), decay=0.75)
    tensor([0.2500])
    """
    if isinstance(decay, Tensor):
        return decay * m + (1 - decay) * g
    return torch.lerp(m, g, 1 - decay)


def second_moment(v: Tensor, g: Tensor, decay: Scalar) -> Tensor:
    """Return `decay * v + (1 - decay) * g**2`, by torch's own kernel when `decay` is a number.

    >>> second_moment(torch.tensor([0.0]), torch.tensor([2.0]), decay=0.75)
    tensor([1.])
    """
    if isinstance(decay, Tensor):
        return decay * v + (1 - decay) * g * g
    return torch.addcmul(decay * v, g, g, value=1 - decay)


def bias_correction(decay: Scalar, count: Tensor) -> Tensor:
    """Return `1 - decay**count` in float64, the weight that `count` averaged values have together.

    Taken as `-expm1(count * log(decay))`, which keeps all digits where `decay**count` is near 1.

    >>> bias_correction(0.5, torch.tensor(2))
    tensor(0.7500, dtype=torch.float64)
    """
    if isinstance(decay, Tensor):
        log_decay: Scalar = decay.double().log()
    else:
        log_decay = math.log(decay) if decay > 0 else -math.inf
    return -torch.expm1(count.double() * log_decay)


def corrections(count: Tensor, b1: Scalar, b2: Scalar, eps: Scalar) -> tuple[Tensor, Tensor]:
    """Return what `corrected_direction` takes at step `count`, two float64 0-d tensors.

    They are `(1 - b1^t) / sqrt(1 - b2^t)` and `(1 - b1^t) eps`.
    """
    correction1 = bias_correction(b1, count)
    return correction1 / bias_correction(b2, count).sqrt(), correction1 * eps


def corrected_direction(m: Tensor, v: Tensor, root_factor: Scalar, eps_t: Scalar) -> Tensor:
    """Return Adam's direction `m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)`.

    Numerator and denominator are multiplied by `1 - b1^t`: that spares a pass over the leaf, since
    what then stands before `sqrt(v)` and for `eps` are numbers, the `corrections` of the step.

    >>> factors = corrections(torch.tensor(1), b1=0.9, b2=0.99, eps=0.0)
    >>> corrected_direction(torch.tensor([0.2]), torch.tensor([0.01]), *factors)
    tensor([2.])
    """
    return m / (v.sqrt() * root_factor + eps_t)
