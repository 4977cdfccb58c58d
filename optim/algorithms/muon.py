"""Muon: momentum whose matrices are made orthogonal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import Scalar, leafwise, per_leaf
from ..schedules import Schedule
from ..transformation import GradientTransformation
from .recipes import descent

__all__ = ["ScaleByMuonState", "muon", "orthogonalize", "scale_by_muon"]

#: Coefficients of a quintic whose slope at 0 is steep: five rounds bring singular values near 1.
_QUINTIC = (3.4445, -4.7750, 2.0315)
#: What multiplies an orthogonal update of shape (m, n), by the names of `adjust_lr_fn`.
_ADJUSTMENTS: dict[str, Callable[[int, int], float]] = {
    "original": lambda m, n: math.sqrt(max(1, m / n)),
    "match_rms_adamw": lambda m, n: 0.2 * math.sqrt(max(m, n)),
}


class ScaleByMuonState(NamedTuple):
    """The average of gradients, torch's `momentum_buffer`."""

    mu: tree.PyTree


def orthogonalize(
    matrices: Tensor,
    ns_coefficients: tuple[float, float, float] = _QUINTIC,
    eps: Scalar = 1e-7,
    ns_steps: int = 5,
) -> Tensor:
    """Return roughly `U V^T` of matrices `U S V^T`, by Newton and Schulz's iteration.

    ::

        X <- X / max(|X|, eps)                                          (|X| is Frobenius's norm)
        X <- a X + b (X X^T) X + c (X X^T)^2 X                           (ns_steps times)

    The default coefficients (Jordan et al. 2024, kellerjordan.github.io/posts/muon) leave singular
    values scattered between about 0.7 and 1.2. All is computed in bfloat16, as in torch; the result
    has the dtype of what was given.

    Parameters
    ----------
    matrices
        Real tensor of shape `(..., m, n)`.
    ns_coefficients
        The numbers `a, b, c`.
    eps
        The smallest divisor.
    ns_steps
        The number of rounds, 0 to 99.

    Raises
    ------
    TypeError, ValueError
        An argument is not of that kind.

    Examples
    --------
    >>> orthogonalize(torch.diag(torch.tensor([1.0, 2.0])))
    tensor([[1.1172, 0.0000],
            [0.0000, 0.6914]])
    """
    _check_iteration(ns_coefficients, eps, ns_steps)
    if matrices.ndim < 2 or not matrices.is_floating_point():
        raise ValueError(
            "orthogonalize: expected real matrices, of shape (..., m, n), got a tensor of shape "
            f"{tuple(matrices.shape)}, {matrices.dtype}."
        )
    a, b, c = ns_coefficients
    tall = matrices.shape[-2] > matrices.shape[-1]
    wide = (matrices.mT if tall else matrices).bfloat16()
    one = matrices.ndim == 2
    x = wide if one else wide.reshape(math.prod(wide.shape[:-2]), *wide.shape[-2:])
    add_product = torch.addmm if one else torch.baddbmm
    x = x / x.flatten(-2).norm(dim=-1).clamp(min=eps)[..., None, None]
    for _ in range(ns_steps):
        gram = x @ x.mT
        polynomial = add_product(gram, gram, gram, beta=b, alpha=c)
        x = add_product(x, polynomial, x, beta=a)
    x = x.reshape(wide.shape).to(matrices.dtype)
    return x.mT if tall else x


