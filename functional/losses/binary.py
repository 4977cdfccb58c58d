"""Binary cross-entropy, of probabilities and of their logits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy, logsigmoid

from .checks import (
    broadcasts,
    check_element_weight,
    check_factor,
    check_pair,
    check_values,
    nan_unless,
)
from .reduction import example_mean, widened


def bce(probabilities: Tensor, labels: Tensor, *, weight: Tensor | None = None) -> Tensor:
    r"""Return the binary cross-entropy of probabilities from the labels, per example.

    .. math::
        \ell = -w \, [y \log p + (1 - y) \log (1 - p)]

    averaged over an example's elements. As in `torch.nn.functional.binary_cross_entropy` the
    logarithms are at least -100, and the derivative is
    :math:`w \, (p - y) / \max(p (1 - p), 10^{-12})`. `bce_with_logits` needs neither, and is to be
    preferred where there are logits.

    Parameters
    ----------
    probabilities
        Shape `(N, ...)`, floating point, in [0, 1].
    labels
        Probabilities of the positive class, shape and dtype of `probabilities`.
    weight
        As in `bce_with_logits`.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `probabilities`.

    Raises
    ------
    TypeError, ValueError
        A dtype or shape does not fit; a probability lies outside [0, 1] (under `jit` and `vmap`
        the result is NaN instead).

    Examples
    --------
    >>> bce(torch.tensor([0.5, 0.25]), torch.tensor([1.0, 0.0]))
    tensor([0.6931, 0.2877])
    """
    check_pair("bce", "probabilities", probabilities, "labels", labels)
    check_element_weight("bce", weight, probabilities)
    inside = (probabilities >= 0) & (probabilities <= 1)
    check_values("bce", "probabilities", probabilities, inside, "lie in [0, 1]")
    # Outside torch refuses to compute; the sum lets the NaN into the gradient.
    p = torch.where(inside, probabilities, 0.5 + 0 * probabilities.nan_to_num())
    values = binary_cross_entropy(p, labels, reduction="none") * nan_unless(inside, p)
    return example_mean(values if weight is None else weight * values)


def bce_with_logits(
    logits: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
) -> Tensor:
    r"""Return the binary cross-entropy of sigmoid(logits) from the labels, per example.

    .. math::
        \ell = -w \, [p \, y \log \sigma(x) + (1 - y) \log \sigma(-x)]

    with the positive class weighted by `p` (`pos_weight`), averaged over an example's elements.

    Parameters
    ----------
    logits
        Shape `(N, ...)`, floating point.
    labels
        Probabilities of the positive class, shape and dtype of `logits`.
    weight
        Factor of each element, dtype of `logits`: as many dimensions as `logits`, each of the same
        length or 1 (`(N, 1)` weighs examples, `(1, C)` weighs outputs), or 0-d.
    pos_weight
        Factor of the positive class, dtype of `logits`; it broadcasts to the shape of one example,
        `logits.shape[1:]`: `(C,)` for logits of shape `(N, C)`.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `logits`.

    Raises
    ------
    TypeError, ValueError
        A dtype or shape does not fit; the message says which.

    Examples
    --------
    >>> bce_with_logits(torch.tensor([0.0, 3.0]), torch.tensor([1.0, 0.0]))
    tensor([0.6931, 3.0486])
    >>> logits, labels = torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    >>> bce_with_logits(logits, labels, pos_weight=torch.tensor([3.0, 1.0]))
    tensor([1.3863, 0.6931])
    """
    check_pair("bce_with_logits", "logits", logits, "labels", labels)
    check_element_weight("bce_with_logits", weight, logits)
    _check_pos_weight(pos_weight, logits)
    x, y = widened(logits), widened(labels)
    positive = y if pos_weight is None else pos_weight * y
    values = -(positive * logsigmoid(x) + (1 - y) * logsigmoid(-x))
    return example_mean(values if weight is None else weight * values).to(logits.dtype)


def _check_pos_weight(pos_weight: Tensor | None, logits: Tensor) -> None:
    if pos_weight is None:
        return
    check_factor("bce_with_logits", "pos_weight", pos_weight, logits)
    if not broadcasts(pos_weight.shape, logits.shape[1:]):
        raise ValueError(
            "bce_with_logits: pos_weight must broadcast to the shape of one example, "
            f"{tuple(logits.shape[1:])}, got {tuple(pos_weight.shape)}."
        )
