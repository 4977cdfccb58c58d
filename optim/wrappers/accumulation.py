"""Gradients of several microbatches made one step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...functional import tree
from .. import checks, inspection
from ..leafwise import HALF, Scalar, leafwise
from ..moments import first_step
from ..transformation import GradientTransformation, State
from .conditions import choose

__all__ = ["MultiStepsState", "has_updated", "multi_steps"]


class MultiStepsState(NamedTuple):
    """What has been accumulated since the last step.

    Microbatches since then and steps so far (int64, 0-d), the weight of those microbatches
    (float64, 0-d), their weighted sum of gradients, and the state inside.
    """

    mini_step: Tensor
    gradient_step: Tensor
    weight: Tensor
    acc_grads: tree.PyTree
    inner_state: State


def multi_steps(
    inner: GradientTransformation,
    every_k: int | Callable[[Tensor], int | Tensor],
    *,
    use_grad_mean: bool = True,
) -> GradientTransformation:
    """Make a step of `inner` from the gradients of `every_k` microbatches.

    Until the last of them updates are 0, and only a running sum of gradients changes::

        s <- s + w g,    W <- W + w;    at the last    inner(s / W),    s <- 0,    W <- 0

    With `w` the number of examples in each microbatch, whose gradient is that of a mean, `s / W` is
    the gradient of the mean over all of them, however they are split. The sum is the only
    memory that it takes, the size of the gradients; it is kept in float32 for float16 and bfloat16,
    and rounded once. The state inside is neither computed nor copied before the last.

    `update` takes `w` as the extra argument `weight`, a number or a 0-d tensor, 1 by default.
    A microbatch of weight 0 changes nothing, whatever its gradients are (NaN, the mean of none).

    Parameters
    ----------
    inner
        The optimizer.
    every_k
        How many microbatches make a step: an int, or a function of the number of steps so far, an
        int64 0-d tensor.
    use_grad_mean
        False gives `inner` the sum `s`.

    Raises
    ------
    TypeError, ValueError
        `every_k` is no function and no int that is at least 1; `weight` is negative; or a gradient
        does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.multi_steps(optim.sgd(lr=1.0), every_k=2)
    >>> state = optimizer.init({"w": torch.zeros(1)})
    >>> first, state = optimizer.update({"w": torch.tensor([1.0])}, state, weight=3)
    >>> second, state = optimizer.update({"w": torch.tensor([5.0])}, state, weight=1)
    >>> first, second, optim.has_updated(state)
    ({'w': tensor([0.])}, {'w': tensor([-2.])}, tensor(True))
    """
    checks.transformation("multi_steps: inner", inner)
    if not callable(every_k):
        checks.count("every_k", every_k)
    checks.flag("use_grad_mean", use_grad_mean)

    def init(params: tree.PyTree) -> MultiStepsState:
        none = first_step(params)
        return MultiStepsState(
            mini_step=none,
            gradient_step=none.clone(),
            weight=none.double(),
            acc_grads=_zeros(params),
            inner_state=inner.init(params),
        )

    def update(
        updates: tree.PyTree,
        state: MultiStepsState,
        params: tree.PyTree | None = None,
        *,
        weight: Scalar = 1,
        **extra: Any,
    ) -> tuple[tree.PyTree, MultiStepsState]:
        checks.state("multi_steps", state, MultiStepsState)
        weight = weight.double() if isinstance(weight, Tensor) else weight  # a number of examples
        checks.non_negative("weight", weight)
        k = every_k(state.gradient_step) if callable(every_k) else every_k
        w = torch.zeros_like(state.weight) + weight
        total = state.weight + w

        def accumulate(
            updates: tree.PyTree, state: MultiStepsState, params: tree.PyTree | None
        ) -> tuple[tree.PyTree, MultiStepsState]:
            new = state._replace(
                mini_step=state.mini_step + 1,
                weight=state.weight + w,
                acc_grads=_sum(state.acc_grads, updates, w),
            )
            return tree.zeros_like(updates), new

        def step(
            updates: tree.PyTree, state: MultiStepsState, params: tree.PyTree | None
        ) -> tuple[tree.PyTree, MultiStepsState]:
            divisor = torch.where(total > 0, total, 1) if use_grad_mean else torch.ones_like(total)
            mean = _sum(state.acc_grads, updates, w, divisor)
            mean = tree.map(lambda m, g: m.to(g.dtype), mean, updates)
            new, inner_state = inner.update(mean, state.inner_state, params, **extra)
            checks.same_leaves({"updates": updates, "updates of the inner transformation": new})
            return new, MultiStepsState(
                mini_step=torch.zeros_like(state.mini_step),
                gradient_step=state.gradient_step + 1,
                weight=torch.zeros_like(state.weight),
                acc_grads=tree.zeros_like(state.acc_grads),
                inner_state=inner_state,
            )

        return choose(state.mini_step + 1 >= k, step, accumulate, (updates, state, params))

    return GradientTransformation(init, update)


def has_updated(state: State) -> Tensor:
    """Say whether the last `update` of `multi_steps` has made a step, a 0-d tensor of bool.

    `state` may be that of an optimizer of which `multi_steps` is a part.

    Raises
    ------
    KeyError
        There is none in it, or several.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.chain(optim.clip(1.0), optim.multi_steps(optim.adam(), every_k=2))
    >>> has_updated(optimizer.init({"w": torch.zeros(1)}))
    tensor(False)
    """
    pending: Tensor = inspection.get(state, "mini_step")
    steps: Tensor = inspection.get(state, "gradient_step")
    return (pending == 0) & (steps > 0)


def _zeros(params: tree.PyTree) -> tree.PyTree:
    """Return the empty sum, in float32 for float16 and bfloat16."""
    checks.trainable(params)
    return tree.map(
        lambda p: torch.zeros_like(p, dtype=torch.float32 if p.dtype in HALF else None), params
    )


def _sum(
    total: tree.PyTree, grads: tree.PyTree, weight: Tensor, divisor: Tensor | None = None
) -> tree.PyTree:
    """Return `total + weight * grads`, divided by `divisor`, in the dtypes of `total`."""

    def added(s: Tensor, g: Tensor) -> Tensor:
        s = torch.where(weight > 0, s + weight * g, s)  # 0 * NaN is NaN
        return s if divisor is None else s / divisor

    return leafwise(added, {"state.acc_grads": total, "updates": grads}, same_dtypes=False)
