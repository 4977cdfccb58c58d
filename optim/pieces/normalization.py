"""Updates of one length, all leaves taken together as one vector."""

from __future__ import annotations

import torch

from ...functional import tree
from .. import checks
from ..leafwise import Scalar, leafwise
from ..transformation import GradientTransformation, stateless
from .clipping import global_norm

__all__ = ["normalize", "normalize_by_update_norm"]


def normalize() -> GradientTransformation:
    """Divide updates by their norm: `g / |g|`, and 0 where all are 0 (optax has NaN there).

    The norm is taken as by `global_norm`, without overflow. Where it is infinite or NaN, so are
    updates NaN.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> grads = {"w": torch.tensor([3.0]), "b": torch.tensor([4.0])}
    >>> optim.normalize().update(grads, optim.EmptyState())[0]
    {'w': tensor([0.6000]), 'b': tensor([0.8000])}
    """

    def update(updates: tree.PyTree, params: tree.PyTree | None) -> tree.PyTree:
        norm = global_norm(updates)
        divisor = torch.where(norm == 0, torch.ones_like(norm), norm)
        return leafwise(lambda g: g / divisor, {"updates": updates})

    return stateless(update, "normalize")


def normalize_by_update_norm(
    scale_factor: Scalar = 1.0, eps: Scalar = 1e-6
) -> GradientTransformation:
    """Give updates the norm `scale_factor`: `g * scale_factor / (|g| + eps)`.

    `eps=0` makes updates of zeros NaN; `normalize` does not.

    Raises
    ------
    ValueError
        `eps` is negative, or `scale_factor` is not finite.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> downhill = optim.normalize_by_update_norm(scale_factor=-1.0)
    >>> downhill.update({"w": torch.tensor([3.0, 4.0])}, optim.EmptyState())[0]
    {'w': tensor([-0.6000, -0.8000])}
    """
    checks.scalar("scale_factor", scale_factor)
    checks.non_negative("eps", eps)

    def update(updates: tree.PyTree, params: tree.PyTree | None) -> tree.PyTree:
        norm = global_norm(updates) + eps
        return leafwise(lambda g: g / norm * scale_factor, {"updates": updates})

    return stateless(update, "normalize_by_update_norm")
