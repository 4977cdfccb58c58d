"""ADOPT: Adam that converges with any second decay rate."""

from __future__ import annotations

import torch
from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import Rule, Scalar, Step
from ..moments import first_step
from ..schedules import Schedule
from ..transformation import GradientTransformation, elementwise
from .adam import ScaleByAdamState
from .recipes import descent

__all__ = ["adopt", "scale_by_adopt"]


def scale_by_adopt(
    b1: Scalar = 0.9, b2: Scalar = 0.9999, eps: Scalar = 1e-6, *, use_clipping: bool = True
) -> GradientTransformation:
    """Rescale gradients by ADOPT (Taniguchi et al. 2024, arXiv:2411.02853, algorithm 2).

    The gradient is divided by the root of the second moment *before* it, and then averaged::

        nu_0 = g_0^2                                                  update 0
        mu_t = b1 mu_{t-1} + (1 - b1) clip(g_t / max(sqrt(nu_{t-1}), eps), t^(1/4))
        nu_t = b2 nu_{t-1} + (1 - b2) g_t^2                           update mu_t

    where `clip(x, c)` brings `x` into [-c, c]. The first call moves nothing. The state is Adam's;
    updates are the new `state.mu`, the same tensors: where this is the last of a chain, donate one
    of the two to a later call, not both. With `eps=0` a parameter whose gradients have all been
    zero becomes NaN (0 / 0).

    Parameters
    ----------
    b1, b2
        The decay rates of the moments, in [0, 1).
    eps
        What the root of the second moment is at least.
    use_clipping
        Without it this is algorithm 1 of the paper.

    Raises
    ------
    ValueError
        `b1` or `b2` lies outside [0, 1), `eps` is negative, or, in `update`, a gradient does not
        match the state.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> adopt = optim.scale_by_adopt(b1=0.5)
    >>> state = adopt.init({"w": torch.zeros(2)})
    >>> for _ in range(2):
    ...     updates, state = adopt.update({"w": torch.tensor([-0.5, 100.0])}, state)
    >>> updates
    {'w': tensor([-0.5000,  0.5000])}
    """
    checks.decay_rate("b1", b1)
    checks.decay_rate("b2", b2)
    checks.non_negative("eps", eps)
    checks.flag("use_clipping", use_clipping)

    def init(params: tree.PyTree) -> ScaleByAdamState:
        checks.trainable(params)
        return ScaleByAdamState(
            first_step(params), mu=tree.zeros_like(params), nu=tree.zeros_like(params)
        )

    def rule(
        g: Tensor, m: Tensor, v: Tensor, least: Tensor, limit: Tensor, decay: Tensor
    ) -> tuple[Tensor, ...]:
        normalized = torch.clamp(g / torch.clamp(v.sqrt(), min=least), min=-limit, max=limit)
        m = m * b1 + normalized * (1 - b1)
        return m, m, v * decay + g * g * (1 - decay)

    def step(state: ScaleByAdamState, params: tree.PyTree | None) -> Step:
        checks.state("scale_by_adopt", state, ScaleByAdamState)
        t = state.count.double()
        first = state.count == 0
        # At the first step nothing has been seen: any root but 0 will do, since the limit is 0.
        least = torch.where(first, 1.0, torch.zeros_like(t) + eps)
        limit = t**0.25 if use_clipping else torch.where(first, 0.0, torch.inf)
        decay = torch.where(first, 0.0, torch.zeros_like(t) + b2)
        reads = {"state.mu": state.mu, "state.nu": state.nu}
        return Step(
            [Rule(rule, reads, writes=2, scalars=[least, limit, decay])],
            lambda mu, nu: ScaleByAdamState(state.count + 1, mu, nu),
        )

    return elementwise(init, step)


def adopt(
    lr: Scalar | Schedule = 1e-3,
    betas: tuple[Scalar, Scalar] = (0.9, 0.9999),
    eps: Scalar = 1e-6,
    weight_decay: Scalar = 0,
    *,
    decoupled_weight_decay: bool = False,
    use_clipping: bool = True,
    maximize: bool = False,
) -> GradientTransformation:
    """Return ADOPT (Taniguchi et al. 2024, arXiv:2411.02853), with the authors' defaults.

    ::

        theta <- theta - lr adopt(g + weight_decay theta)
        theta <- theta - lr (adopt(g) + weight_decay theta)      decoupled

    The first gradient only starts the second moment. (Decoupled decay acts in that step too; the
    authors' program spares the parameters there.)

    Parameters
    ----------
    lr
        Learning rate: a number, a 0-d tensor or a schedule.
    betas
        The decay rates of the first and second moment, in [0, 1).
    eps
        What the root of the second moment is at least.
    weight_decay
        A number or 0-d tensor, at least 0.
    decoupled_weight_decay
        Decay the parameters; without, `weight_decay` times the parameters is added to gradients.
    use_clipping
        Bound the rescaled gradient of step `t` by the fourth root of `t`.
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
    >>> optimizer = optim.adopt(lr=0.1, betas=(0.5, 0.9999))
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = optimizer.init(params)
    >>> for _ in range(2):
    ...     updates, state = optimizer.update({"w": torch.tensor([25.0])}, state, params)
    ...     params = optim.apply_updates(params, updates)
    >>> params
    {'w': tensor([0.9500])}
    """
    checks.betas("betas", betas)
    return descent(
        scale_by_adopt(*betas, eps, use_clipping=use_clipping),
        lr=lr,
        weight_decay=weight_decay,
        decoupled_weight_decay=decoupled_weight_decay,
        maximize=maximize,
    )
