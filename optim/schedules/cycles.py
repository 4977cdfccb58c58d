"""Rates that rise before they fall (Smith 2017, arXiv:1506.01186; 2018, arXiv:1708.07120)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import checks
from ..leafwise import Scalar
from .curves import Schedule, half_cosine, line, of_step

__all__ = ["cyclic", "one_cycle", "one_cycle_momentum"]

_CURVES = {"cos": half_cosine, "linear": line}


def one_cycle(
    max_lr: Scalar,
    total_steps: int,
    pct_start: float = 0.3,
    anneal_strategy: str = "cos",
    div_factor: Scalar = 25.0,
    final_div_factor: Scalar = 1e4,
    three_phase: bool = False,
) -> Schedule:
    """Rise to `max_lr`, then fall far below where the rise began (`OneCycleLR`).

    The rate goes from `max_lr / div_factor` to `max_lr` in the fraction `pct_start` of the steps,
    and then to `max_lr / div_factor / final_div_factor`, with `three_phase` first back to where it
    began. It is there at step `total_steps - 1` and stays. (torch's raises an error after
    `total_steps` calls.)

    Parameters
    ----------
    max_lr
        The highest rate.
    total_steps
        The number of steps of the cycle.
    pct_start
        A float in [0, 1].
    anneal_strategy
        The way between two rates: `"cos"` or `"linear"`.
    div_factor, final_div_factor
        Positive numbers.
    three_phase
        Whether the fall mirrors the rise before it goes on to the end.

    Examples
    --------
    >>> one_cycle(1.0, total_steps=11, anneal_strategy="linear")(torch.tensor([0, 10]))
    tensor([4.0000e-02, 4.0000e-06], dtype=torch.float64)
    """
    checks.non_negative("max_lr", max_lr)
    checks.positive("div_factor", div_factor)
    checks.positive("final_div_factor", final_div_factor)
    first = max_lr / div_factor
    fall = [first] if three_phase else []
    rates = [first, max_lr, *fall, first / final_div_factor]
    return _phases(rates, total_steps, pct_start, anneal_strategy, three_phase)


def one_cycle_momentum(
    total_steps: int,
    pct_start: float = 0.3,
    anneal_strategy: str = "cos",
    base_momentum: Scalar = 0.85,
    max_momentum: Scalar = 0.95,
    three_phase: bool = False,
) -> Schedule:
    """Return the momentum (or Adam's `b1`) that goes with `one_cycle`, low where the rate is high.

    It goes from `max_momentum` to `base_momentum` and back; with `three_phase` it then stays. A
    momentum that changes from step to step is for `optim.inject_hyperparams`.

    >>> one_cycle_momentum(total_steps=10, pct_start=0.5)(torch.tensor([0, 4, 9]))
    tensor([0.9500, 0.8500, 0.9500], dtype=torch.float64)
    """
    checks.decay_rate("base_momentum", base_momentum)
    checks.decay_rate("max_momentum", max_momentum)
    rest = [max_momentum] if three_phase else []
    momenta = [max_momentum, base_momentum, max_momentum, *rest]
    return _phases(momenta, total_steps, pct_start, anneal_strategy, three_phase)


def _phases(
    heights: Sequence[Scalar],
    total_steps: int,
    pct_start: float,
    anneal_strategy: str,
    three_phase: bool,
) -> Schedule:
    """Go from each of the `heights` to the next in the phases of `OneCycleLR`."""
    checks.count("total_steps", total_steps)
    if not isinstance(pct_start, float):
        raise TypeError(f"pct_start: expected a float in [0, 1], got {pct_start!r}.")
    checks.fraction("pct_start", pct_start)
    checks.one_of("anneal_strategy", anneal_strategy, _CURVES)
    checks.flag("three_phase", three_phase)
    curve = _CURVES[anneal_strategy]
    last = total_steps - 1
    rise = pct_start * total_steps - 1
    ends = [rise, 2 * pct_start * total_steps - 2, last] if three_phase else [rise, last]
    phases = list(zip([0.0, *ends[:-1]], ends, heights[:-1], heights[1:], strict=True))

    def height(t: Tensor) -> Tensor:
        t = torch.clamp(t, max=last)

        def within(begin: float, end: float, start: Scalar, stop: Scalar) -> Tensor:
            return curve(start, stop, (t - begin) / ((end - begin) or 1.0))

        value = within(*phases[-1])
        for phase in reversed(phases[:-1]):
            value = torch.where(t <= phase[1], within(*phase), value)
        return value

    return of_step(height)


def cyclic(
    base_lr: Scalar,
    max_lr: Scalar,
    step_size_up: int = 2000,
    step_size_down: int | None = None,
    mode: str = "triangular",
    gamma: Scalar = 1.0,
    scale_fn: Callable[[Tensor], Scalar] | None = None,
    scale_mode: str = "cycle",
) -> Schedule:
    """Go up from `base_lr` to `max_lr` and down again, over and over (`CyclicLR`).

    The momentum that torch cycles the other way is `cyclic(max_momentum, base_momentum, ...)`.

    Parameters
    ----------
    base_lr, max_lr
        The rates at the foot and, before scaling, at the top of a cycle.
    step_size_up, step_size_down
        The steps up and down; as many down as up where the latter is None.
    mode
        The height of cycle `c = 1, 2, ...`: `"triangular"`, always `max_lr - base_lr`;
        `"triangular2"`, times `2**(1 - c)`; `"exp_range"`, times `gamma**t` at step `t`.
    gamma
        The base of `"exp_range"`.
    scale_fn
        A function that takes the place of `mode`, given `c` or `t` as a float64 tensor.
    scale_mode
        What `scale_fn` is given: `"cycle"` or `"iterations"`.

    Examples
    --------
    >>> cyclic(0.0, 1.0, step_size_up=2, mode="triangular2")(torch.arange(8))
    tensor([0.0000, 0.5000, 1.0000, 0.5000, 0.0000, 0.2500, 0.5000, 0.2500],
           dtype=torch.float64)
    """
    step_size_down = step_size_up if step_size_down is None else step_size_down
    checks.non_negative("base_lr", base_lr)
    checks.non_negative("max_lr", max_lr)
    checks.count("step_size_up", step_size_up)
    checks.count("step_size_down", step_size_down)
    checks.one_of("mode", mode, ("triangular", "triangular2", "exp_range"))
    checks.non_negative("gamma", gamma)
    checks.one_of("scale_mode", scale_mode, ("cycle", "iterations"))
    if scale_fn is not None and not callable(scale_fn):
        raise TypeError(f"scale_fn: expected a function or None, got {scale_fn!r}.")
    period = step_size_up + step_size_down

    def amplitude(t: Tensor) -> Scalar:
        cycle = 1 + torch.floor(t / period)
        if scale_fn is not None:
            return scale_fn(cycle if scale_mode == "cycle" else t)
        if mode == "triangular2":
            return 0.5 ** (cycle - 1)
        return gamma**t if mode == "exp_range" else 1.0

    def rate(t: Tensor) -> Tensor:
        place = torch.remainder(t, period)
        down = (period - place) / step_size_down
        height = torch.where(place <= step_size_up, place / step_size_up, down)
        return base_lr + (max_lr - base_lr) * height * amplitude(t)

    return of_step(rate)
