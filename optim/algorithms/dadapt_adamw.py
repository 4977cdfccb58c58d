"""D-Adaptation: Adam that finds its own learning rate from how well gradients agree."""

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
from .recipes import is_zero, uphill

__all__ = ["DAdaptAdamWState", "dadapt_adamw"]


class DAdaptAdamWState(NamedTuple):
    """What D-Adaptation remembers, with the letters of the paper.

    Trees (float32 where the parameters are narrower): `mu` and `nu` (m and v), `grad_sum` (s).
    Numbers (float64, 0-d): `estim_lr` (d), `numerator` (r). `count` is the number of steps (int64).
    """

    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    mu: tree.PyTree
    nu: tree.PyTree
    grad_sum: tree.PyTree
    estim_lr: Tensor
    numerator: Tensor


def dadapt_adamw(
    lr: Scalar | Schedule = 1.0,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0,
    *,
    use_bias_correction: bool = False,
    d0: Scalar = 1e-6,
    growth_rate: Scalar = math.inf,
    maximize: bool = False,
) -> GradientTransformation:
    """Return AdamW by D-Adaptation (Defazio & Mishchenko 2023, arXiv:2301.07733, algorithm 5).

    AdamW whose learning rate is `d`, a lower bound of the distance to the solution (in the largest
    coordinate) that grows as gradients go on to agree. All parameters share it; b3 = sqrt(b2)::

        r <- b3 r + (1 - b3) d lr <g, s / (sqrt(v) + eps)>
        m <- b1 m + (1 - b1) d lr g
        v <- b2 v + (1 - b2) g^2
        s <- b3 s + (1 - b3) d lr g
        x <- x - m / (sqrt(v) + eps) - d lr weight_decay x
        d <- max(d, min(r / ((1 - b3) |s|_1), growth_rate d))

    This is the authors' program: the inner product is taken with the old `v` (the new one in the
    paper). optax computes the same with `use_bias_correction=True`. While all gradients have been
    zero, `d` stays as it is. A gradient that is infinite or NaN makes everything later NaN.

    Parameters
    ----------
    lr
        A factor of the learning rate: a number, a 0-d tensor or a schedule. Leave its largest
        value at 1. A step with `lr=0` leaves `m` its decay, and so still moves by it.
    betas
        The decay rates of the first and second moment, in [0, 1).
    eps
        Added to the root of the second moment; greater than 0.
    weight_decay
        A number or 0-d tensor, at least 0.
    use_bias_correction
        Multiply `lr` by Adam's `sqrt(1 - b2^t) / (1 - b1^t)`.
    d0
        The first `d`, smaller than any good learning rate; greater than 0.
    growth_rate
        The largest factor by which `d` may grow in a step.
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
    >>> optimizer = optim.dadapt_adamw()
    >>> def step(params, state):
    ...     grads = pf.grad(lambda params: (params["w"] - 3).square().sum())(params)
    ...     updates, state = optimizer.update(grads, state, params)
    ...     return optim.apply_updates(params, updates), state
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = optimizer.init(params)
    >>> for _ in range(100):
    ...     params, state = step(params, state)
    >>> optim.get(state, "estim_lr") > 1e-3
    tensor(True)
    """
    checks.learning_rate("lr", lr)
    checks.betas("betas", betas)
    checks.positive("eps", eps)
    checks.non_negative("weight_decay", weight_decay)
    checks.flag("use_bias_correction", use_bias_correction)
    checks.positive("d0", d0)
    checks.growth_rate("growth_rate", growth_rate)
    b1, b2 = betas
    b3 = b2**0.5

    def init(params: tree.PyTree) -> DAdaptAdamWState:
        checks.trainable(params)
        zeros = tree.zeros_like(widened(params))
        return DAdaptAdamWState(
            first_step(params),
            mu=zeros,
            nu=tree.map(torch.clone, zeros),
            grad_sum=tree.map(torch.clone, zeros),
            estim_lr=number(d0, params),
            numerator=number(0.0, params),
        )

    def update(
        updates: tree.PyTree,
        state: DAdaptAdamWState,
        params: tree.PyTree | None = None,
        **extra: Any,
    ) -> tuple[tree.PyTree, DAdaptAdamWState]:
        checks.state("dadapt_adamw", state, DAdaptAdamWState)
        checks.given("dadapt_adamw", params)
        checks.same_leaves({"params": params, "updates": updates})
        count, d = state.count + 1, state.estim_lr
        dlr = d * rate_at(lr, state.count)
        if use_bias_correction:
            dlr = dlr * bias_correction(b2, count).sqrt() / bias_correction(b1, count)

        def averages(g: Tensor, m: Tensor, v: Tensor, s: Tensor) -> tuple[Tensor, ...]:
            scaled = g * dlr.to(g.dtype)
            agreement = g * (s / (v.sqrt() + eps))
            m, v = first_moment(m, scaled, b1), second_moment(v, g, b2)
            return agreement, m, v, first_moment(s, scaled, b3)

        reads = {"state.mu": state.mu, "state.nu": state.nu, "state.grad_sum": state.grad_sum}
        trees = {"updates": widened(updates), **reads}
        agreement, mu, nu, s = leafwise(averages, trees, results=4)
        r = b3 * state.numerator + (1 - b3) * dlr * total(agreement)
        estimate = ratio(r, (1 - b3) * absolute_sum(s), otherwise=d)
        d_new = torch.maximum(d, torch.minimum(estimate, d * growth_rate))

        def step(m: Tensor, v: Tensor, x: Tensor) -> Tensor:
            direction = m / (v.sqrt() + eps)
            return -(direction if is_zero(weight_decay) else direction + dlr * weight_decay * x)

        trees = {"state.mu": mu, "state.nu": nu, "params": widened(params)}
        steps = leafwise(step, trees)
        return cast_like(steps, updates), DAdaptAdamWState(count, mu, nu, s, d_new, r)

    return chain(*uphill(maximize), GradientTransformation(init, update))
