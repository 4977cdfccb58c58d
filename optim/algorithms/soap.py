"""SOAP: Adam in the eigenbasis of Shampoo's statistics."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...functional import cond, tree
from .. import checks
from ..leafwise import Scalar, stored, working
from ..moments import bias_correction, first_moment, first_step, second_moment
from ..schedules import Schedule
from ..stacking import outside_autocast
from ..transformation import GradientTransformation
from . import kronecker
from .recipes import descent

__all__ = ["ScaleBySoapState", "scale_by_soap", "soap"]


class ScaleBySoapState(NamedTuple):
    """The number of gradients (int64, 0-d); Adam's moments; statistics and their eigenbases.

    `mu` and `nu` are the `exp_avg` and `exp_avg_sq` of the authors' code, `mu` in the coordinates
    of the parameters and `nu` in those of the eigenbases. `statistics` and `bases` are its `GG` and
    `Q`: in the place of each leaf a tuple with one matrix for each dimension, empty for dimensions
    that stay as they are, in float32 for leaves in half precision.
    """

    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    mu: tree.PyTree
    nu: tree.PyTree
    statistics: tree.PyTree
    bases: tree.PyTree


def scale_by_soap(
    b1: Scalar = 0.95,
    b2: Scalar = 0.95,
    shampoo_beta: Scalar | None = None,
    eps: Scalar = 1e-8,
    precondition_frequency: int = 10,
    max_precond_dim: int = 10000,
    precondition_1d: bool = False,
    normalize_grads: bool = False,
    correct_bias: bool = True,
) -> GradientTransformation:
    """Rescale gradients by SOAP (Vyas et al. 2024, arXiv:2409.11321, algorithm 3).

    For a matrix, with bases `P` and `Q` of the steps before::

        G' = P^T G Q
        mu = b1 mu + (1 - b1) G,    nu = b2 nu + (1 - b2) G'^2
        update = P [(P^T mu Q) / (sqrt(nu) + eps)] Q^T  sqrt(1 - b2^t) / (1 - b1^t)
        L = s L + (1 - s) G G^T,    R = s R + (1 - s) G^T G              s is shampoo_beta
        every precondition_frequency steps: P = qr(L P),  Q = qr(R Q)

    The first gradient makes the bases, the eigenvectors of `L` and `R`, and moves nothing: no
    gradient is seen through a basis that was made of it. Columns of a basis, and `nu` with them,
    are sorted by their eigenvalues before each `qr`. A tensor of more dimensions has a basis for
    each. Arguments and errors are those of `soap`.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> rescale = optim.scale_by_soap()
    >>> gradient = {"w": torch.diag(torch.tensor([3.0, -0.5]))}
    >>> updates, state = rescale.update(gradient, rescale.init(gradient))
    >>> rescale.update(gradient, state)[0]["w"].diag().round()
    tensor([ 1., -1.])
    """
    statistics_decay = b2 if shampoo_beta is None else shampoo_beta
    checks.decay_rate("b1", b1)
    checks.decay_rate("b2", b2)
    checks.decay_rate("shampoo_beta", statistics_decay)
    checks.non_negative("eps", eps)
    checks.count("precondition_frequency", precondition_frequency)
    checks.count("max_precond_dim", max_precond_dim)
    for name, value in (
        ("precondition_1d", precondition_1d),
        ("normalize_grads", normalize_grads),
        ("correct_bias", correct_bias),
    ):
        checks.flag(name, value)

    def shapes(leaf: Tensor) -> list[tuple[int, ...]]:
        is_plain = leaf.ndim == 1 and not precondition_1d
        sides = [0 if is_plain or size > max_precond_dim else size for size in leaf.shape]
        return [(side, side) for side in sides]

    def start(leaf: Tensor) -> kronecker.Factors:
        return tuple([leaf.new_zeros(shape) for shape in shapes(leaf)])

    def init(params: tree.PyTree) -> ScaleBySoapState:
        checks.trainable(params)
        checks.real("scale_by_soap", params)
        statistics = kronecker.of_leaves(start, params)
        zeros = tree.zeros_like(params)
        bases = tree.zeros_like(statistics)
        return ScaleBySoapState(
            first_step(params), zeros, tree.zeros_like(params), statistics, bases
        )

    def direction(t: Tensor, m: Tensor, v: Tensor, bases: kronecker.Factors) -> Tensor:
        projected = kronecker.apply(bases, m, transposed=True)
        u = kronecker.apply(bases, projected / (v.sqrt() + eps))
        if correct_bias:
            u = u * (bias_correction(b2, t).sqrt() / bias_correction(b1, t))
        if normalize_grads:
            u = u / (1e-30 + u.square().mean().sqrt())
        return u

    def move(g: Tensor, state: ScaleBySoapState) -> tuple[tree.PyTree, tree.PyTree, tree.PyTree]:
        """Return the updates and the moments, from the second gradient on."""
        structure, rows = kronecker.rows(g, state.mu, state.nu, state.bases)
        moved: list[tuple[Tensor, ...]] = []
        for leaf, mu, nu, bases in rows:
            x = working(leaf)
            m = first_moment(working(mu), x, b1)
            v = second_moment(working(nu), kronecker.apply(bases, x, transposed=True), b2)
            values = direction(state.count, m, v, bases), m, v
            moved.append(tuple([stored(value, leaf.dtype) for value in values]))
        updates, mu, nu = [
            tree.unflatten(structure, [row[place] for row in moved]) for place in range(3)
        ]
        return updates, mu, nu

    def wait(g: tree.PyTree, state: ScaleBySoapState) -> tuple[tree.PyTree, ...]:
        return tree.zeros_like(g), state.mu, state.nu

    @outside_autocast
    def update(
        updates: tree.PyTree,
        state: ScaleBySoapState,
        params: tree.PyTree | None = None,
        **extra: object,
    ) -> tuple[tree.PyTree, ScaleBySoapState]:
        checks.state("scale_by_soap", state, ScaleBySoapState)
        moments = {"state.mu": state.mu, "state.nu": state.nu}
        checks.same_leaves({**moments, "updates": updates})
        for name in ("statistics", "bases"):
            factors = getattr(state, name)
            checks.state_tensors(f"state.{name}", factors, "updates", updates, shapes, wide=True)
        is_first = state.count == 0
        moved, mu, nu = cond(is_first, wait, move, updates, state)
        structure, rows = kronecker.rows(updates, state.statistics)
        statistics = tree.unflatten(
            structure, [_averaged(working(g), factors, statistics_decay) for g, factors in rows]
        )
        is_due = ~is_first & (state.count % precondition_frequency == 0)
        nu, bases = cond(
            is_first,
            lambda statistics, nu, bases: (nu, tree.map(_eigenbasis, statistics)),
            lambda *given: cond(is_due, _rotated, lambda _, nu, bases: (nu, bases), *given),
            statistics,
            nu,
            state.bases,
        )
        return moved, ScaleBySoapState(state.count + 1, mu, nu, statistics, bases)

    return GradientTransformation(init, update)


def soap(
    lr: Scalar | Schedule = 3e-3,
    betas: tuple[Scalar, Scalar] = (0.95, 0.95),
    shampoo_beta: Scalar | None = None,
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.01,
    precondition_frequency: int = 10,
    max_precond_dim: int = 10000,
    precondition_1d: bool = False,
    normalize_grads: bool = False,
    correct_bias: bool = True,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Return SOAP (Vyas et al. 2024, arXiv:2409.11321), with the defaults of its authors' code.

    `scale_by_soap` at a learning rate, with weight decay as in AdamW (the authors' code decays
    after the step, what has moved, and not at the first). An infinite or NaN gradient makes its
    leaf NaN from then on.

    Parameters
    ----------
    lr
        Learning rate: a number, a 0-d tensor or a schedule.
    betas
        The decay rates of the moments, in [0, 1).
    shampoo_beta
        That of the statistics; None is `betas[1]`.
    eps
        Added to the root of the second moment, which is not corrected for its start at zero.
    weight_decay
        A number or 0-d tensor, at least 0.
    precondition_frequency
        How many steps a basis is used.
    max_precond_dim
        Longer dimensions stay as they are.
    precondition_1d
        Give vectors a basis too; without one a leaf is treated by Adam.
    normalize_grads
        Divide each leaf's direction by its root mean square.
    correct_bias
        Correct the moments for their start at zero.
    maximize
        Climb instead of descend.

    Raises
    ------
    TypeError
        An argument is of the wrong kind, or, in `init`, a leaf is complex.
    ValueError
        A hyperparameter is out of its range; in `update`, `params` is missing while `weight_decay`
        is set, or a gradient does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.soap(lr=0.1, weight_decay=0)
    >>> params = {"w": torch.zeros(2, 2)}
    >>> state = optimizer.init(params)
    >>> for _ in range(3):
    ...     updates, state = optimizer.update({"w": torch.eye(2)}, state, params)
    ...     params = optim.apply_updates(params, updates)
    >>> params
    {'w': tensor([[-0.2000,  0.0000],
            [ 0.0000, -0.2000]])}
    """
    checks.betas("betas", betas)
    rule = scale_by_soap(
        *betas,
        shampoo_beta,
        eps,
        precondition_frequency,
        max_precond_dim,
        precondition_1d,
        normalize_grads,
        correct_bias,
    )
    return descent(
        rule, lr=lr, weight_decay=weight_decay, decoupled_weight_decay=True, maximize=maximize
    )


