"""Averages over time: of updates, and of parameters, to be evaluated in their place.

Those of parameters stand at the end of a chain, and `optim.get(state, "average")` is the average.
The uniform average from some step on, that of torch.optim.ASGD, is `average_params`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import Rule, Scalar, Step, leafwise
from ..moments import bias_correction, first_moment, first_step
from ..transformation import GradientTransformation, apply_updates, elementwise
from ..whole_tree import widened

__all__ = [
    "AveragedParamsState",
    "EmaState",
    "debiased_ema_params",
    "ema",
    "ema_params",
    "polynomial_average_params",
    "swa_params",
    "warmup_ema_params",
]


class EmaState(NamedTuple):
    """The number of steps (int64, 0-d), and the average of updates, started at zero."""

    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    ema: tree.PyTree


class AveragedParamsState(NamedTuple):
    """The number of steps (int64, 0-d), and the average of parameters.

    The average is in float32 where the parameters are narrower.
    """

    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    average: tree.PyTree


def ema(decay: Scalar, debias: bool = True) -> GradientTransformation:
    """Replace updates by their exponential moving average.

    ::

        ema_t = decay ema_{t-1} + (1 - decay) g_t          (ema_0 = 0)
        update = ema_t / (1 - decay^t)   if debias   else ema_t

    Without `debias` the updates are the new `state.ema`, the same tensors: where `ema` is the last
    of a chain, donate one of the two to a later call, not both.

    Raises
    ------
    ValueError
        `decay` lies outside [0, 1), or, in `update`, an update does not match the state.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> smooth = optim.ema(0.5)
    >>> state = smooth.init({"w": torch.zeros(1)})
    >>> for gradient in (1.0, 4.0):
    ...     updates, state = smooth.update({"w": torch.tensor([gradient])}, state)
    >>> updates, state.ema
    ({'w': tensor([3.])}, {'w': tensor([2.2500])})
    """
    checks.decay_rate("decay", decay)
    checks.flag("debias", debias)

    def init(params: tree.PyTree) -> EmaState:
        checks.trainable(params)
        return EmaState(first_step(params), tree.zeros_like(params))

    def step(state: EmaState, params: tree.PyTree | None) -> Step:
        checks.state("ema", state, EmaState)
        count = state.count + 1
        correction = bias_correction(decay, count)

        def rule(g: Tensor, average: Tensor) -> tuple[Tensor, Tensor]:
            average = first_moment(average, g, decay)
            return (average / correction if debias else average), average

        reads = {"state.ema": state.ema}
        return Step([Rule(rule, reads, writes=1)], lambda average: EmaState(count, average))

    return elementwise(init, step)


def ema_params(decay: Scalar) -> GradientTransformation:
    """Leave updates as they are, and average the parameters to which they lead, exponentially.

    ::

        theta_t = theta_{t-1} + update
        average_t = decay average_{t-1} + (1 - decay) theta_t      (average_1 = theta_1)

    What `torch.optim.swa_utils.AveragedModel` does with `get_ema_multi_avg_fn(decay)`, called after
    every step. It stands at the end of a chain. (Infinite parameters make the average NaN.)

    Raises
    ------
    ValueError
        `decay` lies outside [0, 1), or, in `update`, `params` is missing or does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.chain(optim.sgd(lr=1.0), optim.ema_params(0.75))
    >>> params = {"w": torch.tensor([0.0])}
    >>> state = optimizer.init(params)
    >>> for gradient in (-4.0, -4.0):
    ...     updates, state = optimizer.update({"w": torch.tensor([gradient])}, state, params)
    ...     params = optim.apply_updates(params, updates)
    >>> params, optim.get(state, "average")
    ({'w': tensor([8.])}, {'w': tensor([5.])})
    """
    checks.decay_rate("decay", decay)

    def kept(count: Tensor) -> Tensor:
        later = torch.zeros_like(count, dtype=torch.float64) + decay
        return torch.where(count == 1, torch.zeros_like(later), later)

    return _averaging("ema_params", kept)


def debiased_ema_params(decay: Scalar) -> GradientTransformation:
    """Leave updates as they are, and average parameters exponentially from the first step on.

    Where `ema_params` long remembers the first parameters, here each weighs by its age alone, as in
    the moments of Adam (Kingma & Ba 2014, arXiv:1412.6980, section 3)::

        theta_t = theta_{t-1} + update
        average_t = (1 - decay) sum_{i=1}^t decay^{t-i} theta_i / (1 - decay^t)

    It stands at the end of a chain.

    Raises
    ------
    ValueError
        `decay` lies outside [0, 1), or, in `update`, `params` is missing or does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.chain(optim.sgd(lr=1.0), optim.debiased_ema_params(0.5))
    >>> params = {"w": torch.tensor([0.0])}
    >>> state = optimizer.init(params)
    >>> for gradient in (-3.0, -3.0):
    ...     updates, state = optimizer.update({"w": torch.tensor([gradient])}, state, params)
    ...     params = optim.apply_updates(params, updates)
    >>> params, optim.get(state, "average")
    ({'w': tensor([6.])}, {'w': tensor([5.])})
    """
    checks.decay_rate("decay", decay)

    def kept(count: Tensor) -> Tensor:
        # Of the weights 1 + decay + ... + decay^(t-1), all but the newest.
        rate = torch.zeros_like(count, dtype=torch.float64) + decay
        older = rate * bias_correction(rate, count - 1) / bias_correction(rate, count)
        return torch.where(count == 1, torch.zeros_like(older), older)

    return _averaging("debiased_ema_params", kept)


def warmup_ema_params(decay: Scalar) -> GradientTransformation:
    """Leave updates as they are, and average parameters exponentially, over few at the beginning.

    ::

        theta_t = theta_{t-1} + update
        average_t = d_t average_{t-1} + (1 - d_t) theta_t,    d_t = min(decay, (1 + t) / (10 + t))

    The rate is that of TensorFlow's `ExponentialMovingAverage` with `num_updates=t`, so the average
    follows while the parameters move fast, and `average_1 = theta_1`. It stands at the end of a
    chain.

    Raises
    ------
    ValueError
        `decay` lies outside [0, 1), or, in `update`, `params` is missing or does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.chain(optim.sgd(lr=1.0), optim.warmup_ema_params(0.999))
    >>> params = {"w": torch.tensor([0.0])}
    >>> state = optimizer.init(params)
    >>> for gradient in (-4.0, -4.0):
    ...     updates, state = optimizer.update({"w": torch.tensor([gradient])}, state, params)
    ...     params = optim.apply_updates(params, updates)
    >>> params, optim.get(state, "average")
    ({'w': tensor([8.])}, {'w': tensor([7.])})
    """
    checks.decay_rate("decay", decay)

    def kept(count: Tensor) -> Tensor:
        t = count.double()
        rate = ((1 + t) / (10 + t)).clamp(max=decay)
        return torch.where(count == 1, torch.zeros_like(rate), rate)

    return _averaging("warmup_ema_params", kept)


def swa_params(start: int, every: int = 1) -> GradientTransformation:
    """Leave updates as they are, and average the parameters after certain steps, all alike.

    Stochastic weight averaging (Izmailov et al. 2018, arXiv:1803.05407): with a learning rate that
    stays high, or that falls in cycles of `every` steps, the mean of parameters from afar apart::

        theta_t = theta_{t-1} + update
        average_t = mean of theta_s over s = start, start + every, ... up to t

    and `theta_t` before `start`. What `torch.optim.swa_utils.AveragedModel` keeps when it is called
    after these steps. It stands at the end of a chain.

    The running statistics of a batch norm are not parameters. To have those of the averaged model,
    what `torch.optim.swa_utils.update_bn` computes, put `nn.batch_norm(momentum=None)` in the place
    of each (`nn.at`), begin with a state of zeros, and run batches through with `train=True`.

    Parameters
    ----------
    start
        The first step whose result is averaged, counted from 1.
    every
        How many steps there are from one to the next, at least 1.

    Raises
    ------
    TypeError, ValueError
        An option is no integer of at least 1, or, in `update`, `params` is missing or does not
        match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.chain(optim.sgd(lr=1.0), optim.swa_params(start=2, every=2))
    >>> params = {"w": torch.tensor([0.0])}
    >>> state = optimizer.init(params)
    >>> for _ in range(5):
    ...     updates, state = optimizer.update({"w": torch.tensor([-1.0])}, state, params)
    ...     params = optim.apply_updates(params, updates)
    >>> params, optim.get(state, "average")
    ({'w': tensor([5.])}, {'w': tensor([3.])})
    """
    checks.count("start", start)
    checks.count("every", every)

    def kept(count: Tensor) -> Tensor:
        later = (count - start).clamp(min=0)
        before = (later // every).double()
        is_between = later % every != 0
        return torch.where(is_between, torch.ones_like(before), before / (before + 1))

    return _averaging("swa_params", kept)


def polynomial_average_params(gamma: Scalar = 8.0) -> GradientTransformation:
    """Leave updates as they are, and average the parameters to which they lead, later ones more.

    Polynomial-decay averaging (Shamir & Zhang 2013, arXiv:1212.1824), with the default of DoG's
    authors (Ivgi et al. 2023)::

        theta_t = theta_{t-1} + update
        average_t = (1 - w_t) average_{t-1} + w_t theta_t,    w_t = (1 + gamma) / (t + gamma)

    With `gamma=0` it is the uniform average of Polyak & Juditsky 1992, what
    `torch.optim.swa_utils.AveragedModel` keeps. It stands at the end of a chain.

    Raises
    ------
    ValueError
        `gamma` is negative, or, in `update`, `params` is missing or does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.chain(optim.sgd(lr=1.0), optim.polynomial_average_params(gamma=0))
    >>> params = {"w": torch.tensor([0.0])}
    >>> state = optimizer.init(params)
    >>> for gradient in (-4.0, -4.0):
    ...     updates, state = optimizer.update({"w": torch.tensor([gradient])}, state, params)
    ...     params = optim.apply_updates(params, updates)
    >>> params, optim.get(state, "average")
    ({'w': tensor([8.])}, {'w': tensor([6.])})
    """
    checks.non_negative("gamma", gamma)

    def kept(count: Tensor) -> Tensor:
        return (count.double() - 1) / (count.double() + gamma)

    return _averaging("polynomial_average_params", kept)


def _averaging(name: str, kept: Callable[[Tensor], Tensor]) -> GradientTransformation:
    """Average the parameters after each step `t`, where `kept(t)` is the weight of those before."""

    def init(params: tree.PyTree) -> AveragedParamsState:
        checks.trainable(params)
        return AveragedParamsState(first_step(params), tree.map(torch.clone, widened(params)))

    def update(
        updates: tree.PyTree,
        state: AveragedParamsState,
        params: tree.PyTree | None = None,
        **extra: Any,
    ) -> tuple[tree.PyTree, AveragedParamsState]:
        checks.state(name, state, AveragedParamsState)
        checks.given(name, params)
        count = state.count + 1
        weight = kept(count)

        def rule(new: Tensor, old: Tensor) -> Tensor:
            # Exactly the new parameters where the weight is 0, and the old average where it is 1.
            return torch.where(weight == 1, old, new + (old - new) * weight)

        new = widened(apply_updates(params, updates))
        average = leafwise(rule, {"params": new, "state.average": state.average})
        return updates, AveragedParamsState(count, average)

    return GradientTransformation(init, update)
