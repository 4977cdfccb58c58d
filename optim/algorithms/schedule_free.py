"""Schedule-free learning: averaging in the place of a decaying learning rate and of momentum."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...functional import tree
from .. import checks
from ..inspection import get
from ..leafwise import Rule, Scalar, Step, leafwise
from ..moments import bias_correction, first_step, second_moment
from ..schedules import Schedule
from ..transformation import GradientTransformation, State, elementwise
from ..whole_tree import number, rate_at, ratio
from .recipes import descent

__all__ = [
    "ScheduleFreeState",
    "schedule_free",
    "schedule_free_adamw",
    "schedule_free_eval_params",
    "schedule_free_sgd",
]


class ScheduleFreeState(NamedTuple):
    """What schedule-free learning remembers.

    `count` is the number of steps (int64, 0-d); `b1`, the sum of the weights so far and the largest
    learning rate are numbers (float64, 0-d); `z` are the parameters that `base` moves, whose state
    is `inner_state`.
    """

    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    b1: Tensor
    weight_sum: Tensor
    max_lr: Tensor
    z: tree.PyTree
    inner_state: State


def schedule_free(
    base: GradientTransformation,
    lr: Scalar | Schedule,
    b1: Scalar = 0.9,
    weight_lr_power: Scalar = 2.0,
    r: Scalar = 0.0,
) -> GradientTransformation:
    """Make `base` schedule-free (Defazio et al. 2024, arXiv:2405.15682).

    Gradients are taken at y, the parameters that are trained; `base` moves z; x, their average, is
    to be evaluated: `schedule_free_eval_params(state, params)`. ::

        z <- z + base(gradient at y)
        w_t = t^r max(lr_1, ..., lr_t)^weight_lr_power
        c_t = w_t / (w_1 + ... + w_t)
        x <- (1 - c_t) x + c_t z
        y <- (1 - b1) z + b1 x

    Only y and z are kept; x follows from them, and y moves by
    `c_t (z - y) + (1 - b1 (1 - c_t)) base(...)`. Apply the updates as they are: nothing may follow
    in a chain. `base` sees y as its parameters, so that its weight decay is of y.

    Parameters
    ----------
    base
        An optimizer without momentum.
    lr
        Its learning rate, of which only the weights are made here: a number, a 0-d tensor or a
        schedule, which may warm up but should not decay. (optax counts steps from 1 here and from 0
        in `base`; here both are the same step.)
    b1
        How near y is to x, in the place of momentum: a number in (0, 1), or 0-d tensor.
    weight_lr_power, r
        The powers with which the weights grow, at least 0.

    Raises
    ------
    TypeError, ValueError
        An argument is not of its kind or out of its range; in `update`, `params` is missing or a
        gradient does not match.

    Examples
    --------
    >>> import torch
    >>> import purefn.functional as pf
    >>> from purefn import optim
    >>> optimizer = optim.schedule_free(optim.sgd(lr=0.5), lr=0.5)
    >>> def step(params, state):
    ...     grads = pf.grad(lambda params: (params["w"] - 3).square().sum() / 2)(params)
    ...     updates, state = optimizer.update(grads, state, params)
    ...     return optim.apply_updates(params, updates), state
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = optimizer.init(params)
    >>> for _ in range(100):
    ...     params, state = step(params, state)
    >>> optim.schedule_free_eval_params(state, params)["w"].round(decimals=1)
    tensor([3.])
    """
    checks.transformation("schedule_free: base", base)
    checks.learning_rate("lr", lr)
    checks.positive("b1", b1)
    checks.decay_rate("b1", b1)
    checks.non_negative("weight_lr_power", weight_lr_power)
    checks.non_negative("r", r)

    def init(params: tree.PyTree) -> ScheduleFreeState:
        checks.trainable(params)
        z = tree.map(torch.clone, params)
        zero = number(0.0, params)
        return ScheduleFreeState(
            first_step(params), zero + b1, zero, zero.clone(), z, base.init(params)
        )

    def update(
        updates: tree.PyTree,
        state: ScheduleFreeState,
        params: tree.PyTree | None = None,
        **extra: Any,
    ) -> tuple[tree.PyTree, ScheduleFreeState]:
        checks.state("schedule_free", state, ScheduleFreeState)
        checks.given("schedule_free", params)
        updates, inner_state = base.update(updates, state.inner_state, params, **extra)
        count = state.count + 1
        max_lr = torch.maximum(state.max_lr, number(rate_at(lr, state.count), params))
        weight = count.double() ** r * max_lr**weight_lr_power
        weight_sum = state.weight_sum + weight
        c = ratio(weight, weight_sum, otherwise=torch.zeros_like(weight))
        stays = 1 - state.b1 * (1 - c)

        def rule(u: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
            return c * (z - y) + stays * u, z + u

        trees = {"updates": updates, "params": params, "state.z": state.z}
        updates, z = leafwise(rule, trees, results=2)
        return updates, ScheduleFreeState(count, state.b1, weight_sum, max_lr, z, inner_state)

    return GradientTransformation(init, update)


def schedule_free_eval_params(state: State, params: tree.PyTree) -> tree.PyTree:
    """Return the parameters to evaluate, x, of those that are trained, y.

    `x = z + (y - z) / b1`, with the `z` and `b1` of the state of `schedule_free`, or of a chain
    that holds it. Training goes on with `params`.

    Raises
    ------
    KeyError
        The state is of no schedule-free optimizer.
    ValueError
        `params` does not match it.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.schedule_free_sgd(lr=1.0, momentum=0.5)
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = optimizer.init(params)
    >>> for _ in range(2):
    ...     updates, state = optimizer.update({"w": torch.tensor([1.0])}, state, params)
    ...     params = optim.apply_updates(params, updates)
    >>> params, optim.get(state, "z"), optim.schedule_free_eval_params(state, params)
    ({'w': tensor([-0.7500])}, {'w': tensor([-1.])}, {'w': tensor([-0.5000])})
    """
    z, b1 = get(state, "z"), get(state, "b1")
    return leafwise(lambda y, z: z + (y - z) / b1, {"params": params, "state.z": z})


def schedule_free_sgd(
    lr: Scalar | Schedule = 1.0,
    momentum: Scalar = 0.9,
    weight_decay: Scalar = 0,
    warmup_steps: int = 0,
    r: Scalar = 0.0,
    weight_lr_power: Scalar = 2.0,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Return schedule-free gradient descent, the authors' `SGDScheduleFree`.

    `schedule_free` of gradient descent; evaluate `schedule_free_eval_params(state, params)`.

    Parameters
    ----------
    lr
        Learning rate: a number, a 0-d tensor or a schedule. Larger ones than for SGD do well.
    momentum
        `b1` of `schedule_free`: a number in (0, 1), or 0-d tensor.
    weight_decay
        An L2 penalty, taken at y: a number or 0-d tensor, at least 0.
    warmup_steps
        During so many steps the learning rate grows linearly: step `t` has `t / warmup_steps` of
        it. (optax begins with a step of 0.)
    r, weight_lr_power
        As for `schedule_free`.
    maximize
        Climb instead of descend.

    Raises
    ------
    TypeError, ValueError
        A hyperparameter is not of its kind or out of its range; in `update`, `params` is missing or
        a gradient does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.schedule_free_sgd(lr=0.1, warmup_steps=2)
    >>> params = {"w": torch.tensor([1.0])}
    >>> optimizer.update({"w": torch.tensor([2.0])}, optimizer.init(params), params)[0]
    {'w': tensor([-0.1000])}
    """
    rate = _warmed_up(lr, warmup_steps)
    base = descent(lr=rate, weight_decay=weight_decay, maximize=maximize)
    return schedule_free(base, rate, _momentum("momentum", momentum), weight_lr_power, r)


