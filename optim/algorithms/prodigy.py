"""Prodigy: Adam that finds its own learning rate from how far the parameters have come."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import Scalar, leafwise
from ..moments import bias_correction, first_moment, first_step, second_moment
from ..schedules import Schedule
from ..transformation import GradientTransformation, chain
from ..whole_tree import absolute_sum, cast_like, number, rate_at, ratio, total, widened
from .recipes import decayed, uphill

__all__ = ["ProdigyState", "prodigy"]


class ProdigyState(NamedTuple):
    """What Prodigy remembers, with the letters of the paper.

    Trees (float32 where the parameters are narrower): `mu` and `nu` (m and v), `grad_sum` (s), and
    `params0` (x_0, the first parameters). Numbers (float64, 0-d): `estim_lr` (d), `max_estim_lr`
    (the largest estimate of it so far), `numerator` (r). `count` is the number of steps (int64).
    """

    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    mu: tree.PyTree
    nu: tree.PyTree
    grad_sum: tree.PyTree
    params0: tree.PyTree
    estim_lr: Tensor
    max_estim_lr: Tensor
    numerator: Tensor


def prodigy(
    lr: Scalar | Schedule = 1.0,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    beta3: Scalar | None = None,
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0,
    *,
    decoupled_weight_decay: bool = True,
    use_bias_correction: bool = False,
    safeguard_warmup: bool = False,
    d0: Scalar = 1e-6,
    d_coef: Scalar = 1.0,
    growth_rate: Scalar = math.inf,
    maximize: bool = False,
) -> GradientTransformation:
    """Return Prodigy (Mishchenko & Defazio 2023, arXiv:2306.06101, algorithm 4).

    Adam whose learning rate is `d`, an estimate of the distance to the solution that grows as far
    as the gradients seen so far support it. All parameters share it::

        m <- b1 m + (1 - b1) d g
        v <- b2 v + (1 - b2) d^2 g^2
        r <- b3 r + (d / d0) d lr <g, x_0 - x>
        s <- b3 s + (d / d0) d lr g                  (d instead of d lr with safeguard_warmup)
        d' = max(d, d_coef r / |s|_1)
        x <- x - d lr (m / (sqrt(v) + d' eps) + weight_decay x)

    This is the authors' program; the paper multiplies `eps` by the old `d`, and does not divide by
    `d0`, which cancels. optax computes the same with `use_bias_correction=True`. While all
    gradients have been zero, `d` stays as it is.

    A gradient that is infinite or NaN makes `d`, and with it everything later, NaN.

    Parameters
    ----------
    lr
        A factor of the learning rate: a number, a 0-d tensor or a schedule. Leave its largest
        value at 1; the authors recommend cosine annealing. A step with `lr=0` moves nothing.
    betas
        The decay rates of the first and second moment, in [0, 1).
    beta3
        The decay rate of `r` and `s`; None is `sqrt(betas[1])`.
    eps
        Added, times `d`, to the root of the second moment; greater than 0.
    weight_decay
        A number or 0-d tensor, at least 0.
    decoupled_weight_decay
        Decay the parameters; without, `weight_decay` times the parameters is added to gradients.
    use_bias_correction
        Multiply `lr` by Adam's `sqrt(1 - b2^t) / (1 - b1^t)`.
    safeguard_warmup
        Leave `lr` out of `s`, for a learning rate that warms up from 0.
    d0
        The first `d`, smaller than any good learning rate; greater than 0. Parameters of float16
        and bfloat16 do not change by so little, and then `d` does not grow: keep a float32 copy.
    d_coef
        Multiplies the estimate; 0.5 and 2 are values to try.
    growth_rate
        The largest factor by which `d` may grow in a step after the first growth.
    maximize
        Climb instead of descend.

    Raises
    ------
    ValueError
        A hyperparameter is out of its range; in `update`, `params` is missing, or a gradient does
        not match.

    Examples
    --------
    >>> import torch
    >>> import purefn.functional as pf
    >>> from purefn import optim
    >>> optimizer = optim.prodigy()
    >>> def step(params, state):
    ...     grads = pf.grad(lambda params: (params["w"] - 3).square().sum())(params)
    ...     updates, state = optimizer.update(grads, state, params)
    ...     return optim.apply_updates(params, updates), state
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = optimizer.init(params)
    >>> for _ in range(100):
    ...     params, state = step(params, state)
    >>> params["w"].round(decimals=1), optim.get(state, "estim_lr") > 0.1
    (tensor([3.]), tensor(True))
    """
    checks.learning_rate("lr", lr)
    checks.betas("betas", betas)
    beta3 = betas[1] ** 0.5 if beta3 is None else beta3
    checks.decay_rate("beta3", beta3)
    checks.positive("eps", eps)
    checks.flag("decoupled_weight_decay", decoupled_weight_decay)
    checks.flag("use_bias_correction", use_bias_correction)
    checks.flag("safeguard_warmup", safeguard_warmup)
    checks.positive("d0", d0)
    checks.positive("d_coef", d_coef)
    checks.growth_rate("growth_rate", growth_rate)
    decay = decayed(weight_decay)
    b1, b2 = betas

    def init(params: tree.PyTree) -> ProdigyState:
        checks.trainable(params)
        start = widened(params)
        return ProdigyState(
            first_step(params),
            mu=tree.zeros_like(start),
            nu=tree.zeros_like(start),
            grad_sum=tree.zeros_like(start),
            params0=tree.map(torch.clone, start),
            estim_lr=number(d0, params),
            max_estim_lr=number(d0, params),
            numerator=number(0.0, params),
        )

    def update(
        updates: tree.PyTree, state: ProdigyState, params: tree.PyTree | None = None, **extra: Any
    ) -> tuple[tree.PyTree, ProdigyState]:
        checks.state("prodigy", state, ProdigyState)
        checks.given("prodigy", params)
        checks.same_leaves({"params": params, "updates": updates})
        count, d = state.count + 1, state.estim_lr
        dlr = d * rate_at(lr, state.count)
        if use_bias_correction:
            dlr = dlr * bias_correction(b2, count).sqrt() / bias_correction(b1, count)
        weight = d / d0 * (d if safeguard_warmup else dlr)

        def averages(
            g: Tensor, x: Tensor, x0: Tensor, m: Tensor, v: Tensor, s: Tensor
        ) -> tuple[Tensor, ...]:
            dg = g * d.to(g.dtype)
            m, v = first_moment(m, dg, b1), second_moment(v, dg, b2)
            return g * (x0 - x), m, v, beta3 * s + weight * g

        names = ("params0", "mu", "nu", "grad_sum")
        reads = {f"state.{name}": getattr(state, name) for name in names}
        trees = {"updates": widened(updates), "params": widened(params), **reads}
        progress, mu, nu, s = leafwise(averages, trees, results=4)
        r = beta3 * state.numerator + d / d0 * dlr * total(progress)
        estimate = ratio(d_coef * r, absolute_sum(s), otherwise=d)
        d_max = torch.maximum(state.max_estim_lr, estimate)
        grown = torch.where(d == d0, torch.maximum(d, estimate), d) * growth_rate
        d_new = torch.minimum(d_max, grown)

        def step(m: Tensor, v: Tensor, x: Tensor) -> Tensor:
            direction = m / (v.sqrt() + d_new * eps)
            return -dlr * (direction + weight_decay * x if decays else direction)

        decays = decoupled_weight_decay and bool(decay)
        steps = leafwise(step, {"state.mu": mu, "state.nu": nu, "params": trees["params"]})
        new_state = ProdigyState(count, mu, nu, s, state.params0, d_new, d_max, r)
        return cast_like(steps, updates), new_state

    rule = GradientTransformation(init, update)
    return chain(*uphill(maximize), *([] if decoupled_weight_decay else decay), rule)
