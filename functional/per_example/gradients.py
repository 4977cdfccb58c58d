"""Gradients of every example, and their norms."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import tree
from ..autodiff.inputs import Argnums, check_argnums
from . import groups as grouping
from .calls import Call, LossesFunction, check_count
from .factored import Factored, factored, formed
from .groups import Groups
from .independence import check_independence
from .leaves import Leaf, Method, check_method


class SquaredNorms(NamedTuple):
    """Squared norms of the gradients of B examples.

    `total` has shape (B,); `parts` is a tree like the parameters of tensors of that shape, or a
    dict of them by label where parameters are grouped.
    """

    total: Tensor
    parts: tree.PyTree


def grads(
    losses_fn: LossesFunction,
    argnums: Argnums = 0,
    has_aux: bool = False,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """Return the function that computes the gradient of every example.

    Parameters
    ----------
    losses_fn
        A pure function `losses_fn(params, *batch)` that returns a tensor of shape (batch,), one
        loss for each example, which depends on that example alone; with `has_aux` a pair of it and
        a tree whose leaves have the examples along their first axis.
    argnums
        Which positional arguments to differentiate with respect to. All others are the batch: their
        leaves are tensors with the examples along the first axis.
    chunk_size
        How many examples are computed at a time; the result is the same.

    Returns
    -------
    A function of the same arguments. It returns a tree like the argument that `argnums` selects
    with a first axis for the examples, or a tuple of such trees; with `has_aux`, a pair of it and
    the auxiliary output.

    Raises
    ------
    TypeError
        When called: a parameter has no derivative, a leaf of the batch is no tensor, the losses are
        no floating-point tensor.
    ValueError
        When called: the losses are not of shape (batch,), the loss of one example depends on
        another, or leaves of the batch differ in length.

    Examples
    --------
    >>> def losses(params, x, y):
    ...     return (x @ params["w"] - y).square()
    >>> params = {"w": torch.tensor([1.0, 2.0])}
    >>> grads(losses)(params, torch.eye(2), torch.zeros(2))
    {'w': tensor([[2., 0.],
            [0., 4.]])}
    """
    argnums = check_argnums("grads", argnums)
    check_count("grads", "chunk_size", chunk_size)

    @functools.wraps(losses_fn, updated=())
    def of_examples(*args: Any) -> Any:
        call = Call("grads", losses_fn, args, argnums=argnums, has_aux=has_aux)
        check_independence(call)
        found = formed(call, chunk_size)
        trees = call.like_params([leaf.materialized() for leaf in found.leaves])
        return (trees, found.aux) if has_aux else trees

    return of_examples


def norms(
    losses_fn: LossesFunction,
    *,
    method: Method = "auto",
    groups: Groups = None,
    chunk_size: int | None = None,
    argnums: Argnums = 0,
) -> Callable[..., SquaredNorms]:
    """Return the function that computes the squared norm of every example's gradient.

    Parameters
    ----------
    losses_fn, argnums
        As for `grads`.
    method
        "ghost" computes norms from what the gradients are products of, "materialize" forms the
        gradients by vmap of grad, "auto" does for each parameter what costs less. All agree to
        rounding.
    groups
        What `parts` of the result is by: None for every parameter, a function from the path of a
        parameter to a label, or a tree of labels that is a prefix of the parameters.
    chunk_size
        How many gradients are formed at a time, where they are.

    Raises
    ------
    As for `grads`.

    Examples
    --------
    >>> def losses(params, x):
    ...     return x @ params["w"] + params["b"]
    >>> params = {"w": torch.ones(2), "b": torch.zeros(())}
    >>> norms(losses)(params, torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    SquaredNorms(total=tensor([26.,  1.]), parts={'w': tensor([25.,  0.]), 'b': tensor([1., 1.])})
    """
    argnums = check_argnums("norms", argnums)
    check_method("norms", method)
    check_count("norms", "chunk_size", chunk_size)

    @functools.wraps(losses_fn, updated=())
    def of_examples(*args: Any) -> SquaredNorms:
        call = Call("norms", losses_fn, args, argnums=argnums)
        found = by_method(call, method, chunk_size)
        squares = squared_norms(found.leaves, chunk_size)
        if groups is None:
            return SquaredNorms(total_of(squares, call.size), call.like_params(squares))
        parts = by_label(squares, grouping.labels(call, groups))
        return SquaredNorms(total_of(list(parts.values()), call.size), parts)

    return of_examples


def by_method(call: Call, method: Method, chunk_size: int | None = None) -> Factored:
    """Return the gradients of all examples, formed where `method` says so."""
    if method == "materialize":
        check_independence(call)
        return formed(call, chunk_size)
    found = factored(call)
    if method == "ghost" or chunk_size is not None:
        return found
    leaves = [leaf.formed() if leaf.is_cheaper_formed() else leaf for leaf in found.leaves]
    return found._replace(leaves=leaves)


def squared_norms(leaves: Sequence[Leaf], chunk_size: int | None = None) -> list[Tensor]:
    """Return |g_b|^2 for each parameter; what is cheaper formed is, `chunk_size` at a time."""
    return [_squared_norms(leaf, chunk_size) for leaf in leaves]


def by_label(squares: Sequence[Tensor], labels: Sequence[Hashable]) -> dict[Any, Tensor]:
    """Return the sums of what has the same label."""
    parts: dict[Any, list[Tensor]] = {}
    for square, label in zip(squares, labels, strict=True):
        parts.setdefault(label, []).append(square)
    return {label: total_of(group, 0) for label, group in parts.items()}


def total_of(squares: Sequence[Tensor], size: int) -> Tensor:
    """Return the sum of squared norms in the widest of their dtypes."""
    if not squares:
        return torch.zeros(size)
    total = squares[0]
    for more in squares[1:]:
        total = total + more
    return total


def _squared_norms(leaf: Leaf, chunk_size: int | None) -> Tensor:
    if chunk_size is None or leaf.examples <= chunk_size or not leaf.is_cheaper_formed():
        return leaf.squared_norms()
    chunks = range(0, leaf.examples, chunk_size)
    return torch.cat(
        [leaf.only(slice(at, at + chunk_size)).formed().squared_norms() for at in chunks]
    )
