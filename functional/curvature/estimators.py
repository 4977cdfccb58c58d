"""Traces and diagonals, estimated from products with random trees."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import random, tree
from ..control import map as map_slices
from ..control import scan
from .coordinates import Coordinates, Operator, check_count, without
from .probes import Probe, rademacher_like


class Estimate(NamedTuple):
    """The mean of independent samples, and how far it is expected to lie from what it estimates."""

    #: An unbiased estimate.
    value: Any
    #: The samples' standard deviation over the root of their number; NaN for a single sample.
    standard_error: Any


def hutchinson_trace(
    operator: Operator,
    like: tree.PyTree,
    *,
    key: Tensor,
    samples: int,
    probe: Probe = rademacher_like,
) -> Estimate:
    """Estimate the trace of an operator from `samples` products with it.

    ::

        tr A = E[z^T A z],    E[z z^T] = I

    A sample of a symmetric `A` has variance `2 sum_{i != j} A_ij^2` with Rademacher probes, which
    is less than the `2 sum_ij A_ij^2` of normal ones. Hutchinson 1989.

    Parameters
    ----------
    operator
        A linear function `v -> A v` of trees.
    like
        A tree of floating tensors, such as the parameters: what `operator` takes.
    key
        A key of `purefn.functional.random`.
    samples
        How many probes to draw.
    probe
        `probe(key, like)` draws one: `rademacher_like`, `normal_like`, or a function like them.

    Returns
    -------
    An `Estimate` of two 0-d tensors.

    Raises
    ------
    TypeError, ValueError
        `samples` is less than 1, or what the operator returns is not like what it got; the message
        names the leaf.

    Examples
    --------
    >>> def operator(v):
    ...     return {"w": torch.tensor([[2.0, 1.0], [1.0, 3.0]]) @ v["w"]}
    >>> hutchinson_trace(operator, {"w": torch.zeros(2)}, key=random.key(0), samples=100)
    Estimate(value=tensor(4.8400), standard_error=tensor(0.2004))
    """
    draw, apply, space = _probing("hutchinson_trace", operator, like, samples, probe)

    def sample(key: Tensor) -> Tensor:
        z = draw(key)
        return z @ apply(z)

    return _mean(sample, space.scalar(0.0), random.split(key, samples))


def hutchinson_diagonal(
    operator: Operator,
    like: tree.PyTree,
    *,
    key: Tensor,
    samples: int,
    probe: Probe = rademacher_like,
) -> Estimate:
    """Estimate the diagonal of an operator from `samples` products with it.

    ::

        diag A = E[z * A z],    E[z z^T] = I

    A sample of element `i` has variance `sum_{j != i} A_ij^2` with Rademacher probes, and
    `2 A_ii^2` more with normal ones. Bekas, Kokiopoulou, Saad 2007.

    Parameters are those of `hutchinson_trace`.

    Returns
    -------
    An `Estimate` of two trees like `like`.

    Examples
    --------
    >>> def operator(v):
    ...     return {"w": torch.tensor([[2.0, 1.0], [1.0, 3.0]]) @ v["w"]}
    >>> like = {"w": torch.zeros(2)}
    >>> hutchinson_diagonal(operator, like, key=random.key(0), samples=100).value
    {'w': tensor([1.9200, 2.9200])}
    """
    draw, apply, space = _probing("hutchinson_diagonal", operator, like, samples, probe)

    def sample(key: Tensor) -> Tensor:
        z = draw(key)
        return z * apply(z)

    zero = torch.zeros(space.size, dtype=space.dtype, device=space.device)
    estimate = _mean(sample, zero, random.split(key, samples))
    return Estimate(*(space.unravel(part) for part in estimate))


def hutchpp_trace(
    operator: Operator,
    like: tree.PyTree,
    *,
    key: Tensor,
    rank: int,
    samples: int,
    probe: Probe = rademacher_like,
) -> Estimate:
    """Estimate the trace of a symmetric operator, exactly on a subspace and by samples off it.

    ::

        tr A = tr(Q^T A Q) + E[z^T (I - Q Q^T) A (I - Q Q^T) z],    Q = orth(A S)

    `S` holds `rank` random trees. What a few large eigenvalues contribute is summed exactly: for a
    positive semidefinite `A` and `rank = samples` the error falls as 1 over the number of products,
    where Hutchinson's falls as 1 over its root. It takes `2 rank + samples` products and the memory
    of `2 rank` trees. Meyer, Musco, Musco, Woodruff 2021, arXiv:2010.09649.

    Parameters
    ----------
    rank
        The dimension of the subspace, at most the number of elements of `like`.
    samples
        How many probes to draw for the rest.
    operator, like, key, probe
        As for `hutchinson_trace`.

    Returns
    -------
    An `Estimate` of two 0-d tensors; the error is that of the second term, given `Q`.

    Examples
    --------
    >>> ones = lambda v: v.sum().expand(3)
    >>> hutchpp_trace(ones, torch.zeros(3), key=random.key(0), rank=1, samples=2).value
    tensor(3.0000)
    """
    caller = "hutchpp_trace"
    draw, apply, space = _probing(caller, operator, like, samples, probe)
    check_count(caller, "rank", rank, most=space.size)
    range_key, rest_key = random.split(key).unbind()
    images = map_slices(lambda key: apply(draw(key)), random.split(range_key, rank))
    basis = torch.linalg.qr(images.mT).Q.mT

    def sample(key: Tensor) -> Tensor:
        z = without(basis, draw(key))
        return z @ apply(z)

    inside = map_slices(lambda q: q @ apply(q), basis).sum()
    outside = _mean(sample, space.scalar(0.0), random.split(rest_key, samples))
    return Estimate(inside + outside.value, outside.standard_error)


def _probing(
    caller: str, operator: Operator, like: tree.PyTree, samples: int, probe: Probe
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Coordinates]:
    """Return `key -> z` and `z -> A z` on vectors, and their coordinates."""
    space = Coordinates(caller, "like", like)
    check_count(caller, "samples", samples)
    return lambda key: space.ravel(probe(key, like), "probe"), space.operator(operator), space


def _mean(sample: Callable[[Tensor], Tensor], zero: Tensor, keys: Tensor) -> Estimate:
    """Return the mean of `sample` over keys, and its error, with the memory of one sample.

    The running sums are those of Welford 1962.
    """

    def step(carry: tuple[Tensor, ...], key: Tensor) -> tuple[tuple[Tensor, ...], None]:
        count, mean, squares = carry
        x = sample(key)
        count, distance = count + 1, x - mean
        mean = mean + distance / count
        return (count, mean, squares + distance * (x - mean)), None

    samples = len(keys)
    (_, mean, squares), _ = scan(step, (zero.new_zeros(()), zero, zero), keys)
    variance = squares / (samples - 1) if samples > 1 else torch.full_like(squares, math.nan)
    return Estimate(mean, (variance / samples).sqrt())
