"""Cross-entropies that weigh examples by how well they are classified: focal and polynomial."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid

from .checks import (
    check_at_least,
    check_class_weight,
    check_finite,
    check_integer,
    check_logits,
    check_number,
    check_pair,
    check_tensor,
    class_labels,
)
from .classification import (
    IGNORE_INDEX,
    check_soft_labels,
    expectation,
    negative_log_likelihood,
)
from .reduction import example_mean, power, widened


def sigmoid_focal(
    logits: Tensor, labels: Tensor, *, alpha: float | None = 0.25, gamma: float = 2.0
) -> Tensor:
    r"""Return the focal loss of independent binary predictions, per example.

    .. math::
        \ell = -\alpha_y \, (1 - p_y)^\gamma \, \log p_y , \qquad
        p_1 = \sigma(x), \; p_0 = \sigma(-x), \; \alpha_1 = \alpha, \; \alpha_0 = 1 - \alpha

    averaged over an example's elements; Lin et al. 2017, arXiv:1708.02002. It is
    `torchvision.ops.sigmoid_focal_loss`, which for soft labels mixes :math:`1 - p_y`,
    :math:`\log p_y` and :math:`\alpha_y` by the label, each on its own.

    Parameters
    ----------
    logits
        Shape `(N, ...)`, floating point.
    labels
        Probabilities of the positive class, shape and dtype of `logits`.
    alpha
        The weight of the positive class, a Python number in [0, 1]; None weighs both by 1, as
        torchvision's -1 and optax's default do.
    gamma
        The exponent, a Python number of at least 0; with 0 and no `alpha` it is
        `bce_with_logits`.

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
    >>> sigmoid_focal(torch.tensor([0.0, 3.0]), torch.tensor([1.0, 0.0]))
    tensor([0.0433, 2.0747])
    """
    check_pair("sigmoid_focal", "logits", logits, "labels", labels)
    check_at_least("sigmoid_focal", "gamma", gamma, 0)
    x, y = widened(logits), widened(labels)
    cross_entropy = -(y * logsigmoid(x) + (1 - y) * logsigmoid(-x))
    # No difference from 1, which would lose the digits of a confident prediction.
    values = power(torch.sigmoid(x) * (1 - y) + torch.sigmoid(-x) * y, gamma) * cross_entropy
    if alpha is not None:
        check_number("sigmoid_focal", "alpha", alpha)
        if not 0 <= alpha <= 1:
            raise ValueError(
                f"sigmoid_focal: alpha must lie in [0, 1] or be None, for no weights; got {alpha}."
            )
        values = (alpha * y + (1 - alpha) * (1 - y)) * values
    return example_mean(values).to(logits.dtype)


def softmax_focal(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: float = 2.0,
    weight: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    r"""Return the focal loss of softmax(logits), per example.

    .. math::
        \ell_n = -\sum_c w_c \, q_{nc} \, (1 - p_{nc})^\gamma \log p_{nc} , \qquad
        p_n = \mathrm{softmax}(x_n)

    where an integer label is the distribution `q` that is 1 there; Lin et al. 2017,
    arXiv:1708.02002. With `gamma` 0 it is `cross_entropy`.

    Parameters
    ----------
    logits, labels, weight, ignore_index
        As in `cross_entropy`; `weight` is the paper's alpha of each class.
    gamma
        The exponent, a Python number of at least 0.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `logits`: the mean over an example's own positions.

    Raises
    ------
    TypeError, ValueError
        As in `cross_entropy`; `gamma` is negative or no number.

    Examples
    --------
    >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> softmax_focal(logits, torch.tensor([0, 2]))
    tensor([0.0109, 0.4883])
    """
    check_at_least("softmax_focal", "gamma", gamma, 0)
    log_p, labels = _prepared("softmax_focal", logits, labels, ignore_index)
    check_class_weight("softmax_focal", weight, logits)
    weight = None if weight is None else widened(weight)
    if labels.is_floating_point():
        values = -expectation(labels * power(-torch.expm1(log_p), gamma), log_p, weight)
    else:
        unlikeliness = -torch.expm1(-negative_log_likelihood(log_p, labels, None, ignore_index))
        cross_entropy = negative_log_likelihood(log_p, labels, weight, ignore_index)
        values = power(unlikeliness, gamma) * cross_entropy
    return example_mean(values).to(logits.dtype)


def poly_cross_entropy(
    logits: Tensor, labels: Tensor, *, epsilon: float = 2.0, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    r"""Return the cross-entropy with another first term in its series, Poly-1, per example.

    .. math::
        \ell_n = \sum_c q_{nc} \, [-\log p_{nc} + \epsilon \, (1 - p_{nc})] , \qquad
        p_n = \mathrm{softmax}(x_n)

    Leng et al. 2022, arXiv:2204.12511.

    Parameters
    ----------
    logits, labels, ignore_index
        As in `cross_entropy`.
    epsilon
        What is added to the first coefficient, a Python number; the paper has 2 for ImageNet and
        -1 for detection.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `logits`: the mean over an example's own positions.

    Raises
    ------
    TypeError, ValueError
        As in `cross_entropy`; `epsilon` is no number.

    Examples
    --------
    >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> poly_cross_entropy(logits, torch.tensor([0, 2]))
    tensor([0.6656, 2.4319])
    """
    check_finite("poly_cross_entropy", "epsilon", epsilon)
    log_p, labels = _prepared("poly_cross_entropy", logits, labels, ignore_index)
    if labels.is_floating_point():
        unlikeliness = (labels * -torch.expm1(log_p)).sum(1)
        cross_entropy = -expectation(labels, log_p, None)
    else:
        cross_entropy = negative_log_likelihood(log_p, labels, None, ignore_index)
        unlikeliness = -torch.expm1(-cross_entropy)
    return example_mean(cross_entropy + epsilon * unlikeliness).to(logits.dtype)


def _prepared(
    caller: str, logits: Tensor, labels: Tensor, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Return log-probabilities and checked labels, soft ones or class numbers."""
    check_logits(caller, "logits", logits)
    check_integer(caller, "ignore_index", ignore_index)
    check_tensor(caller, "labels", labels)
    if labels.is_floating_point():
        check_soft_labels(caller, logits, labels, ignore_index)
        labels = widened(labels)
    else:
        labels = class_labels(caller, logits, labels, ignore_index)
    return log_softmax(widened(logits), 1), labels
