"""Conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import tree
from ..control import while_loop
from .coordinates import Coordinates, Operator, check_count


class SolverInfo(NamedTuple):
    """How a solver ended: 0-d tensors."""

    #: How many steps were taken, int64, each with one product; a start `x0` takes one more.
    steps: Tensor
    #: The length of `b - A x`, as the recursion carries it.
    residual_norm: Tensor
    #: Whether it is as small as was asked.
    converged: Tensor
    #: Whether a direction with `p^T A p <= 0` was met: there the iteration ends, for `A` is not
    #: positive definite. More `damping` makes it so.
    indefinite: Tensor


class _Iterate(NamedTuple):
    x: Tensor
    residual: Tensor
    direction: Tensor
    #: `r^T M^-1 r` and `|r|`.
    energy: Tensor
    norm: Tensor
    step: Tensor
    indefinite: Tensor


def conjugate_gradient(
    operator: Operator,
    b: tree.PyTree,
    x0: tree.PyTree = None,
    *,
    damping: float | Tensor = 0.0,
    preconditioner: Operator | None = None,
    tol: float | Tensor = 1e-5,
    atol: float | Tensor = 0.0,
    maxiter: int | None = None,
) -> tuple[Any, SolverInfo]:
    """Solve `(A + damping I) x = b` for a symmetric positive definite operator.

    From `r = b - A x`, `z = M^-1 r` and `p = z`, until `|r| <= max(tol |b|, atol)`::

        alpha = r^T z / p^T A p
        x <- x + alpha p,    r' = r - alpha A p,    z' = M^-1 r'
        p <- z' + (r'^T z' / r^T z) p

    Hestenes, Stiefel 1952. It is a `while_loop`, so that it has forward derivatives only.

    Parameters
    ----------
    operator
        A symmetric linear function `v -> A v` of trees, such as
        `lambda v: gnvp(model, loss, (params,), (v,))`.
    b
        A tree of floating tensors.
    x0
        Where to begin, a tree like `b`; zero by default, which saves a product.
    damping
        A number that is added to the diagonal.
    preconditioner
        `M^-1`, a symmetric positive definite linear function of trees that is near the inverse.
    tol, atol
        The relative and the absolute length of the residual at which to stop.
    maxiter
        The most steps, by default ten times the number of elements of `b`.

    Returns
    -------
    `x`, a tree like `b`, and a `SolverInfo`. Where the operator proves indefinite, `x` is what was
    reached before.

    Raises
    ------
    TypeError, ValueError
        A number is out of range, or what an operator returns is not like what it got; the message
        names the leaf.

    Examples
    --------
    >>> operator = lambda v: {"w": torch.tensor([[4.0, 1.0], [1.0, 3.0]]) @ v["w"]}
    >>> x, info = conjugate_gradient(operator, {"w": torch.tensor([1.0, 2.0])})
    >>> x, info.steps, info.converged
    ({'w': tensor([0.0909, 0.6364])}, tensor(2), tensor(True))
    """
    caller = "conjugate_gradient"
    space = Coordinates(caller, "b", b)
    maxiter = 10 * space.size if maxiter is None else maxiter
    check_count(caller, "maxiter", maxiter, least=0)
    undamped, damping = space.operator(operator), space.scalar(damping)
    precondition = _preconditioner(space, preconditioner)

    def apply(v: Tensor) -> Tensor:
        return undamped(v) + damping * v

    target = space.ravel(b)
    if x0 is None:
        x, r = torch.zeros_like(target), target
    else:
        x = space.ravel(x0, "x0")
        r = target - apply(x)
    limit = torch.maximum(space.scalar(tol) * torch.linalg.vector_norm(target), space.scalar(atol))
    z = precondition(r)
    none = torch.zeros((), dtype=torch.int64, device=r.device)
    first = _Iterate(x, r, z, r @ z, torch.linalg.vector_norm(r), none, none.bool())

    def goes_on(now: _Iterate) -> Tensor:
        return (now.norm > limit) & (now.step < maxiter) & ~now.indefinite

    last = while_loop(goes_on, lambda now: _step(apply, precondition, now), first)
    info = SolverInfo(last.step, last.norm, last.norm <= limit, last.indefinite)
    return space.unravel(last.x), info


def _step(
    apply: Callable[[Tensor], Tensor], precondition: Callable[[Tensor], Tensor], now: _Iterate
) -> _Iterate:
    p = now.direction
    image = apply(p)
    curvature = p @ image
    indefinite = curvature <= 0
    alpha = torch.where(indefinite, 0.0, now.energy / torch.where(indefinite, 1.0, curvature))
    r = now.residual - alpha * image
    z = precondition(r)
    energy = r @ z
    return _Iterate(
        x=now.x + alpha * p,
        residual=r,
        direction=z + energy / now.energy * p,
        energy=energy,
        norm=torch.linalg.vector_norm(r),
        step=now.step + 1,
        indefinite=indefinite,
    )


def _preconditioner(
    space: Coordinates, preconditioner: Operator | None
) -> Callable[[Tensor], Tensor]:
    if preconditioner is None:
        return lambda r: r
    return space.operator(preconditioner, "preconditioner(v)")
