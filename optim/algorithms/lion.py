"""Lion: the sign of a momentum, found by a search over programs."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import Rule, Scalar, Step
from ..moments import first_moment
from ..schedules import Schedule
from ..transformation import GradientTransformation, elementwise
from .recipes import descent
from .signs import sign

__all__ = ["ScaleByLionState", "lion", "scale_by_lion"]


class ScaleByLionState(NamedTuple):
    """The average of gradients, the authors' `exp_avg`."""

    mu: tree.PyTree


def scale_by_lion(b1: Scalar = 0.9, b2: Scalar = 0.99) -> GradientTransformation:
    """Replace gradients by Lion's signs (Chen et al. 2023, arXiv:2302.06675, algorithm 2).

    ::

        update = sign(b1 mu_{t-1} + (1 - b1) g_t)
        mu_t = b2 mu_{t-1} + (1 - b2) g_t

    The sign of 0 is 0, and that of NaN is NaN. Of a complex number the real and the imaginary part
    have a sign each.

    Raises
    ------
    ValueError
        `b1` or `b2` lies outside [0, 1), or, in `update`, a gradient does not match the state.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> lion = optim.scale_by_lion()
    >>> state = lion.init({"w": torch.zeros(3)})
    >>> lion.update({"w": torch.tensor([-0.5, 0.0, 100.0])}, state)[0]
    {'w': tensor([-1.,  0.,  1.])}
    """
    checks.decay_rate("b1", b1)
    checks.decay_rate("b2", b2)

    def init(params: tree.PyTree) -> ScaleByLionState:
        checks.trainable(params)
        return ScaleByLionState(tree.zeros_like(params))

    def rule(g: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        return sign(first_moment(m, g, b1)), first_moment(m, g, b2)

    def step(state: ScaleByLionState, params: tree.PyTree | None) -> Step:
        checks.state("scale_by_lion", state, ScaleByLionState)
        return Step([Rule(rule, {"state.mu": state.mu}, writes=1)], ScaleByLionState)

    return elementwise(init, step)


def lion(
    lr: Scalar | Schedule = 1e-4,
    betas: tuple[Scalar, Scalar] = (0.9, 0.99),
    weight_decay: Scalar = 0,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Return Lion (Chen et al. 2023, arXiv:2302.06675), with the authors' defaults.

    ::

        theta <- theta - lr (sign(b1 mu + (1 - b1) g) + weight_decay theta)
        mu <- b2 mu + (1 - b2) g

    Every step has the same length. The authors advise a learning rate three to ten times smaller
    than AdamW's, and as many times more weight decay.

    Parameters
    ----------
    lr
        Learning rate: a number, a 0-d tensor or a schedule.
    betas
        The weight of the past in the update, and in the average that is kept, in [0, 1).
    weight_decay
        Decoupled, as in AdamW: a number or 0-d tensor, at least 0.
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
    >>> optimizer = optim.lion(lr=0.1)
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": torch.tensor([25.0])}, state, params)
    >>> optim.apply_updates(params, updates)
    {'w': tensor([0.9000])}
    """
    checks.betas("betas", betas)
    return descent(
        scale_by_lion(*betas),
        lr=lr,
        weight_decay=weight_decay,
        decoupled_weight_decay=True,
        maximize=maximize,
    )
