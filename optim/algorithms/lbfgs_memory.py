"""What L-BFGS remembers of its last steps, and the direction that they give."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...functional import cond

#: The least `y.s` with which a pair is remembered.
LEAST_CURVATURE = 1e-10


class LbfgsState(NamedTuple):
    """What L-BFGS remembers. All `n` numbers of the parameters are one vector here.

    Attributes
    ----------
    count, iterations, evaluations
        How many updates, iterations and evaluations of the loss there have been (int64, 0-d);
        torch's `n_iter` and `func_evals`.
    direction, step_size, gradient
        The last direction, how far it was followed, and the gradient where it began; torch's `d`,
        `t` and `prev_flat_grad`.
    steps, differences
        The last steps `s` and differences of gradients `y`, shape `(history_size, n)`, the newest
        last; torch's `old_stps` and `old_dirs`. Rows not yet used are zero.
    products
        The upper triangle of `steps @ differences.T`, with ones for rows not yet used.
    scale
        The inverse Hessian that the memory corrects is `scale` times the identity; `H_diag`.
    """

    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    iterations: Tensor
    evaluations: Tensor
    direction: Tensor
    step_size: Tensor
    gradient: Tensor
    steps: Tensor
    differences: Tensor
    products: Tensor
    scale: Tensor


def empty_memory(like: Tensor, count: Tensor, size: int) -> LbfgsState:
    """Return the state before the first step, for parameters that are the vector `like`."""
    zeros = torch.zeros_like(like)
    return LbfgsState(
        count,
        torch.zeros_like(count),
        torch.zeros_like(count),
        direction=zeros,
        step_size=like.new_zeros(()),
        gradient=zeros.clone(),
        steps=like.new_zeros(size, len(like)),
        differences=like.new_zeros(size, len(like)),
        products=torch.eye(size, dtype=like.dtype, device=like.device),
        scale=like.new_ones(()),
    )


def remember(state: LbfgsState, gradient: Tensor) -> LbfgsState:
    """Put the last step in the place of the oldest, if the loss curves upwards along it."""
    s = state.step_size * state.direction
    y = gradient - state.gradient
    curvature = y.dot(s)

    def with_pair(state: LbfgsState) -> LbfgsState:
        steps = torch.cat([state.steps[1:], s[None]])
        kept = torch.nn.functional.pad(state.products[1:, 1:], (0, 0, 0, 1))
        return state._replace(
            steps=steps,
            differences=torch.cat([state.differences[1:], y[None]]),
            products=torch.cat([kept, (steps @ y)[:, None]], dim=1),
            scale=curvature / y.dot(y),
        )

    remembered: LbfgsState = cond(
        curvature > LEAST_CURVATURE, with_pair, lambda state: state, state
    )
    return remembered


def direction_of(state: LbfgsState, gradient: Tensor) -> Tensor:
    """Return `-H g`, by the recursion over all pairs, from the newest back and forth again.

    ::

        q = -g;          a_i = s_i.q / s_i.y_i,  q <- q - a_i y_i           (newest to oldest)
        r = scale q;     c_i = a_i - y_i.r / s_i.y_i,  r <- r + c_i s_i     (oldest to newest)

    With the products `R_ij = s_i.y_j` for `i <= j` these are two systems of triangular equations.
    """
    s, y, products = state.steps, state.differences, state.products
    a = _solved(products, s @ -gradient, upper=True)
    r = state.scale * (-gradient - y.mT @ a)
    c = _solved(products.mT, products.diagonal() * a - y @ r, upper=False)
    return r + s.mT @ c


def _solved(matrix: Tensor, right: Tensor, *, upper: bool) -> Tensor:
    solution: Tensor = torch.linalg.solve_triangular(matrix, right[:, None], upper=upper)
    return solution[:, 0]
