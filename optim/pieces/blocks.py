"""Rules that look at each leaf as a whole: its mean, its norm, the norms of its units."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import HALF, Scalar
from ..transformation import GradientTransformation, stateless
from .clipping import global_norm

__all__ = [
    "adaptive_grad_clip",
    "centralize",
    "clip_by_block_rms",
    "scale_by_param_block_norm",
    "scale_by_param_block_rms",
]


def centralize() -> GradientTransformation:
    """Subtract from a gradient its mean over all axes but the first (Yong et al. 2020).

    In torch's layouts `(out, in, ...)` that is the mean over what comes into an output, as in the
    paper (arXiv:2004.01461). Gradients of fewer than two axes stay as they are.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> grads = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    >>> optim.centralize().update(grads, optim.EmptyState())[0]
    tensor([[-1.,  0.,  1.],
            [-1.,  0.,  1.]])
    """

    def centered(g: Tensor) -> Tensor:
        return g if g.ndim < 2 or not g.numel() else g - g.mean(_inputs(g), keepdim=True)

    return stateless(lambda updates, params: _blockwise(centered, updates=updates), "centralize")


def clip_by_block_rms(threshold: Scalar) -> GradientTransformation:
    """Shrink each leaf so that its root mean square is at most `threshold`.

    ::

        g / max(1, rms(g) / threshold),    rms(g) = |g| / sqrt(size of g)

    What is infinite or NaN is not hidden: the leaf becomes NaN.

    Raises
    ------
    ValueError
        `threshold` is not positive.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optim.clip_by_block_rms(1.0).update({"w": torch.tensor([2.0, 2.0])}, optim.EmptyState())[0]
    {'w': tensor([1., 1.])}
    """
    checks.positive("threshold", threshold)

    def clipped(g: Tensor) -> Tensor:
        ratio = _rms(g) / threshold
        return g / torch.maximum(ratio, torch.ones_like(ratio))

    return stateless(
        lambda updates, params: _blockwise(clipped, updates=updates), "clip_by_block_rms"
    )


def adaptive_grad_clip(
    clipping: Scalar, eps: Scalar = 1e-3, axis: int | Sequence[int] | None = None
) -> GradientTransformation:
    """Shrink gradients, unit by unit, to at most `clipping` times the norm of the parameters.

    Of each unit `i` (Brock et al. 2021, arXiv:2102.06171, equation 3)::

        g_i * limit / |g_i|   where |g_i| > limit = clipping * max(|p_i|, eps),    g_i elsewhere

    A unit is what comes into one output: the norm runs over all axes but the first of torch's
    layouts `(out, in, ...)`. A leaf of fewer than two axes is one unit.

    Parameters
    ----------
    clipping
        The largest ratio of the norms; the paper has 0.01 to 0.16.
    eps
        The least norm of parameters that counts, so that those that start at 0 can move.
    axis
        The axes over which norms run, for layouts of your own.

    Raises
    ------
    ValueError
        `clipping` or `eps` is not positive, or, in `update`, `params` is missing or does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> clip = optim.adaptive_grad_clip(0.1)
    >>> params = {"weight": torch.tensor([[3.0, 4.0], [30.0, 40.0]])}
    >>> grads = {"weight": torch.tensor([[0.0, 2.0], [0.0, 2.0]])}
    >>> clip.update(grads, clip.init(params), params)[0]
    {'weight': tensor([[0.0000, 0.5000],
            [0.0000, 2.0000]])}
    """
    checks.positive("clipping", clipping)
    checks.positive("eps", eps)

    def unit_norm(x: Tensor) -> Tensor:
        axes = axis if axis is not None else _inputs(x) or None
        norm: Tensor = torch.linalg.vector_norm(x, dim=axes, keepdim=True)
        return norm

    def clipped(g: Tensor, p: Tensor) -> Tensor:
        g_norm, p_norm = unit_norm(g), unit_norm(p)
        limit = clipping * torch.maximum(p_norm, torch.zeros_like(p_norm) + eps)
        return torch.where(g_norm <= limit, g, g / g_norm * limit)

    def update(updates: tree.PyTree, params: tree.PyTree | None) -> tree.PyTree:
        checks.given("adaptive_grad_clip", params)
        return _blockwise(clipped, updates=updates, params=params)

    return stateless(update, "adaptive_grad_clip")


def scale_by_param_block_norm(min_scale: Scalar = 1e-3) -> GradientTransformation:
    """Multiply each leaf by the norm of its parameters, or by `min_scale` if that is larger.

    Raises
    ------
    ValueError
        `min_scale` is negative, or, in `update`, `params` is missing or does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> scaling = optim.scale_by_param_block_norm()
    >>> params = {"w": torch.tensor([3.0, 4.0])}
    >>> scaling.update({"w": torch.tensor([1.0, 0.1])}, scaling.init(params), params)[0]
    {'w': tensor([5.0000, 0.5000])}
    """
    return _scale_by_params("scale_by_param_block_norm", global_norm, min_scale)


def scale_by_param_block_rms(min_scale: Scalar = 1e-3) -> GradientTransformation:
    """Multiply each leaf by the root mean square of its parameters, or by `min_scale` if larger.

    Raises
    ------
    ValueError
        `min_scale` is negative, or, in `update`, `params` is missing or does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> scaling = optim.scale_by_param_block_rms()
    >>> params = {"w": torch.tensor([2.0, -2.0])}
    >>> scaling.update({"w": torch.tensor([1.0, 0.1])}, scaling.init(params), params)[0]
    {'w': tensor([2.0000, 0.2000])}
    """
    return _scale_by_params("scale_by_param_block_rms", _rms, min_scale)


def _scale_by_params(
    who: str, measure: Callable[[Tensor], Tensor], min_scale: Scalar
) -> GradientTransformation:
    checks.non_negative("min_scale", min_scale)

    def scaled(g: Tensor, p: Tensor) -> Tensor:
        size = measure(p)
        return g * torch.maximum(size, torch.zeros_like(size) + min_scale)

    def update(updates: tree.PyTree, params: tree.PyTree | None) -> tree.PyTree:
        checks.given(who, params)
        return _blockwise(scaled, updates=updates, params=params)

    return stateless(update, who)


def _blockwise(rule: Callable[..., Tensor], **trees: tree.PyTree) -> tree.PyTree:
    """Apply `rule` to corresponding leaves; complex ones are complex, half ones in float32."""
    structure, columns = _matching(trees)
    results = []
    for row in zip(*columns, strict=True):
        wide = [leaf.float() if leaf.dtype in HALF else leaf for leaf in row]
        results.append(rule(*wide).to(row[0].dtype))
    return tree.unflatten(structure, results)


def _matching(trees: Mapping[str, tree.PyTree]) -> tuple[tree.Structure, list[list[Tensor]]]:
    structure, columns = checks.same_leaves(trees)
    checks.trainable(trees["updates"], "updates", leaves=columns[0])
    return structure, columns


def _inputs(x: Tensor) -> tuple[int, ...]:
    """Return the axes of what comes into an output in torch's layouts: all but the first."""
    return tuple(range(1, x.ndim))


def _rms(x: Tensor) -> Tensor:
    return torch.div(global_norm(x), max(x.numel(), 1) ** 0.5)
