"""Learning rates that depend on what has been: lowered on a plateau, multiplied step by step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import Rule, Scalar, Step, leafwise
from ..moments import first_step
from ..transformation import GradientTransformation, elementwise

__all__ = [
    "ReduceOnPlateauState",
    "ScaleByRunningProductState",
    "reduce_on_plateau",
    "scale_by_running_product",
]


class ReduceOnPlateauState(NamedTuple):
    """What the updates are multiplied by, and how the values have been; 0-d tensors.

    Attributes
    ----------
    scale
        The factor of the updates, float64.
    best_value
        The best value so far, float64.
    plateau_count
        How many values since then have not been better, int64 (torch's `num_bad_epochs`).
    cooldown_count
        For how many values yet none is counted, int64.
    avg_value, count
        The mean of the values that are being averaged, float64, and how many they are, int64.
    """

    scale: Tensor
    best_value: Tensor
    plateau_count: Tensor
    cooldown_count: Tensor
    avg_value: Tensor
    count: Tensor  # type: ignore[assignment]  # hides tuple.count


def reduce_on_plateau(
    mode: str = "min",
    factor: Scalar = 0.1,
    patience: int = 10,
    threshold: Scalar = 1e-4,
    threshold_mode: str = "rel",
    cooldown: int = 0,
    min_lr: Scalar = 0.0,
    eps: Scalar = 1e-8,
    *,
    lr: Scalar = 1.0,
    accumulation_size: int = 1,
) -> GradientTransformation:
    """Multiply updates by a scale that is lowered when a value has stopped getting better.

    torch's `ReduceLROnPlateau` for the scale: when more than `patience` values in a row were not
    better than the best before them, `scale` becomes `max(scale * factor, min_lr)`. `update` takes
    the value, a loss say, as `value=`; the updates of this very call already have the new scale.

    The scale begins at `lr`. After a recipe whose own `lr` is 1 it is the learning rate, and
    `min_lr` and `eps` mean what they mean in torch; with the default it is a factor of whatever
    rate the recipe has, a schedule too, and so are they.

    Parameters
    ----------
    mode
        What is better: `"min"`, a lower value, or `"max"`, a higher one.
    factor
        What the scale is multiplied by, in [0, 1).
    patience
        How many values that are not better are tolerated.
    threshold, threshold_mode
        How much better is better: than `best * (1 - threshold)` for `"rel"` (`1 + threshold` with
        `"max"`), than `best - threshold` for `"abs"` (`+`).
    cooldown
        For how many values after a reduction none is counted.
    min_lr
        The lower bound of the scale.
    eps
        A reduction that is not larger than this is left out.
    lr
        The scale at first.
    accumulation_size
        How many values are averaged before they are judged as one (optax's): losses of
        minibatches are noisy.

    Raises
    ------
    ValueError
        An argument is out of its range, or, in `update`, `value` is missing or not one number. (NaN
        and infinities are values; a NaN is never better.)

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.chain(
    ...     optim.sgd(lr=1.0), optim.reduce_on_plateau(factor=0.5, patience=1, lr=0.1))
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = optimizer.init(params)
    >>> for loss in (3.0, 2.0, 2.0, 2.0):
    ...     updates, state = optimizer.update(params, state, params, value=loss)
    >>> optim.get(state, "scale")
    tensor(0.0500, dtype=torch.float64)
    """
    better_than = _comparison(mode, threshold, threshold_mode)
    checks.decay_rate("factor", factor)
    checks.non_negative_int("patience", patience)
    checks.non_negative_int("cooldown", cooldown)
    checks.non_negative("min_lr", min_lr)
    checks.non_negative("eps", eps)
    checks.non_negative("lr", lr)
    checks.count("accumulation_size", accumulation_size)

    def init(params: tree.PyTree) -> ReduceOnPlateauState:
        checks.trainable(params)
        zero = first_step(params)
        real = zero.double()
        return ReduceOnPlateauState(
            scale=real + lr,
            best_value=real + (math.inf if mode == "min" else -math.inf),
            plateau_count=zero,
            cooldown_count=zero.clone(),
            avg_value=real.clone(),
            count=zero.clone(),
        )

    def judged(state: ReduceOnPlateauState) -> ReduceOnPlateauState:
        """Return the state after `avg_value` has been judged."""
        better = better_than(state.avg_value, state.best_value)
        cooling = state.cooldown_count > 0
        bad = torch.where(better | cooling, 0, state.plateau_count + 1)
        stuck = bad > patience
        lowered = torch.clamp(state.scale * factor, min=min_lr)
        return ReduceOnPlateauState(
            scale=torch.where(stuck & (state.scale - lowered > eps), lowered, state.scale),
            best_value=torch.where(better, state.avg_value, state.best_value),
            plateau_count=torch.where(stuck, 0, bad),
            cooldown_count=torch.where(stuck, cooldown, state.cooldown_count - cooling.long()),
            avg_value=torch.zeros_like(state.avg_value),
            count=torch.zeros_like(state.count),
        )

    def update(
        updates: tree.PyTree,
        state: ReduceOnPlateauState,
        params: tree.PyTree | None = None,
        *,
        value: Scalar | None = None,
        **extra: Any,
    ) -> tuple[tree.PyTree, ReduceOnPlateauState]:
        checks.state("reduce_on_plateau", state, ReduceOnPlateauState)
        average = (state.count * state.avg_value + _number(value)) / (state.count + 1)
        state = state._replace(avg_value=average, count=state.count + 1)
        after = judged(state)
        if accumulation_size > 1:
            full = state.count == accumulation_size
            fields = zip(after, state, strict=True)
            after = ReduceOnPlateauState(*[torch.where(full, new, old) for new, old in fields])
        return leafwise(lambda g: g * after.scale, {"updates": updates}), after

    return GradientTransformation(init, update)


class ScaleByRunningProductState(NamedTuple):
    """The number of updates made (int64) and the product so far (float64), 0-d tensors."""

    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    product: Tensor


def scale_by_running_product(factor: Callable[[Tensor], Scalar]) -> GradientTransformation:
    """Multiply the updates of step `t = 0, 1, ...` by `factor(1) factor(2) ... factor(t)`.

    torch's `MultiplicativeLR`, whose `lr_lambda` this is. The function receives an int64 0-d tensor
    and returns a number or a 0-d tensor.

    Raises
    ------
    TypeError
        `factor` is no function, or, in `update`, its value is not a number.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> halving = optim.scale_by_running_product(lambda step: 0.5)
    >>> state = halving.init(torch.tensor(8.0))
    >>> for _ in range(3):
    ...     updates, state = halving.update(torch.tensor(8.0), state)
    >>> updates
    tensor(2.)
    """
    checks.schedule("factor", factor)

    def init(params: tree.PyTree) -> ScaleByRunningProductState:
        checks.trainable(params)
        count = first_step(params)
        return ScaleByRunningProductState(count, torch.ones_like(count, dtype=torch.float64))

    def step(state: ScaleByRunningProductState, params: tree.PyTree | None) -> Step:
        checks.state("scale_by_running_product", state, ScaleByRunningProductState)
        count = state.count + 1
        following = factor(count)
        checks.scalar("factor(step)", following)
        rule = Rule(lambda update: update * state.product, reads={})
        new_state = ScaleByRunningProductState(count, state.product * following)
        return Step([rule], lambda: new_state)

    return elementwise(init, step)


def _comparison(
    mode: str, threshold: Scalar, threshold_mode: str
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the function that says whether a value is better than the best so far."""
    checks.one_of("mode", mode, ("min", "max"))
    checks.non_negative("threshold", threshold)
    checks.one_of("threshold_mode", threshold_mode, ("rel", "abs"))
    sign = -1 if mode == "min" else 1

    def better_than(value: Tensor, best: Tensor) -> Tensor:
        margin = sign * threshold
        bar = best * (1 + margin) if threshold_mode == "rel" else best + margin
        return value < bar if mode == "min" else value > bar

    return better_than


def _number(value: Any) -> Scalar:
    """Return the value that is to be judged: any real number, also one that is not finite."""
    if value is None:
        raise ValueError(
            "reduce_on_plateau.update needs the value that is to get better: call "
            "update(updates, state, params, value=loss)."
        )
    if isinstance(value, Tensor):
        if value.ndim or value.is_complex() or value.dtype is torch.bool:
            raise ValueError(
                "value: expected one real number, got a tensor of shape "
                f"{tuple(value.shape)}, {value.dtype}."
            )
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"value: expected a number or a 0-d tensor, got {value!r}.")
    number: Scalar = value
    return number
