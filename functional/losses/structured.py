"""Fenchel-Young losses: every regularized prediction has a convex loss of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .checks import (
    check_logits,
    check_pair,
    check_tensor,
    class_labels,
    in_range,
    nan_unless,
)
from .reduction import example_mean, widened


def fenchel_young(
    conjugate: Callable[[Tensor], Tensor],
    regularizer: Callable[[Tensor], Tensor] | None = None,
) -> Callable[[Tensor, Tensor], Tensor]:
    r"""Return the loss that belongs to a regularized prediction.

    .. math::
        \ell(\theta, y) = \Omega^*(\theta) + \Omega(y) - \langle \theta, y \rangle , \qquad
        \Omega^*(\theta) = \max_\mu \, \langle \theta, \mu \rangle - \Omega(\mu)

    Blondel et al. 2020, arXiv:1901.02324. It is convex in the scores, at least 0, and 0 where the
    prediction :math:`\nabla \Omega^*(\theta)` is the target; its gradient is the difference of
    the two. With `logsumexp` it is `cross_entropy`, with half the squared norm `mse` times half
    the length.

    Parameters
    ----------
    conjugate
        :math:`\Omega^*`, a pure function of scores `(N, ...)` that returns one value for each
        example, `(N,)`.
    regularizer
        :math:`\Omega`, such a function of the targets. None where it vanishes on them, as an
        entropy does on the vertices of the simplex.

    Returns
    -------
    Callable
        `loss(scores, targets)`, of two tensors of one shape `(N, ...)` and one floating-point
        dtype, which returns values `(N,)`.

    Raises
    ------
    TypeError, ValueError
        An argument is no function; on use: dtypes or shapes differ, or a function does not return
        one value for each example.

    Examples
    --------
    >>> loss = fenchel_young(lambda scores: torch.logsumexp(scores, 1))
    >>> loss(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]]))
    tensor([0.2395])
    """
    for name, function in {"conjugate": conjugate, "regularizer": regularizer}.items():
        if not callable(function) and (name == "conjugate" or function is not None):
            raise TypeError(
                f"fenchel_young: {name} must be a function of a tensor, got "
                f"{type(function).__name__}."
            )

    def loss(scores: Tensor, targets: Tensor) -> Tensor:
        check_pair("fenchel_young", "scores", scores, "targets", targets)
        inner = scores * targets
        values = _one_each("conjugate", conjugate(scores), scores)
        values = values - (inner if inner.ndim == 1 else inner.flatten(1).sum(1))
        if regularizer is not None:
            values = values + _one_each("regularizer", regularizer(targets), scores)
        return values

    return loss


def sparsemax(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Return the binary sparsemax loss, a smooth hinge with exact zeros, per example.

    .. math::
        \ell = y \, s(-x) + (1 - y) \, s(x) , \qquad
        s(x) = \begin{cases} 0 & x \le -1 \\ (x + 1)^2 / 4 & |x| < 1 \\ x & x \ge 1 \end{cases}

    averaged over an example's elements; Blondel et al. 2020, arXiv:1901.02324.

    Parameters
    ----------
    logits
        Shape `(N, ...)`, floating point.
    labels
        Probabilities of the positive class, shape and dtype of `logits`.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `logits`.

    Raises
    ------
    TypeError, ValueError
        The dtypes or shapes differ.

    Examples
    --------
    >>> sparsemax(torch.tensor([0.0, 2.0, -2.0]), torch.ones(3))
    tensor([0.2500, 0.0000, 2.0000])
    """
    check_pair("sparsemax", "logits", logits, "labels", labels)
    x, y = widened(logits), widened(labels)
    return example_mean(y * _sparse_plus(-x) + (1 - y) * _sparse_plus(x)).to(logits.dtype)


