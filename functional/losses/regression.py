"""Losses of real-valued predictions: squared error and its robust relatives."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .checks import check_above, check_at_least, check_pair
from .reduction import example_mean, widened


def l1(predictions: Tensor, targets: Tensor) -> Tensor:
    r"""Return the absolute error :math:`|x - y|`, averaged over each example's elements.

    Its derivative where they are equal is 0.

    Parameters
    ----------
    predictions, targets
        Two tensors of one shape `(N, ...)` and one floating-point dtype.

    Returns
    -------
    Tensor
        Shape `(N,)`, the dtype of `predictions`.

    Raises
    ------
    TypeError, ValueError
        The dtypes or shapes differ; nothing is cast or broadcast.

    Examples
    --------
    >>> l1(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    tensor([1., 0.])
    """
    return example_mean(_residual("l1", predictions, targets).abs())


def mse(predictions: Tensor, targets: Tensor) -> Tensor:
    r"""Return the squared error :math:`(x - y)^2`, averaged over each example's elements.

    Parameters
    ----------
    predictions, targets
        Two tensors of one shape `(N, ...)` and one floating-point dtype.

    Returns
    -------
    Tensor
        Shape `(N,)`, the dtype of `predictions`.

    Raises
    ------
    TypeError, ValueError
        The dtypes or shapes differ; nothing is cast or broadcast.

    Examples
    --------
    >>> mse(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    tensor([2., 0.])
    """
    return example_mean(_residual("mse", predictions, targets) ** 2)


def smooth_l1(predictions: Tensor, targets: Tensor, *, beta: float = 1.0) -> Tensor:
    r"""Return the absolute error, smoothed below `beta`, averaged over each example's elements.

    .. math::
        \ell = \begin{cases} z^2 / 2\beta & |z| < \beta \\ |z| - \beta / 2 & |z| \ge \beta
        \end{cases} \qquad z = x - y

    Girshick 2015, arXiv:1504.08083; with `beta` 0 it is the absolute error itself.

    Parameters
    ----------
    predictions, targets
        Two tensors of one shape `(N, ...)` and one floating-point dtype.
    beta
        A Python number, at least 0.

    Returns
    -------
    Tensor
        Shape `(N,)`, the dtype of `predictions`.

    Raises
    ------
    TypeError, ValueError
        The dtypes or shapes differ; `beta` is negative or no number.

    Examples
    --------
    >>> smooth_l1(torch.tensor([0.5, 3.0]), torch.zeros(2))
    tensor([0.1250, 2.5000])
    """
    check_at_least("smooth_l1", "beta", beta, 0)
    # The square is of z and not of its absolute value, which has no second derivative at 0.
    z = _wide_residual("smooth_l1", predictions, targets)
    if beta == 0:
        values = z.abs()
    else:
        small = z.abs() < beta
        square = torch.where(small, z, 0) ** 2
        values = torch.where(small, 0.5 * square / beta, z.abs() - 0.5 * beta)
    return example_mean(values).to(predictions.dtype)


def huber(predictions: Tensor, targets: Tensor, *, delta: float = 1.0) -> Tensor:
    r"""Return Huber's loss: squared error up to `delta`, linear beyond, per example.

    .. math::
        \ell = \begin{cases} z^2 / 2 & |z| \le \delta \\ \delta (|z| - \delta / 2) & |z| > \delta
        \end{cases} \qquad z = x - y

    Huber 1964, "Robust Estimation of a Location Parameter"; averaged over each example's elements.

    Parameters
    ----------
    predictions, targets
        Two tensors of one shape `(N, ...)` and one floating-point dtype.
    delta
        A Python number above 0.

    Returns
    -------
    Tensor
        Shape `(N,)`, the dtype of `predictions`.

    Raises
    ------
    TypeError, ValueError
        The dtypes or shapes differ; `delta` is not positive or no number.

    Examples
    --------
    >>> huber(torch.tensor([1.0, 3.0]), torch.zeros(2), delta=2.0)
    tensor([0.5000, 4.0000])
    """
    check_above("huber", "delta", delta, 0)
    # The square is of z and not of its absolute value, which has no second derivative at 0.
    z = _wide_residual("huber", predictions, targets)
    small = z.abs() <= delta
    square = torch.where(small, z, 0) ** 2
    values = torch.where(small, 0.5 * square, delta * (z.abs() - 0.5 * delta))
    return example_mean(values).to(predictions.dtype)


def log_cosh(predictions: Tensor, targets: Tensor) -> Tensor:
    r"""Return :math:`\log \cosh (x - y)`, averaged over each example's elements.

    It is `z^2 / 2` for a small residual and `|z| - log 2` for a large one, and smooth in between.
    Chen et al. 2019, "Log Hyperbolic Cosine Loss Improves Variational Auto-Encoder".

    Parameters
    ----------
    predictions, targets
        Two tensors of one shape `(N, ...)` and one floating-point dtype.

    Returns
    -------
    Tensor
        Shape `(N,)`, the dtype of `predictions`.

    Raises
    ------
    TypeError, ValueError
        The dtypes or shapes differ.

    Examples
    --------
    >>> log_cosh(torch.tensor([0.01, 100.0]), torch.zeros(2))
    tensor([4.9999e-05, 9.9307e+01])
    """
    z = _wide_residual("log_cosh", predictions, targets)
    # 1 + 2 sinh^2(z / 2) = cosh z: near 0 the sum of exponentials would lose all digits.
    small = z.abs() < 1
    near = torch.log1p(2 * torch.sinh(torch.where(small, z, 0) / 2) ** 2)
    far = z.abs() + torch.log1p(torch.exp(-2 * z.abs())) - math.log(2)
    return example_mean(torch.where(small, near, far)).to(predictions.dtype)


def _residual(caller: str, predictions: Tensor, targets: Tensor) -> Tensor:
    check_pair(caller, "predictions", predictions, "targets", targets)
    return predictions - targets


def _wide_residual(caller: str, predictions: Tensor, targets: Tensor) -> Tensor:
    check_pair(caller, "predictions", predictions, "targets", targets)
    return widened(predictions) - widened(targets)
