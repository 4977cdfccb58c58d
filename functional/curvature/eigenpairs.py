"""Power iteration, with deflation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import random, tree
from ..control import fori_loop, while_loop
from .coordinates import Coordinates, Operator, check_count, without
from .tridiagonalization import Eigenpairs


class _Iterate(NamedTuple):
    """A unit vector, its image, and what they say."""

    vector: Tensor
    image: Tensor
    value: Tensor
    residual: Tensor
    step: Tensor


def power_iteration(
    operator: Operator,
    like: tree.PyTree,
    *,
    key: Tensor,
    k: int = 1,
    tol: float | Tensor = 1e-5,
    maxiter: int = 100,
) -> Eigenpairs:
    """Find the `k` eigenvalues of a symmetric operator that are largest in absolute value.

    ::

        x <- (I - X X^T) A x / |(I - X X^T) A x|,    value = x^T A x

    where `X` holds the eigenvectors found before (deflation). An iteration ends when
    `|A x - value x| <= tol |value|`, or after `maxiter` products. It needs the memory of `k` trees.
    Its error falls by the ratio of neighbouring eigenvalues each time: where they are close, or of
    equal size and opposite sign, `lanczos` needs far fewer products.

    Parameters
    ----------
    operator
        A symmetric linear function `v -> A v` of trees.
    like
        A tree of floating tensors, such as the parameters: what `operator` takes.
    key
        A key of `purefn.functional.random`, for the starts.
    k
        How many eigenpairs, at most the number of elements of `like`.
    tol
        The relative residual at which to stop.
    maxiter
        The most products for each eigenpair.

    Returns
    -------
    `Eigenpairs`, in the order in which they were found; the residuals, of the deflated operator,
    say whether they are.

    Raises
    ------
    TypeError, ValueError
        A number is out of range, or what the operator returns is not like what it got; the message
        names the leaf.

    Examples
    --------
    >>> operator = lambda v: torch.tensor([1.0, -8.0, 3.0]) * v
    >>> power_iteration(operator, torch.zeros(3), key=random.key(0), k=2).values
    tensor([-8.,  3.])
    """
    caller = "power_iteration"
    space = Coordinates(caller, "like", like)
    check_count(caller, "k", k, most=space.size)
    check_count(caller, "maxiter", maxiter)
    apply, tol = space.operator(operator), space.scalar(tol)
    starts = random.normal(key, (k, space.size)).to(space.dtype)
    rows = torch.arange(k, device=starts.device)

    def find(index: Tensor, found: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        values, vectors, residuals = found
        here = rows == index

        def look(direction: Tensor, step: Tensor) -> _Iterate:
            vector = without(vectors, direction)
            vector = vector / torch.linalg.vector_norm(vector)
            image = without(vectors, apply(vector))
            value = vector @ image
            residual = torch.linalg.vector_norm(image - value * vector)
            return _Iterate(vector, image, value, residual, step + 1)

        def goes_on(now: _Iterate) -> Tensor:
            return (now.residual > tol * now.value.abs()) & (now.step < maxiter)

        start = torch.where(here[:, None], starts, 0.0).sum(0)
        first = look(start, torch.zeros_like(index))
        last = while_loop(goes_on, lambda now: look(now.image, now.step), first)
        return (
            torch.where(here, last.value, values),
            torch.where(here[:, None], last.vector, vectors),
            torch.where(here, last.residual, residuals),
        )

    nothing = starts.new_zeros(k)
    found = fori_loop(0, k, find, (nothing, torch.zeros_like(starts), nothing))
    values, vectors, residuals = found
    return Eigenpairs(values, space.unravel(vectors), residuals)
