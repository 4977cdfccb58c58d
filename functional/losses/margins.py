"""Losses that ask a score for a margin: hinge, perceptron, their multi-class and -label kin."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .checks import (
    INTEGER_DTYPES,
    check_class_weight,
    check_finite,
    check_logits,
    check_pair,
    check_tensor,
    check_values,
    class_labels,
    in_range,
    nan_unless,
    sign_labels,
)
from .reduction import example_mean, widened


def hinge(scores: Tensor, labels: Tensor) -> Tensor:
    r"""Return the hinge loss :math:`\max(0, 1 - y x)` of a support vector machine, per example.

    Cortes & Vapnik 1995, "Support-Vector Networks"; averaged over an example's elements. At the
    hinge the derivative is that of the line.

    Parameters
    ----------
    scores
        Shape `(N, ...)`, floating point.
    labels
        1 or -1, of that shape, integers or of that dtype.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `scores`.

    Raises
    ------
    TypeError, ValueError
        A dtype or shape does not fit; a label is neither 1 nor -1 (under `jit` and `vmap` the
        result is NaN instead).

    Examples
    --------
    >>> hinge(torch.tensor([0.5, 0.5]), torch.tensor([1, -1]))
    tensor([0.5000, 1.5000])
    """
    y, x = _signed("hinge", labels, scores)
    return example_mean((1 - y * x).clamp(min=0)).to(scores.dtype)


def perceptron(scores: Tensor, labels: Tensor) -> Tensor:
    r"""Return the perceptron loss :math:`\max(0, -y x)`, per example.

    Rosenblatt 1958, "The perceptron"; averaged over an example's elements. At 0 the derivative is
    that of the line, so that a model of zeros learns.

    Parameters
    ----------
    scores, labels
        As in `hinge`.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `scores`.

    Raises
    ------
    TypeError, ValueError
        As in `hinge`.

    Examples
    --------
    >>> perceptron(torch.tensor([0.5, 0.5]), torch.tensor([1, -1]))
    tensor([0.0000, 0.5000])
    """
    y, x = _signed("perceptron", labels, scores)
    return example_mean((-y * x).clamp(min=0)).to(scores.dtype)


def soft_margin(scores: Tensor, labels: Tensor) -> Tensor:
    r"""Return the logistic loss :math:`\log(1 + e^{-y x})` of labels 1 and -1, per example.

    Averaged over an example's elements; linear for large `-y x`, where torch's
    `soft_margin_loss` is infinite. It is `bce_with_logits` with labels named otherwise.

    Parameters
    ----------
    scores, labels
        As in `hinge`.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `scores`.

    Raises
    ------
    TypeError, ValueError
        As in `hinge`.

    Examples
    --------
    >>> soft_margin(torch.tensor([0.0, 1000.0]), torch.tensor([1, -1]))
    tensor([6.9315e-01, 1.0000e+03])
    """
    y, x = _signed("soft_margin", labels, scores)
    return example_mean(-logsigmoid(y * x)).to(scores.dtype)


def multilabel_soft_margin(
    logits: Tensor, labels: Tensor, *, weight: Tensor | None = None
) -> Tensor:
    r"""Return the binary cross-entropy averaged over the classes, weighted, per example.

    .. math::
        \ell_n = -\frac1C \sum_c w_c \,
        [y_{nc} \log \sigma(x_{nc}) + (1 - y_{nc}) \log \sigma(-x_{nc})]

    Parameters
    ----------
    logits
        Shape `(N, C)` or, as in torch with classes last, `(N, ..., C)`; floating point.
    labels
        Whether each class is present, 0 or 1 or between; shape and dtype of `logits`.
    weight
        Shape `(C,)`, dtype of `logits`: the factor of each class.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `logits`.

    Raises
    ------
    TypeError, ValueError
        A dtype or shape does not fit.

    Examples
    --------
    >>> multilabel_soft_margin(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 1.0]]))
    tensor([0.6931])
    """
    caller = "multilabel_soft_margin"
    check_pair(caller, "logits", logits, "labels", labels)
    check_logits(caller, "logits", logits)
    check_class_weight(caller, weight, logits.movedim(-1, 1))
    x, y = widened(logits), widened(labels)
    values = -(y * logsigmoid(x) + (1 - y) * logsigmoid(-x))
    return example_mean(values if weight is None else weight * values).to(logits.dtype)


def multi_margin(
    scores: Tensor,
    labels: Tensor,
    *,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Return the multi-class hinge loss summed over the other classes, per example.

    .. math::
        \ell_n = \frac1C \sum_{c \ne y_n} w_{y_n} \max(0, m - x_{n y_n} + x_{nc})^p

    Weston & Watkins 1999, "Support vector machines for multi-class pattern recognition".

    Parameters
    ----------
    scores
        Shape `(N, C)`, floating point.
    labels
        Class numbers of shape `(N,)`, any integer dtype.
    p
        The exponent, 1 or 2.
    margin
        `m`, a Python number.
    weight
        Shape `(C,)`, dtype of `scores`: the factor of each class.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `scores`.

    Raises
    ------
    TypeError, ValueError
        A dtype, shape or option does not fit; a label lies outside the classes (under `jit` and
        `vmap` the result is NaN instead).

    Examples
    --------
    >>> multi_margin(torch.tensor([[1.0, 0.5, 0.0]]), torch.tensor([0]))
    tensor([0.1667])
    """
    if isinstance(p, bool) or p not in (1, 2):
        raise ValueError(f"multi_margin: p must be 1 or 2, got {p!r}.")
    check_finite("multi_margin", "margin", margin)
    x, index, factor = _of_class("multi_margin", scores, labels)
    check_class_weight("multi_margin", weight, scores)
    # relu, and not clamp: torch has the derivative 0 at the hinge here.
    excess = torch.relu(margin - x.gather(1, index) + x) ** p
    values = excess.scatter(1, index, 0.0).mean(1) * factor
    if weight is not None:
        values = values * weight[index.squeeze(1)]
    return values.to(scores.dtype)


