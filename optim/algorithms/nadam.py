"""NAdam: Adam with Nesterov's momentum."""

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

__all__ = ["ScaleByNadamState", "nadam", "scale_by_nadam"]


class ScaleByNadamState(NamedTuple):
    """Adam's state and the product of the momenta so far (float64, 0-d).

    `mu` and `nu` are torch's `exp_avg` and `exp_avg_sq`; `mu_product` has torch's name.
    """

    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    mu: tree.PyTree
    nu: tree.PyTree
    mu_product: Tensor


def scale_by_nadam(
    b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8, momentum_decay: Scalar = 4e-3
) -> GradientTransformation:
    """Rescale gradients by NAdam (Dozat 2016), with its warm-up of the momentum.

    ::

        p_t = b1 (1 - 0.96^(t momentum_decay) / 2)      P_t = p_1 p_2 ... p_t
        mu_t = b1 mu_{t-1} + (1 - b1) g_t
        nu_t = b2 nu_{t-1} + (1 - b2) g_t^2
        numerator = (1 - p_t) / (1 - P_t) g_t + p_{t+1} / (1 - P_{t+1}) mu_t
        update = numerator / (sqrt(nu_t / (1 - b2^t)) + eps)

    That is torch's rule; optax's `scale_by_adam(nesterov=True)` has no warm-up. `P_t` is kept in
    float64, where torch has the default dtype, ordinarily float32.

    Raises
    ------
    ValueError
        `b1` or `b2` lies outside [0, 1), `eps` or `momentum_decay` is negative, or, in `update`, a
        gradient does not match the state.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> nadam = optim.scale_by_nadam()
    >>> state = nadam.init({"w": torch.zeros(1)})
    >>> updates, state = nadam.update({"w": torch.tensor([2.0])}, state)
    >>> state.mu_product
    tensor(0.4501, dtype=torch.float64)
    """
    checks.decay_rate("b1", b1)
    checks.decay_rate("b2", b2)
    checks.non_negative("eps", eps)
    checks.non_negative("momentum_decay", momentum_decay)

    def init(params: tree.PyTree) -> ScaleByNadamState:
        checks.trainable(params)
        count = first_step(params)
        return ScaleByNadamState(
            count,
            mu=tree.zeros_like(params),
            nu=tree.zeros_like(params),
            mu_product=torch.ones_like(count, dtype=torch.float64),
        )

    def rule(
        g: Tensor, m: Tensor, v: Tensor, of_gradient: Scalar, of_average: Scalar, eps_t: Scalar
    ) -> tuple[Tensor, ...]:
        m = first_moment(m, g, b1)
        v = second_moment(v, g, b2)
        return (g * of_gradient + m * of_average) / (v.sqrt() + eps_t), m, v

    def step(state: ScaleByNadamState, params: tree.PyTree | None) -> Step:
        checks.state("scale_by_nadam", state, ScaleByNadamState)
        count = state.count + 1
        momentum = _momentum(count, b1, momentum_decay)
        next_momentum = _momentum(count + 1, b1, momentum_decay)
        product = state.mu_product * momentum
        # Numerator and denominator are multiplied by this root: one pass less over the leaf.
        root = bias_correction(b2, count).sqrt()
        of_gradient = root * (1 - momentum) / (1 - product)
        of_average = root * next_momentum / (1 - product * next_momentum)
        reads = {"state.mu": state.mu, "state.nu": state.nu}
        rules = [Rule(rule, reads, writes=2, scalars=[of_gradient, of_average, root * eps])]
        return Step(rules, lambda mu, nu: ScaleByNadamState(count, mu, nu, product))

    return elementwise(init, step)


def nadam(
    lr: Scalar | Schedule = 2e-3,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0,
    momentum_decay: Scalar = 4e-3,
    decoupled_weight_decay: bool = False,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Return NAdam, `torch.optim.NAdam`: `scale_by_nadam` at a learning rate.

    Parameters
    ----------
    lr
        Learning rate: a number, a 0-d tensor or a schedule.
    betas
        The decay rates of the first and second moment, in [0, 1).
    eps
        Added to the root of the second moment. With `eps=0` a parameter whose gradients have
        all been zero becomes NaN (0 / 0), as in torch.
    weight_decay
        A number or 0-d tensor, at least 0.
    momentum_decay
        How fast the momentum rises from `betas[0] / 2` to `betas[0]`, at least 0.
    decoupled_weight_decay
        Decay the parameters instead of the gradient.
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
    >>> optimizer = optim.nadam(lr=0.1, betas=(0.0, 0.999))
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": torch.tensor([25.0])}, state, params)
    >>> optim.apply_updates(params, updates)
    {'w': tensor([0.9000])}
    """
    checks.betas("betas", betas)
    checks.non_negative("eps", eps)
    return descent(
        scale_by_nadam(*betas, eps, momentum_decay),
        lr=lr,
        weight_decay=weight_decay,
        decoupled_weight_decay=decoupled_weight_decay,
        maximize=maximize,
    )


def _momentum(count: Tensor, b1: Scalar, momentum_decay: Scalar) -> Tensor:
    """Return `p_t` of step `t`."""
    return b1 * (1 - 0.96 ** (count.double() * momentum_decay) / 2)
