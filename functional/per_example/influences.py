"""What a training example does to the losses of others, and what would be without it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .. import tree
from ..autodiff import hvp
from ..batching import vmap
from ..curvature import SolverInfo, conjugate_gradient
from .calls import Call, LossesFunction, check_count
from .factored import formed
from .independence import check_independence
from .leaves import Method
from .similarity import as_batch, cross_gram, derivatives

#: A symmetric linear function of trees like the parameters, as `curvature` makes them.
Operator = Callable[[Any], Any]
Batch = Sequence[Any]


class Influence(NamedTuple):
    """`scores` (test, train), and how each solver ended: a `SolverInfo` with an axis (test,)."""

    scores: Tensor
    solver: SolverInfo


def influence(
    losses_fn: LossesFunction,
    operator: Operator | None = None,
    *,
    damping: float | Tensor = 0.0,
    tol: float | Tensor = 1e-5,
    maxiter: int | None = None,
    chunk_size: int | None = None,
) -> Callable[[tree.PyTree, Batch, Batch], Influence]:
    """Return the function that computes the influence of training examples on test losses.

    ::

        I(z, z_test) = - g_test' (H + damping I)^-1 g_z

    is the derivative of the loss at `z_test` with respect to the weight of `z` in the mean that was
    minimised: a positive score says that `z` harms, and leaving it out of N changes the loss by
    about `-I / N`. Koh, Liang 2017, arXiv:1703.04730. Every test example costs one solution by
    conjugate gradients and one forward-mode pass over the training examples, of which no gradient
    is formed.

    Parameters
    ----------
    losses_fn
        As for `grads`: one loss for each example, which depends on that example alone.
    operator
        `v -> H v`, symmetric and positive definite with the damping. By default the Hessian of the
        mean loss of the training examples; away from a minimum
        `lambda v: curvature.gnvp(model, loss, (params,), (v,))` is the safer choice.
    damping, tol, maxiter
        As for `curvature.conjugate_gradient`.
    chunk_size
        How many test examples are computed at a time.

    Returns
    -------
    A function of `(params, train, test)`, where each batch is the tuple of arguments that
    `losses_fn` takes after the parameters. It returns an `Influence`; look at
    `solver.converged` and `solver.indefinite` before trusting its scores.

    Raises
    ------
    As for `grads` and `curvature.conjugate_gradient`.

    Examples
    --------
    >>> def losses(params, x, y):
    ...     return 0.5 * (x @ params["w"] - y).square()
    >>> params = {"w": torch.tensor([0.0, 1.0])}
    >>> train = torch.eye(2), torch.tensor([1.0, 0.0])
    >>> found = influence(losses, damping=0.5)(params, train, (torch.eye(2), torch.zeros(2)))
    >>> found.scores, found.solver.converged
    (tensor([[ 0., -0.],
            [ 0., -1.]]), tensor([True, True]))
    """
    check_count("influence", "chunk_size", chunk_size)

    @functools.wraps(losses_fn, updated=())
    def of_batches(params: tree.PyTree, train: Batch, test: Batch) -> Influence:
        call = Call("influence", losses_fn, (params, *as_batch("influence", "train", train)))
        tests = Call("influence", losses_fn, (params, *as_batch("influence", "test", test)))
        check_independence(call)
        check_independence(tests)
        mean = torch.full((call.size,), 1 / call.size, dtype=torch.float64)
        hessian = operator or _weighted_hessian(call, mean)

        def solve(grad: Any) -> tuple[Any, SolverInfo]:
            return conjugate_gradient(hessian, grad, damping=damping, tol=tol, maxiter=maxiter)

        def scores(grad: Any) -> tuple[Tensor, SolverInfo]:
            solution, info = solve(grad)
            return -derivatives(call, solution), info

        grads = call.like_params([leaf.materialized() for leaf in formed(tests).leaves])
        return Influence(*vmap(scores, chunk_size=chunk_size)(grads))

    return of_batches


def tracin(
    losses_fn: LossesFunction, *, method: Method = "auto", chunk_size: int | None = None
) -> Callable[[Sequence[tree.PyTree], Sequence[float] | Tensor, Batch, Batch], Tensor]:
    """Return the function that traces test losses back to training examples over checkpoints.

    ::

        TracIn(z, z_test) = sum_i lr_i  g_i(z_test) . g_i(z)

    where `g_i` are gradients at checkpoint i: about how much the steps of gradient descent on `z`
    have lowered the loss at `z_test`. A positive score says that `z` helps. Pruthi et al. 2020,
    arXiv:2002.08484. The influence of an example on itself, by which mislabelled ones are found,
    is `sum_i lr_i * norms(losses_fn)(params_i, *batch).total`.

    Parameters
    ----------
    losses_fn, method, chunk_size
        As for `cross_gram`.

    Returns
    -------
    A function of `(checkpoints, lrs, train, test)`: a sequence of parameters, a learning rate for
    each, and two tuples of the arguments that `losses_fn` takes after the parameters. It returns a
    tensor (test, train).

    Raises
    ------
    TypeError, ValueError
        As for `grads`; also when there is not one learning rate for each checkpoint.

    Examples
    --------
    >>> def losses(params, x, y):
    ...     return 0.5 * (x @ params["w"] - y).square()
    >>> checkpoints = [{"w": torch.zeros(2)}, {"w": torch.ones(2)}]
    >>> train = torch.eye(2), torch.tensor([2.0, 1.0])
    >>> tracin(losses)(checkpoints, [0.5, 0.25], train, (torch.ones(1, 2), torch.zeros(1)))
    tensor([[-0.5000,  0.0000]])
    """
    products = cross_gram(losses_fn, method=method, chunk_size=chunk_size)

    @functools.wraps(losses_fn, updated=())
    def over_checkpoints(
        checkpoints: Sequence[tree.PyTree],
        lrs: Sequence[float] | Tensor,
        train: Batch,
        test: Batch,
    ) -> Tensor:
        if not isinstance(checkpoints, list | tuple):
            raise TypeError(
                "tracin: expected a list of parameters for checkpoints, got "
                f"{type(checkpoints).__name__}; tree.unstack makes one of stacked parameters."
            )
        if not checkpoints or len(checkpoints) != len(lrs):
            raise ValueError(
                f"tracin: expected a learning rate for each of at least one checkpoint, got "
                f"{len(lrs)} for {len(checkpoints)}."
            )
        steps = zip(lrs, checkpoints, strict=True)
        scores = [lr * products(params, test, train) for lr, params in steps]
        return torch.stack(scores).sum(0)

    return over_checkpoints


#: How to find the parameters without an example.
Step = Literal["newton", "influence"]


class LeaveOneOut(NamedTuple):
    """`losses` (batch,) of examples left out, and a `SolverInfo` with an axis (batch,)."""

    losses: Tensor
    solver: SolverInfo


def leave_one_out(
    losses_fn: LossesFunction,
    *,
    step: Step = "newton",
    damping: float | Tensor = 0.0,
    tol: float | Tensor = 1e-5,
    maxiter: int | None = None,
    chunk_size: int | None = None,
) -> Callable[..., LeaveOneOut]:
    """Return the function that computes the loss of every example after training without it.

    ::

        loss_b(theta + A_b^-1 g_b),    A_b = damping I + sum_{c != b} H_c

    one step of Newton's method from parameters that minimise
    `sum_b loss_b + damping / 2 |theta|^2`, where the gradient without example b is `-g_b`. For
    linear and ridge regression it is exact: the residual becomes `r_b / (1 - h_b)`, with `h_b` on
    the diagonal of the hat matrix. With `step="influence"`, `A` is the same for all examples,
    `damping I + sum_c H_c` (the infinitesimal jackknife). Giordano et al. 2019, arXiv:1806.00550.

    Parameters
    ----------
    losses_fn
        As for `grads`: one loss for each example, which depends on that example alone.
    step
        "newton" or "influence".
    damping, tol, maxiter
        As for `curvature.conjugate_gradient`; `damping` is the weight of an L2 penalty.
    chunk_size
        How many examples are left out at a time: each takes products with the Hessian of all.

    Returns
    -------
    A function of `(params, *batch)` that returns a `LeaveOneOut`; look at `solver.converged` and
    `solver.indefinite` before trusting it.

    Raises
    ------
    As for `grads` and `curvature.conjugate_gradient`.

    Examples
    --------
    >>> def losses(params, y):
    ...     return (params["mean"] - y).square()
    >>> y = torch.tensor([0.0, 1.0, 5.0])
    >>> leave_one_out(losses)({"mean": y.mean()}, y).losses
    tensor([ 9.0000,  2.2500, 20.2500])
    """
    if step not in get_args(Step):
        raise ValueError(f"leave_one_out: expected 'newton' or 'influence', got step={step!r}.")
    check_count("leave_one_out", "chunk_size", chunk_size)

    @functools.wraps(losses_fn, updated=())
    def of_examples(*args: Any) -> LeaveOneOut:
        call = Call("leave_one_out", losses_fn, args)
        check_independence(call)
        found = formed(call)
        grads = call.like_params([leaf.materialized() for leaf in found.leaves])
        everything = torch.ones_like(found.values)
        kept = 1 - torch.eye(call.size, dtype=everything.dtype, device=everything.device)

        def without(grad: Any, weights: Tensor, example: Sequence[Tensor]) -> Any:
            hessian = _weighted_hessian(call, weights if step == "newton" else everything)
            move, info = conjugate_gradient(
                hessian, grad, damping=damping, tol=tol, maxiter=maxiter
            )
            moved = [p + d for p, d in zip(call.params, tree.leaves(move), strict=True)]
            return call.loss(moved, example)[0], info

        return LeaveOneOut(*vmap(without, chunk_size=chunk_size)(grads, kept, list(call.batch)))

    return of_examples


def _weighted_hessian(call: Call, weights: Tensor) -> Operator:
    """Return the product with the Hessian of `sum_b w_b loss_b`."""

    def total(params: tree.PyTree) -> Tensor:
        losses, _ = call.losses(tree.leaves(params), call.batch)
        call.check_losses(losses, call.size)
        weighted: Tensor = weights.to(losses) * losses.reshape(call.size)
        return weighted.sum()

    def product(v: Any) -> Any:
        # The fused kernels of attention have no forward derivatives.
        with sdpa_kernel(SDPBackend.MATH):
            return hvp(total, (call.like_params(call.params),), (v,))

    return product
