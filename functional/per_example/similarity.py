"""How the gradients of examples lie to each other: inner products, cosines, diversity."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .. import tree
from ..autodiff import jvp
from ..autodiff.inputs import Argnums, check_argnums
from ..border import describe
from .calls import Call, LossesFunction, check_count
from .factors import widened
from .gradients import by_method, squared_norms, total_of
from .independence import check_independence
from .leaves import Leaf, Method, check_method
from .products import inner_products, leaves_of


def gram(
    losses_fn: LossesFunction,
    *,
    method: Method = "auto",
    chunk_size: int | None = None,
    argnums: Argnums = 0,
) -> Callable[..., Tensor]:
    """Return the function that computes all inner products of per-example gradients.

    ::

        K_bc = g_b . g_c

    Parameters
    ----------
    losses_fn, argnums
        As for `grads`: one loss for each example, which depends on that example alone.
    method
        "ghost" computes the products from what the gradients are made of, "materialize" forms the
        gradients, "auto" does for each parameter what costs less. All agree to rounding.
    chunk_size
        How many rows of the matrix are computed at a time, which bounds the memory.

    Returns
    -------
    A function of `(params, *batch)` that returns a tensor of shape (batch, batch).

    Raises
    ------
    As for `grads`.

    Examples
    --------
    >>> def losses(params, x):
    ...     return x @ params["w"]
    >>> gram(losses)({"w": torch.zeros(2)}, torch.tensor([[3.0, 4.0], [1.0, 0.0]]))
    tensor([[25.,  3.],
            [ 3.,  1.]])
    """
    argnums = _checked("gram", method, chunk_size, argnums)

    @functools.wraps(losses_fn, updated=())
    def of_examples(*args: Any) -> Tensor:
        call = Call("gram", losses_fn, args, argnums=argnums)
        leaves = leaves_of(call, method, chunk_size)
        return _by_rows(leaves, leaves, method, chunk_size)

    return of_examples


def cross_gram(
    losses_fn: LossesFunction, *, method: Method = "auto", chunk_size: int | None = None
) -> Callable[[tree.PyTree, Sequence[Any], Sequence[Any]], Tensor]:
    """Return the function that computes the inner products between the gradients of two batches.

    ::

        K_bc = g_b . h_c

    Parameters
    ----------
    losses_fn, method, chunk_size
        As for `gram`.

    Returns
    -------
    A function of `(params, batch, other_batch)`, where each batch is the tuple of arguments that
    `losses_fn` takes after the parameters. It returns a tensor of shape (batch, other_batch).

    Raises
    ------
    As for `grads`.

    Examples
    --------
    >>> def losses(params, x):
    ...     return x @ params["w"]
    >>> params, x = {"w": torch.zeros(2)}, torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    >>> cross_gram(losses)(params, (x,), (torch.tensor([[0.0, 2.0]]),))
    tensor([[8.],
            [0.]])
    """
    _checked("cross_gram", method, chunk_size, 0)

    @functools.wraps(losses_fn, updated=())
    def of_batches(params: tree.PyTree, batch: Sequence[Any], other_batch: Sequence[Any]) -> Tensor:
        first, second = (
            leaves_of(
                Call("cross_gram", losses_fn, (params, *as_batch("cross_gram", name, examples))),
                method,
                chunk_size,
            )
            for name, examples in (("batch", batch), ("other_batch", other_batch))
        )
        return _by_rows(first, second, method, chunk_size)

    return of_batches


def cosine_similarity(
    losses_fn: LossesFunction,
    *,
    method: Method = "auto",
    chunk_size: int | None = None,
    argnums: Argnums = 0,
) -> Callable[..., Tensor]:
    """Return the function that computes the cosines between per-example gradients.

    ::

        C_bc = g_b . g_c / (|g_b| |g_c|)

    which are 0 where a gradient is zero.

    Parameters
    ----------
    losses_fn, method, chunk_size, argnums
        As for `gram`.

    Returns
    -------
    A function of `(params, *batch)` that returns a tensor of shape (batch, batch).

    Raises
    ------
    As for `grads`.

    Examples
    --------
    >>> def losses(params, x):
    ...     return x @ params["w"]
    >>> x = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]])
    >>> cosine_similarity(losses)({"w": torch.zeros(2)}, x)
    tensor([[1.0000, 0.6000, 0.0000],
            [0.6000, 1.0000, 0.0000],
            [0.0000, 0.0000, 0.0000]])
    """
    products = gram(losses_fn, method=method, chunk_size=chunk_size, argnums=argnums)

    @functools.wraps(losses_fn, updated=())
    def of_examples(*args: Any) -> Tensor:
        matrix = products(*args)
        norms = matrix.diagonal().clamp_min(0).sqrt()
        inverse = torch.where(norms > 0, 1 / norms, 0)
        return inverse.unsqueeze(1) * matrix * inverse

    return of_examples


def gradient_diversity(
    losses_fn: LossesFunction,
    *,
    method: Method = "auto",
    chunk_size: int | None = None,
    argnums: Argnums = 0,
) -> Callable[..., Tensor]:
    """Return the function that computes how different the gradients of examples are.

    ::

        Delta = sum_b |g_b|^2 / |sum_b g_b|^2

    It is 1/B where all are equal and 1 where they are orthogonal; mini-batches speed up training
    up to a size of about `B Delta`. Yin et al. 2018, arXiv:1706.05699.

    Parameters
    ----------
    losses_fn, method, chunk_size, argnums
        As for `norms`.

    Returns
    -------
    A function of `(params, *batch)` that returns a 0-d tensor; infinite where the sum is zero.

    Raises
    ------
    As for `grads`.

    Examples
    --------
    >>> def losses(params, x):
    ...     return x @ params["w"]
    >>> gradient_diversity(losses)({"w": torch.zeros(3)}, torch.eye(3))
    tensor(1.)
    >>> gradient_diversity(losses)({"w": torch.zeros(3)}, torch.ones(4, 3))
    tensor(0.2500)
    """
    argnums = _checked("gradient_diversity", method, chunk_size, argnums)

    @functools.wraps(losses_fn, updated=())
    def of_examples(*args: Any) -> Tensor:
        call = Call("gradient_diversity", losses_fn, args, argnums=argnums)
        leaves = by_method(call, method, chunk_size).leaves
        total = total_of(squared_norms(leaves, chunk_size), call.size).sum()
        return total / squared_norm_of_sum(leaves)

    return of_examples


def dot(losses_fn: LossesFunction, direction: tree.PyTree) -> Callable[..., Tensor]:
    """Return the function that computes the inner product of every gradient and one direction.

    ::

        d_b = g_b . v

    It is the derivative of the losses along `v`: one forward-mode pass over the batch, and no
    gradient of a single example.

    Parameters
    ----------
    losses_fn
        As for `grads`.
    direction
        A tree like the parameters.

    Returns
    -------
    A function of `(params, *batch)` that returns a tensor of shape (batch,).

    Raises
    ------
    As for `grads`; also when `direction` is not like the parameters.

    Examples
    --------
    >>> def losses(params, x):
    ...     return x @ params["w"]
    >>> params, x = {"w": torch.zeros(2)}, torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    >>> dot(losses, {"w": torch.tensor([1.0, 2.0])})(params, x)
    tensor([11.,  1.])
    """

    @functools.wraps(losses_fn, updated=())
    def of_examples(*args: Any) -> Tensor:
        call = Call("dot", losses_fn, args)
        check_independence(call)
        return derivatives(call, direction)

    return of_examples


def derivatives(call: Call, direction: tree.PyTree) -> Tensor:
    """Return g_b . v for each example, shape (B,)."""

    def losses(params: tree.PyTree) -> Tensor:
        values: Tensor = call.losses(tree.leaves(params), call.batch)[0]
        call.check_losses(values, call.size)
        return values.reshape(call.size)

    params = call.like_params(call.params)
    # The fused kernels of attention have no forward derivatives.
    with sdpa_kernel(SDPBackend.MATH):
        products: Tensor = jvp(losses, (params,), (direction,))[1]
    return products


def squared_norm_of_sum(leaves: Sequence[Leaf]) -> Tensor:
    """Return |sum_b g_b|^2, a 0-d tensor."""
    sums = [leaf.weighted_sum(leaf.like.new_ones(leaf.examples)) for leaf in leaves]
    return total_of([widened(total).square().sum() for total in sums], 0)


def as_batch(transform: str, name: str, batch: Any) -> Sequence[Any]:
    """Refuse what is not the tuple of arguments that follow the parameters."""
    if not isinstance(batch, tuple | list):
        raise TypeError(
            f"{transform}: expected a tuple of the arguments after the parameters for {name}, got "
            f"{describe(batch)}. A single one is written (x,)."
        )
    return batch


def _by_rows(
    first: Sequence[Leaf], second: Sequence[Leaf], method: Method, chunk_size: int | None
) -> Tensor:
    examples = first[0].examples if first else 0
    if chunk_size is None or chunk_size >= examples:
        return inner_products(first, second, method)
    parts = [slice(at, at + chunk_size) for at in range(0, examples, chunk_size)]
    rows = [inner_products([leaf.only(part) for leaf in first], second, method) for part in parts]
    return torch.cat(rows)


def _checked(transform: str, method: str, chunk_size: int | None, argnums: Argnums) -> Argnums:
    check_method(transform, method)
    check_count(transform, "chunk_size", chunk_size)
    return check_argnums(transform, argnums)
