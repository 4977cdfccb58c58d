"""Adagrad: gradients over the root of the sum of their squares."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import Rule, Scalar, Step, leafwise
from ..pieces.scaling import scale_by_schedule
from ..schedules import Schedule
from ..transformation import GradientTransformation, elementwise
from .recipes import descent, is_zero

__all__ = ["ScaleByRssState", "adagrad", "scale_by_rss"]


class ScaleByRssState(NamedTuple):
    """The sum of squared gradients, torch's `sum`."""

    sum_of_squares: tree.PyTree


def scale_by_rss(
    initial_accumulator_value: Scalar = 0, eps: Scalar = 1e-10
) -> GradientTransformation:
    """Divide gradients by the root of the sum of their squares (Duchi et al. 2011, JMLR 12).

    With `s_0 = initial_accumulator_value`::

        s_t = s_{t-1} + g_t^2
        update = g_t / (sqrt(s_t) + eps)

    Defaults and the place of `eps` are torch's; optax starts at 0.1 and has `1 / sqrt(s_t + 1e-7)`,
    and 0 where `s_t` is 0. With `eps=0` a parameter whose gradients have all been zero becomes NaN,
    as in torch.

    Raises
    ------
    ValueError
        `initial_accumulator_value` or `eps` is negative, or, in `update`, a gradient does not match
        the state.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> rss = optim.scale_by_rss()
    >>> state = rss.init({"w": torch.zeros(1)})
    >>> for gradient in (3.0, 4.0):
    ...     updates, state = rss.update({"w": torch.tensor([gradient])}, state)
    >>> updates
    {'w': tensor([0.8000])}
    """
    checks.non_negative("initial_accumulator_value", initial_accumulator_value)
    checks.non_negative("eps", eps)

    def init(params: tree.PyTree) -> ScaleByRssState:
        start = initial_accumulator_value
        return ScaleByRssState(leafwise(lambda p: torch.zeros_like(p) + start, {"params": params}))

    def rule(g: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        s = torch.addcmul(s, g, g)
        return g / (s.sqrt() + eps), s

    def step(state: ScaleByRssState, params: tree.PyTree | None) -> Step:
        checks.state("scale_by_rss", state, ScaleByRssState)
        reads = {"state.sum_of_squares": state.sum_of_squares}
        return Step([Rule(rule, reads, writes=1)], ScaleByRssState)

    return elementwise(init, step)


def adagrad(
    lr: Scalar | Schedule = 1e-2,
    lr_decay: Scalar = 0,
    weight_decay: Scalar = 0,
    initial_accumulator_value: Scalar = 0,
    eps: Scalar = 1e-10,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Return Adagrad, `torch.optim.Adagrad`: `scale_by_rss` at a learning rate that may decay.

    ::

        theta <- theta - lr / (1 + (t - 1) lr_decay) rss(g_t)

    Parameters
    ----------
    lr
        Learning rate: a number, a 0-d tensor or a schedule.
    lr_decay
        How fast the learning rate decays: a number or 0-d tensor, at least 0.
    weight_decay
        An L2 penalty: a number or 0-d tensor, at least 0.
    initial_accumulator_value
        The sum of squares at the start, at least 0.
    eps
        Added to the root of the sum of squares.
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
    >>> optimizer = optim.adagrad(lr=0.1)
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": torch.tensor([25.0])}, state, params)
    >>> optim.apply_updates(params, updates)
    {'w': tensor([0.9000])}
    """
    checks.non_negative("lr_decay", lr_decay)
    return descent(
        scale_by_rss(initial_accumulator_value, eps),
        *([] if is_zero(lr_decay) else [scale_by_schedule(_decaying(lr_decay))]),
        lr=lr,
        weight_decay=weight_decay,
        maximize=maximize,
    )


def _decaying(lr_decay: Scalar) -> Schedule:
    return lambda step: 1 / (1 + torch.as_tensor(step).double() * lr_decay)
