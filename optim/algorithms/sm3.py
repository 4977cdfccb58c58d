"""SM3: AdaGrad whose sums of squares are kept for the rows and columns of a tensor only."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import Scalar, stored, working
from ..pieces.averaging import ema
from ..schedules import Schedule
from ..transformation import GradientTransformation, chain
from .recipes import descent

__all__ = ["ScaleByCoverState", "scale_by_cover", "scale_by_sm3", "sm3"]


class ScaleByCoverState(NamedTuple):
    """For each leaf of shape (n_1, ..., n_k) a tuple of k tensors, shaped to be broadcast to it.

    The i-th has n_i elements. (A leaf of fewer than two axes has one tensor of its own shape.) They
    are in float32 where the parameters are narrower.
    """

    accumulators: tree.PyTree


def scale_by_cover(b2: Scalar = 1.0, eps: Scalar = 1e-30) -> GradientTransformation:
    """Divide gradients by a bound on the root of their sum of squares, kept for each slice.

    With `S_1, S_2, ...` the slices of the tensor that contain the element `i`, one for each axis
    (Anil et al. 2019, arXiv:1901.11150, SM3-II)::

        nu_t(i) = min over S of mu_{t-1}(S) + g_t(i)^2
        update(i) = g_t(i) / sqrt(nu_t(i) + eps)
        mu_t(S) = max over i in S of nu_t(i)

    With `b2 < 1` squares are averaged instead of summed: `nu = b2 min mu + (1 - b2) g^2`. With
    `eps=0` an element whose gradients have all been zero becomes NaN (0 / 0).

    Raises
    ------
    TypeError
        A parameter is complex.
    ValueError
        `b2` lies outside [0, 1], `eps` is negative, or, in `update`, a gradient does not match the
        state.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> adagrad = optim.scale_by_cover()
    >>> state = adagrad.init(torch.zeros(2, 2))
    >>> updates, state = adagrad.update(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), state)
    >>> updates, [sums.flatten().tolist() for sums in state.accumulators]
    (tensor([[1., 0.],
            [0., 1.]]), [[9.0, 1.0], [9.0, 1.0]])
    """
    checks.fraction("b2", b2)
    checks.non_negative("eps", eps)
    weight = 1 - b2 if isinstance(b2, Tensor) or b2 != 1 else 1.0

    def init(params: tree.PyTree) -> ScaleByCoverState:
        checks.trainable(params)
        checks.real("sm3", params)
        return ScaleByCoverState(tree.map(_zeros, params))

    def on_leaf(g: Tensor, sums: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        x = working(g)
        nu = b2 * functools.reduce(torch.minimum, sums) + weight * x * x
        update = stored(x / (nu + eps).sqrt(), g.dtype)
        return update, tuple([_largest(nu, like).to(like.dtype) for like in sums])

    def update(
        updates: tree.PyTree,
        state: ScaleByCoverState,
        params: tree.PyTree | None = None,
        **extra: Any,
    ) -> tuple[tree.PyTree, ScaleByCoverState]:
        checks.state("scale_by_cover", state, ScaleByCoverState)
        checks.trainable(updates, "updates")
        names = ("updates", "state.accumulators")
        columns = tree.map(lambda *pair: pair, updates, state.accumulators, names=names)
        structure = tree.structure(updates)
        pairs = structure.flatten_up_to(columns)
        _check_shapes(updates, pairs)
        results = [on_leaf(*pair) for pair in pairs]
        new_updates, new_sums = zip(*results, strict=True) if results else ((), ())
        state = ScaleByCoverState(tree.unflatten(structure, new_sums))
        return tree.unflatten(structure, new_updates), state

    return GradientTransformation(init, update)


def scale_by_sm3(b1: Scalar = 0.9, b2: Scalar = 1.0, eps: Scalar = 1e-30) -> GradientTransformation:
    """Rescale gradients by SM3-II (Anil et al. 2019, arXiv:1901.11150) and average them.

    A chain of `scale_by_cover(b2, eps)` and `ema(b1, debias=False)`.

    Raises
    ------
    TypeError
        A parameter is complex.
    ValueError
        `b1` lies outside [0, 1), `b2` outside [0, 1], `eps` is negative, or, in `update`, a
        gradient does not match the state.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> rescale = optim.scale_by_sm3(b1=0.5)
    >>> rescale.update(torch.tensor([3.0, -0.1]), rescale.init(torch.zeros(2)))[0]
    tensor([ 0.5000, -0.5000])
    """
    return chain(scale_by_cover(b2, eps), ema(b1, debias=False))


def sm3(
    lr: Scalar | Schedule,
    momentum: Scalar = 0.9,
    eps: Scalar = 1e-30,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Return SM3-II (Anil et al. 2019, arXiv:1901.11150): AdaGrad in the memory of its factors.

    ::

        m <- momentum m + (1 - momentum) g / sqrt(nu + eps)
        theta <- theta - lr m

    where `nu`, a bound on the sum of squares of each element, takes a number for each row and each
    column of a matrix (`scale_by_cover`).

    Parameters
    ----------
    lr
        Learning rate: a number, a 0-d tensor or a schedule. The authors name no default; they warm
        it up, and keep it constant from then on.
    momentum
        The decay rate of the average of steps, in [0, 1).
    eps
        Added to the sums of squares, so that 0 / 0 is 0.
    maximize
        Climb instead of descend.

    Raises
    ------
    TypeError
        A parameter is complex.
    ValueError
        A hyperparameter is out of its range; in `update`, a gradient does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.sm3(lr=0.1)
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": torch.tensor([25.0])}, state, params)
    >>> optim.apply_updates(params, updates)
    {'w': tensor([0.9900])}
    """
    checks.decay_rate("momentum", momentum)
    return descent(scale_by_sm3(momentum, eps=eps), lr=lr, maximize=maximize)


def _shapes(leaf: Tensor) -> list[tuple[int, ...]]:
    """Return the shapes of what covers a leaf: one for each axis, along which it is long."""
    if leaf.ndim < 2:
        return [tuple(leaf.shape)]
    return [
        tuple([size if axis == along else 1 for axis, size in enumerate(leaf.shape)])
        for along in range(leaf.ndim)
    ]


def _zeros(leaf: Tensor) -> tuple[Tensor, ...]:
    x = working(leaf)
    return tuple([x.new_zeros(shape) for shape in _shapes(leaf)])


def _largest(nu: Tensor, like: Tensor) -> Tensor:
    """Return the largest elements of `nu` in each slice, in the shape of `like`."""
    axes = [axis for axis in range(nu.ndim) if nu.shape[axis] != like.shape[axis]]
    if not nu.numel():
        return like
    return nu.amax(axes, keepdim=True) if axes else nu


def _check_shapes(updates: tree.PyTree, pairs: Sequence[Any]) -> None:
    for index, (g, sums) in enumerate(pairs):
        found = [tuple(each.shape) for each in sums]
        if found != _shapes(g):
            raise ValueError(
                f"{tree.path_strings(updates, 'updates')[index]} has shape {tuple(g.shape)}, but "
                f"the sums of squares in the state have the shapes {found}, expected {_shapes(g)}."
            )
