"""AdEMAMix: Adam with a second, much longer average of gradients beside the first."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import Rule, Scalar, Step
from ..moments import bias_correction, first_moment, first_step, second_moment
from ..schedules import Schedule
from ..transformation import GradientTransformation, elementwise
from .recipes import descent

__all__ = ["ScaleByAdemamixState", "ademamix", "scale_by_ademamix"]


class ScaleByAdemamixState(NamedTuple):
    """The number of steps (int64, 0-d), a fast and a slow average of gradients, one of squares.

    `m1`, `m2` and `nu` are the authors' `exp_avg_fast`, `exp_avg_slow` and `exp_avg_sq`.
    """

    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    m1: tree.PyTree
    m2: tree.PyTree
    nu: tree.PyTree


def scale_by_ademamix(
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    b3: Scalar | Schedule = 0.9999,
    alpha: Scalar | Schedule = 6.0,
    eps: Scalar = 1e-8,
) -> GradientTransformation:
    """Rescale gradients by AdEMAMix (Pagliardini et al. 2024, arXiv:2409.03137, algorithm 1).

    ::

        m1_t = b1 m1_{t-1} + (1 - b1) g_t
        m2_t = b3 m2_{t-1} + (1 - b3) g_t
        nu_t = b2 nu_{t-1} + (1 - b2) g_t^2
        update = (m1_t / (1 - b1^t) + alpha m2_t) / (sqrt(nu_t / (1 - b2^t)) + eps)

    The slow average is not corrected, so that it fills slowly. `b3` and `alpha` may be schedules of
    the number of updates made before, 0 at the first. With `eps=0` a parameter whose gradients have
    all been zero becomes NaN (0 / 0).

    Raises
    ------
    ValueError
        A decay rate lies outside [0, 1), `alpha` or `eps` is negative, or, in `update`, a gradient
        does not match the state.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> ademamix = optim.scale_by_ademamix(b3=0.5)
    >>> state = ademamix.init({"w": torch.zeros(1)})
    >>> updates, state = ademamix.update({"w": torch.tensor([-0.5])}, state)
    >>> updates
    {'w': tensor([-4.])}
    """
    checks.decay_rate("b1", b1)
    checks.decay_rate("b2", b2)
    if not callable(b3):
        checks.decay_rate("b3", b3)
    if not callable(alpha):
        checks.non_negative("alpha", alpha)
    checks.non_negative("eps", eps)

    def init(params: tree.PyTree) -> ScaleByAdemamixState:
        checks.trainable(params)
        return ScaleByAdemamixState(
            first_step(params), *[tree.zeros_like(params) for _ in range(3)]
        )

    def rule(
        g: Tensor, m1: Tensor, m2: Tensor, v: Tensor, b3_now: Scalar, *factors: Scalar
    ) -> tuple[Tensor, ...]:
        of_m1, of_m2, eps_t = factors
        m1 = first_moment(m1, g, b1)
        m2 = m2 * b3_now + g * (1 - b3_now)
        v = second_moment(v, g, b2)
        return (m1 * of_m1 + m2 * of_m2) / (v.sqrt() + eps_t), m1, m2, v

    def step(state: ScaleByAdemamixState, params: tree.PyTree | None) -> Step:
        checks.state("scale_by_ademamix", state, ScaleByAdemamixState)
        count = state.count + 1
        b3_now = b3(state.count) if callable(b3) else b3
        alpha_now = alpha(state.count) if callable(alpha) else alpha
        checks.decay_rate("b3(step)", b3_now)
        checks.non_negative("alpha(step)", alpha_now)
        # Numerator and denominator are multiplied by this root: one pass less over the leaf.
        root = bias_correction(b2, count).sqrt()
        scalars = [b3_now, root / bias_correction(b1, count), root * alpha_now, root * eps]
        reads = {"state.m1": state.m1, "state.m2": state.m2, "state.nu": state.nu}
        return Step(
            [Rule(rule, reads, writes=3, scalars=scalars)],
            lambda *written: ScaleByAdemamixState(count, *written),
        )

    return elementwise(init, step)


def ademamix(
    lr: Scalar | Schedule = 1e-3,
    betas: tuple[Scalar, Scalar, Scalar] = (0.9, 0.999, 0.9999),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0,
    *,
    alpha: Scalar = 2.0,
    beta3_warmup: int | None = None,
    alpha_warmup: int | None = None,
    maximize: bool = False,
) -> GradientTransformation:
    """Return AdEMAMix (Pagliardini et al. 2024, arXiv:2409.03137), with the authors' defaults.

    ::

        theta <- theta - lr (ademamix(g) + weight_decay theta)

    In step `t` of a warm-up of `T` steps, `alpha` is `alpha t / T`, and `b3` is where the half-life
    goes straight from that of `b1` to that of `b3`::

        1 / log b3_t = (1 - t / T) / log b1 + t / T / log b3

    Parameters
    ----------
    lr
        Learning rate: a number, a 0-d tensor or a schedule.
    betas
        The decay rates of the fast average, of squares and of the slow average, in [0, 1).
    eps
        Added to the root of the second moment.
    weight_decay
        Decoupled, as in AdamW: a number or 0-d tensor, at least 0.
    alpha
        The weight of the slow average, at least 0; the paper has 4 to 10.
    beta3_warmup, alpha_warmup
        Steps in which `betas[2]` and `alpha` rise; None for constants. The paper has all of them.
    maximize
        Climb instead of descend.

    Raises
    ------
    ValueError
        A hyperparameter is out of its range; in `update`, `params` is missing while
        `weight_decay` is set, or a gradient does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.ademamix(lr=0.1, alpha=0.0)
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": torch.tensor([25.0])}, state, params)
    >>> optim.apply_updates(params, updates)
    {'w': tensor([0.9000])}
    """
    checks.decay_rates("betas", betas, 3)
    checks.non_negative("alpha", alpha)
    b1, b2, b3 = betas
    return descent(
        scale_by_ademamix(
            b1,
            b2,
            b3 if beta3_warmup is None else _half_life_warmup(b1, b3, beta3_warmup),
            alpha if alpha_warmup is None else _linear_warmup(alpha, alpha_warmup),
            eps,
        ),
        lr=lr,
        weight_decay=weight_decay,
        decoupled_weight_decay=True,
        maximize=maximize,
    )


def _linear_warmup(alpha: Scalar, total_iters: int) -> Schedule:
    checks.count("alpha_warmup", total_iters)
    return lambda step: alpha * _progress(step, total_iters)


def _half_life_warmup(b1: Scalar, b3: Scalar, total_iters: int) -> Schedule:
    checks.count("beta3_warmup", total_iters)

    def rate(step: int | Tensor) -> Tensor:
        progress = _progress(step, total_iters)
        log_b1, log_b3 = (torch.log(torch.zeros_like(progress) + b) for b in (b1, b3))
        return torch.exp(1 / ((1 - progress) / log_b1 + progress / log_b3))

    return rate


def _progress(step: int | Tensor, total_iters: int) -> Tensor:
    return torch.clamp((torch.as_tensor(step).double() + 1) / total_iters, max=1.0)
