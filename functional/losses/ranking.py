"""Losses of an order: each example is a list of items with scores and relevances.

A list shorter than the others is padded, and a `mask` says which items are there. Padding is
neither read nor moved: its gradient is 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .checks import check_pair, check_tensor
from .reduction import log_sum_exp, widened


def ranking_softmax(scores: Tensor, relevances: Tensor, *, mask: Tensor | None = None) -> Tensor:
    r"""Return the cross-entropy of the relevances from a softmax over the list, per example.

    .. math::
        \ell = -\sum_i y_i \log \frac{e^{s_i}}{\sum_j e^{s_j}}

    Cao et al. 2007, "Learning to Rank: From Pairwise Approach to Listwise Approach" (ListNet).

    Parameters
    ----------
    scores
        Shape `(N, L)`, floating point.
    relevances
        Shape and dtype of `scores`.
    mask
        Bools of that shape, True where there is an item; None where there are no others.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `scores`; 0 for an empty list.

    Raises
    ------
    TypeError, ValueError
        A dtype or shape does not fit.

    Examples
    --------
    >>> ranking_softmax(torch.tensor([[2.0, 1.0, 3.0]]), torch.tensor([[1.0, 0.0, 0.0]]))
    tensor([1.4076])
    """
    s, y, valid = _checked("ranking_softmax", scores, relevances, mask)
    log_sum = log_sum_exp(s.masked_fill(~valid, -math.inf), 1).unsqueeze(1)
    impossible = (y == 0) & (s == -math.inf)
    surprise = log_sum - s.masked_fill(impossible, 0)
    return (y * surprise).masked_fill(~valid, 0).sum(1).to(scores.dtype)


def list_mle(scores: Tensor, relevances: Tensor, *, mask: Tensor | None = None) -> Tensor:
    r"""Return the negative log-likelihood of the true order under Plackett-Luce, per example.

    .. math::
        \ell = -\sum_i \log \frac{e^{s_{\pi(i)}}}{\sum_{j \ge i} e^{s_{\pi(j)}}}

    where :math:`\pi` sorts by falling relevance, equal ones as they stand; Xia et al. 2008,
    "Listwise approach to learning to rank". Memory grows with the square of the length.

    Parameters
    ----------
    scores, relevances, mask
        As in `ranking_softmax`.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `scores`; 0 for an empty list.

    Raises
    ------
    TypeError, ValueError
        A dtype or shape does not fit.

    Examples
    --------
    >>> list_mle(torch.zeros(1, 3), torch.tensor([[2.0, 0.0, 1.0]]))  # log 3!
    tensor([1.7918])
    """
    s, y, valid = _checked("list_mle", scores, relevances, mask)
    place = torch.arange(s.shape[1], device=s.device)
    later = place >= place.unsqueeze(1)
    y_i, y_j = y.unsqueeze(2), y.unsqueeze(1)
    # Those from an item on, in the true order: a sum for each item, and no sorting.
    remaining = ((y_j < y_i) | ((y_j == y_i) & later)) & valid.unsqueeze(1)
    log_sums = log_sum_exp(s.unsqueeze(1).masked_fill(~remaining, -math.inf), 2)
    return (log_sums - s).masked_fill(~valid, 0).sum(1).to(scores.dtype)


def pairwise_logistic(scores: Tensor, relevances: Tensor, *, mask: Tensor | None = None) -> Tensor:
    r"""Return the logistic loss of the pairs with different relevances, per example.

    .. math::
        \ell = \frac1{|P|} \sum_{(i, j) \in P} \log (1 + e^{-(s_i - s_j)}) , \qquad
        P = \{(i, j) : y_i > y_j\}

    Burges et al. 2005, "Learning to Rank using Gradient Descent" (RankNet). Memory grows with the
    square of the length.

    Parameters
    ----------
    scores, relevances, mask
        As in `ranking_softmax`.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `scores`; 0 for a list without a pair.

    Raises
    ------
    TypeError, ValueError
        A dtype or shape does not fit.

    Examples
    --------
    >>> pairwise_logistic(torch.tensor([[2.0, 1.0, 3.0]]), torch.tensor([[1.0, 0.0, 0.0]]))
    tensor([0.8133])
    """
    gaps, pairs = _pairs("pairwise_logistic", scores, relevances, mask)
    return _mean_of_pairs(-logsigmoid(gaps), pairs).to(scores.dtype)


def pairwise_hinge(scores: Tensor, relevances: Tensor, *, mask: Tensor | None = None) -> Tensor:
    r"""Return the hinge loss of the pairs with different relevances, per example.

    .. math::
        \ell = \frac1{|P|} \sum_{(i, j) \in P} \max(0, 1 - (s_i - s_j)) , \qquad
        P = \{(i, j) : y_i > y_j\}

    Joachims 2002, "Optimizing Search Engines using Clickthrough Data". Memory grows with the square
    of the length.

    Parameters
    ----------
    scores, relevances, mask
        As in `ranking_softmax`.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `scores`; 0 for a list without a pair.

    Raises
    ------
    TypeError, ValueError
        A dtype or shape does not fit.

    Examples
    --------
    >>> pairwise_hinge(torch.tensor([[2.0, 1.0, 3.0]]), torch.tensor([[1.0, 0.0, 0.0]]))
    tensor([1.])
    """
    gaps, pairs = _pairs("pairwise_hinge", scores, relevances, mask)
    return _mean_of_pairs((1 - gaps).clamp(min=0), pairs).to(scores.dtype)


def _pairs(
    caller: str, scores: Tensor, relevances: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the gaps `s_i - s_j` of shape `(N, L, L)`, and which of them are to be positive."""
    s, y, valid = _checked(caller, scores, relevances, mask)
    pairs = (y.unsqueeze(2) > y.unsqueeze(1)) & valid.unsqueeze(2) & valid.unsqueeze(1)
    # Filled here, as the gap of a score of -inf from itself has a derivative of NaN.
    return (s.unsqueeze(2) - s.unsqueeze(1)).masked_fill(~pairs, 0), pairs


def _mean_of_pairs(values: Tensor, pairs: Tensor) -> Tensor:
    return values.masked_fill(~pairs, 0).sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)


def _checked(
    caller: str, scores: Tensor, relevances: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores and relevances, 0 where masked, and the mask."""
    check_pair(caller, "scores", scores, "relevances", relevances)
    if scores.ndim != 2:
        raise ValueError(
            f"{caller}: scores must have shape (batch, items), got {tuple(scores.shape)}."
        )
    if mask is None:
        mask = torch.ones_like(scores, dtype=torch.bool)
    check_tensor(caller, "mask", mask)
    if mask.dtype != torch.bool or mask.shape != scores.shape:
        raise TypeError(
            f"{caller}: mask must be bools of the shape of scores, {tuple(scores.shape)}, got "
            f"{mask.dtype} of shape {tuple(mask.shape)}."
        )
    return widened(scores).masked_fill(~mask, 0), widened(relevances).masked_fill(~mask, 0), mask
