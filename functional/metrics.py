"""How good predictions are: values per example, as the losses give, and counts.

`accuracy` and `top_k` return one value per example; the caller writes `.mean()`, or sums over
batches and divides by their total. Labels are class numbers, refused like those of the losses when
they lie outside the classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .losses.checks import (
    check_count,
    check_integers,
    check_logits,
    check_range,
    check_tensor,
    class_labels,
    in_range,
)
from .losses.reduction import example_mean

__all__ = ["accuracy", "confusion_matrix", "top_k"]


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return 1 for each example whose largest logit is that of its label, else 0.

    It is `top_k` with `k` 1: of equal logits the first counts as the largest.

    Parameters
    ----------
    logits
        Shape `(N, C, d1, ...)`, floating point, classes second.
    labels
        Class numbers of shape `(N, d1, ...)`, any integer dtype.

    Returns
    -------
    Tensor
        Shape `(N,)`, float32: the mean over an example's own `d1 * ...` positions.

    Raises
    ------
    TypeError, ValueError
        As `top_k`.

    Examples
    --------
    >>> logits = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    >>> accuracy(logits, torch.tensor([1, 0, 0]))
    tensor([1., 1., 0.])
    """
    return _among_largest("accuracy", logits, labels, 1)


def top_k(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Return 1 for each example whose label is among its `k` largest logits, else 0.

    Equal logits rank in the order of their classes, so that a constant prediction is right only
    for the first `k` classes. A NaN counts as larger than the label's logit, and a label whose
    logit is NaN is never among the largest.

    Parameters
    ----------
    logits
        Shape `(N, C, d1, ...)`, floating point, classes second.
    labels
        Class numbers of shape `(N, d1, ...)`, any integer dtype.
    k
        A Python integer from 1 to `C`.

    Returns
    -------
    Tensor
        Shape `(N,)`, float32: the mean over an example's own `d1 * ...` positions.

    Raises
    ------
    TypeError, ValueError
        A dtype or shape does not fit, or `k` does not; a label lies outside the classes (under
        `jit` and `vmap`, where labels have no values to look at, the result is NaN instead).

    Examples
    --------
    >>> logits = torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]])
    >>> top_k(logits, torch.tensor([1, 2]), 2)
    tensor([1., 0.])
    """
    return _among_largest("top_k", logits, labels, k)


def confusion_matrix(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Count how often each class was predicted for each true class.

    Parameters
    ----------
    predictions
        Class numbers of any shape and integer dtype; or logits, floating point, of shape
        `(N, num_classes, d1, ...)`, of which the largest is the prediction.
    labels
        The true class numbers: the shape of `predictions`, or `(N, d1, ...)` beside logits.
    num_classes
        The number of classes, a Python integer.

    Returns
    -------
    Tensor
        Shape `(num_classes, num_classes)`, int64: row the true class, column the predicted one.

    Raises
    ------
    TypeError, ValueError
        A dtype or shape does not fit; a label or prediction lies outside the classes.
    RuntimeError
        A label or prediction lies outside the classes, under `jit` or `vmap`.

    Examples
    --------
    >>> confusion_matrix(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 1, 1]), num_classes=2)
    tensor([[1, 1],
            [0, 2]])
    """
    check_count("confusion_matrix", "num_classes", num_classes)
    check_tensor("confusion_matrix", "predictions", predictions)
    if predictions.is_floating_point():
        predictions = _predicted_classes(predictions, num_classes)
    predictions = _class_numbers("predictions", predictions, num_classes)
    labels = _class_numbers("labels", labels, num_classes)
    if labels.shape != predictions.shape:
        raise ValueError(
            f"confusion_matrix: labels must have shape {tuple(predictions.shape)}, one for each "
            f"prediction, got {tuple(labels.shape)}."
        )
    cells = num_classes * num_classes
    # A number outside the classes must not alias another cell: `cells` is refused by scatter_add.
    valid = in_range(labels, num_classes) & in_range(predictions, num_classes)
    cell = torch.where(valid, labels * num_classes + predictions, cells).flatten()
    counts = torch.zeros(cells, dtype=torch.int64, device=labels.device)
    return counts.scatter_add(0, cell, torch.ones_like(cell)).reshape(num_classes, num_classes)


def _among_largest(caller: str, logits: Tensor, labels: Tensor, k: int) -> Tensor:
    check_logits(caller, "logits", logits)
    labels = class_labels(caller, logits, labels)
    check_count(caller, "k", k)
    if k > logits.shape[1]:
        raise ValueError(f"{caller}: k must lie in [1, {logits.shape[1]}], got {k}.")
    valid = in_range(labels, logits.shape[1])
    correct = (_rank(logits, torch.where(valid, labels, 0)) < k).to(torch.float32)
    return example_mean(correct.masked_fill(~valid, math.nan))


def _rank(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how many classes come before the label when logits are sorted, largest first."""
    classes = torch.arange(logits.shape[1], device=logits.device)
    classes = classes.reshape(-1, *[1] * (logits.ndim - 2))
    label = labels.unsqueeze(1)
    logit = logits.gather(1, label)
    # "Not at most" and "not below" instead of "above" and "at least": with NaN these are true.
    before = torch.where(classes < label, ~(logits < logit), ~(logits <= logit))
    return before.sum(1)


def _predicted_classes(logits: Tensor, num_classes: int) -> Tensor:
    check_logits("confusion_matrix", "logits", logits)
    if logits.shape[1] != num_classes:
        raise ValueError(
            f"confusion_matrix: logits of shape {tuple(logits.shape)} have {logits.shape[1]} "
            f"classes in dimension 1, num_classes is {num_classes}."
        )
    return logits.argmax(1)


def _class_numbers(name: str, values: Tensor, num_classes: int) -> Tensor:
    check_integers("confusion_matrix", name, values)
    values = values.long()
    check_range("confusion_matrix", name, values, num_classes)
    return values
