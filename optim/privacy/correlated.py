"""The matrix mechanism: sums of clipped gradients, private by noise that cancels over steps."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...functional import random, tree
from ...functional.losses.checks import values_are_visible
from ...functional.per_example import ClippedGrad
from .. import checks
from ..leafwise import HALF, Scalar
from ..moments import first_step
from ..transformation import Aggregation, GradientTransformation
from .factorization import BandedToeplitz, Participation
from .noise import (
    as_key,
    check_batch_size,
    clipped_sum,
    deviation,
    in_dtypes_of,
    own_key,
    standard_normal,
)

__all__ = ["DPCorrelatedState", "dp_correlated_aggregate"]


class DPCorrelatedState(NamedTuple):
    """The number of steps (int64, 0-d), the key of the noise to come, and the noise of late steps.

    `history` has for each parameter the noise of the last `bands - 1` steps, that of step `t` in
    row `t mod (bands - 1)`; in float32 where the parameter is narrower.
    """

    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    rng_key: Tensor
    history: tree.PyTree


def dp_correlated_aggregate(
    noise_multiplier: Scalar,
    key: Tensor | int,
    *,
    expected_batch_size: float,
    factor: BandedToeplitz,
    steps: int,
    participation: Participation,
) -> GradientTransformation:
    """Turn sums of clipped gradients into private means by banded DP-FTRL.

    At step `t = 0, 1, ..., steps - 1`, with `c` the coefficients of the factor `C` ::

        y_t = (z_t - c_1 y_{t-1} - ... - c_{b-1} y_{t-b+1}) / c_0,    z_t ~ N(0, 1)
        (sum_i clip(g_i) + noise_multiplier sensitivity(C) sensitivity y_t) / expected_batch_size

    (Choquette-Choo et al. 2023, arXiv:2306.08153; Kairouz et al. 2021, arXiv:2103.00039). The noise
    is `C^-1 z`, and cancels where updates add up: sampling need not be random, only the order of
    the data fixed without looking at them. The whole run is *one* Gaussian mechanism: its epsilon
    is `privacy.epsilon(noise_multiplier, delta, steps=1, sampling=privacy.full_batch())`, for data
    sets that differ in an example whose place is left empty.

    Parameters
    ----------
    noise_multiplier, key, expected_batch_size
        As of `dp_aggregate`; batches of one size have that as their expected size.
    factor
        `square_root_factor(bands)` or `optimized_factor(bands, steps, participation)`. The state
        holds `bands - 1` times the parameters.
    steps
        How many steps the run has at most.
    participation
        In how many of them an example is, and how far apart. Nothing here can see that the batches
        keep to it.

    Returns
    -------
    GradientTransformation
        As of `dp_aggregate`. A step past the last is refused; under `jit` and `vmap`, where the
        count cannot be seen, its updates are NaN.

    Raises
    ------
    TypeError, ValueError
        As of `dp_aggregate`; `factor` or `participation` is none, `steps` no int of at least 1, or
        a parameter is complex.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> from purefn.functional import per_example, random
    >>> noisy = optim.privacy.dp_correlated_aggregate(
    ...     1.0, random.key(0), expected_batch_size=3, steps=100,
    ...     factor=optim.privacy.square_root_factor(bands=8),
    ...     participation=optim.privacy.Participation(times=2, separation=50))
    >>> params = {"w": torch.zeros(3)}
    >>> clipped = per_example.clipped_grad(lambda params, x: x @ params["w"], 1.0)
    >>> state = noisy.init(params)
    >>> updates, state = noisy.update(clipped(params, torch.eye(3)), state, params)
    >>> updates["w"].shape, state.history["w"].shape
    (torch.Size([3]), torch.Size([7, 3]))
    """
    who = "dp_correlated_aggregate"
    checks.non_negative("noise_multiplier", noise_multiplier)
    check_batch_size(who, expected_batch_size)
    checks.count("steps", steps)
    _check_kind("factor", factor, BandedToeplitz, "square_root_factor(bands)")
    _check_kind("participation", participation, Participation, "Participation(times, separation)")
    seed = as_key(key)
    spread = factor.sensitivity(steps, participation)
    past = factor.bands - 1

    def init(params: tree.PyTree) -> DPCorrelatedState:
        checks.trainable(params)
        checks.real(who, params)
        own_key(who, seed, params)
        count = first_step(params)
        history = tree.map(functools.partial(_no_history, past), params)
        return DPCorrelatedState(count, seed.to(count.device, copy=True), history)

    def update(
        updates: ClippedGrad,
        state: DPCorrelatedState,
        params: tree.PyTree | None = None,
        **extra: Any,
    ) -> tuple[tree.PyTree, DPCorrelatedState]:
        checks.state(who, state, DPCorrelatedState)
        grads = clipped_sum(who, updates, params)
        checks.state_tensors(
            "state.history",
            state.history,
            "updates.grads",
            grads,
            lambda leaf: (past, *leaf.shape),
            wide=True,
        )
        own_key(who, state.rng_key, grads)
        scale = spread * deviation(who, noise_multiplier, updates.sensitivity)
        scale = torch.where(_is_within(state.count, steps), scale, torch.nan)
        rng_key, sample_key = random.split(state.rng_key)
        correlated = _correlation(factor, state.count)
        white, structure = tree.flatten(standard_normal(sample_key, grads))
        pairs = [correlated(*pair) for pair in zip(white, tree.leaves(state.history), strict=True)]
        noise, history = (tree.unflatten(structure, [pair[i] for pair in pairs]) for i in (0, 1))
        noisy = tree.map(
            lambda total, y: ((total + scale * y) / expected_batch_size).to(total.dtype),
            grads,
            noise,
        )
        return in_dtypes_of(params, noisy), DPCorrelatedState(state.count + 1, rng_key, history)

    return GradientTransformation(init, Aggregation(update))


def _no_history(past: int, param: Tensor) -> Tensor:
    dtype = torch.float32 if param.dtype in HALF else param.dtype
    return param.new_zeros((past, *param.shape), dtype=dtype)


def _correlation(
    factor: BandedToeplitz, count: Tensor
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return `(z, history) -> (y, history)`, one row of the forward substitution `C y = z`."""
    past = factor.bands - 1
    if past == 0:
        return lambda z, history: (z / factor.coefficients[0], history)
    coefficients = torch.tensor(factor.coefficients, dtype=torch.float64, device=count.device)
    rows = torch.arange(past, device=count.device)
    weights = coefficients[1 + (count - 1 - rows) % past]
    is_oldest = rows == count % past

    def step(z: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        known = torch.einsum("b,b...->...", weights.to(history.dtype), history)
        y = (z - known) / factor.coefficients[0]
        place = is_oldest.reshape(-1, *[1] * z.ndim)
        return y, torch.where(place, y.to(history.dtype), history)

    return step


def _is_within(count: Tensor, steps: int) -> Tensor:
    """Say whether a step is left, refusing one too many where it can be seen."""
    within = count < steps
    if values_are_visible(count) and not within:
        raise ValueError(
            f"dp_correlated_aggregate.update: all of steps={steps} are taken. The noise is that of "
            "so many: a longer run needs its own transformation and budget."
        )
    return within


def _check_kind(name: str, value: Any, kind: type, example: str) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name}: expected privacy.{example}, got {value!r}.")
