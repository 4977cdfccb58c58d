"""Distances and similarities of vectors, one value for each pair."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_above, check_at_least, check_number, check_vectors
from .reduction import example_mean, widened


def pairwise_distance(x: Tensor, y: Tensor, *, p: float = 2.0, eps: float = 1e-6) -> Tensor:
    r"""Return the p-norm of the difference of two vectors, :math:`\|x - y + \epsilon\|_p`.

    Where the norm is 0 its derivative is taken as 0.

    Parameters
    ----------
    x, y
        Two tensors of one shape `(N, ..., D)` and one floating-point dtype, vectors last.
    p
        A Python number of at least 0, or infinity.
    eps
        What is added to every difference, a Python number: as in torch it keeps the distance of
        equal vectors off 0.

    Returns
    -------
    Tensor
        Shape `(N, ...)`: not reduced, so that a distance serves other losses.

    Raises
    ------
    TypeError, ValueError
        The dtypes or shapes differ; an option does not fit.

    Examples
    --------
    >>> pairwise_distance(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2))
    tensor([5.0000])
    """
    check_vectors("pairwise_distance", x=x, y=y)
    check_norm("pairwise_distance", p, eps)
    return distance(widened(x), widened(y), p, eps).to(x.dtype)


def cosine_similarity(x: Tensor, y: Tensor, *, eps: float = 1e-8) -> Tensor:
    r"""Return the cosine of the angle between two vectors.

    .. math::
        \frac{x \cdot y}{\max(\|x\|, \epsilon) \, \max(\|y\|, \epsilon)}

    Of a vector of zeros it is 0, with the derivative of the expression above,
    :math:`y / (\epsilon \max(\|y\|, \epsilon))` in `x`: large, not NaN. A larger `eps` bounds it.

    Parameters
    ----------
    x, y
        Two tensors of one shape `(N, ..., D)` and one floating-point dtype, vectors last.
    eps
        The least norm, a Python number above 0.

    Returns
    -------
    Tensor
        Shape `(N, ...)`, in [-1, 1]; no loss, as it is largest for equal directions.

    Raises
    ------
    TypeError, ValueError
        The dtypes or shapes differ; `eps` is not positive or no number.

    Examples
    --------
    >>> cosine_similarity(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]]))
    tensor([0.7071])
    """
    check_vectors("cosine_similarity", x=x, y=y)
    check_above("cosine_similarity", "eps", eps, 0)
    product = normalized(widened(x), eps) * normalized(widened(y), eps)
    return product.sum(-1).to(x.dtype)


def cosine_distance(x: Tensor, y: Tensor, *, eps: float = 1e-8) -> Tensor:
    r"""Return 1 minus the cosine of the angle between two vectors, averaged for each example.

    Parameters
    ----------
    x, y, eps
        As in `cosine_similarity`.

    Returns
    -------
    Tensor
        Shape `(N,)`, in [0, 2]: the mean over an example's own vectors.

    Raises
    ------
    TypeError, ValueError
        As in `cosine_similarity`.

    Examples
    --------
    >>> cosine_distance(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]]))
    tensor([0.2929])
    """
    check_vectors("cosine_distance", x=x, y=y)
    check_above("cosine_distance", "eps", eps, 0)
    product = normalized(widened(x), eps) * normalized(widened(y), eps)
    return example_mean(1 - product.sum(-1)).to(x.dtype)


def normalized(x: Tensor, eps: float) -> Tensor:
    """Return vectors over their norms, or over `eps` where that is larger."""
    return x / _norm(x, 2.0).unsqueeze(-1).clamp(min=eps)


def distance(x: Tensor, y: Tensor, p: float, eps: float) -> Tensor:
    """Return the p-norm of `x - y + eps` over the last dimension."""
    return _norm(x - y + eps, p)


def _norm(x: Tensor, p: float) -> Tensor:
    """Return the p-norm over the last dimension, with all derivatives 0 at 0."""
    zero = (x == 0).all(-1)
    norm: Tensor = torch.linalg.vector_norm(x.masked_fill(zero.unsqueeze(-1), 1), p, dim=-1)
    return norm.masked_fill(zero, 0)


def check_norm(caller: str, p: float, eps: float) -> None:
    """Refuse a norm that is none, and an `eps` that is no number."""
    check_number(caller, "p", p)
    if not p >= 0:
        raise ValueError(f"{caller}: p must be at least 0, got {p}.")
    check_at_least(caller, "eps", eps, 0)
