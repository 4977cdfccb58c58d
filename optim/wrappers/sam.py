"""Sharpness-aware minimization: the gradient is taken where the loss nearby is largest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import Scalar, leafwise
from ..pieces.clipping import global_norm
from ..transformation import GradientTransformation, State, apply_updates

__all__ = ["SamState", "sam"]


class SamState(NamedTuple):
    """The state of the wrapped optimizer."""

    inner_state: State


def sam(
    base: GradientTransformation, rho: Scalar = 0.05, adaptive: bool = False
) -> GradientTransformation:
    """Give `base` the gradient at the worst point nearby (Foret et al. 2021, arXiv:2010.01412).

    ::

        e = rho g / |g|                                 |.| over all parameters together
        e = rho theta^2 g / | |theta| g |               if adaptive (elementwise products)
        update = base(gradient at theta + e)

    `update` needs the function that computes gradients (of the same batch), and calls it once::

        updates, state = optimizer.update(grads, state, params, grad_fn=grad_fn)

    `adaptive` is ASAM (Kwon et al. 2021, arXiv:2102.11600), without its `eta`; its authors have
    `rho` ten times larger. Where the gradient is zero, `e` is. The loss is to be minimized: a
    `base` with `maximize=True` would look for the flattest points the wrong way.

    Parameters
    ----------
    base
        The optimizer that is wrapped.
    rho
        How far away, a number or 0-d tensor that is at least 0.
    adaptive
        Measure distances relative to the parameters.

    Raises
    ------
    TypeError
        `base` is no transformation, or, in `update`, `grad_fn` is missing.
    ValueError
        `rho` is negative, or, in `update`, `params` is missing, or a gradient does not match.

    Examples
    --------
    >>> import torch
    >>> import purefn.functional as pf
    >>> from purefn import optim
    >>> optimizer = optim.sam(optim.sgd(lr=0.25), rho=1.0)
    >>> def step(params, state):
    ...     grad_fn = pf.grad(lambda params: params["w"].square().sum())
    ...     updates, state = optimizer.update(grad_fn(params), state, params, grad_fn=grad_fn)
    ...     return optim.apply_updates(params, updates), state
    >>> params = {"w": torch.tensor([8.0])}
    >>> step(params, optimizer.init(params))[0]
    {'w': tensor([3.5000])}
    """
    checks.transformation("sam: base", base)
    checks.non_negative("rho", rho)
    checks.flag("adaptive", adaptive)

    def init(params: tree.PyTree) -> SamState:
        return SamState(base.init(params))

    def update(
        updates: tree.PyTree,
        state: SamState,
        params: tree.PyTree | None = None,
        *,
        grad_fn: Callable[[tree.PyTree], tree.PyTree] | None = None,
        **extra: Any,
    ) -> tuple[tree.PyTree, SamState]:
        checks.state("sam", state, SamState)
        checks.given("sam", params)
        if not callable(grad_fn):
            raise TypeError(
                f"sam.update: grad_fn: expected the function that returns the gradients at given "
                f"parameters, got {grad_fn!r}; call update(grads, state, params, grad_fn=grad_fn)."
            )
        nearby = apply_updates(params, _worst_step(updates, params))
        grads = grad_fn(nearby)
        checks.same_leaves({"params": params, "grad_fn(params)": grads})
        updates, inner_state = base.update(grads, state.inner_state, params, **extra)
        return updates, SamState(inner_state)

    def _worst_step(grads: tree.PyTree, params: tree.PyTree) -> tree.PyTree:
        trees = {"updates": grads, "params": params}
        scaled = leafwise(lambda g, x: g * x.abs() if adaptive else g, trees)
        norm = global_norm(scaled)
        norm = torch.where(norm > 0, norm, torch.ones_like(norm))

        def step(g: Tensor, x: Tensor) -> Tensor:
            return rho * (g / norm) * (x.abs() if adaptive else 1)

        return leafwise(step, {"updates": scaled, "params": params})

    return GradientTransformation(init, update)
