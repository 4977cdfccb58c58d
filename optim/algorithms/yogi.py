"""Yogi: Adam whose second moment falls as slowly as it rises."""

from __future__ import annotations

from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import Rule, Scalar, Step, leafwise
from ..moments import corrected_direction, corrections, first_moment, first_step
from ..schedules import Schedule
from ..transformation import GradientTransformation, elementwise
from .adam import ScaleByAdamState
from .recipes import descent

__all__ = ["scale_by_yogi", "yogi"]


def scale_by_yogi(
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-3,
    initial_accumulator_value: Scalar = 1e-6,
) -> GradientTransformation:
    """Rescale gradients by Yogi (Zaheer et al. 2018, NeurIPS 31, algorithm 2).

    ::

        mu_t = b1 mu_{t-1} + (1 - b1) g_t
        nu_t = nu_{t-1} - (1 - b2) sign(nu_{t-1} - g_t^2) g_t^2
        update = mu_t / (1 - b1^t) / (sqrt(nu_t / (1 - b2^t)) + eps)

    Both moments are corrected as Adam's; the paper leaves that out for brevity. The state is
    Adam's; `mu` starts at 0 and `nu` at `initial_accumulator_value`, where optax starts both. With
    `eps=0` and an initial value of 0, a parameter whose gradients have all been zero becomes NaN.

    Raises
    ------
    ValueError
        `b1` or `b2` lies outside [0, 1), `eps` or `initial_accumulator_value` is negative, or, in
        `update`, a gradient does not match the state.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> yogi = optim.scale_by_yogi(eps=1.0, initial_accumulator_value=0.0)
    >>> state = yogi.init({"w": torch.zeros(1)})
    >>> updates, state = yogi.update({"w": torch.tensor([3.0])}, state)
    >>> updates
    {'w': tensor([0.7500])}
    """
    checks.decay_rate("b1", b1)
    checks.decay_rate("b2", b2)
    checks.non_negative("eps", eps)
    checks.non_negative("initial_accumulator_value", initial_accumulator_value)

    def init(params: tree.PyTree) -> ScaleByAdamState:
        checks.trainable(params)
        nu = leafwise(lambda zero: zero + initial_accumulator_value, {"": tree.zeros_like(params)})
        return ScaleByAdamState(first_step(params), mu=tree.zeros_like(params), nu=nu)

    def rule(g: Tensor, m: Tensor, v: Tensor, *factors: Scalar) -> tuple[Tensor, ...]:
        m = first_moment(m, g, b1)
        square = g * g
        v = v - (v - square).sign() * square * (1 - b2)
        return corrected_direction(m, v, *factors), m, v

    def step(state: ScaleByAdamState, params: tree.PyTree | None) -> Step:
        checks.state("scale_by_yogi", state, ScaleByAdamState)
        count = state.count + 1
        reads = {"state.mu": state.mu, "state.nu": state.nu}
        rules = [Rule(rule, reads, writes=2, scalars=corrections(count, b1, b2, eps))]
        return Step(rules, lambda mu, nu: ScaleByAdamState(count, mu, nu))

    return elementwise(init, step)


def yogi(
    lr: Scalar | Schedule = 1e-2,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-3,
    weight_decay: Scalar = 0,
    *,
    initial_accumulator_value: Scalar = 1e-6,
    maximize: bool = False,
) -> GradientTransformation:
    """Return Yogi (Zaheer et al. 2018, NeurIPS 31): `scale_by_yogi` at a learning rate.

    ::

        theta <- theta - lr yogi(g + weight_decay theta)

    Parameters
    ----------
    lr
        Learning rate: a number, a 0-d tensor or a schedule.
    betas
        The decay rates of the first and second moment, in [0, 1).
    eps
        Added to the root of the second moment. The paper's value is large on purpose.
    weight_decay
        An L2 penalty, as in Adam: a number or 0-d tensor, at least 0.
    initial_accumulator_value
        The second moment before the first step.
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
    >>> optimizer = optim.yogi(lr=0.1)
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": torch.tensor([25.0])}, state, params)
    >>> optim.apply_updates(params, updates)
    {'w': tensor([0.9000])}
    """
    checks.betas("betas", betas)
    return descent(
        scale_by_yogi(*betas, eps, initial_accumulator_value),
        lr=lr,
        weight_decay=weight_decay,
        maximize=maximize,
    )
