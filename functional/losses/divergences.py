"""Divergences between distributions over classes: Kullback-Leibler both ways, Jensen-Shannon.

Classes stand second, as in `cross_entropy`. A divergence is a *sum* over the classes, so that
`.mean()` is what torch calls `reduction="batchmean"`; its `"mean"` also divides by the classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .checks import check_logits, check_pair
from .reduction import example_mean, widened


def kl_div(log_probabilities: Tensor, targets: Tensor) -> Tensor:
    r"""Return the divergence of a predicted distribution from the target, per example.

    .. math::
        \mathrm{KL}(q \,\|\, p) = \sum_c q_c \, (\log q_c - \log p_c)

    Kullback & Leibler 1951, "On Information and Sufficiency"; the forward divergence, of
    maximum likelihood. As usual `0 log 0 = 0`, and the derivative of that term is taken as 0.

    Parameters
    ----------
    log_probabilities
        `log p`, shape `(N, C, d1, ...)`, floating point: a `log_softmax` over dimension 1.
    targets
        `q`, probabilities of that shape and dtype.

    Returns
    -------
    Tensor
        Shape `(N,)`: the mean over an example's own `d1 * ...` positions of the sum over classes.

    Raises
    ------
    TypeError, ValueError
        The dtypes or shapes differ, or there is no dimension of classes.

    Examples
    --------
    >>> log_p = torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log()
    >>> kl_div(log_p, torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
    tensor([0.0000, 0.6931])
    """
    log_p, q = _checked("kl_div", log_probabilities, "targets", targets)
    return _mean_sum(_relative_entropy(log_p, q)).to(targets.dtype)


def kl_div_with_log_targets(log_probabilities: Tensor, log_targets: Tensor) -> Tensor:
    r"""Return `kl_div` of targets given by their logarithm, which keeps small ones exact.

    .. math::
        \mathrm{KL}(q \,\|\, p) = \sum_c q_c \, (\log q_c - \log p_c)

    Parameters
    ----------
    log_probabilities, log_targets
        `log p` and `log q`, of one shape `(N, C, d1, ...)` and one floating-point dtype. A class
        whose `log q` is -inf counts 0, with derivative 0.

    Returns
    -------
    Tensor
        Shape `(N,)`.

    Raises
    ------
    TypeError, ValueError
        As in `kl_div`.

    Examples
    --------
    >>> log_p = torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log()
    >>> kl_div_with_log_targets(log_p, torch.tensor([[0.5, 0.5], [1.0, 0.0]]).log())
    tensor([0.0000, 0.6931])
    """
    log_p, log_q = _checked(
        "kl_div_with_log_targets", log_probabilities, "log_targets", log_targets
    )
    return _mean_sum(_log_ratio(log_q, log_p)).to(log_targets.dtype)


def reverse_kl_div(log_probabilities: Tensor, log_targets: Tensor) -> Tensor:
    r"""Return the divergence of the target from the predicted distribution, per example.

    .. math::
        \mathrm{KL}(p \,\|\, q) = \sum_c p_c \, (\log p_c - \log q_c)

    The reverse divergence, of variational inference, which seeks a mode of `q`; Minka 2005,
    "Divergence measures and message passing".

    Parameters
    ----------
    log_probabilities, log_targets
        `log p` and `log q`, of one shape `(N, C, d1, ...)` and one floating-point dtype. A class
        whose `log p` is -inf counts 0, with derivative 0.

    Returns
    -------
    Tensor
        Shape `(N,)`; infinite where the prediction is possible and the target not.

    Raises
    ------
    TypeError, ValueError
        As in `kl_div`.

    Examples
    --------
    >>> log_p, log_q = torch.tensor([[[0.5, 0.5]], [[0.25, 0.75]]]).log()
    >>> reverse_kl_div(log_p, log_q), kl_div_with_log_targets(log_p, log_q)
    (tensor([0.1438]), tensor([0.1308]))
    """
    log_p, log_q = _checked("reverse_kl_div", log_probabilities, "log_targets", log_targets)
    return _mean_sum(_log_ratio(log_p, log_q)).to(log_targets.dtype)


def generalized_kl_div(log_predictions: Tensor, targets: Tensor) -> Tensor:
    r"""Return the divergence of measures that need not sum to 1, per example.

    .. math::
        \sum_c q_c \, (\log q_c - \log p_c) - q_c + p_c

    the Bregman divergence of :math:`x \log x - x`: Bregman 1967, "The relaxation method of finding
    the common point of convex sets".

    Parameters
    ----------
    log_predictions
        `log p`, shape `(N, C, d1, ...)`, floating point.
    targets
        `q`, at least 0, of that shape and dtype.

    Returns
    -------
    Tensor
        Shape `(N,)`.

    Raises
    ------
    TypeError, ValueError
        As in `kl_div`.

    Examples
    --------
    >>> generalized_kl_div(torch.zeros(1, 2), torch.tensor([[2.0, 0.0]]))
    tensor([1.3863])
    """
    log_p, q = _checked("generalized_kl_div", log_predictions, "targets", targets)
    return _mean_sum(_relative_entropy(log_p, q) - q + torch.exp(log_p)).to(targets.dtype)


def js_div(log_probabilities: Tensor, log_targets: Tensor) -> Tensor:
    r"""Return the Jensen-Shannon divergence of two distributions, per example.

    .. math::
        \tfrac12 \mathrm{KL}(p \,\|\, m) + \tfrac12 \mathrm{KL}(q \,\|\, m) , \qquad
        m = \tfrac12 (p + q)

    Lin 1991, "Divergence measures based on the Shannon entropy". It is symmetric and at most
    `log 2`.

    Parameters
    ----------
    log_probabilities, log_targets
        `log p` and `log q`, of one shape `(N, C, d1, ...)` and one floating-point dtype.

    Returns
    -------
    Tensor
        Shape `(N,)`.

    Raises
    ------
    TypeError, ValueError
        As in `kl_div`.

    Examples
    --------
    >>> log_p, log_q = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]).log()
    >>> js_div(log_p, log_q)
    tensor([0.6931])
    """
    log_p, log_q = _checked("js_div", log_probabilities, "log_targets", log_targets)
    values = 0.5 * (_to_mixture(log_p, log_q) + _to_mixture(log_q, log_p))
    return _mean_sum(values).to(log_targets.dtype)


def _relative_entropy(log_p: Tensor, q: Tensor) -> Tensor:
    """Return `q (log q - log p)` with `0 log 0 = 0`."""
    nothing = q == 0
    log_q = torch.log(q.masked_fill(nothing, 1))
    return q * (log_q - log_p.masked_fill(nothing & (log_p == -math.inf), 0))


def _log_ratio(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return `p (log p - log q)` with `0 log 0 = 0`."""
    nothing = log_p == -math.inf
    log_p, log_q = log_p.masked_fill(nothing, 0), log_q.masked_fill(nothing, 0)
    return (torch.exp(log_p) * (log_p - log_q)).masked_fill(nothing, 0)


def _to_mixture(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return `p (log p - log m)` for the mixture `m = (p + q) / 2`, with `0 log 0 = 0`."""
    nothing = log_p == -math.inf
    log_p, log_q = log_p.masked_fill(nothing, 0), log_q.masked_fill(nothing, 0)
    # log p - log m = log 2 - log(1 + q / p)
    return (torch.exp(log_p) * (math.log(2) + logsigmoid(log_p - log_q))).masked_fill(nothing, 0)


def _mean_sum(values: Tensor) -> Tensor:
    return example_mean(values.sum(1))


def _checked(
    caller: str, log_probabilities: Tensor, name: str, targets: Tensor
) -> tuple[Tensor, Tensor]:
    first = "log_predictions" if caller == "generalized_kl_div" else "log_probabilities"
    check_logits(caller, first, log_probabilities)
    check_pair(caller, first, log_probabilities, name, targets)
    return widened(log_probabilities), widened(targets)
