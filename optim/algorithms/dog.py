"""Distance over gradients: step sizes from how far the parameters came and how large gradients are.

DoG for all parameters together, L-DoG for each of them, and DoWG, which weights the gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import Scalar, leafwise
from ..moments import first_step
from ..schedules import Schedule
from ..transformation import GradientTransformation
from ..whole_tree import norm, number, widened
from .recipes import descent

__all__ = ["DoGState", "DoWGState", "dog", "dowg", "ldog", "scale_by_dog", "scale_by_dowg"]

_INIT_STEPS = ("distance", "heuristic", "learning_rate")


class DoGState(NamedTuple):
    """The number of steps (int64, 0-d), the first parameters, and what was measured since.

    `max_dist` is the largest distance from the first parameters, and `sum_sq_norm_grads` the sum of
    the squared norms of gradients: float64 numbers, or trees of them, one for each parameter.
    """

    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    init_params: tree.PyTree
    max_dist: tree.PyTree
    sum_sq_norm_grads: tree.PyTree


class DoWGState(NamedTuple):
    """The first parameters, and what was measured since, in float64.

    `estim_sq_dist` is the largest squared distance from the first parameters, and
    `weighted_sq_norm_grads` the sum of the squared norms of gradients times that of their time.
    """

    init_params: tree.PyTree
    estim_sq_dist: Tensor
    weighted_sq_norm_grads: Tensor


def scale_by_dog(
    init_step: tuple[str, Scalar] = ("heuristic", 1e-6),
    eps: Scalar = 1e-8,
    *,
    layerwise: bool = False,
) -> GradientTransformation:
    """Multiply gradients by distance over gradients (Ivgi et al. 2023, arXiv:2302.12022).

    ::

        r_t = max(r_{t-1}, |x_t - x_0|)
        G_t = G_{t-1} + |g_t|^2
        update = r_t / sqrt(G_t + eps) g_t

    The norms are over all parameters together, or, with `layerwise`, over each leaf alone.

    Parameters
    ----------
    init_step
        What the first step is: `("distance", r_0)`, `("heuristic", a)` for `r_0 = a (1 + |x_0|)`,
        or `("learning_rate", eta)` for the update `eta g_0` (if `g_0` is zero, nothing will ever
        move).
    eps
        Added to the sum of squares; greater than 0.
    layerwise
        Measure every leaf alone: L-DoG.

    Raises
    ------
    ValueError
        `init_step` is something else, `eps` is not positive, or, in `update`, `params` is missing
        or does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> dog = optim.scale_by_dog(("distance", 0.5))
    >>> params = {"w": torch.tensor([0.0, 0.0])}
    >>> dog.update({"w": torch.tensor([30.0, 40.0])}, dog.init(params), params)[0]
    {'w': tensor([0.3000, 0.4000])}
    """
    kind, first = _checked(init_step)
    checks.positive("eps", eps)
    checks.flag("layerwise", layerwise)

    def first_distance(params: tree.PyTree) -> Tensor:
        zero = number(0.0, params)
        if kind == "learning_rate":
            return zero
        return zero + first * (1 + norm(params) if kind == "heuristic" else 1)

    def init(params: tree.PyTree) -> DoGState:
        checks.trainable(params)
        distance = tree.map(first_distance, params) if layerwise else first_distance(params)
        copy = tree.map(torch.clone, params)
        return DoGState(first_step(params), copy, distance, tree.zeros_like(distance))

    def update(
        updates: tree.PyTree, state: DoGState, params: tree.PyTree | None = None, **extra: Any
    ) -> tuple[tree.PyTree, DoGState]:
        checks.state("scale_by_dog", state, DoGState)
        checks.given("scale_by_dog", params)
        trees = {"params": params, "state.init_params": state.init_params, "updates": updates}
        checks.same_leaves(trees)

        def step(
            g: tree.PyTree, x: tree.PyTree, x0: tree.PyTree, distance: Tensor, total: Tensor
        ) -> tuple[tree.PyTree, Tensor, Tensor]:
            distance = torch.maximum(distance, _distance(x, x0))
            total = total + norm(g).square()
            rate = distance / (total + eps).sqrt()
            if kind == "learning_rate":
                rate = torch.where(state.count == 0, torch.zeros_like(rate) + first, rate)
            return leafwise(lambda g: g * rate, {"updates": g}), distance, total

        known = (updates, params, state.init_params, state.max_dist, state.sum_sq_norm_grads)
        steps, distance, total = _leaf_by_leaf(step, *known) if layerwise else step(*known)
        return steps, DoGState(state.count + 1, state.init_params, distance, total)

    return GradientTransformation(init, update)


def scale_by_dowg(
    init_estim_sq_dist: Scalar | None = None, eps: Scalar = 1e-4
) -> GradientTransformation:
    """Multiply gradients by distance over weighted gradients (Khaled et al. 2023).

    DoWG (arXiv:2305.16284, algorithm 1)::

        r_t^2 = max(r_{t-1}^2, |x_t - x_0|^2)
        v_t = v_{t-1} + r_t^2 |g_t|^2
        update = r_t^2 / (sqrt(v_t) + eps) g_t

    Parameters
    ----------
    init_estim_sq_dist
        The first squared distance, greater than 0; None is `eps`, as in the authors' program.
    eps
        Added to the root of the sum; greater than 0.

    Raises
    ------
    ValueError
        An argument is not positive, or, in `update`, `params` is missing or does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> dowg = optim.scale_by_dowg(init_estim_sq_dist=0.25)
    >>> params = {"w": torch.tensor([0.0, 0.0])}
    >>> dowg.update({"w": torch.tensor([30.0, 40.0])}, dowg.init(params), params)[0]
    {'w': tensor([0.3000, 0.4000])}
    """
    checks.positive("eps", eps)
    first = eps if init_estim_sq_dist is None else init_estim_sq_dist
    checks.positive("init_estim_sq_dist", first)

    def init(params: tree.PyTree) -> DoWGState:
        checks.trainable(params)
        copy = tree.map(torch.clone, params)
        return DoWGState(copy, number(first, params), number(0.0, params))

    def update(
        updates: tree.PyTree, state: DoWGState, params: tree.PyTree | None = None, **extra: Any
    ) -> tuple[tree.PyTree, DoWGState]:
        checks.state("scale_by_dowg", state, DoWGState)
        checks.given("scale_by_dowg", params)
        trees = {"params": params, "state.init_params": state.init_params, "updates": updates}
        checks.same_leaves(trees)
        sq_dist = _distance(params, state.init_params).square()
        sq_dist = torch.maximum(state.estim_sq_dist, sq_dist)
        total = state.weighted_sq_norm_grads + sq_dist * norm(updates).square()
        rate = sq_dist / (total.sqrt() + eps)
        steps = leafwise(lambda g: g * rate, {"updates": updates})
        return steps, DoWGState(state.init_params, sq_dist, total)

    return GradientTransformation(init, update)


def dog(
    lr: Scalar | Schedule = 1.0,
    reps_rel: Scalar = 1e-6,
    eps: Scalar = 1e-8,
    init_eta: Scalar | None = None,
    weight_decay: Scalar = 0,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Return DoG, distance over gradients: gradient descent that needs no learning rate.

    `scale_by_dog`, with the names of the authors' program. They evaluate averaged parameters, which
    `polynomial_average_params` keeps. Complex numbers are pairs of real ones.

    Parameters
    ----------
    lr
        A factor of the steps: a number, a 0-d tensor or a schedule. Leave it at 1.
    reps_rel
        The first distance is `reps_rel (1 + |x_0|)`. It must be small; the authors suggest 1e-6,
        and 1e-4 with batch normalization. (In bfloat16 such a step changes nothing: keep the
        parameters in float32.)
    eps
        Added to the sum of squared gradients; greater than 0.
    init_eta
        The learning rate of the first step, in place of `reps_rel`.
    weight_decay
        An L2 penalty: a number or 0-d tensor, at least 0.
    maximize
        Climb instead of descend.

    Raises
    ------
    ValueError
        A hyperparameter is out of its range; in `update`, `params` is missing, or a gradient does
        not match.

    Examples
    --------
    >>> import torch
    >>> import purefn.functional as pf
    >>> from purefn import optim
    >>> optimizer = optim.chain(optim.dog(reps_rel=1e-3), optim.polynomial_average_params())
    >>> def step(params, state):
    ...     grads = pf.grad(lambda params: (params["w"] - 3).square().sum())(params)
    ...     updates, state = optimizer.update(grads, state, params)
    ...     return optim.apply_updates(params, updates), state
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = optimizer.init(params)
    >>> for _ in range(200):
    ...     params, state = step(params, state)
    >>> optim.get(state, "average")["w"].round(decimals=1)
    tensor([3.])
    """
    return _descent_by_dog(lr, reps_rel, eps, init_eta, weight_decay, maximize, layerwise=False)


