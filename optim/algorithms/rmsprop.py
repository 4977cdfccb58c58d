"""RMSprop: gradients over the root of their mean square, or over their standard deviation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import Rule, Scalar, Step
from ..moments import first_moment, second_moment
from ..schedules import Schedule
from ..transformation import GradientTransformation, elementwise
from .recipes import descent, is_zero
from .sgd import trace

__all__ = [
    "ScaleByRmsState",
    "ScaleByStddevState",
    "rmsprop",
    "scale_by_rms",
    "scale_by_stddev",
]


class ScaleByRmsState(NamedTuple):
    """The average of squared gradients, torch's `square_avg`."""

    nu: tree.PyTree


class ScaleByStddevState(NamedTuple):
    """The averages of gradients and of their squares, torch's `grad_avg` and `square_avg`."""

    mu: tree.PyTree
    nu: tree.PyTree


def scale_by_rms(decay: Scalar = 0.99, eps: Scalar = 1e-8) -> GradientTransformation:
    """Divide gradients by the root of their mean square (Hinton 2012, lecture 6e).

    ::

        nu_t = decay nu_{t-1} + (1 - decay) g_t^2
        update = g_t / (sqrt(nu_t) + eps)

    The default of `decay` and the place of `eps` are torch's; optax has 0.9, and `eps` inside the
    root. With `eps=0` a parameter whose gradients have all been zero becomes NaN, as in torch.

    Raises
    ------
    ValueError
        `decay` lies outside [0, 1], `eps` is negative, or, in `update`, a gradient does not match
        the state.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> rms = optim.scale_by_rms(decay=0.75)
    >>> rms.update({"w": torch.tensor([-3.0])}, rms.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([-2.])}
    """
    checks.fraction("decay", decay)
    checks.non_negative("eps", eps)

    def init(params: tree.PyTree) -> ScaleByRmsState:
        checks.trainable(params)
        return ScaleByRmsState(tree.zeros_like(params))

    def rule(g: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        v = second_moment(v, g, decay)
        return g / (v.sqrt() + eps), v

    def step(state: ScaleByRmsState, params: tree.PyTree | None) -> Step:
        checks.state("scale_by_rms", state, ScaleByRmsState)

        return Step([Rule(rule, {"state.nu": state.nu}, writes=1)], ScaleByRmsState)

    return elementwise(init, step)


def scale_by_stddev(decay: Scalar = 0.99, eps: Scalar = 1e-8) -> GradientTransformation:
    """Divide gradients by their standard deviation (Graves 2013, arXiv:1308.0850, section 4.2).

    ::

        mu_t = decay mu_{t-1} + (1 - decay) g_t
        nu_t = decay nu_{t-1} + (1 - decay) g_t^2
        update = g_t / (sqrt(|nu_t - mu_t^2|) + eps)

    The difference is of two nearly equal numbers when gradients hardly change. Rounding may then
    leave a negative one, of which torch takes the root, NaN; hence the absolute value. Defaults and
    the place of `eps` are torch's, as for `scale_by_rms`.

    Raises
    ------
    ValueError
        `decay` lies outside [0, 1], `eps` is negative, or, in `update`, a gradient does not match
        the state.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> centered = optim.scale_by_stddev(decay=0.5)
    >>> centered.update({"w": torch.tensor([-3.0])}, centered.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([-2.])}
    """
    checks.fraction("decay", decay)
    checks.non_negative("eps", eps)

    def init(params: tree.PyTree) -> ScaleByStddevState:
        checks.trainable(params)
        return ScaleByStddevState(mu=tree.zeros_like(params), nu=tree.zeros_like(params))

    def rule(g: Tensor, m: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        m = first_moment(m, g, decay)
        v = second_moment(v, g, decay)
        variance = torch.addcmul(v, m, m, value=-1).abs()
        return g / (variance.sqrt() + eps), m, v

    def step(state: ScaleByStddevState, params: tree.PyTree | None) -> Step:
        checks.state("scale_by_stddev", state, ScaleByStddevState)
        reads = {"state.mu": state.mu, "state.nu": state.nu}
        return Step([Rule(rule, reads, writes=2)], ScaleByStddevState)

    return elementwise(init, step)


def rmsprop(
    lr: Scalar | Schedule = 1e-2,
    alpha: Scalar = 0.99,
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0,
    momentum: Scalar = 0,
    centered: bool = False,
    maximize: bool = False,
) -> GradientTransformation:
    """Return RMSprop, `torch.optim.RMSprop`: `scale_by_rms`, momentum, then the learning rate.

    In optax's `rmsprop` the learning rate comes before momentum, which differs when it changes.

    Parameters
    ----------
    lr
        Learning rate: a number, a 0-d tensor or a schedule.
    alpha
        The decay rate of the averages, in [0, 1].
    eps
        Added to the root. With `eps=0` a parameter whose gradients have all been zero becomes NaN
        (0 / 0), as in torch.
    weight_decay
        An L2 penalty: a number or 0-d tensor, at least 0.
    momentum
        The decay of the sum of rescaled gradients, at least 0; with 0 no sum is kept.
    centered
        Divide by the standard deviation (`scale_by_stddev`).
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
    >>> optimizer = optim.rmsprop(lr=0.1, alpha=0.75)
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": torch.tensor([25.0])}, state, params)
    >>> optim.apply_updates(params, updates)
    {'w': tensor([0.8000])}
    """
    checks.fraction("alpha", alpha)
    checks.non_negative("momentum", momentum)
    checks.flag("centered", centered)
    rescale = scale_by_stddev if centered else scale_by_rms
    return descent(
        rescale(alpha, eps),
        *([] if is_zero(momentum) else [trace(momentum)]),
        lr=lr,
        weight_decay=weight_decay,
        maximize=maximize,
    )
