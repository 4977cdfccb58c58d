"""Lookahead: k steps forward, one step back."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import Scalar, leafwise
from ..moments import first_step
from ..transformation import GradientTransformation, State, apply_updates

__all__ = ["LookaheadState", "lookahead"]


class LookaheadState(NamedTuple):
    """The number of steps since the last synchronization (int64, 0-d), and the slow parameters.

    `inner_state` is that of the wrapped optimizer.
    """

    steps_since_sync: Tensor
    slow: tree.PyTree
    inner_state: State


def lookahead(
    base: GradientTransformation,
    sync_period: int = 5,
    slow_step_size: Scalar = 0.5,
    reset_state: bool = False,
) -> GradientTransformation:
    """Let `base` run ahead, and return half the way every few steps (Zhang et al. 2019).

    The fast parameters theta are those that are trained; the slow ones phi stand in the state
    (arXiv:1907.08610, algorithm 1)::

        theta <- theta + base(g)
        every sync_period steps:
            phi <- phi + slow_step_size (theta - phi)
            theta <- phi

    Evaluate `optim.get(state, "slow")`. Apply the updates as they are: nothing may follow in a
    chain. (optax keeps the slow parameters beside the fast ones, in a pair that is trained.)

    Parameters
    ----------
    base
        The optimizer that is wrapped. It does not see that parameters are set back.
    sync_period
        The number of steps forward, an int that is at least 1.
    slow_step_size
        How much of the way is kept, usually between 0 and 1.
    reset_state
        Give `base` a new state after every synchronization.

    Raises
    ------
    TypeError, ValueError
        An argument is not of its kind; in `update`, `params` is missing or does not match.

    Examples
    --------
    >>> import torch
    >>> import purefn.functional as pf
    >>> from purefn import optim
    >>> optimizer = optim.lookahead(optim.sgd(lr=0.25), sync_period=2)
    >>> def step(params, state):
    ...     grads = pf.grad(lambda params: params["w"].square().sum())(params)
    ...     updates, state = optimizer.update(grads, state, params)
    ...     return optim.apply_updates(params, updates), state
    >>> params = {"w": torch.tensor([8.0])}
    >>> state = optimizer.init(params)
    >>> for _ in range(3):
    ...     params, state = step(params, state)
    >>> params, optim.get(state, "slow")
    ({'w': tensor([2.5000])}, {'w': tensor([5.])})
    """
    checks.transformation("lookahead: base", base)
    checks.count("sync_period", sync_period)
    checks.scalar("slow_step_size", slow_step_size)
    checks.flag("reset_state", reset_state)

    def init(params: tree.PyTree) -> LookaheadState:
        checks.trainable(params)
        slow = tree.map(torch.clone, params)
        return LookaheadState(first_step(params), slow, base.init(params))

    def update(
        updates: tree.PyTree,
        state: LookaheadState,
        params: tree.PyTree | None = None,
        **extra: Any,
    ) -> tuple[tree.PyTree, LookaheadState]:
        checks.state("lookahead", state, LookaheadState)
        checks.given("lookahead", params)
        updates, inner_state = base.update(updates, state.inner_state, params, **extra)
        steps = (state.steps_since_sync + 1) % sync_period
        back = steps == 0

        def rule(u: Tensor, x: Tensor, slow: Tensor) -> tuple[Tensor, Tensor]:
            met = slow + slow_step_size * (x + u - slow)
            u = torch.where(back, met - x, u)
            return u, torch.where(back, x + u, slow)  # to the bit what the parameters will be

        trees = {"updates": updates, "params": params, "state.slow": state.slow}
        updates, slow = leafwise(rule, trees, results=2)
        if reset_state:
            fresh = base.init(apply_updates(params, updates))
            inner_state = tree.map(lambda new, old: torch.where(back, new, old), fresh, inner_state)
        return updates, LookaheadState(steps, slow, inner_state)

    return GradientTransformation(init, update)