def ldog(
    lr: Scalar | Schedule = 1.0,
    reps_rel: Scalar = 1e-6,
    eps: Scalar = 1e-8,
    init_eta: Scalar | None = None,
    weight_decay: Scalar = 0,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Return L-DoG: `dog` for every leaf of the parameters alone.

    Parameters and errors are those of `dog`.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.ldog(reps_rel=0.5)
    >>> params = {"w": torch.tensor([0.0]), "b": torch.tensor([1.0])}
    >>> grads = {"w": torch.tensor([100.0]), "b": torch.tensor([1.0])}
    >>> optimizer.update(grads, optimizer.init(params), params)[0]
    {'w': tensor([-0.5000]), 'b': tensor([-1.])}
    """
    return _descent_by_dog(lr, reps_rel, eps, init_eta, weight_decay, maximize, layerwise=True)


def dowg(
    lr: Scalar | Schedule = 1.0,
    eps: Scalar = 1e-4,
    init_estim_sq_dist: Scalar | None = None,
    weight_decay: Scalar = 0,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Return DoWG, distance over weighted gradients: `scale_by_dowg` downhill.

    `weight_decay` is an L2 penalty; other parameters and errors are those of `scale_by_dowg`.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.dowg(init_estim_sq_dist=0.25)
    >>> params = {"w": torch.tensor([0.0])}
    >>> optimizer.update({"w": torch.tensor([50.0])}, optimizer.init(params), params)[0]
    {'w': tensor([-0.5000])}
    """
    rule = scale_by_dowg(init_estim_sq_dist, eps)
    return descent(rule, lr=lr, weight_decay=weight_decay, maximize=maximize)


def _descent_by_dog(
    lr: Scalar | Schedule,
    reps_rel: Scalar,
    eps: Scalar,
    init_eta: Scalar | None,
    weight_decay: Scalar,
    maximize: bool,
    layerwise: bool,
) -> GradientTransformation:
    checks.positive("reps_rel", reps_rel)
    if init_eta is not None:
        checks.positive("init_eta", init_eta)
    init_step = ("heuristic", reps_rel) if init_eta is None else ("learning_rate", init_eta)
    rule = scale_by_dog(init_step, eps, layerwise=layerwise)
    return descent(rule, lr=lr, weight_decay=weight_decay, maximize=maximize)


def _checked(init_step: Any) -> tuple[str, Scalar]:
    checks.pair("init_step", init_step)
    kind, value = init_step
    if kind not in _INIT_STEPS:
        raise ValueError(f"init_step[0]: expected one of {', '.join(_INIT_STEPS)}, got {kind!r}.")
    checks.positive("init_step[1]", value)
    return kind, value


def _distance(x: tree.PyTree, x0: tree.PyTree) -> Tensor:
    return norm(tree.map(torch.sub, widened(x), widened(x0)))


def _leaf_by_leaf(
    step: Callable[..., tuple[tree.PyTree, Tensor, Tensor]], *trees: tree.PyTree
) -> list[tree.PyTree]:
    """Call `step` with each leaf, which is a tree, and what is known of it; gather the results."""
    structure = tree.structure(trees[0])
    rows = [step(*row) for row in zip(*map(tree.leaves, trees), strict=True)]
    return [tree.unflatten(structure, [row[place] for row in rows]) for place in range(3)]
