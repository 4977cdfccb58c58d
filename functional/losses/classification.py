"""Losses of predicted classes: cross-entropy and negative log-likelihood."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from .checks import (
    check_class_weight,
    check_integer,
    check_logits,
    check_number,
    check_pair,
    check_tensor,
    class_labels,
    in_range,
)
from .reduction import example_mean

IGNORE_INDEX = -100


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
    label_smoothing: float = 0.0,
) -> Tensor:
    r"""Return the cross-entropy of softmax(logits) from the labels, one value per example.

    With target distribution `q`, class weights `w` and smoothing `s` over `C` classes,

    .. math::
        \ell_n = -\sum_c w_c \, [(1 - s) \, q_{nc} + s / C] \, \log \mathrm{softmax}(x_n)_c ,

    where an integer label `y` is the distribution that is 1 at `y`, and there the first term takes
    the weight of the label. Label smoothing: Szegedy et al. 2016, arXiv:1512.00567. As usual
    `0 log 0 = 0`: a class masked by a logit of -inf costs nothing where its target is 0.

    Parameters
    ----------
    logits
        Shape `(N, C, d1, ...)`, floating point, classes second.
    labels
        Class numbers of shape `(N, d1, ...)`, any integer dtype; or soft labels, probabilities of
        the shape and dtype of `logits`, which may be differentiated.
    weight
        Shape `(C,)`, dtype of `logits`: the factor of each class.
    ignore_index
        Integer labels equal to it contribute zero, to value and gradient.
    label_smoothing
        A Python number in [0, 1].

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `logits`: the mean over an example's own `d1 * ...` positions, the
        ignored ones counted as zeros. For torch's weighted mean see `purefn.functional.losses`.

    Raises
    ------
    TypeError, ValueError
        A dtype, shape or option does not fit; a label lies outside the classes (under `jit` and
        `vmap`, where labels have no values to look at, the result is NaN instead).

    Examples
    --------
    >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> cross_entropy(logits, torch.tensor([0, 2]))
    tensor([0.2395, 1.0986])
    >>> cross_entropy(logits, torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]))
    tensor([0.2395, 1.0986])
    """
    check_logits("cross_entropy", "logits", logits)
    check_class_weight("cross_entropy", weight, logits)
    check_integer("cross_entropy", "ignore_index", ignore_index)
    _check_smoothing(label_smoothing)
    check_tensor("cross_entropy", "labels", labels)
    if labels.is_floating_point():
        check_soft_labels("cross_entropy", logits, labels, ignore_index)
        target = (1 - label_smoothing) * labels + label_smoothing / logits.shape[1]
        return example_mean(-expectation(target, log_softmax(logits, 1), weight))
    labels = class_labels("cross_entropy", logits, labels, ignore_index)
    log_p = log_softmax(logits, 1)
    values = negative_log_likelihood(log_p, labels, weight, ignore_index)
    if label_smoothing > 0:
        uniform = torch.full_like(log_p, 1 / log_p.shape[1])
        spread = -expectation(uniform, log_p, weight).masked_fill(labels == ignore_index, 0)
        values = (1 - label_smoothing) * values + label_smoothing * spread
    return example_mean(values)


def nll(
    log_probabilities: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    r"""Return the negative log-likelihood of the labels, :math:`-w_y \log p_y`, per example.

    Parameters
    ----------
    log_probabilities
        Shape `(N, C, d1, ...)`, floating point: a `log_softmax` over dimension 1.
    labels
        Class numbers of shape `(N, d1, ...)`, any integer dtype.
    weight, ignore_index
        As in `cross_entropy`.

    Returns
    -------
    Tensor
        Shape `(N,)`: the mean over an example's own positions, the ignored ones counted as zeros.

    Raises
    ------
    TypeError, ValueError
        As in `cross_entropy`.

    Examples
    --------
    >>> log_p = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()
    >>> nll(log_p, torch.tensor([1, 0]))
    tensor([0.2877, 0.6931])
    """
    check_logits("nll", "log_probabilities", log_probabilities)
    check_class_weight("nll", weight, log_probabilities)
    check_integer("nll", "ignore_index", ignore_index)
    labels = class_labels("nll", log_probabilities, labels, ignore_index)
    return example_mean(negative_log_likelihood(log_probabilities, labels, weight, ignore_index))


def negative_log_likelihood(
    log_p: Tensor, labels: Tensor, weight: Tensor | None, ignore_index: int
) -> Tensor:
    """Return `-w_y log p_y` at every position: 0 where ignored, NaN outside the classes."""
    ignored, named = labels == ignore_index, in_range(labels, log_p.shape[1])
    index = torch.where(named, labels, 0)
    log_p_y = log_p.gather(1, index.unsqueeze(1)).squeeze(1)
    weight_y = torch.ones_like(log_p_y) if weight is None else weight[index]
    if weight is not None:
        log_p_y = log_p_y.masked_fill((weight_y == 0) & (log_p_y == -math.inf), 0)
    # A product with NaN, unlike a fill, makes the gradient NaN as well.
    weight_y = weight_y.masked_fill(~(named | ignored), math.nan)
    return (-weight_y * log_p_y).masked_fill(ignored, 0)


def expectation(target: Tensor, log_p: Tensor, weight: Tensor | None) -> Tensor:
    """Return `sum_c w_c q_c log p_c` over dimension 1, with `0 log 0 = 0`."""
    if weight is not None:
        target = target * weight.reshape(-1, *[1] * (target.ndim - 2))
    impossible = (target == 0) & (log_p == -math.inf)
    return (target * log_p.masked_fill(impossible, 0)).sum(1)


def check_soft_labels(caller: str, logits: Tensor, labels: Tensor, ignore_index: int) -> None:
    """Refuse soft labels that do not fit the logits, and an `ignore_index` beside them."""
    check_pair(caller, "logits", logits, "labels", labels)
    if ignore_index != IGNORE_INDEX:
        raise ValueError(
            f"{caller}: ignore_index={ignore_index} was given with soft labels, which have no "
            "class number to compare with it; multiply the values by a mask instead."
        )


def _check_smoothing(label_smoothing: float) -> None:
    check_number("cross_entropy", "label_smoothing", label_smoothing)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(
            f"cross_entropy: label_smoothing must lie in [0, 1], got {label_smoothing}."
        )
