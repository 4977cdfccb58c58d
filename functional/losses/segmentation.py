"""Losses of overlap between predicted and true regions: dice and its relatives.

An example's value compares regions, so it is no mean over its pixels: a pixel is masked by taking
it out of both regions before the call.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softmax

from .checks import (
    check_at_least,
    check_class_weight,
    check_logits,
    check_pair,
    check_tensor,
    class_labels,
    in_range,
    nan_unless,
)
from .reduction import widened


def dice(
    logits: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    smooth: float = 1.0,
    alpha: float = 0.5,
    beta: float = 0.5,
) -> Tensor:
    r"""Return the dice loss of softmax(logits), averaged over the classes, per example.

    With the overlap :math:`I_c = \sum_i p_{ci} q_{ci}` of predicted and true regions, their sizes
    :math:`P_c = \sum_i p_{ci}` and :math:`T_c = \sum_i q_{ci}`,

    .. math::
        \ell = \frac1C \sum_c w_c \left[ 1 - \frac{I_c + s}
        {I_c + \alpha (P_c - I_c) + \beta (T_c - I_c) + s} \right]

    Milletari et al. 2016, arXiv:1606.04797; with other `alpha`, the price of a false positive, and
    `beta`, of a false negative, Salehi et al. 2017, arXiv:1706.05721 (Tversky); with both 1 it is
    the Jaccard loss.

    Parameters
    ----------
    logits
        Shape `(N, C, d1, ...)`, floating point, classes second.
    labels
        Class numbers of shape `(N, d1, ...)`, any integer dtype; or probabilities, of the shape and
        dtype of `logits`.
    weight
        Shape `(C,)`, dtype of `logits`: the factor of each class; 0 leaves a background out, though
        not of the mean's `C`.
    smooth
        `s`, a Python number of at least 0. With 0, a class that is neither predicted nor present
        is 0 / 0.
    alpha, beta
        Python numbers of at least 0.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `logits`.

    Raises
    ------
    TypeError, ValueError
        A dtype, shape or option does not fit; a label lies outside the classes (under `jit` and
        `vmap` the result is NaN instead).

    Examples
    --------
    >>> logits = torch.tensor([[[9.0, 9.0, -9.0], [-9.0, -9.0, 9.0]]])
    >>> dice(logits, torch.tensor([[0, 1, 1]]))
    tensor([0.2000])
    """
    for name, value in {"smooth": smooth, "alpha": alpha, "beta": beta}.items():
        check_at_least("dice", name, value, 0)
    p, q, factor = _regions("dice", logits, labels)
    check_class_weight("dice", weight, logits)
    lost = 1 - _overlap(p, q, smooth, alpha, beta)
    return ((lost if weight is None else weight * lost).mean(1) * factor).to(logits.dtype)


def binary_dice(logits: Tensor, labels: Tensor, *, smooth: float = 1.0) -> Tensor:
    r"""Return the dice loss of the region sigmoid(logits), per example.

    .. math::
        \ell = 1 - \frac{2 \sum_i p_i y_i + 2 s}{\sum_i p_i + \sum_i y_i + 2 s} , \qquad
        p = \sigma(x)

    over all elements of an example; Milletari et al. 2016, arXiv:1606.04797.

    Parameters
    ----------
    logits
        Shape `(N, ...)`, floating point.
    labels
        Probabilities of the positive class, shape and dtype of `logits`.
    smooth
        `s`, as in `dice`.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `logits`.

    Raises
    ------
    TypeError, ValueError
        A dtype, shape or option does not fit.

    Examples
    --------
    >>> binary_dice(torch.tensor([[9.0, 9.0, -9.0]]), torch.tensor([[1.0, 0.0, 0.0]]))
    tensor([0.2000])
    """
    check_pair("binary_dice", "logits", logits, "labels", labels)
    check_at_least("binary_dice", "smooth", smooth, 0)
    p, q = (_flat(x.unsqueeze(1)) for x in (torch.sigmoid(widened(logits)), widened(labels)))
    return (1 - _overlap(p, q, smooth, 0.5, 0.5)).squeeze(1).to(logits.dtype)


def generalized_dice(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Return one minus the overlap of all classes, the rare ones weighing more, per example.

    .. math::
        \ell = 1 - 2 \, \frac{\sum_c w_c I_c}{\sum_c w_c (P_c + T_c)} , \qquad
        w_c = 1 / \max(T_c, 1)^2

    in the notation of `dice`; Sudre et al. 2017, arXiv:1707.03237, with a bound for classes that
    are absent. Weights are of each example. optax has them of the whole batch and sums otherwise:
    `dice(logits, labels, weight=w).mean()` with `w` computed from the labels.

    Parameters
    ----------
    logits, labels
        As in `dice`.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `logits`.

    Raises
    ------
    TypeError, ValueError
        As in `dice`.

    Examples
    --------
    >>> logits = torch.tensor([[[9.0, 9.0, -9.0], [-9.0, -9.0, 9.0]]])
    >>> generalized_dice(logits, torch.tensor([[0, 1, 1]]))
    tensor([0.3333])
    """
    p, q, factor = _regions("generalized_dice", logits, labels)
    true = q.sum(2)
    w = true.clamp(min=1) ** -2
    overlap = (w * (p * q).sum(2)).sum(1) / (w * (p.sum(2) + true)).sum(1)
    return ((1 - 2 * overlap) * factor).to(logits.dtype)


def _overlap(p: Tensor, q: Tensor, smooth: float, alpha: float, beta: float) -> Tensor:
    """Return the share of overlap for each class of regions `(N, C, pixels)`."""
    both = (p * q).sum(2)
    only_p, only_q = p.sum(2) - both, q.sum(2) - both
    return (both + smooth) / (both + alpha * only_p + beta * only_q + smooth)


def _regions(caller: str, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return predicted and true regions `(N, C, pixels)`, and a factor for each example."""
    check_logits(caller, "logits", logits)
    check_tensor(caller, "labels", labels)
    p = softmax(widened(logits), 1)
    if labels.is_floating_point():
        check_pair(caller, "logits", logits, "labels", labels)
        q, named = widened(labels), torch.ones_like(labels[:, :1], dtype=torch.bool)
    else:
        labels = class_labels(caller, logits, labels).unsqueeze(1)
        named = in_range(labels, logits.shape[1])
        q = torch.zeros_like(p).scatter(1, torch.where(named, labels, 0), 1.0)
    return _flat(p), _flat(q), nan_unless(named.flatten(1).all(1), p)


def _flat(x: Tensor) -> Tensor:
    """Return `(N, C, d1, ...)` as `(N, C, pixels)`, of one pixel where there are no dimensions."""
    return x.unsqueeze(2) if x.ndim == 2 else x.flatten(2)
