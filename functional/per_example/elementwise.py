"""Mean, variance and second moment of the gradients of examples."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import tree
from ..autodiff.inputs import Argnums, check_argnums
from .calls import Call, LossesFunction, check_count
from .factors import Factor, Outer, widened
from .gradients import by_method
from .leaves import Leaf, Method, check_method
from .lookups import Lookup


class Moments(NamedTuple):
    """What the gradients of the examples of a batch are like, element by element.

    Trees like the parameters, float32 where these are narrower: the `mean`, which is the gradient
    of the mean loss, the `variance` around it, and the `second_moment`, the mean of the squares.
    """

    mean: tree.PyTree
    variance: tree.PyTree
    second_moment: tree.PyTree


def moments(
    losses_fn: LossesFunction,
    *,
    method: Method = "auto",
    correction: int = 1,
    chunk_size: int | None = None,
    argnums: Argnums = 0,
) -> Callable[..., Moments]:
    """Return the function that computes mean, variance and second moment of the gradients.

    ::

        mean = 1/B sum_b g_b
        second_moment = 1/B sum_b g_b^2
        variance = 1/(B - correction) sum_b (g_b - mean)^2

    Where `g_b = p_b q_b'` is an outer product, `sum_b g_b^2` is the product of the squares,
    `(P^2)' Q^2`, and no gradient is formed (Dangel et al. 2020, arXiv:1912.10985).

    Parameters
    ----------
    losses_fn, argnums
        As for `grads`: one loss for each example, which depends on that example alone.
    method
        "ghost" forms no gradient where that is possible, "materialize" forms them all, "auto"
        does for each parameter what costs less. All agree to rounding, but the variance without
        gradients is a difference, `second_moment - mean^2`: where the mean is a thousand times the
        deviation, "materialize" keeps the digits that the others lose.
    correction
        What is subtracted from B in the variance: 1 for the unbiased estimate, 0 for the variance
        of the batch itself.
    chunk_size
        How many gradients are formed at a time, where they are formed.

    Returns
    -------
    A function of `(params, *batch)` that returns `Moments`.

    Raises
    ------
    TypeError, ValueError
        As for `grads`; also when there are no more examples than `correction`.

    Examples
    --------
    >>> def losses(params, x):
    ...     return x @ params["w"]
    >>> x = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    >>> moments(losses)({"w": torch.zeros(2)}, x)
    Moments(mean={'w': tensor([2., 0.])}, variance={'w': tensor([2., 0.])}, \
second_moment={'w': tensor([5., 0.])})
    """
    argnums = check_argnums("moments", argnums)
    check_method("moments", method)
    check_count("moments", "chunk_size", chunk_size)
    if isinstance(correction, bool) or not isinstance(correction, int) or correction < 0:
        raise ValueError(f"moments: expected an int >= 0 for correction, got {correction!r}.")

    @functools.wraps(losses_fn, updated=())
    def of_examples(*args: Any) -> Moments:
        call = Call("moments", losses_fn, args, argnums=argnums)
        if call.size <= correction:
            raise ValueError(
                f"moments: a variance with correction={correction} needs more than {correction} "
                f"example(s), got a batch of {call.size}."
            )
        leaves = by_method(call, "materialize" if method == "materialize" else "ghost", chunk_size)
        found = [_moments(leaf, correction, chunk_size) for leaf in leaves.leaves]
        return Moments(*(call.like_params(part) for part in zip(*found, strict=True)))

    return of_examples


def sum_of_squares(leaf: Leaf, chunk_size: int | None = None) -> Tensor:
    """Return sum_b g_b^2 with respect to one parameter, of its shape."""
    if not has_squares(leaf):
        return _formed_sum(leaf, chunk_size, torch.square)
    sums = [part.arranged(_squares(part.factor.widened()), leaf.shape) for part in leaf.parts]
    return functools.reduce(torch.add, sums)


def has_squares(leaf: Leaf) -> bool:
    """Say whether the sum of squares is cheaper without the gradients."""
    # Squares are of entries: where parts overlap, their products count.
    return (len(leaf.parts) == 1 or leaf.is_disjoint) and all(
        _is_cheaply_squared(part.factor) for part in leaf.parts
    )


def _is_cheaply_squared(factor: Factor) -> bool:
    if isinstance(factor, Outer):
        return factor.rank == 1
    if isinstance(factor, Lookup):
        positions = factor.indices.shape[1]
        return positions * (positions + factor.shape[1]) < math.prod(factor.shape)
    return False


def _moments(leaf: Leaf, correction: int, chunk_size: int | None) -> tuple[Tensor, Tensor, Tensor]:
    count = leaf.examples
    mean = widened(leaf.weighted_sum(leaf.like.new_ones(count))) / count
    if has_squares(leaf):
        second_moment = sum_of_squares(leaf) / count
        deviations = count * (second_moment - mean.square()).clamp_min(0)
    else:
        deviations = _formed_sum(leaf, chunk_size, lambda grads: (grads - mean).square())
        second_moment = deviations / count + mean.square()
    return mean, deviations / (count - correction), second_moment


def _formed_sum(leaf: Leaf, chunk_size: int | None, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the sum over examples of what becomes of their gradients, some formed at a time."""
    if chunk_size is None or chunk_size >= leaf.examples:
        return change(widened(leaf.materialized())).sum(0)
    parts = [slice(at, at + chunk_size) for at in range(0, leaf.examples, chunk_size)]
    sums = [change(widened(leaf.only(part).materialized())).sum(0) for part in parts]
    return functools.reduce(torch.add, sums)


def _squares(factor: Factor) -> Tensor:
    """Return the sum over examples of the squares of their products."""
    ones = factor.operands[0].new_ones(factor.examples)
    if isinstance(factor, Outer):
        return factor.with_operands([o.square() for o in factor.operands]).weighted_sum(ones)
    assert isinstance(factor, Lookup)
    # What falls on one row adds up, at the first of its places, before it is squared.
    places = (factor.indices.unsqueeze(2) == factor.indices.unsqueeze(1)).byte().argmax(2)
    places = places.unsqueeze(2).expand_as(factor.gradients)
    sums = torch.zeros_like(factor.gradients).scatter_add(1, places, factor.gradients)
    return factor.with_operands([sums.square(), factor.indices]).weighted_sum(ones)