def multiclass_sparsemax(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Return the loss of predictions by sparsemax, per example.

    .. math::
        \ell = \langle p, z \rangle - z_y + \tfrac12 (1 - \|p\|^2) , \qquad
        p = \mathrm{sparsemax}(z) = \operatorname*{argmin}_{p \in \Delta} \|p - z\|^2

    Martins & Astudillo 2016, arXiv:1602.02068. It is 0 where `z_y` is larger than the others by 1,
    and its gradient is `p` less the label.

    Parameters
    ----------
    logits
        Shape `(N, C, d1, ...)`, floating point, classes second; -inf masks a class.
    labels
        Class numbers of shape `(N, d1, ...)`, any integer dtype.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `logits`: the mean over an example's own positions.

    Raises
    ------
    TypeError, ValueError
        A dtype or shape does not fit; a label lies outside the classes (under `jit` and `vmap` the
        result is NaN instead).

    Examples
    --------
    >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> multiclass_sparsemax(logits, torch.tensor([0, 2]))
    tensor([0.0000, 0.3333])
    """
    z, h, factor = _differences("multiclass_sparsemax", logits, labels)
    count, mean, _ = _moments(h, _support(h, lambda count, mean, _: mean - 1 / count))
    p = (h - (mean - 1 / count)).clamp(min=0)
    values = _inner(p, z) + 0.5 * (1 - (p * p).sum(1))
    return example_mean(values * factor).to(logits.dtype)


def entmax15(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Return the loss of predictions by 1.5-entmax, between softmax and sparsemax, per example.

    .. math::
        \ell = \langle p, z \rangle - z_y + \tfrac43 \Big(1 - \sum_c p_c^{3/2}\Big) , \qquad
        p_c = \max(0, z_c / 2 - \tau)^2 , \quad \sum_c p_c = 1

    Peters et al. 2019, arXiv:1905.05702. It is 0 where `z_y` is larger than the others by 2, and
    its gradient is `p` less the label.

    Parameters
    ----------
    logits, labels
        As in `multiclass_sparsemax`.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `logits`: the mean over an example's own positions.

    Raises
    ------
    TypeError, ValueError
        As in `multiclass_sparsemax`.

    Examples
    --------
    >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> entmax15(logits, torch.tensor([0, 2]))
    tensor([0.0000, 0.5635])
    """
    z, h, factor = _differences("entmax15", logits, labels)
    h = h / 2
    root_p = (h - _entmax15_threshold(*_moments(h, _support(h, _entmax15_threshold)))).clamp(min=0)
    values = _inner(root_p**2, z) + 4 / 3 * (1 - (root_p**3).sum(1))
    return example_mean(values * factor).to(logits.dtype)


def _differences(caller: str, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits less that of the label, less the largest, and a factor: NaN outside.

    Value and prediction are those of the differences, which keep the digits of logits far from 0.
    """
    check_logits(caller, "logits", logits)
    labels = class_labels(caller, logits, labels)
    named = in_range(labels, logits.shape[1])
    x, index = widened(logits), torch.where(named, labels, 0).unsqueeze(1)
    return x - x.gather(1, index), x - x.detach().amax(1, keepdim=True), nan_unless(named, x)


def _inner(p: Tensor, z: Tensor) -> Tensor:
    """Return `<p, z>` over dimension 1, where `0 * -inf = 0`; NaN goes into the gradient, too."""
    return (p * torch.where(p == 0, 0, z)).sum(1)


def _entmax15_threshold(count: Tensor, mean: Tensor, scatter: Tensor) -> Tensor:
    """Return the `t` with `sum_c (h_c - t)^2 = 1` over classes of these moments."""
    return mean - ((1 - scatter) / count).clamp(min=0).sqrt()


def _support(h: Tensor, threshold: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """Say which classes get a probability: the first ones that lie above their joint threshold.

    Duchi et al. 2008, "Efficient projections onto the l1-ball"; Peters et al. 2019.
    """
    ranked = h.detach().sort(1, descending=True).values
    count = torch.arange(1, h.shape[1] + 1, device=h.device, dtype=h.dtype)
    count = count.reshape(-1, *[1] * (h.ndim - 2))
    mean = ranked.cumsum(1) / count
    fits = ranked > threshold(count, mean, (ranked * ranked).cumsum(1) - count * mean * mean)
    # Equal classes at the border are all in, or all out; of NaN none fits.
    return h.detach() >= ranked.gather(1, (fits.sum(1, keepdim=True) - 1).clamp(min=0))


def _moments(h: Tensor, support: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return how many classes there are, their mean and the sum of squares around it."""
    count = support.to(h.dtype).sum(1, keepdim=True)
    mean = torch.where(support, h, 0).sum(1, keepdim=True) / count
    return count, mean, ((torch.where(support, h, mean) - mean) ** 2).sum(1, keepdim=True)


def _sparse_plus(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 1, (x + 1) ** 2 / 4, x.clamp(min=0) * (x >= 1))


def _one_each(name: str, values: Tensor, scores: Tensor) -> Tensor:
    check_tensor("fenchel_young", f"the output of {name}", values)
    if values.shape != scores.shape[:1]:
        raise ValueError(
            f"fenchel_young: {name} must return one value for each of the {len(scores)} examples, "
            f"got shape {tuple(values.shape)}."
        )
    return values
