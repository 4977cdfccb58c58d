"""Adadelta: steps as long as the last ones were, which need no learning rate."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import Rule, Scalar, Step
from ..moments import second_moment
from ..schedules import Schedule
from ..transformation import GradientTransformation, elementwise
from .recipes import descent

__all__ = ["ScaleByAdadeltaState", "adadelta", "scale_by_adadelta"]


class ScaleByAdadeltaState(NamedTuple):
    """The averages of squared gradients and of squared updates.

    `e_g` and `e_x` are torch's `square_avg` and `acc_delta`.
    """

    e_g: tree.PyTree
    e_x: tree.PyTree


def scale_by_adadelta(rho: Scalar = 0.9, eps: Scalar = 1e-6) -> GradientTransformation:
    """Rescale gradients by Adadelta (Zeiler 2012, arXiv:1212.5701, algorithm 1).

    ::

        e_g_t = rho e_g_{t-1} + (1 - rho) g_t^2
        update = sqrt(e_x_{t-1} + eps) / sqrt(e_g_t + eps) g_t
        e_x_t = rho e_x_{t-1} + (1 - rho) update^2

    `eps` is what the first update is made of. With `eps=0` parameters never move, and become NaN
    (0 / 0) where gradients have all been zero.

    Raises
    ------
    ValueError
        `rho` lies outside [0, 1], `eps` is negative, or, in `update`, a gradient does not match the
        state.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> adadelta = optim.scale_by_adadelta(rho=0.75, eps=1e-6)
    >>> state = adadelta.init({"w": torch.zeros(1)})
    >>> adadelta.update({"w": torch.tensor([-3.0])}, state)[0]
    {'w': tensor([-0.0020])}
    """
    checks.fraction("rho", rho)
    checks.non_negative("eps", eps)

    def init(params: tree.PyTree) -> ScaleByAdadeltaState:
        checks.trainable(params)
        return ScaleByAdadeltaState(e_g=tree.zeros_like(params), e_x=tree.zeros_like(params))

    def rule(g: Tensor, e_g: Tensor, e_x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        e_g = second_moment(e_g, g, rho)
        update = (e_x + eps).sqrt() / (e_g + eps).sqrt() * g
        return update, e_g, second_moment(e_x, update, rho)

    def step(state: ScaleByAdadeltaState, params: tree.PyTree | None) -> Step:
        checks.state("scale_by_adadelta", state, ScaleByAdadeltaState)
        reads = {"state.e_g": state.e_g, "state.e_x": state.e_x}
        return Step([Rule(rule, reads, writes=2)], ScaleByAdadeltaState)

    return elementwise(init, step)


def adadelta(
    lr: Scalar | Schedule = 1.0,
    rho: Scalar = 0.9,
    eps: Scalar = 1e-6,
    weight_decay: Scalar = 0,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Return Adadelta, `torch.optim.Adadelta`: `scale_by_adadelta` at a learning rate.

    Parameters
    ----------
    lr
        What updates are multiplied by: a number, a 0-d tensor or a schedule. The averages in the
        state do not see it.
    rho
        The decay rate of both averages, in [0, 1].
    eps
        Added to both averages, at least 0.
    weight_decay
        An L2 penalty: a number or 0-d tensor, at least 0.
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
    >>> optimizer = optim.adadelta(rho=0.75, eps=1e-2)
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": torch.tensor([25.0])}, state, params)
    >>> optim.apply_updates(params, updates)
    {'w': tensor([0.8000])}
    """
    return descent(scale_by_adadelta(rho, eps), lr=lr, weight_decay=weight_decay, maximize=maximize)
