"""Gaussian noise for a sum of clipped gradients, and what has to be known of that sum."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...functional import random, tree
from ...functional.control.levels import is_batched
from ...functional.losses.checks import values_are_visible
from ...functional.per_example import ClippedGrad
from .. import checks
from ..leafwise import HALF, Scalar, working

#: What is folded into keys for noise: letters of the word.
_NOISE = int.from_bytes(b"nois", "big")


def standard_normal(key: Tensor, like: tree.PyTree) -> tree.PyTree:
    """Return standard normal numbers in float64, independent in every real number of `like`.

    ::

        sqrt(2) erf_inv(2 u - 1),    u in {1/2, 3/2, ...} / 2^52

    In float32, as `random.normal` draws them for float32 parameters, no number exceeds 5.4, so that
    a larger one after a gradient was added gives it away: at a noise multiplier of 1 that alone is
    a delta of 5e-6. Here none is beyond 8.2, a delta of 3e-13. The real and the imaginary part of a
    complex number have variance 1 each.
    """
    leaves, structure = tree.flatten(like)
    keys = random.split(key, max(len(leaves), 1))
    return tree.unflatten(structure, [_normal(*pair) for pair in zip(keys, leaves, strict=False)])


def _normal(key: Tensor, leaf: Tensor) -> Tensor:
    u = random.uniform(key, working(leaf).shape, torch.float64) + 2.0**-53
    drawn = math.sqrt(2) * torch.erfinv(2 * u - 1)
    return torch.view_as_complex(drawn) if leaf.is_complex() else drawn


def clipped_sum(who: str, updates: Any, params: tree.PyTree | None) -> tree.PyTree:
    """Return the gradients of a `ClippedGrad`, refusing what has no known sensitivity."""
    if not isinstance(updates, ClippedGrad):
        raise TypeError(
            f"{who}.update: expected the ClippedGrad that per_example.clipped_grad(losses_fn, "
            f"max_norm)(params, *batch) returns, got {type(updates).__name__}. Of gradients alone "
            "it is not known how far one example moves them, so no noise makes them private."
        )
    grads = updates.grads
    checks.trainable(grads, "updates.grads")
    for name, leaf in zip(
        tree.path_strings(grads, "updates.grads"), tree.leaves(grads), strict=True
    ):
        if leaf.dtype in HALF:
            raise ValueError(
                f"{who}.update: {name} is {leaf.dtype}, expected float32 or wider. Rounded to so "
                "few bits, a sum moves by more than its sensitivity with one example: leave it as "
                "clipped_grad returns it."
            )
    if params is not None:
        wide = frozenset({"updates.grads"})
        checks.same_leaves({"params": params, "updates.grads": grads}, any_width=wide)
    return grads


def in_dtypes_of(params: tree.PyTree | None, grads: tree.PyTree) -> tree.PyTree:
    """Return private gradients, which rounding keeps private, in the dtypes of the parameters."""
    if params is None:
        return grads
    return tree.map(lambda param, grad: grad.to(param.dtype), params, grads)


def deviation(who: str, noise_multiplier: Scalar, sensitivity: Tensor) -> Tensor:
    """Return the standard deviation of the noise, a 0-d float64 tensor.

    A sensitivity that is no positive finite number, or a negative noise multiplier, is refused
    where its value can be seen, and makes the noise NaN where it cannot.
    """
    is_usable = (sensitivity > 0) & torch.isfinite(sensitivity)
    if values_are_visible(sensitivity) and not is_usable:
        raise ValueError(
            f"{who}.update: the sensitivity of the clipped gradients is {sensitivity.item()}, "
            "expected a positive finite number: clip with such a max_norm."
        )
    if isinstance(noise_multiplier, Tensor):
        is_noise = noise_multiplier >= 0
        if values_are_visible(noise_multiplier) and not is_noise:
            raise ValueError(
                f"{who}.update: noise_multiplier is {noise_multiplier.item()}, expected a number "
                "that is at least 0."
            )
        is_usable = is_usable & is_noise
    return torch.where(is_usable, noise_multiplier * sensitivity.double(), torch.nan)


def own_key(who: str, key: Tensor, like: tree.PyTree) -> None:
    """Refuse one key for all models of a vmap: the difference of two would show no noise."""
    if not is_batched(key) and any(map(is_batched, tree.leaves(like))):
        raise ValueError(
            f"{who}: the models of this vmap share one key and would get the same noise, which "
            "cancels between them. Give each its own: map over keys = random.split(key, models) "
            f"too, and make {who}(..., key, ...) inside the mapped function."
        )


def as_key(key: Tensor | int) -> Tensor:
    """Return a key for noise of `key`, or of an integer, refusing what is neither.

    Another one than given: if the batches are drawn with that, against all advice, the noise still
    has numbers of its own.
    """
    return random.fold_in(random.key(key) if isinstance(key, int) else key, _NOISE)


def check_batch_size(who: str, value: Any) -> None:
    """Require a positive Python number."""
    if isinstance(value, Tensor):
        raise TypeError(
            f"{who}: expected_batch_size is a tensor, expected a Python number. The number of "
            "examples that were drawn is private: divide by what was expected, the sampling "
            "probability times the size of the data, in every step."
        )
    checks.positive("expected_batch_size", value)
