"""Negative log-likelihoods of counts and of real numbers: Poisson and Gaussian."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .checks import (
    broadcasts,
    check_at_least,
    check_pair,
    check_switch,
    check_tensor,
    check_values,
    nan_unless,
)
from .reduction import example_mean, widened


def poisson_nll(log_rates: Tensor, targets: Tensor, *, full: bool = False) -> Tensor:
    r"""Return the negative log-likelihood of counts under Poisson laws of given log-rates.

    .. math::
        \ell = e^x - y \, x \; [\, + \log y!\,]

    averaged over an example's elements. It is `torch.nn.functional.poisson_nll_loss` with
    `log_input=True`, its default.

    Parameters
    ----------
    log_rates
        Shape `(N, ...)`, floating point.
    targets
        The counts, shape and dtype of `log_rates`.
    full
        Whether to add what does not depend on the rate, :math:`\log y!`, as Stirling's
        :math:`y \log y - y + \log(2 \pi y) / 2` where `y > 1`.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `log_rates`.

    Raises
    ------
    TypeError, ValueError
        The dtypes or shapes differ.

    Examples
    --------
    >>> poisson_nll(torch.zeros(2), torch.tensor([0.0, 3.0]))
    tensor([1., 1.])
    """
    check_pair("poisson_nll", "log_rates", log_rates, "targets", targets)
    x, y = widened(log_rates), widened(targets)
    return _poisson("poisson_nll", torch.exp(x) - y * x, y, full).to(log_rates.dtype)


def poisson_nll_with_rates(
    rates: Tensor, targets: Tensor, *, full: bool = False, eps: float = 1e-8
) -> Tensor:
    r"""Return the negative log-likelihood of counts under Poisson laws of given rates.

    .. math::
        \ell = x - y \log (x + \epsilon) \; [\, + \log y!\,]

    averaged over an example's elements. It is `torch.nn.functional.poisson_nll_loss` with
    `log_input=False`.

    Parameters
    ----------
    rates
        Shape `(N, ...)`, floating point, at least 0.
    targets, full
        As in `poisson_nll`.
    eps
        A Python number of at least 0.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `rates`.

    Raises
    ------
    TypeError, ValueError
        The dtypes or shapes differ; `eps` is negative or no number.

    Examples
    --------
    >>> poisson_nll_with_rates(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 2.0]))
    tensor([1.0000, 0.6137])
    """
    check_pair("poisson_nll_with_rates", "rates", rates, "targets", targets)
    check_at_least("poisson_nll_with_rates", "eps", eps, 0)
    x, y = widened(rates), widened(targets)
    values = x - y * torch.log(x + eps)
    return _poisson("poisson_nll_with_rates", values, y, full).to(rates.dtype)


def gaussian_nll(
    predictions: Tensor,
    targets: Tensor,
    variances: Tensor,
    *,
    full: bool = False,
    eps: float = 1e-6,
) -> Tensor:
    r"""Return the negative log-likelihood of targets under Gaussian laws, per example.

    .. math::
        \ell = \tfrac12 \left[ \log v + (x - y)^2 / v \right] \; [\, + \tfrac12 \log 2 \pi\,] ,
        \qquad v = \max(\mathrm{variance}, \epsilon)

    averaged over an example's elements; Nix & Weigend 1994, "Estimating the mean and variance of
    the target probability distribution". As in torch the derivative in the variance is that in
    `v`, so that a variance below `eps` still learns.

    Parameters
    ----------
    predictions, targets
        Two tensors of one shape `(N, ...)` and one floating-point dtype.
    variances
        At least 0, of that dtype, with as many dimensions, each of the same length or 1:
        `(N, 1)` is one variance an example.
    full
        Whether to add the constant.
    eps
        The least variance, a Python number of at least 0.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `predictions`.

    Raises
    ------
    TypeError, ValueError
        A dtype or shape does not fit; a variance is negative (under `jit` and `vmap` the result is
        NaN instead).

    Examples
    --------
    >>> gaussian_nll(torch.tensor([0.0, 3.0]), torch.zeros(2), torch.tensor([1.0, 9.0]))
    tensor([0.0000, 1.5986])
    """
    caller = "gaussian_nll"
    check_pair(caller, "predictions", predictions, "targets", targets)
    check_tensor(caller, "variances", variances)
    if variances.dtype != predictions.dtype:
        raise TypeError(
            f"{caller}: variances must have the dtype of predictions, {predictions.dtype}, got "
            f"{variances.dtype}."
        )
    if variances.ndim != predictions.ndim or not broadcasts(variances.shape, predictions.shape):
        raise ValueError(
            f"{caller}: variances must have {predictions.ndim} dimensions, each of length 1 or as "
            f"in {tuple(predictions.shape)}, got {tuple(variances.shape)}."
        )
    check_switch(caller, "full", full)
    check_at_least(caller, "eps", eps, 0)
    possible = ~(variances < 0)
    check_values(caller, "variances", variances, possible, "be at least 0")
    x, y, variance = widened(predictions), widened(targets), widened(variances)
    # The difference is 0, with the derivative 1 that a clamp would not have.
    v = torch.where(variance < eps, eps + (variance - variance.detach()), variance)
    values = 0.5 * (torch.log(v) + (x - y) ** 2 / v) * nan_unless(possible, v)
    constant = 0.5 * math.log(2 * math.pi) if full else 0.0
    return example_mean(values + constant).to(predictions.dtype)


def _poisson(caller: str, values: Tensor, y: Tensor, full: bool) -> Tensor:
    check_switch(caller, "full", full)
    if full:
        large = y > 1
        n = torch.where(large, y, 1)
        stirling = n * torch.log(n) - n + 0.5 * torch.log(2 * math.pi * n)
        values = values + stirling.masked_fill(~large, 0)
    return example_mean(values)
