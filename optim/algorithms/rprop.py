"""Rprop: steps whose lengths grow while the gradient keeps its sign."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import Rule, Scalar, Step, leafwise
from ..pieces.scaling import scale
from ..transformation import GradientTransformation, chain, elementwise
from .recipes import uphill

__all__ = ["ScaleByRpropState", "rprop", "scale_by_rprop"]


class ScaleByRpropState(NamedTuple):
    """The gradients of the last step, 0 where it was taken back, and the lengths of steps.

    Both have torch's names.
    """

    prev: tree.PyTree
    step_size: tree.PyTree


def scale_by_rprop(
    learning_rate: Scalar = 1e-2,
    eta_minus: Scalar = 0.5,
    eta_plus: Scalar = 1.2,
    min_step_size: Scalar = 1e-6,
    max_step_size: Scalar = 50,
) -> GradientTransformation:
    """Replace gradients by signed steps (Riedmiller & Braun 1993; Igel & Huesken 2000, iRprop-).

    For each element, with `d_0 = learning_rate`::

        s = sign(g_{t-1}) sign(g_t)
        d_t = clamp(d_{t-1} * (eta_plus if s > 0, eta_minus if s < 0, else 1), min, max)
        g_t <- 0  where s < 0
        update = sign(g_t) d_t

    That is torch's rule. optax's gives the update of each step one step late, and does not clamp
    steps that keep their length. (torch takes the sign of the product, which vanishes when both
    gradients are tiny.) A NaN has no sign: an element whose gradient is NaN does not move.

    Raises
    ------
    TypeError
        `learning_rate` is a schedule.
    ValueError
        `learning_rate` is negative, not `0 < eta_minus < 1 < eta_plus`, not
        `0 <= min_step_size <= max_step_size`, or, in `update`, a gradient does not match the state.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> rprop = optim.scale_by_rprop(0.5)
    >>> state = rprop.init({"w": torch.zeros(2)})
    >>> for gradient in ([3.0, 3.0], [2.0, -7.0]):
    ...     updates, state = rprop.update({"w": torch.tensor(gradient)}, state)
    >>> updates, state.step_size
    ({'w': tensor([0.6000, 0.0000])}, {'w': tensor([0.6000, 0.2500])})
    """
    _check_start("learning_rate", learning_rate)
    _check_growth("eta_minus, eta_plus", (eta_minus, eta_plus))
    _check_limits("min_step_size, max_step_size", (min_step_size, max_step_size))

    def init(params: tree.PyTree) -> ScaleByRpropState:
        start = leafwise(lambda p: torch.zeros_like(p) + learning_rate, {"params": params})
        return ScaleByRpropState(prev=tree.zeros_like(params), step_size=start)

    def rule(g: Tensor, prev: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        s = g.sign() * prev.sign()
        factor = (1 + s * eta_plus).clamp_min(eta_minus).clamp_max(eta_plus)  # 1 + 0 is between
        d = (d * factor).clamp_min(min_step_size).clamp_max(max_step_size)
        g = torch.where(s < 0, 0.0, g)
        return g.sign() * d, g, d

    def step(state: ScaleByRpropState, params: tree.PyTree | None) -> Step:
        checks.state("scale_by_rprop", state, ScaleByRpropState)
        reads = {"state.prev": state.prev, "state.step_size": state.step_size}
        return Step([Rule(rule, reads, writes=2)], ScaleByRpropState)

    return elementwise(init, step)


def rprop(
    lr: Scalar = 1e-2,
    etas: tuple[Scalar, Scalar] = (0.5, 1.2),
    step_sizes: tuple[Scalar, Scalar] = (1e-6, 50),
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Return resilient backpropagation, `torch.optim.Rprop`: `scale_by_rprop` downhill.

    Parameters
    ----------
    lr
        The length of the first steps, a number or a 0-d tensor. It is no factor of later ones, so
        that `lr=0` does not stop Rprop, whose steps are at least `step_sizes[0]` long, and a
        schedule is refused.
    etas
        What a step is multiplied by when the gradient changes its sign, and when it does not.
    step_sizes
        The lengths of the shortest and the longest steps.
    maximize
        Climb instead of descend.

    Raises
    ------
    TypeError
        `lr` is a schedule.
    ValueError
        A hyperparameter is out of its range; in `update`, a gradient does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.rprop(lr=0.1)
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": torch.tensor([25.0])}, state, params)
    >>> optim.apply_updates(params, updates)
    {'w': tensor([0.9000])}
    """
    _check_start("lr", lr)
    _check_growth("etas", etas)
    _check_limits("step_sizes", step_sizes)
    return chain(*uphill(maximize), scale_by_rprop(lr, *etas, *step_sizes), scale(-1))


def _check_start(name: str, value: Scalar) -> None:
    if callable(value):
        raise TypeError(
            f"{name}: got a schedule, but Rprop's steps only start with this length, and then have "
            "lengths of their own. Give a number, or chain(optim.rprop(), "
            "optim.scale_by_schedule(...)) to scale all steps."
        )
    checks.non_negative(name, value)


def _check_growth(name: str, etas: tuple[Scalar, Scalar]) -> None:
    checks.pair(name, etas)
    for eta in etas:
        checks.scalar(name, eta)
    shrink, grow = etas
    too_large = not isinstance(shrink, Tensor) and not 0 < shrink < 1
    too_small = not isinstance(grow, Tensor) and not grow > 1
    if too_large or too_small:
        raise ValueError(f"{name}: expected a number in (0, 1) and one above 1, got {etas}.")


def _check_limits(name: str, step_sizes: tuple[Scalar, Scalar]) -> None:
    checks.pair(name, step_sizes)
    for step_size in step_sizes:
        checks.non_negative(name, step_size)
    known = not any(isinstance(step_size, Tensor) for step_size in step_sizes)
    if known and step_sizes[0] > step_sizes[1]:
        raise ValueError(f"{name}: expected the smaller one first, got {step_sizes}.")