def scale_by_muon(
    momentum: Scalar = 0.95,
    nesterov: bool = True,
    ns_coefficients: tuple[float, float, float] = _QUINTIC,
    eps: Scalar = 1e-7,
    ns_steps: int = 5,
    adjust_lr_fn: str | None = None,
) -> GradientTransformation:
    """Replace the gradient of a matrix by its momentum, made orthogonal: Muon's direction.

    ::

        B_t = momentum B_{t-1} + (1 - momentum) G_t
        update = r orthogonalize((1 - momentum) G_t + momentum B_t)      (of B_t without nesterov)

    For a matrix of shape `(m, n)`, `r` is `sqrt(max(1, m / n))`, or, for
    `adjust_lr_fn="match_rms_adamw"`, `0.2 sqrt(max(m, n))` (Liu et al. 2025, arXiv:2502.16982).

    Arguments and errors are those of `muon`. optax's transformation of this name corrects the bias
    of `B_t`, leaves `r` to its recipe and does not compute in bfloat16.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> direction = optim.scale_by_muon()
    >>> params = {"w": torch.zeros(2, 2)}
    >>> direction.update({"w": torch.eye(2)}, direction.init(params))[0]
    {'w': tensor([[1.1250, 0.0000],
            [0.0000, 1.1250]])}
    """
    _check_direction(momentum, nesterov, adjust_lr_fn)
    _check_iteration(ns_coefficients, eps, ns_steps)
    adjustment = _ADJUSTMENTS[adjust_lr_fn or "original"]

    def init(params: tree.PyTree) -> ScaleByMuonState:
        checks.trainable(params)
        checks.real("muon", params)
        checks.matrices("muon", params)
        return ScaleByMuonState(tree.zeros_like(params))

    def average(g: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        b = _between(b, g, 1 - momentum)
        return (_between(g, b, momentum) if nesterov else b), b

    def orthogonal(x: Tensor) -> Tensor:
        return adjustment(*x.shape) * orthogonalize(x, ns_coefficients, eps, ns_steps)

    def update(
        updates: tree.PyTree,
        state: ScaleByMuonState,
        params: tree.PyTree | None = None,
        **extra: object,
    ) -> tuple[tree.PyTree, ScaleByMuonState]:
        checks.state("scale_by_muon", state, ScaleByMuonState)
        trees = {"state.mu": state.mu, "updates": updates}
        averaged, mu = leafwise(lambda b, g: average(g, b), trees, results=2)
        # One matrix at a time: torch rounds products of a stack otherwise.
        return per_leaf(orthogonal, {"updates": averaged}), ScaleByMuonState(mu)

    return GradientTransformation(init, update)


def muon(
    lr: Scalar | Schedule = 1e-3,
    weight_decay: Scalar = 0.1,
    momentum: Scalar = 0.95,
    nesterov: bool = True,
    ns_coefficients: tuple[float, float, float] = _QUINTIC,
    eps: Scalar = 1e-7,
    ns_steps: int = 5,
    adjust_lr_fn: str | None = None,
) -> GradientTransformation:
    """Return Muon, `torch.optim.Muon` (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

    ::

        theta <- theta - lr (scale_by_muon(g) + weight_decay theta)

    For matrices only; give other parameters, embeddings and heads to another rule by `partition`.
    In eager the numbers are torch's to the last bit of bfloat16. Under `jit` and `vmap` products
    may be rounded otherwise, which changes updates by about a hundredth of their size. A NaN or
    infinite gradient makes its matrix NaN.

    Parameters
    ----------
    lr
        Learning rate: a number, a 0-d tensor or a schedule.
    weight_decay, momentum
        Numbers or 0-d tensors, at least 0.
    nesterov
        Use Nesterov's momentum.
    ns_coefficients, eps, ns_steps
        Those of `orthogonalize`.
    adjust_lr_fn
        How steps grow with a matrix: None or "original", or "match_rms_adamw" (`scale_by_muon`).

    Raises
    ------
    TypeError
        An argument is of the wrong kind, or, in `init`, a leaf is complex.
    ValueError
        A hyperparameter is out of its range; in `init`, a leaf is no matrix; in `update`, `params`
        is missing while `weight_decay` is set, or a gradient does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.muon(lr=0.1)
    >>> params = {"w": torch.zeros(2, 2)}
    >>> state = optimizer.init(params)
    >>> gradient = {"w": torch.diag(torch.tensor([1.0, 2.0]))}
    >>> updates, state = optimizer.update(gradient, state, params)
    >>> optim.apply_updates(params, updates)
    {'w': tensor([[-0.1117,  0.0000],
            [ 0.0000, -0.0691]])}
    """
    return descent(
        scale_by_muon(momentum, nesterov, ns_coefficients, eps, ns_steps, adjust_lr_fn),
        lr=lr,
        weight_decay=weight_decay,
        decoupled_weight_decay=True,
    )


def _between(x: Tensor, y: Tensor, weight: Scalar) -> Tensor:
    """Return `(1 - weight) x + weight y`, by torch's own kernel when the weight is a number."""
    return x + weight * (y - x) if isinstance(weight, Tensor) else torch.lerp(x, y, weight)


def _check_direction(momentum: Scalar, nesterov: bool, adjust_lr_fn: str | None) -> None:
    checks.non_negative("momentum", momentum)
    checks.flag("nesterov", nesterov)
    if adjust_lr_fn is not None and adjust_lr_fn not in _ADJUSTMENTS:
        raise ValueError(
            f"adjust_lr_fn: expected None or one of {', '.join(map(repr, _ADJUSTMENTS))}, got "
            f"{adjust_lr_fn!r}."
        )


def _check_iteration(ns_coefficients: tuple[float, ...], eps: Scalar, ns_steps: int) -> None:
    if not isinstance(ns_coefficients, tuple | list) or len(ns_coefficients) != 3:
        raise ValueError(f"ns_coefficients: expected three numbers, got {ns_coefficients!r}.")
    for position, coefficient in enumerate(ns_coefficients):
        if isinstance(coefficient, Tensor):
            raise TypeError(f"ns_coefficients[{position}]: expected a number, got a tensor.")
        checks.scalar(f"ns_coefficients[{position}]", coefficient)
    checks.non_negative("eps", eps)
    if isinstance(ns_steps, bool) or not isinstance(ns_steps, int):
        raise TypeError(f"ns_steps: expected an int, got {ns_steps!r}.")
    if not 0 <= ns_steps < 100:
        raise ValueError(f"ns_steps: expected 0 to 99, got {ns_steps}.")
