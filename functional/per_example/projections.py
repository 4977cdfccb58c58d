"""Gradients of examples projected to few dimensions, in which their inner products survive."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from .. import random
from ..autodiff.inputs import Argnums, check_argnums
from ..border import describe
from ..control import scan
from .calls import Call, LossesFunction
from .factors import widened
from .gradients import by_method, total_of
from .leaves import Leaf

#: What the entries of a projection are drawn from.
Entries = Literal["rademacher", "normal"]


def projected_grads(
    losses_fn: LossesFunction,
    dim: int,
    *,
    key: Tensor,
    entries: Entries = "rademacher",
    argnums: Argnums = 0,
) -> Callable[..., Tensor]:
    """Return the function that computes random projections of per-example gradients.

    ::

        phi_b = P' g_b / sqrt(dim),    E[phi_b . phi_c] = g_b . g_c

    with independent entries of P of mean 0 and variance 1 (Johnson, Lindenstrauss 1984). They are
    the features of TRAK (Park et al. 2023, arXiv:2303.14186). P has as many rows as there are
    parameters and is never stored: it is drawn again from the key, a block at a time. The gradients
    of one parameter are formed at a time.

    Parameters
    ----------
    losses_fn, argnums
        As for `grads`: one loss for each example, which depends on that example alone. (TRAK takes
        the margin `log p / (1 - p)` of the label instead of the loss.)
    dim
        How many dimensions to project to.
    key
        A key of `purefn.functional.random`. With the same key and parameters of the same shapes P
        is the same, whatever the batch: features of training and test examples match.
    entries
        "rademacher" for signs, or "normal".

    Returns
    -------
    A function of `(params, *batch)` that returns a tensor (batch, dim).

    Raises
    ------
    TypeError, ValueError
        As for `grads`; also when `dim` or `entries` is out of range.

    Examples
    --------
    >>> from purefn.functional import random
    >>> def losses(params, x):
    ...     return x @ params["w"]
    >>> x = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    >>> features = projected_grads(losses, 1000, key=random.key(0))({"w": torch.zeros(2)}, x)
    >>> features @ features.T
    tensor([[24.0880,  2.8480],
            [ 2.8480,  1.0000]])
    """
    argnums = check_argnums("projected_grads", argnums)
    if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
        raise ValueError(f"projected_grads: expected an int >= 1 for dim, got {dim!r}.")
    if entries not in get_args(Entries):
        raise ValueError(
            f"projected_grads: expected 'rademacher' or 'normal' for entries, got {entries!r}."
        )

    @functools.wraps(losses_fn, updated=())
    def of_examples(*args: Any) -> Tensor:
        call = Call("projected_grads", losses_fn, args, argnums=argnums)
        leaves = by_method(call, "ghost").leaves
        keys = random.split(key, len(leaves)).unbind()
        parts = [
            _projected(leaf, leaf_key, dim, entries)
            for leaf, leaf_key in zip(leaves, keys, strict=True)
        ]
        return total_of(parts, call.size) / math.sqrt(dim)

    return of_examples


def trak(
    train_features: Tensor,
    test_features: Tensor,
    *,
    weights: Tensor | None = None,
    ridge: float | Tensor = 0.0,
) -> Tensor:
    """Return the TRAK scores of training examples for test examples.

    ::

        tau = phi_test (Phi' Phi + ridge I)^-1 Phi' Q

    Park et al. 2023, arXiv:2303.14186. The paper averages scores over models that were
    trained on random halves of the data.

    Parameters
    ----------
    train_features, test_features
        Projected gradients of the margin, shapes (train, dim) and (test, dim), from the same key.
    weights
        The diagonal of Q, shape (train,): `1 - p` of the right label. Ones by default.
    ridge
        What is added to the diagonal, needed where there are fewer training examples than `dim`.

    Returns
    -------
    Tensor
        Shape (test, train).

    Raises
    ------
    ValueError
        The features are no matrices of equal width, or `weights` does not fit.

    Examples
    --------
    >>> train, test = torch.tensor([[1.0, 0.0], [1.0, 2.0]]), torch.tensor([[0.0, 2.0]])
    >>> trak(train, test)
    tensor([[-1.,  1.]])
    """
    fits = train_features.ndim == test_features.ndim == 2
    if not fits or train_features.shape[1] != test_features.shape[1]:
        raise ValueError(
            "trak: expected features of shapes (train, dim) and (test, dim), got "
            f"{describe(train_features)} and {describe(test_features)}."
        )
    if weights is not None and weights.shape != train_features.shape[:1]:
        raise ValueError(
            f"trak: expected weights of shape ({len(train_features)},), got {describe(weights)}."
        )
    kernel = train_features.mT @ train_features
    kernel = kernel + ridge * torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)
    scores: Tensor = test_features @ torch.linalg.solve(kernel, train_features.mT)
    return scores if weights is None else scores * weights


#: How many entries of a projection are drawn at a time.
BLOCK = 2**20


def _projected(leaf: Leaf, key: Tensor, dim: int, entries: Entries) -> Tensor:
    """Return P' g_b for the rows of P that belong to one parameter, shape (B, dim)."""
    values = widened(leaf.materialized()).reshape(leaf.examples, -1)
    size = values.shape[1]
    rows = max(min(size, BLOCK // dim), 1)
    count = -(-size // rows)
    blocks = functional.pad(values, (0, count * rows - size)).unflatten(1, (count, rows))
    draw = _signs if entries == "rademacher" else _normal

    def step(total: Tensor, block: tuple[Tensor, Tensor]) -> tuple[Tensor, None]:
        block_key, part = block
        return total + part @ draw(block_key, rows, dim, values.dtype), None

    start = values.new_zeros(leaf.examples, dim)
    total: Tensor = scan(step, start, (random.split(key, count), blocks.transpose(0, 1)))[0]
    return total


def _signs(key: Tensor, rows: int, dim: int, dtype: torch.dtype) -> Tensor:
    """Return -1 and 1, one of each bit that is drawn."""
    words = random.bits(key, (-(-rows * dim // 32),)).to(torch.int64)
    places = torch.arange(32, device=words.device)
    bits = (words.unsqueeze(1) >> places) & 1
    return bits.flatten()[: rows * dim].reshape(rows, dim).to(dtype) * 2 - 1


def _normal(key: Tensor, rows: int, dim: int, dtype: torch.dtype) -> Tensor:
    return random.normal(key, (rows, dim), dtype)
