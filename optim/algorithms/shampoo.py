"""Shampoo: each dimension of a gradient rescaled by the statistics of its own slices."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from ...functional import cond, tree
from .. import checks
from ..leafwise import Scalar, stored, working
from ..moments import first_step
from ..schedules import Schedule
from ..stacking import outside_autocast
from ..transformation import GradientTransformation
from . import kronecker
from .recipes import descent

__all__ = ["ScaleByShampooState", "scale_by_shampoo", "shampoo"]


class ScaleByShampooState(NamedTuple):
    """The number of steps (int64, 0-d); statistics and their inverse roots.

    In the place of each leaf stands a tuple with one entry for each of its dimensions: a matrix,
    or the diagonal of one, in float32 for leaves in half precision.
    """

    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    statistics: tree.PyTree
    roots: tree.PyTree


def scale_by_shampoo(
    eps: float = 1e-4, precondition_frequency: int = 1, max_precond_dim: int = 10000
) -> GradientTransformation:
    """Rescale gradients by Shampoo (Gupta, Koren & Singer 2018, arXiv:1802.09568).

    For a matrix (algorithm 1), from `L_0 = R_0 = eps I`::

        L_t = L_{t-1} + G_t G_t^T,    R_t = R_{t-1} + G_t^T G_t
        update = L_t^(-1/4) G_t R_t^(-1/4)

    and for a tensor of `k` dimensions (algorithm 2) the same along each, with the power `-1/(2k)`.
    A number is divided by the root of its sum of squares, as by Adagrad.

    Parameters
    ----------
    eps
        What statistics begin with, a number greater than 0.
    precondition_frequency
        The roots are computed at the first step and then every so many.
    max_precond_dim
        Of a longer dimension only the diagonal of the statistics is kept.

    Raises
    ------
    TypeError
        In `init`, a leaf is complex.
    ValueError
        An argument is out of its range, or, in `update`, a gradient does not match the state.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> rescale = optim.scale_by_shampoo(eps=1e-12)
    >>> params = {"w": torch.zeros(2, 2)}
    >>> gradient = {"w": torch.diag(torch.tensor([3.0, -0.5]))}
    >>> rescale.update(gradient, rescale.init(params))[0]
    {'w': tensor([[ 1.0000,  0.0000],
            [ 0.0000, -1.0000]])}
    """
    checks.positive("eps", eps)
    checks.count("precondition_frequency", precondition_frequency)
    checks.count("max_precond_dim", max_precond_dim)

    def shapes(leaf: Tensor) -> list[tuple[int, ...]]:
        sizes = leaf.shape or (1,)
        return [(size,) if size > max_precond_dim else (size, size) for size in sizes]

    def start(leaf: Tensor) -> kronecker.Factors:
        ones = [leaf.new_ones(shape[0]) for shape in shapes(leaf)]
        return tuple([eps * (x if len(x) > max_precond_dim else x.diag()) for x in ones])

    def init(params: tree.PyTree) -> ScaleByShampooState:
        checks.trainable(params)
        checks.real("scale_by_shampoo", params)
        statistics = kronecker.of_leaves(start, params)
        return ScaleByShampooState(first_step(params), statistics, tree.zeros_like(statistics))

    @outside_autocast
    def update(
        updates: tree.PyTree,
        state: ScaleByShampooState,
        params: tree.PyTree | None = None,
        **extra: object,
    ) -> tuple[tree.PyTree, ScaleByShampooState]:
        checks.state("scale_by_shampoo", state, ScaleByShampooState)
        checks.trainable(updates, "updates")
        for name in ("statistics", "roots"):
            factors = getattr(state, name)
            checks.state_tensors(f"state.{name}", factors, "updates", updates, shapes, wide=True)
        structure, rows = kronecker.rows(updates, state.statistics)
        added = [_added(working(g), factors) for g, factors in rows]
        statistics = tree.unflatten(structure, added)
        roots = cond(
            state.count % precondition_frequency == 0,
            lambda statistics, roots: _inverse_roots(structure, statistics, eps),
            lambda statistics, roots: roots,
            statistics,
            state.roots,
        )
        rescaled = [_rescaled(g, own) for g, own in kronecker.rows(updates, roots)[1]]
        return (
            tree.unflatten(structure, rescaled),
            ScaleByShampooState(state.count + 1, statistics, roots),
        )

    return GradientTransformation(init, update)


def shampoo(
    lr: Scalar | Schedule = 1e-1,
    eps: float = 1e-4,
    weight_decay: Scalar = 0,
    precondition_frequency: int = 1,
    max_precond_dim: int = 10000,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Return Shampoo (Gupta, Koren & Singer 2018, arXiv:1802.09568).

    `scale_by_shampoo`, whose arguments and errors it shares, at a learning rate; weight decay is an
    L2 penalty. For momentum, chain it: `chain(scale_by_shampoo(), trace(0.9),
    scale_by_learning_rate(lr))`. An infinite or NaN gradient makes its leaf NaN from then on.

    Parameters
    ----------
    lr
        Learning rate: a number, a 0-d tensor or a schedule.
    weight_decay
        A number or 0-d tensor, at least 0.
    maximize
        Climb instead of descend.
    eps, precondition_frequency, max_precond_dim
        Those of `scale_by_shampoo`.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.shampoo(lr=0.5, eps=1e-12)
    >>> params = {"w": torch.zeros(2, 2)}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": 7 * torch.eye(2)}, state, params)
    >>> optim.apply_updates(params, updates)
    {'w': tensor([[-0.5000,  0.0000],
            [ 0.0000, -0.5000]])}
    """
    rule = scale_by_shampoo(eps, precondition_frequency, max_precond_dim)
    return descent(rule, lr=lr, weight_decay=weight_decay, maximize=maximize)


def _added(g: Tensor, statistics: kronecker.Factors) -> kronecker.Factors:
    """Add the products of slices of a gradient to the statistics of each dimension."""
    g = g if g.ndim else g[None]
    return tuple(
        [
            factor + (kronecker.gram(g, dim) if factor.ndim == 2 else _squares(g, dim))
            for dim, factor in enumerate(statistics)
        ]
    )


def _squares(g: Tensor, dim: int) -> Tensor:
    """Return the diagonal of `gram(g, dim)`."""
    others = [other for other in range(g.ndim) if other != dim]
    return g.square().sum(others) if others else g.square()


def _inverse_roots(structure: tree.Structure, statistics: tree.PyTree, eps: float) -> tree.PyTree:
    """Return the statistics of each leaf to the power of `-1 / (2 k)`."""
    of_leaves: list[Any] = list(structure.flatten_up_to(statistics))
    roots = [
        tuple([_power(factor, -0.5 / len(factors), eps) for factor in factors])
        for factors in of_leaves
    ]
    return tree.unflatten(structure, roots)


def _power(matrix: Tensor, exponent: float, eps: float) -> Tensor:
    """Return a power of a matrix, or of a diagonal, that is at least `eps I` but for rounding."""
    if matrix.ndim == 1:
        return matrix**exponent
    values, vectors = kronecker.eigenvectors(matrix)
    power: Tensor = (vectors * values.clamp(min=eps) ** exponent) @ vectors.mT
    return power


def _rescaled(g: Tensor, roots: kronecker.Factors) -> Tensor:
    x = working(g)
    x = kronecker.apply(roots, x if x.ndim else x[None])
    return stored(x.reshape(g.shape), g.dtype)
