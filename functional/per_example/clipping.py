"""Sums of clipped gradients, one clipped gradient for each example."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import tree
from ..autodiff.inputs import Argnums, check_argnums
from ..border import describe
from ..control import scan
from ..losses.checks import values_are_visible
from . import groups as grouping
from .calls import Call, LossesFunction, check_count
from .factors import computed_once, widened
from .gradients import by_label, by_method, squared_norms, total_of
from .groups import Groups
from .leaves import Method, check_method
from .working_set import examples_at_once

#: One bound for all, or one for each group.
Bounds = float | Tensor | Mapping[Any, float | Tensor]
Norms = dict[Hashable, Tensor]


class ClippedGrad(NamedTuple):
    """A sum of clipped gradients, and what is known about it.

    `grads` is a tree like the parameters, in float32 where they are narrower: the *sum* over
    examples. `values` (batch,) are the
    losses, `norms` (batch,) the L2 norms before clipping, or a dict of them by label where
    parameters are grouped. `sensitivity`, a 0-d tensor, bounds the L2 norm of what one example adds
    to `grads`. `aux` is what `losses_fn` returned besides, or None.
    """

    grads: tree.PyTree
    values: Tensor
    norms: tree.PyTree
    sensitivity: Tensor
    aux: tree.PyTree


def clipped_grad(
    losses_fn: LossesFunction,
    max_norm: Bounds,
    *,
    method: Method = "auto",
    groups: Groups = None,
    mask: Tensor | None = None,
    chunk_size: int | None = None,
    microbatch: int | None = None,
    rescale: bool = False,
    nan_safe: bool = True,
    argnums: Argnums = 0,
    has_aux: bool = False,
) -> Callable[..., ClippedGrad]:
    """Return the function that computes the sum of clipped per-example gradients.

    ::

        sum_b  min(1, C / |g_b|) g_b

    (Abadi et al. 2016, arXiv:1607.00133). With groups, each is clipped by its own norm.

    Parameters
    ----------
    losses_fn, argnums, has_aux
        As for `grads`: one loss for each example, which depends on that example alone.
    max_norm
        The bound C >= 0, a number or a 0-d tensor. With `groups`, a number is shared among k groups
        as C / sqrt(k), so that it bounds the whole; a dict by label gives each group its own bound.
    method
        "ghost" computes norms from what the gradients are products of, and sums with one product
        over the batch; "materialize" forms every gradient by vmap of grad; "auto" does for each
        parameter what costs less. All agree to rounding.
    groups
        None to clip the whole gradient, `by_layer` or `by_leaf`, another function from the path of
        a parameter to a label, or a tree of labels that is a prefix of the parameters.
    mask
        Shape (batch,), boolean; examples where it is False (padding) count for nothing, whatever
        they hold. Their value and norm are reported as 0.
    chunk_size
        How many gradients are formed at a time, where they are formed.
    microbatch
        How many examples go through forward, backward and clipping at a time, which bounds all
        memory; the sum is the same to rounding. By default a compiled program takes so many that
        the caches hold what is kept of them, and eager all.
    rescale
        Whether to divide each group by its bound, so that the sensitivity is 1 (sqrt(k) for k
        groups) whatever the bound.
    nan_safe
        Whether an example whose norm is not finite counts for nothing.

    Returns
    -------
    A function of `(params, *batch)` that returns a `ClippedGrad`.

    Raises
    ------
    TypeError, ValueError
        As for `grads`; also when a bound is negative or NaN, labels and bounds do not match, or
        the mask is not boolean of shape (batch,).

    Notes
    -----
    What one example adds, by its norm n and the bound C:

    ======================  ==============================================================
    n = 0                   zeros
    n <= C                  its gradient
    C < n < inf             its gradient times C / n
    C = 0                   zeros; with `rescale`, its gradient times 1 / n (zeros for n = 0)
    C = inf                 its gradient; `rescale` is refused
    n infinite or NaN       zeros; without `nan_safe` what its weight makes of it, NaN or infinite
                            where its gradient is
    masked                  zeros
    ======================  ==============================================================

    The norm is computed in the dtype of the gradients (float32 for narrower ones) and is infinite
    where its square, or the square of what a ghost norm multiplies, is; it is 0 where its square
    underflows (below 1e-22 in float32), so bounds of that size mean nothing. A traced bound that is
    negative counts as 0; one that is NaN, or infinite with `rescale`, makes the
    sensitivity NaN. The sensitivity holds to rounding: a
    ghost norm adds up products over positions, and where these cancel the gradient to a fraction r
    of what they are, its relative error is that of the dtype divided by r squared.

    Examples
    --------
    >>> def losses(params, x):
    ...     return x @ params["w"]
    >>> params, x = {"w": torch.zeros(2)}, torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    >>> clipped = clipped_grad(losses, 1.0)(params, x)
    >>> clipped.grads, clipped.norms, clipped.sensitivity
    ({'w': tensor([0.9000, 1.2000])}, tensor([5.0000, 0.5000]), tensor(1.))
    """
    _check_bounds(max_norm, groups, rescale)

    def bounds(labels: Sequence[Hashable], like: Tensor) -> dict[Hashable, Tensor]:
        return _bounds(max_norm, labels, like)

    def weigh(norm: Tensor, bound: Tensor) -> Tensor:
        # A norm of 0 may be that of a gradient whose square underflows: it counts for nothing.
        weight = 1 / torch.maximum(norm, bound)
        weight = weight if rescale else torch.where(norm <= bound, 1, bound / norm)
        return torch.where(norm == 0, 0, weight)

    return _weighted_grad(
        "clipped_grad", losses_fn, bounds, weigh, rescale, method=method, groups=groups, mask=mask,
        chunk_size=chunk_size, microbatch=microbatch, nan_safe=nan_safe, argnums=argnums,
        has_aux=has_aux,
    )  # fmt: skip


def normalized_grad(
    losses_fn: LossesFunction,
    stability: float | Tensor = 0.01,
    *,
    method: Method = "auto",
    groups: Groups = None,
    mask: Tensor | None = None,
    chunk_size: int | None = None,
    microbatch: int | None = None,
    nan_safe: bool = True,
    argnums: Argnums = 0,
    has_aux: bool = False,
) -> Callable[..., ClippedGrad]:
    """Return the function that computes the sum of normalized per-example gradients.

    ::

        sum_b  g_b / (|g_b| + gamma)

    which is automatic clipping (Bu et al. 2023, arXiv:2206.07136): there is no bound to tune. The
    sensitivity is 1, or sqrt(k) for k groups.

    Parameters
    ----------
    stability
        gamma > 0, a number or a 0-d tensor, which keeps the order of small gradients. One that is
        traced and not above 0 makes the sensitivity NaN.

    All others are those of `clipped_grad`.

    Examples
    --------
    >>> def losses(params, x):
    ...     return x @ params["w"]
    >>> params, x = {"w": torch.zeros(2)}, torch.tensor([[3.0, 4.0]])
    >>> normalized_grad(losses, stability=1.0)(params, x).grads
    {'w': tensor([0.5000, 0.6667])}
    """
    _check_scalar("normalized_grad", "stability", stability)
    if _is_known(stability) and not stability > 0:
        raise ValueError(f"normalized_grad: expected stability > 0, got {_number(stability)!r}.")

    def bounds(labels: Sequence[Hashable], like: Tensor) -> dict[Hashable, Tensor]:
        is_usable = torch.as_tensor(stability, device=like.device) > 0
        return dict.fromkeys(labels, like.new_ones(()).masked_fill(~is_usable, math.nan))

    def weigh(norm: Tensor, bound: Tensor) -> Tensor:
        return bound / (norm + stability)

    return _weighted_grad(
        "normalized_grad", losses_fn, bounds, weigh, True, method=method, groups=groups, mask=mask,
        chunk_size=chunk_size, microbatch=microbatch, nan_safe=nan_safe, argnums=argnums,
        has_aux=has_aux,
    )  # fmt: skip


def _weighted_grad(
    transform: str,
    losses_fn: LossesFunction,
    bounds: Callable[[Sequence[Hashable], Tensor], dict[Hashable, Tensor]],
    weigh: Callable[[Tensor, Tensor], Tensor],
    has_unit_bounds: bool,
    *,
    method: Method,
    groups: Groups,
    mask: Tensor | None,
    chunk_size: int | None,
    microbatch: int | None,
    nan_safe: bool,
    argnums: Argnums,
    has_aux: bool,
) -> Callable[..., ClippedGrad]:
    """Return the function that sums gradients with weights that their norms decide."""
    argnums = check_argnums(transform, argnums)
    check_method(transform, method)
    check_count(transform, "chunk_size", chunk_size)
    check_count(transform, "microbatch", microbatch)
    if method == "materialize" and chunk_size is not None:
        microbatch = min(chunk_size, microbatch or chunk_size)

    def some(call: Call, keep: Tensor | None) -> tuple[list[Tensor], Tensor, Norms, tree.PyTree]:
        found = by_method(call, method, chunk_size)
        labels = grouping.labels(call, groups)
        squares = by_label(squared_norms(found.leaves, chunk_size), labels)
        total = total_of(list(squares.values()), call.size)
        norms = {label: square.sqrt() for label, square in squares.items()}
        dropped = None if keep is None else ~keep
        if nan_safe:
            unusable = ~torch.isfinite(total)
            dropped = unusable if dropped is None else dropped | unusable
        limits = bounds(list(norms), total)
        weights = {label: weigh(norm, limits[label]) for label, norm in norms.items()}
        leaves = found.leaves
        if dropped is not None:
            dropped = computed_once(dropped)
            weights = {label: w.masked_fill(dropped, 0) for label, w in weights.items()}
            leaves = [leaf.without(dropped) for leaf in leaves]
        # Rounded to half precision, a sum of many moves by more than what one example adds.
        leaves = [leaf.widened() for leaf in leaves]
        weights = {label: computed_once(w) for label, w in weights.items()}
        sums = [
            leaf.weighted_sum(weights[label]) for leaf, label in zip(leaves, labels, strict=True)
        ]
        values = found.values
        if keep is not None:
            values = torch.where(keep, values, 0)
            norms = {label: torch.where(keep, norm, 0) for label, norm in norms.items()}
        return sums, values, norms, found.aux

    @functools.wraps(losses_fn, updated=())
    def summed(*args: Any) -> ClippedGrad:
        call = Call(transform, losses_fn, args, argnums=argnums, has_aux=has_aux)
        keep = _checked_mask(transform, mask, call.size)
        size = microbatch or examples_at_once(call, method)
        if size >= call.size:
            sums, values, norms, aux = some(call, keep)
        else:
            sums, values, norms, aux = _in_parts(some, call, keep, size)
        limits = bounds(list(norms), total_of(list(norms.values()), call.size))
        squares = [
            1 + 0 * limit if has_unit_bounds else limit.square()  # NaN for no usable bound
            for limit in limits.values()
        ]
        sensitivity = total_of(squares, 0).sqrt()
        reported = norms if groups is not None else next(iter(norms.values()))
        return ClippedGrad(call.like_params(sums), values, reported, sensitivity, aux)

    return summed


def _in_parts(some: Callable[..., Any], call: Call, keep: Tensor | None, size: int) -> Any:
    """Return what `some` does, a few examples at a time."""
    whole = call.size - call.size % size

    def step(total: list[Tensor], part: tuple[list[Tensor], Tensor | None]) -> Any:
        batch, kept = part
        sums, *rest = some(call.with_batch(batch), kept)
        return [a + b for a, b in zip(total, sums, strict=True)], rest

    parts = tree.map(lambda x: x[:whole].unflatten(0, (-1, size)), (call.batch, keep))
    total, rest = scan(step, [torch.zeros_like(widened(p)) for p in call.params], parts)
    rest = tree.map(lambda x: x.flatten(0, 1), rest)
    if whole < call.size:
        last = tree.map(lambda x: x[whole:], (call.batch, keep))
        total, more = step(total, last)
        rest = tree.map(lambda x, y: torch.cat([x, y]), rest, more)
    return (total, *rest)


def _check_bounds(max_norm: Bounds, groups: Groups, rescale: bool) -> None:
    if isinstance(max_norm, Mapping) and groups is None:
        raise ValueError(
            "clipped_grad: max_norm is a dict of bounds by label, but groups is None: say which "
            "parameter has which label."
        )
    for bound in max_norm.values() if isinstance(max_norm, Mapping) else [max_norm]:
        _check_scalar("clipped_grad", "max_norm", bound)
        if not _is_known(bound):
            continue
        if not bound >= 0:
            raise ValueError(f"clipped_grad: expected max_norm >= 0, got {_number(bound)!r}.")
        if rescale and math.isinf(bound):
            raise ValueError(
                "clipped_grad: nothing can be divided by max_norm=inf; leave rescale=False."
            )


def _check_scalar(transform: str, name: str, value: Any) -> None:
    if isinstance(value, Tensor) and (value.ndim or not value.is_floating_point()):
        raise ValueError(
            f"{transform}: {name} is {describe(value)}, expected a number or a 0-d floating tensor."
        )
    if isinstance(value, bool) or not isinstance(value, int | float | Tensor):
        raise ValueError(f"{transform}: expected a number for {name}, got {value!r}.")


def _is_known(value: float | Tensor) -> bool:
    """Say whether Python may look at a number."""
    return not isinstance(value, Tensor) or values_are_visible(value)


def _number(value: float | Tensor) -> float:
    return value.item() if isinstance(value, Tensor) else value


def _bounds(max_norm: Bounds, labels: Sequence[Hashable], like: Tensor) -> dict[Hashable, Tensor]:
    if not isinstance(max_norm, Mapping):
        shared = _bound(max_norm, like)
        return {label: shared / math.sqrt(len(labels)) for label in labels}
    if set(max_norm) != set(labels):
        raise ValueError(
            f"clipped_grad: max_norm has bounds for {sorted(map(str, max_norm))}, but the groups "
            f"are {sorted(map(str, labels))}."
        )
    return {label: _bound(max_norm[label], like) for label in labels}


def _bound(bound: float | Tensor, like: Tensor) -> Tensor:
    return torch.as_tensor(bound, dtype=like.dtype, device=like.device).clamp_min(0)


def _checked_mask(transform: str, mask: Tensor | None, size: int) -> Tensor | None:
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or tuple(mask.shape) != (size,):
        raise ValueError(
            f"{transform}: mask is {describe(mask)}, expected bool of shape ({size},), one for "
            "each example."
        )
    return mask
