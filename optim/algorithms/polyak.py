"""Polyak's step size: as far as the loss is above its minimum, over the squared slope."""

from __future__ import annotations

from typing import Any

import torch

from ...functional import tree
from .. import checks
from ..leafwise import Scalar, leafwise
from ..schedules import Schedule
from ..transformation import EmptyState, GradientTransformation
from ..whole_tree import norm, number, ratio
from .recipes import descent

__all__ = ["polyak_sgd", "scale_by_polyak"]


def scale_by_polyak(
    f_min: Scalar = 0.0,
    max_learning_rate: Scalar = 1.0,
    eps: Scalar = 0.0,
    variant: str = "sps",
) -> GradientTransformation:
    """Scale gradients by Polyak's step size (Loizou et al. 2021, arXiv:2002.10542).

    ::

        update = g min((value - f_min) / (|g|^2 + eps), max_learning_rate)

    with `value` the loss at the parameters, an extra argument: `update(grads, state, params,
    value=loss)`. The norm is taken over all leaves together. Where `|g|^2 + eps` is 0, so is the
    update. A loss below `f_min` gives a negative step; variant `"sps+"` (Garrigos et al. 2023,
    arXiv:2307.14528) takes 0 instead.

    Raises
    ------
    TypeError
        In `update`, `value` is no number.
    ValueError
        An argument is out of its range; in `update`, `value` is missing or not 0-d.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> polyak = optim.scale_by_polyak(max_learning_rate=10.0)
    >>> x = torch.tensor([3.0])                                   # of the loss x^2
    >>> updates, _ = polyak.update(2 * x, polyak.init(x), x, value=9.0)
    >>> updates
    tensor([1.5000])
    """
    checks.scalar("f_min", f_min)
    checks.positive("max_learning_rate", max_learning_rate)
    checks.non_negative("eps", eps)
    if variant not in ("sps", "sps+"):
        raise ValueError(f"variant: expected 'sps' or 'sps+', got {variant!r}.")

    def init(params: tree.PyTree) -> EmptyState:
        checks.trainable(params)
        return EmptyState()

    def update(
        updates: tree.PyTree,
        state: EmptyState,
        params: tree.PyTree | None = None,
        *,
        value: Scalar | None = None,
        **extra: Any,
    ) -> tuple[tree.PyTree, EmptyState]:
        checks.state("scale_by_polyak", state, EmptyState)
        if value is None:
            raise ValueError(
                "scale_by_polyak.update needs the loss at the parameters: call "
                "update(grads, state, params, value=loss)."
            )
        checks.scalar("value", value)
        gap = number(value, updates) - f_min
        if variant == "sps+":
            gap = torch.clamp(gap, min=0.0)
        rate = ratio(gap, norm(updates) ** 2 + eps, otherwise=torch.zeros_like(gap))
        rate = torch.clamp(rate, max=max_learning_rate)
        return leafwise(lambda g: g * rate, {"updates": updates}), state

    return GradientTransformation(init, update)


def polyak_sgd(
    lr: Scalar | Schedule = 1.0,
    *,
    max_lr: Scalar = 1.0,
    f_min: Scalar = 0.0,
    eps: Scalar = 0.0,
    variant: str = "sps",
) -> GradientTransformation:
    """Return gradient descent with Polyak's step size (Loizou et al. 2021, arXiv:2002.10542).

    ::

        theta <- theta - lr min((value - f_min) / (|g|^2 + eps), max_lr) g

    `update` needs the loss: `update(grads, state, params, value=loss)`.

    Parameters
    ----------
    lr
        A factor of the step size: a number, a 0-d tensor or a schedule; 0.5 is the paper's `c = 2`.
    max_lr
        The largest step size, before it is multiplied by `lr`.
    f_min
        The smallest loss there is: 0 for a model that can fit its data.
    eps
        Added to the squared norm of the gradient.
    variant
        `"sps"`, or `"sps+"` for no step where the loss is below `f_min`.

    Raises
    ------
    ValueError
        A hyperparameter is out of its range; in `update`, `value` is missing or a gradient does not
        match.

    Examples
    --------
    >>> import torch
    >>> import purefn.functional as pf
    >>> from purefn import optim
    >>> optimizer = optim.polyak_sgd()
    >>> params = {"w": torch.tensor([3.0, 4.0])}
    >>> state = optimizer.init(params)
    >>> value, grads = pf.value_and_grad(lambda params: params["w"].square().sum())(params)
    >>> updates, state = optimizer.update(grads, state, params, value=value)
    >>> optim.apply_updates(params, updates)
    {'w': tensor([1.5000, 2.0000])}
    """
    checks.positive("max_lr", max_lr)
    return descent(scale_by_polyak(f_min, max_lr, eps, variant), lr=lr)
