"""Steps in proportion to the norm of each layer's weights: LARS, LAMB, Fromage.

A layer is a leaf of the tree.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import Rule, Scalar, Step
from ..moments import first_step
from ..pieces.scaling import ScaleByScheduleState, scale_by_learning_rate
from ..schedules import Schedule
from ..stacking import per_shape
from ..transformation import GradientTransformation, chain, elementwise, stateless
from ..whole_tree import number, rate_at
from .adam import scale_by_adam
from .recipes import decayed, descent, uphill
from .sgd import trace

__all__ = ["fromage", "lamb", "lars", "scale_by_local_rate", "scale_by_trust_ratio"]


def scale_by_trust_ratio(
    min_norm: Scalar = 0.0, trust_coefficient: Scalar = 1.0, eps: Scalar = 0.0
) -> GradientTransformation:
    """Give each leaf of the updates a norm in proportion to that of its parameters.

    ::

        update = u trust_coefficient max(|theta|, min_norm) / (max(|u|, min_norm) + eps)

    Where one of the two norms is 0, updates stay as they are. A sum of squares that underflows is a
    norm of 0; one that overflows makes the ratio 0, and the infinite elements of its leaf NaN.

    Raises
    ------
    ValueError
        An argument is negative, or, in `update`, `params` is missing or does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> scaling = optim.scale_by_trust_ratio()
    >>> params = {"w": torch.tensor([3.0, 4.0]), "b": torch.zeros(1)}
    >>> grads = {"w": torch.tensor([0.0, 0.1]), "b": torch.ones(1)}
    >>> scaling.update(grads, scaling.init(params), params)[0]
    {'w': tensor([0., 5.]), 'b': tensor([1.])}
    """
    checks.non_negative("min_norm", min_norm)
    checks.non_negative("trust_coefficient", trust_coefficient)
    checks.non_negative("eps", eps)

    def scaled(u: Tensor, p: Tensor) -> Tensor:
        p_norm, u_norm = (torch.clamp(_norms(x), min=min_norm) for x in (p, u))
        return _scaled(u, trust_coefficient * p_norm, u_norm + eps, unless=u_norm == 0)

    def update(updates: tree.PyTree, params: tree.PyTree | None) -> tree.PyTree:
        checks.given("scale_by_trust_ratio", params)
        return per_shape(scaled, {"updates": updates, "params": params})

    return stateless(update, "scale_by_trust_ratio")


def scale_by_local_rate(
    trust_coefficient: Scalar = 1e-3, weight_decay: Scalar = 0, eps: Scalar = 0.0
) -> GradientTransformation:
    """Add weight decay, and scale each leaf by LARS's rate (You et al. 2017, arXiv:1708.03888).

    ::

        rate = trust_coefficient |theta| / (|g| + weight_decay |theta| + eps)
        update = rate (g + weight_decay theta)

    Where `|theta|` or the denominator is 0, the rate is 1. (`scale_by_trust_ratio` after
    `add_decayed_weights`, which is optax's LARS, divides by `|g + weight_decay theta|` instead.)

    Raises
    ------
    ValueError
        An argument is negative, or, in `update`, `params` is missing or does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> scaling = optim.scale_by_local_rate(trust_coefficient=0.1)
    >>> params = {"w": torch.tensor([30.0, 40.0])}
    >>> scaling.update({"w": torch.tensor([0.0, 0.5])}, scaling.init(params), params)[0]
    {'w': tensor([0., 5.])}
    """
    checks.non_negative("trust_coefficient", trust_coefficient)
    checks.non_negative("weight_decay", weight_decay)
    checks.non_negative("eps", eps)

    def scaled(g: Tensor, p: Tensor) -> Tensor:
        p_norm = _norms(p)
        denominator = _norms(g) + weight_decay * p_norm + eps
        return _scaled(g + weight_decay * p, trust_coefficient * p_norm, denominator)

    def update(updates: tree.PyTree, params: tree.PyTree | None) -> tree.PyTree:
        checks.given("scale_by_local_rate", params)
        return per_shape(scaled, {"updates": updates, "params": params})

    return stateless(update, "scale_by_local_rate")


def lars(
    lr: Scalar | Schedule,
    momentum: Scalar = 0.9,
    weight_decay: Scalar = 0,
    nesterov: bool = False,
    *,
    trust_coefficient: Scalar = 1e-3,
    eps: Scalar = 0.0,
    maximize: bool = False,
) -> GradientTransformation:
    """Return layer-wise adaptive rate scaling (You et al. 2017, arXiv:1708.03888, algorithm 1).

    For the weights `theta` of each layer::

        rate = trust_coefficient |theta| / (|g| + weight_decay |theta| + eps)
        v <- momentum v + lr rate (g + weight_decay theta)
        theta <- theta - v

    The learning rate goes into the momentum, as in the paper; the state holds `-v` as `trace`.

    Parameters
    ----------
    lr
        Learning rate: a number, a 0-d tensor or a schedule. The paper names no default: with
        the other arguments as they are, good values lie far above SGD's.
    momentum
        A number or 0-d tensor, at least 0.
    weight_decay
        A number or 0-d tensor, at least 0.
    nesterov
        Use Nesterov's momentum.
    trust_coefficient
        How far a layer may move in a step at `lr=1`, relative to its norm.
    eps
        Added to the denominator.
    maximize
        Climb instead of descend.

    Raises
    ------
    ValueError
        A hyperparameter is out of its range; in `update`, `params` is missing or a gradient does
        not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.lars(lr=10.0)
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": torch.tensor([25.0])}, state, params)
    >>> optim.apply_updates(params, updates)
    {'w': tensor([0.9900])}
    """
    checks.non_negative("momentum", momentum)
    return chain(
        *uphill(maximize),
        scale_by_local_rate(trust_coefficient, weight_decay, eps),
        scale_by_learning_rate(lr),
        trace(momentum, nesterov),
    )


def lamb(
    lr: Scalar | Schedule = 1e-3,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-6,
    weight_decay: Scalar = 0,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Return LAMB (You et al. 2020, arXiv:1904.00962, algorithm 2): AdamW at LARS's rates.

    For the weights `theta` of each layer::

        u = adam(g) + weight_decay theta
        theta <- theta - lr |theta| / |u| u

    The ratio is 1 where one of the norms is 0, and the paper's `phi` the identity.

    Parameters
    ----------
    lr
        Learning rate: a number, a 0-d tensor or a schedule.
    betas
        The decay rates of the first and second moment, in [0, 1).
    eps
        Added to the root of the second moment.
    weight_decay
        A number or 0-d tensor, at least 0.
    maximize
        Climb instead of descend.

    Raises
    ------
    ValueError
        A hyperparameter is out of its range; in `update`, `params` is missing or a gradient does
        not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.lamb(lr=0.1)
    >>> params = {"w": torch.tensor([3.0, 4.0])}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": torch.tensor([25.0, 0.0])}, state, params)
    >>> optim.apply_updates(params, updates)
    {'w': tensor([2.5000, 4.0000])}
    """
    checks.betas("betas", betas)
    return descent(
        scale_by_adam(*betas, eps),
        *decayed(weight_decay),
        scale_by_trust_ratio(),
        lr=lr,
        maximize=maximize,
    )


def fromage(
    lr: Scalar | Schedule = 1e-2, *, min_norm: Scalar = 0.0, maximize: bool = False
) -> GradientTransformation:
    """Return Fromage (Bernstein et al. 2020, arXiv:2002.03432, algorithm 1).

    For the weights `theta` of each layer::

        theta <- (theta - lr |theta| / |g| g) / sqrt(1 + lr^2)

    so that a step at a right angle to the weights leaves their norm as it is.

    Parameters
    ----------
    lr
        Learning rate: a number, a 0-d tensor or a schedule; the authors recommend the default.
    min_norm
        What norms are taken to be at least. Where one is 0, their ratio is 1.
    maximize
        Climb instead of descend.

    Raises
    ------
    ValueError
        `lr` or `min_norm` is negative; in `update`, `params` is missing or a gradient does not
        match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.fromage(lr=0.75)
    >>> params = {"w": torch.tensor([10.0, 0.0])}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": torch.tensor([0.0, -25.0])}, state, params)
    >>> optim.apply_updates(params, updates)
    {'w': tensor([8., 6.])}
    """
    checks.learning_rate("lr", lr)
    return chain(*uphill(maximize), scale_by_trust_ratio(min_norm), _turn(lr))


def _turn(lr: Scalar | Schedule) -> GradientTransformation:
    """Return the step from `theta` to `(theta - lr u) / sqrt(1 + lr^2)`."""

    def init(params: tree.PyTree) -> ScaleByScheduleState:
        return ScaleByScheduleState(first_step(params))

    def rule(u: Tensor, p: Tensor, of_u: Scalar, of_p: Scalar) -> Tensor:
        return u * of_u + p * of_p

    def step(state: ScaleByScheduleState, params: tree.PyTree | None) -> Step:
        checks.state("fromage", state, ScaleByScheduleState)
        rate = number(rate_at(lr, state.count), params)
        length = torch.sqrt(1 + rate * rate)
        loss = rate * rate / (length * (1 + length))  # 1 - 1 / length, whose digits cancel
        return Step(
            [Rule(rule, {"params": params}, scalars=[-rate / length, -loss])],
            lambda: ScaleByScheduleState(state.count + 1),
        )

    return elementwise(init, step)


def _norms(x: Tensor) -> Tensor:
    """Return the norm of each of the leaves that are stacked in `x`, to be broadcast to them."""
    if x.ndim == 1:
        return x.abs()
    norms: Tensor = torch.linalg.vector_norm(x, dim=tuple(range(1, x.ndim)), keepdim=True)
    return norms


def _scaled(
    x: Tensor, numerator: Tensor, denominator: Tensor, unless: Tensor | bool = False
) -> Tensor:
    """Return `x numerator / denominator`, and `x` where one of the two is 0 or `unless` is true.

    Divided first, `x` overflows only where the result does.
    """
    kept = (numerator == 0) | (denominator == 0) | unless
    safe = torch.where(kept, torch.ones_like(denominator), denominator)
    return torch.where(kept, x, x / safe * numerator)
