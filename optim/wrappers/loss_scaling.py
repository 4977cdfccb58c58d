"""Scaling of losses, so that small gradients are not lost in float16."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import Scalar
from ..moments import first_step
from ..transformation import GradientTransformation, State
from .conditions import all_finite, update_if

__all__ = ["DynamicLossScaleState", "dynamic_loss_scale"]


class DynamicLossScaleState(NamedTuple):
    """The factor of the next loss, and how many steps there have been since it last changed.

    `scale` is a 0-d tensor of float32, `growth_tracker` one of int64.
    """

    scale: Tensor
    growth_tracker: Tensor
    inner_state: State


def dynamic_loss_scale(
    inner: GradientTransformation,
    init_scale: Scalar = 2.0**16,
    growth_factor: Scalar = 2.0,
    backoff_factor: Scalar = 0.5,
    growth_interval: int = 2000,
) -> GradientTransformation:
    """Give `inner` the gradients of a loss that was multiplied by a scale, which it adapts.

    The scale is in the state; multiply the loss by it, and the gradients that `update` is given
    are divided by it::

        grads = pf.grad(lambda params: loss(params) * optim.get(state, "scale"))(params)
        updates, state = optimizer.update(grads, state, params)

    Where a gradient is infinite or NaN, the step is skipped (updates are 0, the state inside
    stays) and the scale multiplied by `backoff_factor`, as long as it stays above 0. After
    `growth_interval` finite steps in a row it is multiplied by `growth_factor`, as long as it stays
    finite. Names, defaults and rules are those of `torch.amp.GradScaler`; Micikevicius et al. 2017,
    Mixed precision training (arXiv:1710.03740), section 3.2. bfloat16 has the range of float32 and
    needs no scale.

    Parameters
    ----------
    inner
        What takes the step. Clipping and noise belong inside, after the division.
    init_scale
        The first scale, a positive number within the range of float32.
    growth_factor
        A number above 1.
    backoff_factor
        A number within (0, 1).
    growth_interval
        A positive int.

    Raises
    ------
    TypeError, ValueError
        An argument is not one of the above. On use: a gradient is float16, in which the divided
        number would be lost again; keep parameters in float32, as `nn.precision` does.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.dynamic_loss_scale(optim.sgd(lr=1.0), init_scale=8.0)
    >>> state = optimizer.init({"w": torch.zeros(1)})
    >>> optimizer.update({"w": torch.tensor([8.0])}, state)[0]
    {'w': tensor([-1.])}
    >>> updates, state = optimizer.update({"w": torch.tensor([torch.inf])}, state)
    >>> updates, optim.get(state, "scale")
    ({'w': tensor([0.])}, tensor(4.))
    """
    checks.transformation("dynamic_loss_scale: inner", inner)
    checks.positive("init_scale", init_scale)
    if not isinstance(init_scale, Tensor) and not 0 < _in_float32(init_scale) < math.inf:
        raise ValueError(f"init_scale: expected a number that float32 holds, got {init_scale}.")
    checks.above_one("growth_factor", growth_factor)
    checks.inner_fraction("backoff_factor", backoff_factor)
    checks.count("growth_interval", growth_interval)

    def init(params: tree.PyTree) -> DynamicLossScaleState:
        none = first_step(params)
        scale = torch.ones((), dtype=torch.float32, device=none.device) * init_scale
        return DynamicLossScaleState(scale.float(), none, inner.init(params))

    def update(
        updates: tree.PyTree,
        state: DynamicLossScaleState,
        params: tree.PyTree | None = None,
        **extra: Any,
    ) -> tuple[tree.PyTree, DynamicLossScaleState]:
        checks.state("dynamic_loss_scale", state, DynamicLossScaleState)
        checks.trainable(updates, "updates")
        _check_range(updates)
        divided = _divided(updates, state.scale)  # which by a scale below 1 may overflow
        finite = all_finite(divided, like=state.growth_tracker)
        updates, inner_state = update_if(
            finite,
            functools.partial(inner.update, **extra),
            (divided, state.inner_state, params),
            otherwise=tree.zeros_like,
        )
        grown = (state.scale * growth_factor).float()
        in_a_row = state.growth_tracker + 1
        is_time = finite & (in_a_row == growth_interval)
        scale = torch.where(is_time & grown.isfinite(), grown, state.scale)
        smaller = (state.scale * backoff_factor).float()
        smaller = torch.where(smaller > 0, smaller, state.scale)
        scale = torch.where(finite, scale, smaller)
        in_a_row = torch.where(finite & ~is_time, in_a_row, 0)
        return updates, DynamicLossScaleState(scale, in_a_row, inner_state)

    return GradientTransformation(init, update)


def _in_float32(number: float) -> float:
    return torch.tensor(number, dtype=torch.float64).float().item()


def _divided(updates: tree.PyTree, scale: Tensor) -> tree.PyTree:
    return tree.map(lambda update: (update / scale.to(update.device)).to(update.dtype), updates)


def _check_range(updates: tree.PyTree) -> None:
    for index, leaf in enumerate(tree.leaves(updates)):
        if leaf.dtype == torch.float16:
            raise TypeError(
                f"dynamic_loss_scale: {tree.path_strings(updates, 'updates')[index]} is float16, "
                "in which gradients that were scaled are lost again when they are divided; keep "
                "the parameters in float32, as `nn.precision` does."
            )
