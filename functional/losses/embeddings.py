"""Losses of pairs and triplets of embeddings or scores, as torch names them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .checks import (
    check_above,
    check_finite,
    check_number,
    check_pair,
    check_tensor,
    check_vectors,
    sign_labels,
)
from .distances import check_norm, distance
from .reduction import example_mean, widened


def margin_ranking(first: Tensor, second: Tensor, labels: Tensor, *, margin: float = 0.0) -> Tensor:
    r"""Return the hinge loss of the order of two scores, :math:`\max(0, -y (x_1 - x_2) + m)`.

    Averaged over an example's elements; at the hinge the derivative is that of the line.

    Parameters
    ----------
    first, second
        Two tensors of one shape `(N, ...)` and one floating-point dtype.
    labels
        1 where the first is to be larger, -1 where the second is; of that shape, integers or of
        that dtype.
    margin
        `m`, a Python number.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `first`.

    Raises
    ------
    TypeError, ValueError
        A dtype, shape or option does not fit; a label is neither 1 nor -1 (under `jit` and `vmap`
        the result is NaN instead).

    Examples
    --------
    >>> first, second = torch.tensor([1.0, 1.0]), torch.tensor([0.0, 3.0])
    >>> margin_ranking(first, second, torch.tensor([1, 1]))
    tensor([0., 2.])
    """
    check_pair("margin_ranking", "first", first, "second", second)
    check_finite("margin_ranking", "margin", margin)
    y = widened(sign_labels("margin_ranking", "labels", labels, first.shape, first))
    values = (-y * (widened(first) - widened(second)) + margin).clamp(min=0)
    return example_mean(values).to(first.dtype)


def hinge_embedding(distances: Tensor, labels: Tensor, *, margin: float = 1.0) -> Tensor:
    r"""Return a distance where the label is 1, and what it lacks of a margin where it is -1.

    .. math::
        \ell = \begin{cases} x & y = 1 \\ \max(0, m - x) & y = -1 \end{cases}

    averaged over an example's elements; Hadsell et al. 2006, "Dimensionality Reduction by Learning
    an Invariant Mapping", without the squares.

    Parameters
    ----------
    distances
        Shape `(N, ...)`, floating point.
    labels
        1 or -1, of that shape, integers or of that dtype.
    margin
        `m`, a Python number.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `distances`.

    Raises
    ------
    TypeError, ValueError
        As in `margin_ranking`.

    Examples
    --------
    >>> hinge_embedding(torch.tensor([0.25, 0.25]), torch.tensor([1, -1]))
    tensor([0.2500, 0.7500])
    """
    check_pair("hinge_embedding", "distances", distances, "distances", distances)
    check_finite("hinge_embedding", "margin", margin)
    y = sign_labels("hinge_embedding", "labels", labels, distances.shape, distances)
    x = widened(distances)
    values = torch.where(y == 1, x, (margin - x).clamp(min=0)) * y.abs()
    return example_mean(values).to(distances.dtype)


def cosine_embedding(
    first: Tensor, second: Tensor, labels: Tensor, *, margin: float = 0.0
) -> Tensor:
    r"""Return how far two vectors are from parallel, or from apart, by their label, per example.

    .. math::
        \ell = \begin{cases} 1 - \cos(x_1, x_2) & y = 1 \\ \max(0, \cos(x_1, x_2) - m) & y = -1
        \end{cases} \qquad
        \cos(a, b) = \frac{a \cdot b}{\sqrt{(a \cdot a + \epsilon) (b \cdot b + \epsilon)}}

    with torch's :math:`\epsilon = 10^{-12}`: the cosine of a vector of zeros is 0, and its
    derivative finite.

    Parameters
    ----------
    first, second
        Two tensors of one shape `(N, ..., D)` and one floating-point dtype, vectors last.
    labels
        1 where they are to be parallel, -1 where not; shape `(N, ...)`, integers or of that dtype.
    margin
        `m`, a Python number in [-1, 1].

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `first`: the mean over an example's own vectors.

    Raises
    ------
    TypeError, ValueError
        As in `margin_ranking`; the margin lies outside [-1, 1].

    Examples
    --------
    >>> first, second = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.ones(2, 2)
    >>> cosine_embedding(first, second, torch.tensor([1, -1]))
    tensor([0.2929, 0.7071])
    """
    check_vectors("cosine_embedding", first=first, second=second)
    check_number("cosine_embedding", "margin", margin)
    if not -1 <= margin <= 1:
        raise ValueError(f"cosine_embedding: margin must lie in [-1, 1], got {margin}.")
    y = sign_labels("cosine_embedding", "labels", labels, first.shape[:-1], first)
    a, b = widened(first), widened(second)
    squares = ((a * a).sum(-1) + 1e-12) * ((b * b).sum(-1) + 1e-12)
    cosine = (a * b).sum(-1) / squares.sqrt()
    values = torch.where(y == 1, 1 - cosine, (cosine - margin).clamp(min=0)) * y.abs()
    return example_mean(values).to(first.dtype)


def triplet_margin(
    anchors: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
) -> Tensor:
    r"""Return the hinge loss of the distances from an anchor to a positive and a negative.

    .. math::
        \ell = \max(0, \, d(a, p) - d(a, n) + m) , \qquad d(x, y) = \|x - y + \epsilon\|_p

    Balntas et al. 2016, "Learning shallow convolutional feature descriptors with triplet losses".
    At the hinge the derivative is that of the line; where a distance is 0 its derivative is 0.

    Parameters
    ----------
    anchors, positives, negatives
        Three tensors of one shape `(N, ..., D)` and one floating-point dtype, vectors last.
    margin
        `m`, a Python number above 0.
    p, eps
        As in `pairwise_distance`.
    swap
        Whether to take `d(p, n)` in the place of `d(a, n)` where it is smaller.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `anchors`: the mean over an example's own triplets.

    Raises
    ------
    TypeError, ValueError
        A dtype, shape or option does not fit.

    Examples
    --------
    >>> anchors, positives, negatives = torch.tensor([[[0.0, 0.0]], [[0.0, 2.0]], [[1.5, 0.0]]])
    >>> triplet_margin(anchors, positives, negatives)
    tensor([1.5000])
    """
    check_norm("triplet_margin", p, eps)
    check_vectors("triplet_margin", anchors=anchors, positives=positives, negatives=negatives)
    return triplet_margin_with_distance(
        widened(anchors),
        widened(positives),
        widened(negatives),
        distance_function=partial(distance, p=p, eps=eps),
        margin=margin,
        swap=swap,
    ).to(anchors.dtype)


def triplet_margin_with_distance(
    anchors: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    distance_function: Callable[[Tensor, Tensor], Tensor],
    margin: float = 1.0,
    swap: bool = False,
) -> Tensor:
    r"""Return the triplet loss with any distance, :math:`\max(0, d(a, p) - d(a, n) + m)`.

    Parameters
    ----------
    anchors, positives, negatives
        Three tensors of one shape `(N, ...)` and one floating-point dtype.
    distance_function
        A pure function of two such tensors that returns one value for each pair, `(N, ...)`.
    margin, swap
        As in `triplet_margin`.

    Returns
    -------
    Tensor
        Shape `(N,)`: the mean over an example's own triplets.

    Raises
    ------
    TypeError, ValueError
        A dtype, shape or option does not fit; the distance is no function, or does not return one
        value for each example.

    Examples
    --------
    >>> anchors, positives, negatives = torch.tensor([[[0.0, 0.0]], [[0.0, 2.0]], [[1.5, 0.0]]])
    >>> triplet_margin_with_distance(
    ...     anchors, positives, negatives, distance_function=cosine_distance, margin=0.5
    ... )
    tensor([0.5000])
    """
    caller = "triplet_margin_with_distance"
    check_pair(caller, "anchors", anchors, "positives", positives)
    check_pair(caller, "anchors", anchors, "negatives", negatives)
    check_above(caller, "margin", margin, 0)
    if not isinstance(swap, bool):
        raise TypeError(f"{caller}: swap must be True or False, got {swap!r}.")
    if not callable(distance_function):
        raise TypeError(
            f"{caller}: distance_function must be a function of two tensors, got "
            f"{type(distance_function).__name__}."
        )
    to_positive = distance_function(anchors, positives)
    check_tensor(caller, "the output of distance_function", to_positive)
    if to_positive.shape[:1] != anchors.shape[:1]:
        raise ValueError(
            f"{caller}: distance_function must return one value for each of the {len(anchors)} "
            f"examples, got shape {tuple(to_positive.shape)}."
        )
    to_negative = distance_function(anchors, negatives)
    if swap:
        to_negative = torch.minimum(to_negative, distance_function(positives, negatives))
    return example_mean((to_positive - to_negative + margin).clamp(min=0))
