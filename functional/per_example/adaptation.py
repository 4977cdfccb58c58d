"""Bounds that follow a quantile of the norms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import random, tree
from ..border import describe


def adapt_max_norm(
    max_norm: Any,
    norms: Any,
    *,
    quantile: float = 0.5,
    lr: float = 0.2,
    mask: Tensor | None = None,
    batch_size: float | None = None,
    noise: float = 0.0,
    key: Tensor | None = None,
) -> Any:
    """Return the bound for the next step of clipping, nearer to a quantile of the norms.

    ::

        b  =  1/2 + (sum_i ([n_i <= C] - 1/2) + noise * N(0, 1)) / B
        C' =  C exp(-lr (b - quantile))

    (AdaClip: Andrew et al. 2021, arXiv:1905.03871). Without noise, and with B the number of
    examples, b is the part of them that is not clipped. The bound moves by a factor, so that it
    finds norms of any magnitude, and settles where that part is `quantile`.

    Parameters
    ----------
    max_norm
        C: a number or a 0-d tensor, or a dict of them by label.
    norms
        The norms of a batch before clipping, shape (batch,), or a dict by label: those of
        `ClippedGrad`. One that is not finite counts as too large.
    quantile
        Which part of the examples shall not be clipped, between 0 and 1.
    lr
        How fast the bound moves.
    mask
        Shape (batch,), boolean; examples where it is False count for nothing.
    batch_size
        B. The number of examples unless given (where there are none, the bound stays); private
        training gives the expected one, which tells nothing of the batch, and must.
    noise
        The standard deviation, in examples, of the noise on the count; 0 is not private. One
        example moves a count by 1/2, so for the step to have the noise multiplier z as a whole, the
        gradients need the greater one `(z^-2 - (2 noise)^-2)^(-1/2)`; for k counts by label,
        `(z^-2 - k (2 noise)^-2)^(-1/2)`.
    key
        A key of `random`, needed for noise: another one at every step.

    Returns
    -------
    The new bound, a 0-d tensor of the dtype of `max_norm` (of the norms, for a number), or a dict
    of such bounds.

    Raises
    ------
    TypeError
        The norms are no floating-point tensors.
    ValueError
        `quantile` is not between 0 and 1, `lr` or `noise` is negative, `noise` has no key or no
        `batch_size`, `batch_size` is not positive, `mask` does not have the shape of the norms, or
        there are not as many bounds as groups of norms.

    Examples
    --------
    >>> norms, max_norm = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), torch.tensor(100.0)
    >>> for _ in range(100):
    ...     max_norm = adapt_max_norm(max_norm, norms, quantile=0.5)
    >>> bool(2.5 < max_norm < 3.5)
    True
    """
    _check(quantile, lr, batch_size, noise, key)
    limits, structure = tree.flatten(max_norm)
    rows = tree.leaves(norms)
    if len(rows) != len(limits) or tree.structure(norms) != structure:
        raise ValueError(
            f"adapt_max_norm: max_norm has {len(limits)} bound(s), norms has {len(rows)} leaves, "
            "expected one bound for each. Give each group of clipped_grad a bound of its own, in a "
            "dict by label."
        )
    drawn = [torch.zeros(())] * len(limits)
    if key is not None and noise:
        # Of float64, so that the tails are whole: `privacy.noise` says what others give away.
        keys = random.split(key, len(limits))
        drawn = [random.normal(part, (), torch.float64) for part in keys]

    def adapted(bound: float | Tensor, norms: Tensor, drawn: Tensor) -> Tensor:
        counted = _counted(norms, mask)
        bound = torch.as_tensor(bound, dtype=_dtype(bound, norms), device=norms.device)
        votes = torch.where(counted, (norms <= bound).double() - 0.5, 0.0).sum()
        # Nothing that is counted adds nothing, whatever it is divided by.
        size = counted.sum().clamp_min(1) if batch_size is None else batch_size
        below = 0.5 + (votes + noise * drawn.to(votes)) / size
        moved = bound * torch.exp(-lr * (below - quantile)).to(bound.dtype)
        return moved if batch_size is not None else torch.where(counted.any(), moved, bound)

    return tree.unflatten(structure, list(map(adapted, limits, rows, drawn)))


def _dtype(bound: float | Tensor, norms: Tensor) -> torch.dtype:
    return bound.dtype if isinstance(bound, Tensor) else norms.dtype


def _check(
    quantile: float, lr: float, batch_size: float | None, noise: float, key: Tensor | None
) -> None:
    if not 0 <= quantile <= 1:
        raise ValueError(f"adapt_max_norm: expected 0 <= quantile <= 1, got {quantile!r}.")
    if not lr >= 0:
        raise ValueError(f"adapt_max_norm: expected lr >= 0, got {lr!r}.")
    if batch_size is not None and not batch_size > 0:
        raise ValueError(f"adapt_max_norm: expected batch_size > 0, got {batch_size!r}.")
    if not noise >= 0:
        raise ValueError(f"adapt_max_norm: expected noise >= 0, got {noise!r}.")
    if noise and key is None:
        raise ValueError(
            "adapt_max_norm: noise is drawn from a key, got key=None. Pass key=random.key(seed), "
            "another one at every step."
        )
    if noise and batch_size is None:
        raise ValueError(
            "adapt_max_norm: with noise, batch_size is needed: how many examples were drawn is "
            "private, and dividing by it gives it away. Pass the expected number."
        )


def _counted(norms: Tensor, mask: Tensor | None) -> Tensor:
    if not isinstance(norms, Tensor) or not norms.is_floating_point():
        raise TypeError(
            f"adapt_max_norm: norms is {describe(norms)}, expected the norms of a batch, a "
            "floating tensor of shape (batch,)."
        )
    if mask is None:
        return torch.ones_like(norms, dtype=torch.bool)
    if mask.dtype != torch.bool or mask.shape != norms.shape:
        raise ValueError(
            f"adapt_max_norm: mask is {describe(mask)}, expected bool of shape "
            f"{tuple(norms.shape)}, as the norms have."
        )
    return mask
