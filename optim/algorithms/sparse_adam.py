"""Lazy Adam: parameters without a gradient keep their moments and do not move."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import Rule, Scalar, Step
from ..moments import bias_correction, first_moment, first_step, second_moment
from ..schedules import Schedule
from ..transformation import GradientTransformation, elementwise
from .recipes import descent

__all__ = ["ScaleBySparseAdamState", "scale_by_sparse_adam", "sparse_adam"]


class ScaleBySparseAdamState(NamedTuple):
    """The number of steps (int64, 0-d) and the averages of gradients and of their squares.

    `mu` and `nu` are torch's `exp_avg` and `exp_avg_sq`.
    """

    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    mu: tree.PyTree
    nu: tree.PyTree


def scale_by_sparse_adam(
    b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8, *, sparse_dim: int | None = None
) -> GradientTransformation:
    """Rescale gradients by Adam's rule where they are not zero; elsewhere nothing happens.

    ::

        where g_t != 0:  mu_t = b1 mu_{t-1} + (1 - b1) g_t
                         nu_t = b2 nu_{t-1} + (1 - b2) g_t^2
                         update = mu_t / (1 - b1^t) sqrt(1 - b2^t) / (sqrt(nu_t) + eps)
        elsewhere:       mu_t = mu_{t-1},  nu_t = nu_{t-1},  update = 0

    `t` counts all steps, whether or not an element took part. `eps` is added to a root that is not
    corrected, as in Kingma & Ba (2015, section 2) and unlike in `scale_by_adam`.

    Parameters
    ----------
    b1, b2
        The decay rates of the moments, in [0, 1).
    eps
        Greater than 0.
    sparse_dim
        How many leading dimensions number the entries that take part or do not, torch's
        `grad.sparse_dim()`. None: every element is an entry of its own. 1: a row takes part when
        anything in it is not zero, which is what torch does with the gradient of an embedding. (The
        two differ only where a row that is used has elements of exactly zero.)

    Raises
    ------
    TypeError
        In `init`, a leaf is complex.
    ValueError
        A hyperparameter is out of its range; in `init`, a leaf has fewer than `sparse_dim`
        dimensions; in `update`, a gradient does not match the state.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> embedding = {"weight": torch.zeros(2, 2)}
    >>> gradient = {"weight": torch.tensor([[0.0, 3.0], [0.0, 0.0]])}
    >>> rescale = optim.scale_by_sparse_adam(sparse_dim=1)
    >>> updates, state = rescale.update(gradient, rescale.init(embedding))
    >>> updates["weight"].round(decimals=4)
    tensor([[0., 1.],
            [0., 0.]])
    """
    checks.decay_rate("b1", b1)
    checks.decay_rate("b2", b2)
    checks.positive("eps", eps)
    if sparse_dim is not None:
        checks.count("sparse_dim", sparse_dim)

    def init(params: tree.PyTree) -> ScaleBySparseAdamState:
        checks.trainable(params)
        checks.real("scale_by_sparse_adam", params)
        _check_dimensions(params, sparse_dim or 0)
        return ScaleBySparseAdamState(
            first_step(params), mu=tree.zeros_like(params), nu=tree.zeros_like(params)
        )

    def step(state: ScaleBySparseAdamState, params: tree.PyTree | None) -> Step:
        checks.state("scale_by_sparse_adam", state, ScaleBySparseAdamState)
        count = state.count + 1
        correction = bias_correction(b2, count).sqrt() / bias_correction(b1, count)

        def rule(g: Tensor, m: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            there = g != 0
            if sparse_dim is not None:
                there = _any_after(there, sparse_dim, g)
            m = torch.where(there, first_moment(m, g, b1), m)
            v = torch.where(there, second_moment(v, g, b2), v)
            direction = m * correction / (v.sqrt() + eps)
            return torch.where(there, direction, torch.zeros_like(g)), m, v

        reads = {"state.mu": state.mu, "state.nu": state.nu}
        return Step(
            [Rule(rule, reads, writes=2)],
            lambda mu, nu: ScaleBySparseAdamState(count, mu, nu),
        )

    return elementwise(init, step)


def sparse_adam(
    lr: Scalar | Schedule = 1e-3,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-8,
    maximize: bool = False,
) -> GradientTransformation:
    """Return lazy Adam, `torch.optim.SparseAdam`, for gradients of which most elements are zero.

    `scale_by_sparse_adam` at a learning rate: an element whose gradient is exactly zero keeps its
    moments and does not move. torch's takes gradients in a sparse layout, and what stands in it
    takes part, zero or not; these are dense, and what is not zero takes part, which is the same for
    `grad.to_sparse()`. For whole rows, as of an embedding, see `scale_by_sparse_adam`. A NaN takes
    part.

    Parameters
    ----------
    lr
        Learning rate, greater than 0: a number, a 0-d tensor or a schedule.
    betas
        The decay rates of the first and second moment, in [0, 1).
    eps
        Added to the root of the second moment, greater than 0.
    maximize
        Climb instead of descend.

    Raises
    ------
    TypeError
        In `init`, a leaf is complex.
    ValueError
        A hyperparameter is out of its range, or, in `update`, a gradient does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.sparse_adam(lr=0.1)
    >>> params = {"w": torch.tensor([1.0, 1.0])}
    >>> state = optimizer.init(params)
    >>> for gradient in ([5.0, 5.0], [0.0, 5.0]):
    ...     updates, state = optimizer.update({"w": torch.tensor(gradient)}, state, params)
    ...     params = optim.apply_updates(params, updates)
    >>> params
    {'w': tensor([0.9000, 0.8000])}
    """
    if not callable(lr):
        checks.positive("lr", lr)
    checks.betas("betas", betas)
    return descent(scale_by_sparse_adam(*betas, eps), lr=lr, maximize=maximize)


def _any_after(there: Tensor, dims: int, like: Tensor) -> Tensor:
    """Return whether anything is there, for each index of the first `dims` dimensions."""
    inner = tuple(range(dims, like.ndim))
    return there.any(dim=inner, keepdim=True) if inner else there


def _check_dimensions(params: tree.PyTree, at_least: int) -> None:
    for index, leaf in enumerate(tree.leaves(params)):
        if leaf.ndim < at_least:
            path = tree.path_strings(params, "params")[index]
            raise ValueError(
                f"sparse_dim: {path} has shape {tuple(leaf.shape)}, fewer than {at_least} "
                "dimensions."
            )
