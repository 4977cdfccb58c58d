"""Averaged stochastic gradient descent: ordinary steps, and the average of where they led."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import Rule, Scalar, Step, add_scaled
from ..moments import first_step
from ..schedules import Schedule
from ..transformation import GradientTransformation, chain, elementwise
from .recipes import decayed, uphill

__all__ = ["AverageParamsState", "ScaleByAsgdState", "asgd", "average_params", "scale_by_asgd"]


class ScaleByAsgdState(NamedTuple):
    """The number of steps (int64, 0-d), and the rate of the next one, `eta` (float64, 0-d)."""

    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    eta: Tensor


class AverageParamsState(NamedTuple):
    """The number of steps (int64, 0-d), and the averaged parameters, torch's `ax`."""

    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    ax: tree.PyTree


def scale_by_asgd(
    lr: Scalar | Schedule = 1e-2, lambd: Scalar = 1e-4, alpha: Scalar = 0.75
) -> GradientTransformation:
    """Make steps downhill at a decaying rate, in a loss with a quadratic penalty (Bottou 2010).

    With `eta_1 = lr`::

        update = -eta_t (g_t + lambd theta_{t-1})
        eta_{t+1} = lr / (1 + lambd lr t)^alpha

    That is torch's rule, in which a learning rate that changes is felt one step late.

    Raises
    ------
    ValueError
        `lr` or `lambd` is negative, or, in `update`, `params` is missing or does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> asgd = optim.scale_by_asgd(lr=0.5, lambd=2.0, alpha=1.0)
    >>> params = torch.tensor([10.0])
    >>> updates, state = asgd.update(torch.tensor([1.0]), asgd.init(params), params)
    >>> updates, state.eta
    (tensor([-10.5000]), tensor(0.2500, dtype=torch.float64))
    """
    checks.learning_rate("lr", lr)
    checks.non_negative("lambd", lambd)
    checks.scalar("alpha", alpha)

    def rate(count: Tensor) -> Scalar:
        now = lr(count) if callable(lr) else lr
        checks.non_negative("lr(step)", now)
        return now

    def init(params: tree.PyTree) -> ScaleByAsgdState:
        checks.trainable(params)
        count = first_step(params)
        return ScaleByAsgdState(count, torch.zeros_like(count, dtype=torch.float64) + rate(count))

    def rule(g: Tensor, p: Tensor, downhill: Scalar) -> Tensor:
        return add_scaled(g, p, lambd) * downhill

    def step(state: ScaleByAsgdState, params: tree.PyTree | None) -> Step:
        checks.state("scale_by_asgd", state, ScaleByAsgdState)
        checks.given("scale_by_asgd", params)
        count, now = state.count + 1, rate(state.count)
        eta = now / (1 + lambd * now * count.double()) ** alpha
        rules = [Rule(rule, {"params": params}, scalars=[-state.eta])]
        return Step(rules, lambda: ScaleByAsgdState(count, eta))

    return elementwise(init, step)


def average_params(t0: Scalar = 0) -> GradientTransformation:
    """Leave updates as they are, and average the parameters to which they lead.

    The average is of the parameters after step `t0 + 2` and all later ones (Polyak & Juditsky
    1992); before that it is the parameters themselves::

        theta_t = theta_{t-1} + update
        ax_t = ax_{t-1} + (theta_t - ax_{t-1}) / max(1, t - 1 - t0)

    It stands at the end of a chain; `optim.get(state, "ax")` is the average.

    Raises
    ------
    ValueError
        `t0` is negative, or, in `update`, `params` is missing or does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.chain(optim.sgd(lr=1.0), optim.average_params())
    >>> params = torch.tensor([0.0])
    >>> state = optimizer.init(params)
    >>> for _ in range(4):
    ...     updates, state = optimizer.update(torch.tensor([-2.0]), state, params)
    ...     params = optim.apply_updates(params, updates)
    >>> params, optim.get(state, "ax")
    (tensor([8.]), tensor([6.]))
    """
    checks.non_negative("t0", t0)

    def init(params: tree.PyTree) -> AverageParamsState:
        checks.trainable(params)
        return AverageParamsState(first_step(params), tree.map(Tensor.clone, params))

    def rule(update: Tensor, p: Tensor, ax: Tensor, rest: Scalar) -> tuple[Tensor, Tensor]:
        p = p + update
        return update, p + (ax - p) * rest  # exactly p while the weight is 1 and the rest 0

    def step(state: AverageParamsState, params: tree.PyTree | None) -> Step:
        checks.state("average_params", state, AverageParamsState)
        checks.given("average_params", params)
        weight = 1 / (state.count.double() - t0).clamp(min=1)
        reads = {"params": params, "state.ax": state.ax}
        rules = [Rule(rule, reads, writes=1, scalars=[1 - weight])]
        return Step(rules, lambda ax: AverageParamsState(state.count + 1, ax))

    return elementwise(init, step)


def asgd(
    lr: Scalar | Schedule = 1e-2,
    lambd: Scalar = 1e-4,
    alpha: Scalar = 0.75,
    t0: Scalar = 1e6,
    weight_decay: Scalar = 0,
    maximize: bool = False,
) -> GradientTransformation:
    """Return averaged stochastic gradient descent, `torch.optim.ASGD`.

    ::

        theta_t = theta_{t-1} - eta_t (g_t + (weight_decay + lambd) theta_{t-1})
        eta_{t+1} = lr / (1 + lambd lr t)^alpha            (eta_1 = lr)
        ax_t = ax_{t-1} + (theta_t - ax_{t-1}) / max(1, t - 1 - t0)

    Read the averaged parameters with `optim.get(state, "ax")`; up to step `t0` they are the
    parameters. With `maximize` the gradient changes its sign, and both decays stay.

    `eta` is kept in float64, where torch has the default dtype, ordinarily float32. A parameter
    that became infinite becomes NaN in the next step, since both decays are added to it; in torch,
    which multiplies by `1 - lambd eta_t`, it stays infinite.

    Parameters
    ----------
    lr
        Learning rate: a number, a 0-d tensor or a schedule. The rate of a step comes from the
        `lr` of the step before, as in torch.
    lambd
        How fast the learning rate and the parameters decay: a number or 0-d tensor, at least 0.
    alpha
        The power with which the learning rate decays.
    t0
        The step after which averaging starts, at least 0.
    weight_decay
        An L2 penalty: a number or 0-d tensor, at least 0.
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
    >>> from purefn import optim
    >>> optimizer = optim.asgd(lr=0.1, lambd=0, t0=0)
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = optimizer.init(params)
    >>> for _ in range(3):
    ...     updates, state = optimizer.update({"w": torch.tensor([1.0])}, state, params)
    ...     params = optim.apply_updates(params, updates)
    >>> params, optim.get(state, "ax")
    ({'w': tensor([0.7000])}, {'w': tensor([0.7500])})
    """
    checks.non_negative("weight_decay", weight_decay)
    return chain(
        *uphill(maximize),
        *decayed(weight_decay),
        scale_by_asgd(lr, lambd, alpha),
        average_params(t0),
    )