def schedule_free_adamw(
    lr: Scalar | Schedule = 0.0025,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0,
    warmup_steps: int = 0,
    r: Scalar = 0.0,
    weight_lr_power: Scalar = 2.0,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Return schedule-free AdamW, the authors' `AdamWScheduleFree`.

    `schedule_free` of AdamW without its first moment, whose decoupled weight decay is of y;
    evaluate `schedule_free_eval_params(state, params)`. As in the authors' program since version
    1.3, the second moment is corrected for its start; the paper (algorithm 1) corrects the
    learning rate, and with it weights, decay and `eps`.

    `betas[0]` is `b1` of `schedule_free`, in (0, 1), and `betas[1]` the decay rate of the second
    moment; `eps` as for `adamw`; other parameters and errors as for `schedule_free_sgd`.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.schedule_free_adamw(lr=0.1)
    >>> params = {"w": torch.tensor([1.0])}
    >>> optimizer.update({"w": torch.tensor([25.0])}, optimizer.init(params), params)[0]
    {'w': tensor([-0.1000])}
    """
    checks.betas("betas", betas)
    b1, b2 = betas
    rate = _warmed_up(lr, warmup_steps)
    base = descent(
        _scale_by_corrected_rms(b2, eps),
        lr=rate,
        weight_decay=weight_decay,
        decoupled_weight_decay=True,
        maximize=maximize,
    )
    return schedule_free(base, rate, _momentum("betas[0]", b1), weight_lr_power, r)


class _RootMeanSquareState(NamedTuple):
    """The number of steps (int64, 0-d), and the average of squared gradients."""

    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    nu: tree.PyTree


def _scale_by_corrected_rms(decay: Scalar, eps: Scalar) -> GradientTransformation:
    """Return Adam without its first moment: `scale_by_adam(0, decay, eps)`, in half the memory."""
    checks.non_negative("eps", eps)

    def init(params: tree.PyTree) -> _RootMeanSquareState:
        checks.trainable(params)
        return _RootMeanSquareState(first_step(params), tree.zeros_like(params))

    def step(state: _RootMeanSquareState, params: tree.PyTree | None) -> Step:
        checks.state("schedule_free_adamw", state, _RootMeanSquareState)
        count = state.count + 1
        root = bias_correction(decay, count).sqrt()

        def rule(g: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            v = second_moment(v, g, decay)
            return g / (v.sqrt() / root + eps), v

        return Step(
            [Rule(rule, {"state.nu": state.nu}, writes=1)],
            lambda nu: _RootMeanSquareState(count, nu),
        )

    return elementwise(init, step)


def _warmed_up(lr: Scalar | Schedule, steps: int) -> Scalar | Schedule:
    """Return `lr` with a linear warm-up, whose first step is not 0."""
    checks.learning_rate("lr", lr)
    if steps == 0 and isinstance(steps, int):
        return lr
    checks.count("warmup_steps", steps)

    def warmed_up(step: int | Tensor) -> Scalar:
        done = (torch.as_tensor(step).double() + 1) / steps
        return done.clamp(max=1.0) * rate_at(lr, torch.as_tensor(step))

    return warmed_up


def _momentum(name: str, value: Scalar) -> Scalar:
    checks.positive(name, value)
    checks.decay_rate(name, value)
    return value