def multiclass_hinge(scores: Tensor, labels: Tensor) -> Tensor:
    r"""Return the multi-class hinge loss of the worst class, per example.

    .. math::
        \ell_n = \max_c \, (x_{nc} + [c \ne y_n]) - x_{n y_n}

    Crammer & Singer 2001, "On the Algorithmic Implementation of Multiclass Kernel-based Vector
    Machines". Where classes are equally bad they share the derivative.

    Parameters
    ----------
    scores
        Shape `(N, C)`, floating point.
    labels
        Class numbers of shape `(N,)`, any integer dtype.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `scores`.

    Raises
    ------
    TypeError, ValueError
        As in `multi_margin`.

    Examples
    --------
    >>> multiclass_hinge(torch.tensor([[1.0, 0.5, 0.0]]), torch.tensor([0]))
    tensor([0.5000])
    """
    x, index, factor = _of_class("multiclass_hinge", scores, labels)
    others = torch.ones_like(x).scatter(1, index, 0.0)
    # Subtracting first keeps the digits of scores far from 0.
    return ((x - x.gather(1, index) + others).amax(1) * factor).to(scores.dtype)


def multiclass_perceptron(scores: Tensor, labels: Tensor) -> Tensor:
    r"""Return how far the score of the label lies below the largest, per example.

    .. math::
        \ell_n = \max_c x_{nc} - x_{n y_n}

    Collins 2002, "Discriminative training methods for hidden Markov models". Where scores are
    equally large they share the derivative.

    Parameters
    ----------
    scores, labels
        As in `multiclass_hinge`.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `scores`.

    Raises
    ------
    TypeError, ValueError
        As in `multi_margin`.

    Examples
    --------
    >>> multiclass_perceptron(torch.tensor([[1.0, 0.5, 0.0]]), torch.tensor([1]))
    tensor([0.5000])
    """
    x, index, factor = _of_class("multiclass_perceptron", scores, labels)
    return ((x - x.gather(1, index)).amax(1) * factor).to(scores.dtype)


def multilabel_margin(scores: Tensor, labels: Tensor) -> Tensor:
    r"""Return the hinge loss of every present class against every absent one, per example.

    .. math::
        \ell_n = \frac1C \sum_{c \in Y_n} \sum_{d \notin Y_n} \max(0, 1 - (x_{nc} - x_{nd}))

    Parameters
    ----------
    scores
        Shape `(N, C)`, floating point.
    labels
        Shape `(N, C)`, any integer dtype: the numbers of the present classes, then -1, after which
        nothing is read.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `scores`.

    Raises
    ------
    TypeError, ValueError
        A dtype or shape does not fit; a label before the first -1 lies outside the classes (under
        `jit` and `vmap` the result is NaN instead).

    Examples
    --------
    >>> scores = torch.tensor([[0.1, 0.2, 0.4, 0.8]])
    >>> multilabel_margin(scores, torch.tensor([[3, 0, -1, 1]]))
    tensor([0.8500])
    """
    caller = "multilabel_margin"
    check_logits(caller, "scores", scores)
    check_tensor(caller, "labels", labels)
    if labels.dtype not in INTEGER_DTYPES or labels.dtype == torch.uint8:
        raise TypeError(f"{caller}: labels must be signed integers, got {labels.dtype}.")
    if scores.ndim != 2 or labels.shape != scores.shape:
        raise ValueError(
            f"{caller}: scores and labels must have one shape (batch, classes), got "
            f"{tuple(scores.shape)} and {tuple(labels.shape)}."
        )
    labels, x = labels.long(), widened(scores)
    read = (labels != -1).long().cumprod(1).bool()
    valid = ~read | in_range(labels, scores.shape[1])
    check_values(caller, "labels", labels, valid, f"lie in [0, {scores.shape[1]}) before a -1")
    index = torch.where(read & valid, labels, 0)
    classes = torch.arange(scores.shape[1], device=scores.device)
    present = ((index.unsqueeze(2) == classes) & read.unsqueeze(2)).any(1)
    # Axes: example, label, class.
    excess = torch.relu(1 - x.gather(1, index).unsqueeze(2) + x.unsqueeze(1))
    counted = read.unsqueeze(2) & ~present.unsqueeze(1)
    values = excess.masked_fill(~counted, 0).sum((1, 2)) / scores.shape[1]
    return (values * nan_unless(valid.all(1), values)).to(scores.dtype)


def _signed(caller: str, labels: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    check_pair(caller, "scores", scores, "scores", scores)
    return widened(sign_labels(caller, "labels", labels, scores.shape, scores)), widened(scores)


def _of_class(caller: str, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores, the labels as an index `(N, 1)`, and a factor: NaN outside the classes."""
    check_logits(caller, "scores", scores)
    if scores.ndim != 2:
        raise ValueError(
            f"{caller}: scores must have shape (batch, classes), got {tuple(scores.shape)}."
        )
    labels = class_labels(caller, scores, labels)
    named = in_range(labels, scores.shape[1])
    x = widened(scores)
    return x, torch.where(named, labels, 0).unsqueeze(1), nan_unless(named, x)
