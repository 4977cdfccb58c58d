"""The Gaussian mechanism: sums of clipped gradients, made private by independent noise."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from ...functional import random, tree
from ...functional.per_example import ClippedGrad
from .. import checks
from ..leafwise import Scalar, leafwise
from ..moments import first_step
from ..transformation import Aggregation, GradientTransformation
from .noise import (
    as_key,
    check_batch_size,
    clipped_sum,
    deviation,
    in_dtypes_of,
    own_key,
    standard_normal,
)

__all__ = ["DPAggregateState", "dp_aggregate"]


class DPAggregateState(NamedTuple):
    """The number of steps (int64, 0-d), and the key of the noise that is still to come."""

    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    rng_key: Tensor


def dp_aggregate(
    noise_multiplier: Scalar, key: Tensor | int, *, expected_batch_size: float
) -> GradientTransformation:
    """Turn a sum of clipped gradients into a private mean (Abadi et al. 2016, arXiv:1607.00133).

    ::

        (sum_i clip(g_i) + N(0, (noise_multiplier sensitivity)^2)) / expected_batch_size

    independent in each element, where `sensitivity` is what the clipping proved. It stands first in
    a chain; whatever comes after works on private gradients and costs no privacy. What the run
    costs, `privacy.epsilon` says.

    Parameters
    ----------
    noise_multiplier
        At least 0: a number, or a 0-d tensor, which the accountant must then be told.
    key
        A key of `purefn.functional.random`, or an integer to make one of; not the one that draws
        the batches. It lives in the state, where each step splits it. A state that is used twice
        gives the same noise twice, and the difference of the two updates has none.
    expected_batch_size
        A Python number: the sampling probability times the size of the data. Never how many
        examples were drawn, which is private.

    Returns
    -------
    GradientTransformation
        Its `update(updates, state, params)` takes a `per_example.ClippedGrad` and returns a tree
        like the parameters, in their dtypes, or those of the sum where they are not given. Noise is
        drawn and added in float64.

    Raises
    ------
    TypeError
        `key` is neither a key nor an integer, `expected_batch_size` a tensor; in `update`, the
        gradients are no `ClippedGrad`.
    ValueError
        `noise_multiplier` is negative, `expected_batch_size` not positive; in `update`, the
        sensitivity is no positive finite number, or a tensor `noise_multiplier` negative (under
        `jit` and `vmap`, where that cannot be seen, the updates are NaN), a gradient does not match
        `params` or is narrower than float32, or models under one `vmap` share the key.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> from purefn.functional import per_example, random
    >>> def losses(params, x):
    ...     return x @ params["w"]
    >>> optimizer = optim.chain(
    ...     optim.privacy.dp_aggregate(1.0, random.key(0), expected_batch_size=4), optim.sgd(lr=1))
    >>> params = {"w": torch.zeros(3)}
    >>> state = optimizer.init(params)
    >>> clipped = per_example.clipped_grad(losses, max_norm=0.5)(params, torch.eye(3))
    >>> updates, state = optimizer.update(clipped, state, params)
    >>> updates["w"].round(decimals=3)
    tensor([ 0.1060, -0.0740, -0.1500])
    """
    checks.non_negative("noise_multiplier", noise_multiplier)
    check_batch_size("dp_aggregate", expected_batch_size)
    seed = as_key(key)

    def init(params: tree.PyTree) -> DPAggregateState:
        checks.trainable(params)
        own_key("dp_aggregate", seed, params)
        count = first_step(params)
        return DPAggregateState(count, seed.to(count.device, copy=True))

    def update(
        updates: ClippedGrad,
        state: DPAggregateState,
        params: tree.PyTree | None = None,
        **extra: Any,
    ) -> tuple[tree.PyTree, DPAggregateState]:
        checks.state("dp_aggregate", state, DPAggregateState)
        grads = clipped_sum("dp_aggregate", updates, params)
        own_key("dp_aggregate", state.rng_key, grads)
        scale = deviation("dp_aggregate", noise_multiplier, updates.sensitivity)
        rng_key, sample_key = random.split(state.rng_key)
        noisy = leafwise(
            lambda total, noise: (total + scale * noise) / expected_batch_size,
            {"updates.grads": grads, "noise": standard_normal(sample_key, grads)},
            same_dtypes=False,
        )
        return in_dtypes_of(params, noisy), DPAggregateState(state.count + 1, rng_key)

    return GradientTransformation(init, Aggregation(update))