def _averaged(g: Tensor, statistics: kronecker.Factors, decay: Scalar) -> kronecker.Factors:
    return tuple(
        [
            first_moment(factor, kronecker.gram(g, dim), decay) if len(factor) else factor.clone()
            for dim, factor in enumerate(statistics)
        ]
    )


def _eigenbasis(statistics: Tensor) -> Tensor:
    """Return the eigenvectors of a matrix, that of the largest eigenvalue first."""
    if not len(statistics):
        return statistics.clone()
    return kronecker.eigenvectors(statistics)[1].flip(1).contiguous()  # one layout, one program


def _rotated(
    statistics: tree.PyTree, nu: tree.PyTree, bases: tree.PyTree
) -> tuple[tree.PyTree, tree.PyTree]:
    """Bring bases nearer to the eigenvectors by one power iteration; sort `nu` with them."""
    structure, rows = kronecker.rows(nu, statistics, bases)
    turned = [_rotated_leaf(*row) for row in rows]
    return (
        tree.unflatten(structure, [v for v, _ in turned]),
        tree.unflatten(structure, [own for _, own in turned]),
    )


def _rotated_leaf(
    v: Tensor, statistics: kronecker.Factors, bases: kronecker.Factors
) -> tuple[Tensor, kronecker.Factors]:
    rotated: list[Tensor] = []
    for dim, (factor, basis) in enumerate(zip(statistics, bases, strict=True)):
        if len(factor):
            power = factor @ basis
            order = (basis * power).sum(0).argsort(descending=True)  # of estimated eigenvalues
            v = v.index_select(dim, order)
            basis = torch.linalg.qr(power.index_select(1, order))[0].contiguous()
        rotated.append(basis)
    return v, tuple(rotated)
