"""Bounding updates: their norm taken together, or each element alone."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ...functional import stop_gradient, tree
from .. import checks
from ..leafwise import Rule, Scalar, leafwise, working
from ..transformation import GradientTransformation, stateless, stateless_elementwise

__all__ = ["clip", "clip_by_global_norm", "global_norm"]


def global_norm(updates: tree.PyTree) -> Tensor:
    """Return the Euclidean norm of all leaves taken as one vector, a 0-d tensor.

    float16 and bfloat16 leaves are summed, and the result kept, in float32. No square overflows or
    vanishes: each leaf is divided by its largest element first. (Only a norm that itself is beyond
    the dtype is infinite.)

    Raises
    ------
    TypeError
        A leaf is no tensor of floating-point or complex numbers.

    Examples
    --------
    >>> global_norm({"w": torch.tensor([3.0]), "b": torch.tensor([4.0], dtype=torch.bfloat16)})
    tensor(5.)
    """
    checks.trainable(updates, "updates")
    norms = [_norm(leaf) for leaf in tree.leaves(updates)]
    if not norms:
        return torch.zeros(())
    dtype = functools.reduce(torch.promote_types, [norm.dtype for norm in norms])
    return _norm(torch.stack([norm.to(dtype) for norm in norms]))


def _norm(x: Tensor) -> Tensor:
    """Return `m |x / m|` with `m` the largest absolute value in `x`."""
    x = working(x)
    if x.numel() == 0:
        return x.new_zeros(())
    largest = stop_gradient(x.abs().amax())  # a constant: any other gives the same norm
    m = torch.where((largest > 0) & largest.isfinite(), largest, torch.ones_like(largest))
    norm: Tensor = m * torch.linalg.vector_norm(x / m)
    return norm


def clip_by_global_norm(max_norm: Scalar) -> GradientTransformation:
    """Shrink updates so that their norm, all leaves taken together, is at most `max_norm`.

    `g` becomes `g * max_norm / |g|` where `|g| > max_norm` and is untouched otherwise: optax's
    rule. `torch.nn.utils.clip_grad_norm_` divides by `|g| + 1e-6` instead. An infinite or NaN
    gradient is not hidden: the result holds NaN.

    Raises
    ------
    ValueError
        `max_norm` is not positive.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> clip = optim.clip_by_global_norm(1.0)
    >>> clip.update({"w": torch.tensor([3.0]), "b": torch.tensor([4.0])}, optim.EmptyState())[0]
    {'w': tensor([0.6000]), 'b': tensor([0.8000])}
    """
    checks.positive("max_norm", max_norm)

    def update(updates: tree.PyTree, params: tree.PyTree | None) -> tree.PyTree:
        norm = global_norm(updates)
        limit = torch.zeros_like(norm) + max_norm
        long = ~(norm <= limit)  # also where the norm is NaN
        divisor = torch.maximum(norm, limit)
        return leafwise(lambda g: torch.where(long, g / divisor * limit, g), {"updates": updates})

    return stateless(update, "clip_by_global_norm")


def clip(max_delta: Scalar) -> GradientTransformation:
    """Bring every element of the updates into `[-max_delta, max_delta]`.

    Raises
    ------
    ValueError
        `max_delta` is not positive.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optim.clip(1.0).update({"w": torch.tensor([-3.0, 0.5])}, optim.EmptyState())[0]
    {'w': tensor([-1.0000,  0.5000])}
    """
    checks.positive("max_delta", max_delta)

    def clipped(g: Tensor) -> Tensor:
        limit = torch.as_tensor(max_delta, dtype=g.dtype, device=g.device)
        return torch.clamp(g, -limit, limit)

    return stateless_elementwise(lambda params: Rule(clipped, reads={}), "clip")
