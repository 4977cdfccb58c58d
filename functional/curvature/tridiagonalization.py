"""Lanczos: a symmetric operator on a Krylov subspace, and the eigenpairs that can be read there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import tree
from ..control import cond, fori_loop
from .coordinates import Coordinates, Operator, check_count, without


class Tridiagonalization(NamedTuple):
    """`A Q = Q T + residual q e_k^T`, with orthonormal `Q` and tridiagonal `T`."""

    #: The diagonal of `T`, shape `(k,)`.
    diagonal: Tensor
    #: What stands beside it, shape `(k - 1,)`; 0 where a Krylov subspace ended.
    off_diagonal: Tensor
    #: How far the subspace is from being invariant, 0-d.
    residual: Tensor
    #: The columns of `Q`: a tree like `start`, with a leading axis of length `k`.
    basis: Any


class Eigenpairs(NamedTuple):
    """Approximate eigenvalues and eigenvectors, `k` of them."""

    #: Shape `(k,)`.
    values: Tensor
    #: Unit vectors: a tree with a leading axis of length `k`.
    vectors: Any
    #: `|A x - value x|`, shape `(k,)`: an eigenvalue lies at most this far from the value.
    residuals: Tensor


def lanczos(operator: Operator, start: tree.PyTree, steps: int) -> Tridiagonalization:
    """Tridiagonalize a symmetric operator on the Krylov subspace of `start`.

    ::

        beta_i q_{i+1} = A q_i - alpha_i q_i - beta_{i-1} q_{i-1},    alpha_i = q_i^T A q_i

    Every new vector is orthogonalised against all others, twice, so that there are no ghost
    eigenvalues. Where the subspace is invariant before `steps` steps are done, `beta_i` is 0 and a
    new one is begun, at the coordinate that lies farthest from all found so far: with as many steps
    as `start` has elements, `T` has all eigenvalues of `A`, the repeated ones too. Lanczos 1950;
    Golub, Van Loan 2013, section 10.1.

    Parameters
    ----------
    operator
        A symmetric linear function `v -> A v` of trees.
    start
        A tree of floating tensors, the first vector up to its length.
    steps
        How many vectors, at most the number of elements of `start`: one product and the memory of
        one tree for each.

    Raises
    ------
    TypeError, ValueError
        `steps` is out of range, or what the operator returns is not like what it got; the message
        names the leaf.

    Examples
    --------
    >>> operator = lambda v: torch.tensor([1.0, 2.0, 4.0]) * v
    >>> found = lanczos(operator, torch.tensor([1.0, 0.0, 1.0]), steps=2)
    >>> found.diagonal, found.off_diagonal
    (tensor([2.5000, 2.5000]), tensor([1.5000]))
    """
    space = Coordinates("lanczos", "start", start)
    check_count("lanczos", "steps", steps, most=space.size)
    found = tridiagonalize(space.operator(operator), space.ravel(start), steps)
    return found._replace(basis=space.unravel(found.basis))


def ritz_pairs(tridiagonalization: Tridiagonalization) -> Eigenpairs:
    """Return what the subspace knows of the eigenpairs, the values ascending.

    ::

        T s = theta s,    x = Q s,    |A x - theta x| = residual |s_k|

    The largest and the smallest eigenvalues are found first. The residuals say how well; they are
    exact for a symmetric operator.

    >>> operator = lambda v: torch.tensor([1.0, 2.0, 4.0]) * v
    >>> ritz_pairs(lanczos(operator, torch.ones(3), steps=3)).values
    tensor([1.0000, 2.0000, 4.0000])
    """
    values, rotation = _diagonalize(tridiagonalization)

    def rotated(basis: Tensor) -> Tensor:
        vectors: Tensor = torch.tensordot(rotation.mT, basis.to(rotation.dtype), 1)
        return vectors.to(basis.dtype)

    residuals = tridiagonalization.residual * rotation[-1].abs()
    return Eigenpairs(values, tree.map(rotated, tridiagonalization.basis), residuals)


def ritz_weights(tridiagonalization: Tridiagonalization) -> tuple[Tensor, Tensor]:
    """Return the Ritz values and the squared first elements of their vectors: a Gauss quadrature.

    >>> operator = lambda v: torch.tensor([1.0, 2.0, 4.0]) * v
    >>> ritz_weights(lanczos(operator, torch.tensor([3.0, 0.0, 4.0]), steps=2))[1]
    tensor([0.3600, 0.6400])
    """
    values, rotation = _diagonalize(tridiagonalization)
    return values, rotation[0].square()


def tridiagonalize(
    apply: Callable[[Tensor], Tensor], start: Tensor, steps: int
) -> Tridiagonalization:
    """Do `lanczos` on vectors; `basis` has shape `(steps, n)`."""
    rows = torch.arange(steps, device=start.device)
    empty = start.new_zeros(steps)

    def step(i: Tensor, carry: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        basis, diagonal, off_diagonal, q = carry
        here = rows == i
        basis = torch.where(here[:, None], q, basis)
        image = apply(q)
        diagonal = torch.where(here, q @ image, diagonal)
        # What rounding leaves of a vector in the subspace is no direction.
        scale = torch.maximum(diagonal.abs().max(), off_diagonal.abs().max())
        beta, q = _next_vector(basis, image, torch.finfo(start.dtype).eps * scale)
        return basis, diagonal, torch.where(here, beta, off_diagonal), q

    basis = start.new_zeros(steps, len(start))
    _, first = _next_vector(basis, start, start.new_zeros(()))
    carry = (basis, empty, empty, first)
    basis, diagonal, off_diagonal, _ = fori_loop(0, steps, step, carry)
    return Tridiagonalization(diagonal, off_diagonal[:-1], off_diagonal[-1], basis)


def _next_vector(basis: Tensor, image: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return `beta` and a unit vector that is orthogonal to `basis`, with `beta q` from `image`."""
    image = without(basis, image)
    beta = torch.linalg.vector_norm(image)

    def onward(image: Tensor) -> tuple[Tensor, Tensor]:
        return beta, image / beta

    def anew(image: Tensor) -> tuple[Tensor, Tensor]:
        coordinates = torch.arange(len(image), device=image.device)
        farthest = basis.square().sum(0).argmin()
        fresh = without(basis, (coordinates == farthest).to(image.dtype))
        return torch.zeros_like(beta), fresh / torch.linalg.vector_norm(fresh)

    found: tuple[Tensor, Tensor] = cond(beta > noise, onward, anew, image)
    return found


def _diagonalize(tridiagonalization: Tridiagonalization) -> tuple[Tensor, Tensor]:
    diagonal, off_diagonal, _, _ = tridiagonalization
    below = torch.diag(off_diagonal, -1)
    values, rotation = torch.linalg.eigh(torch.diag(diagonal) + below + below.mT)
    return values, rotation
