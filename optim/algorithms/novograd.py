"""NovoGrad: momentum over gradients that are normalized layer by layer."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import Scalar, per_leaf, working
from ..moments import first_step
from ..schedules import Schedule
from ..transformation import GradientTransformation, chain
from .recipes import decayed, descent
from .sgd import trace

__all__ = ["ScaleByLayerMomentState", "novograd", "scale_by_layer_moment", "scale_by_novograd"]


class ScaleByLayerMomentState(NamedTuple):
    """The number of steps (int64, 0-d), and for each leaf the average of its squared norm (0-d).

    The averages are in float32 where the parameters are narrower.
    """

    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    nu: tree.PyTree


def scale_by_layer_moment(b2: Scalar = 0.98, eps: Scalar = 1e-8) -> GradientTransformation:
    """Divide each leaf by the root of the average of its squared norm.

    ::

        nu_1 = |g_1|^2
        nu_t = b2 nu_{t-1} + (1 - b2) |g_t|^2
        update = g_t / (sqrt(nu_t) + eps)

    With `eps=0` a leaf whose gradients have all been zero becomes NaN (0 / 0).

    Raises
    ------
    ValueError
        `b2` lies outside [0, 1), `eps` is negative, or, in `update`, a gradient does not match the
        state.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> normalize = optim.scale_by_layer_moment()
    >>> state = normalize.init({"w": torch.zeros(2)})
    >>> normalize.update({"w": torch.tensor([30.0, 40.0])}, state)[0]
    {'w': tensor([0.6000, 0.8000])}
    """
    checks.decay_rate("b2", b2)
    checks.non_negative("eps", eps)

    def init(params: tree.PyTree) -> ScaleByLayerMomentState:
        checks.trainable(params)
        nu = tree.map(lambda leaf: torch.zeros_like(_square_norm(leaf)), params)
        return ScaleByLayerMomentState(first_step(params), nu)

    def update(
        updates: tree.PyTree,
        state: ScaleByLayerMomentState,
        params: tree.PyTree | None = None,
        **extra: Any,
    ) -> tuple[tree.PyTree, ScaleByLayerMomentState]:
        checks.state("scale_by_layer_moment", state, ScaleByLayerMomentState)
        checks.trainable(updates, "updates")
        decay = torch.where(state.count == 0, 0.0, torch.zeros_like(state.count.double()) + b2)

        def averaged(g: Tensor, v: Tensor) -> Tensor:
            return (decay * v + (1 - decay) * _square_norm(g)).to(v.dtype)

        nu = tree.map(averaged, updates, state.nu, names=("updates", "state.nu"))
        normalized = per_leaf(
            lambda g, v: g / (v.sqrt() + eps), {"updates": updates}, {"state.nu": nu}
        )
        return normalized, ScaleByLayerMomentState(state.count + 1, nu)

    return GradientTransformation(init, update)


def scale_by_novograd(
    b1: Scalar = 0.95, b2: Scalar = 0.98, eps: Scalar = 1e-8, weight_decay: Scalar = 0
) -> GradientTransformation:
    """Rescale gradients by NovoGrad (Ginsburg et al. 2019, arXiv:1905.11286, algorithm 1).

    With `nu` the average of the squared norm of a layer, that is of a leaf::

        m_1 = u_1,   m_t = b1 m_{t-1} + u_t,     u = g / (sqrt(nu) + eps) + weight_decay theta
        update = m_t

    a chain of `scale_by_layer_moment`, `add_decayed_weights` and `trace`, which keeps `m`.

    Raises
    ------
    ValueError
        `b1` is negative, `b2` lies outside [0, 1), `eps` or `weight_decay` is negative, or, in
        `update`, `params` is missing while `weight_decay` is set, or a gradient does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> novograd = optim.scale_by_novograd()
    >>> state = novograd.init({"w": torch.zeros(2)})
    >>> novograd.update({"w": torch.tensor([30.0, 40.0])}, state)[0]
    {'w': tensor([0.6000, 0.8000])}
    """
    checks.decay_rate("b1", b1)
    checks.non_negative("weight_decay", weight_decay)
    return chain(scale_by_layer_moment(b2, eps), *decayed(weight_decay), trace(b1))


def novograd(
    lr: Scalar | Schedule = 1e-3,
    betas: tuple[Scalar, Scalar] = (0.95, 0.98),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Return NovoGrad (Ginsburg et al. 2019, arXiv:1905.11286), with the authors' defaults.

    ::

        theta <- theta - lr m,    m <- b1 m + g / (sqrt(nu) + eps) + weight_decay theta

    Parameters
    ----------
    lr
        Learning rate: a number, a 0-d tensor or a schedule.
    betas
        The decay rates of the momentum and of the squared norms, in [0, 1).
    eps
        Added to the root of the averaged squared norm.
    weight_decay
        A number or 0-d tensor, at least 0; it goes through the momentum, not through the norm.
    maximize
        Climb instead of descend.

    Raises
    ------
    ValueError
        A hyperparameter is out of its range; in `update`, `params` is missing while
        `weight_decay` is set, or a gradient does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.novograd(lr=0.1)
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": torch.tensor([25.0])}, state, params)
    >>> optim.apply_updates(params, updates)
    {'w': tensor([0.9000])}
    """
    checks.betas("betas", betas)
    return descent(scale_by_novograd(*betas, eps, weight_decay), lr=lr, maximize=maximize)


def _square_norm(x: Tensor) -> Tensor:
    return working(x).square().sum()
