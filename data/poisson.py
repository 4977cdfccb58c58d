"""Batches for private training: every example is in each of them by a coin of its own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Generic, TypeVar, cast, overload

import torch
from torch import Tensor

from ..functional import random, tree
from ..functional.random.threefry import check_key
from .batching import check_count, leading_length, usable
from .dataset import Dataset

Batch = TypeVar("Batch")

#: The probability, over all steps, that some batch does not fit into the default size.
_OVERFLOW = 1e-12


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class PoissonBatches(Generic[Batch]):
    """What `poisson_batches` returns: iterating gives pairs of a padded batch and its mask."""

    rows: tree.PyTree
    size: int
    probability: float
    max_batch_size: int
    key: Tensor
    steps: int
    start_step: int
    device: torch.device | None

    def __len__(self) -> int:
        """Return the number of batches from `start_step` to the end."""
        return self.steps - self.start_step

    def __iter__(self) -> Iterator[tuple[Batch, Tensor]]:
        """Yield the batches of steps `start_step`, `start_step + 1`, ..., each with its mask."""
        for step in range(self.start_step, self.steps):
            yield self._padded(self._drawn(step))

    def _drawn(self, step: int) -> Tensor:
        """Return the numbers of the rows in the batch of a step, in the order of the data."""
        # In float64: with 24 bits a small probability would be rounded to another.
        coins = random.uniform(random.fold_in(self.key, step), (self.size,), torch.float64)
        drawn = (coins < self.probability).nonzero().squeeze(1)
        if len(drawn) > self.max_batch_size:
            raise RuntimeError(
                f"poisson_batches: step {step} drew {len(drawn)} rows, more than "
                f"max_batch_size={self.max_batch_size}. Leaving rows out would change the sampling "
                "that is accounted for, so begin the run again with a larger max_batch_size; the "
                "default one overflows in one run of a trillion."
            )
        return drawn

    def _padded(self, drawn: Tensor) -> tuple[Batch, Tensor]:
        def gather(leaf: Tensor) -> Tensor:
            batch = leaf.new_zeros((self.max_batch_size, *leaf.shape[1:]))
            batch[: len(drawn)] = leaf.index_select(0, drawn.to(leaf.device))
            return batch if self.device is None else batch.to(self.device)

        device = tree.leaves(self.rows)[0].device if self.device is None else self.device
        mask = torch.arange(self.max_batch_size, device=device) < len(drawn)
        return cast(Batch, tree.map(gather, self.rows)), mask


@overload
def poisson_batches(
    dataset: Dataset,
    expected_batch_size: float,
    *,
    key: Tensor,
    steps: int,
    max_batch_size: int | None = None,
    start_step: int = 0,
    device: torch.device | str | None = None,
) -> PoissonBatches[tuple[Tensor, Tensor]]: ...


@overload
def poisson_batches(
    dataset: tree.PyTree,
    expected_batch_size: float,
    *,
    key: Tensor,
    steps: int,
    max_batch_size: int | None = None,
    start_step: int = 0,
    device: torch.device | str | None = None,
) -> PoissonBatches[Any]: ...


def poisson_batches(
    dataset: tree.PyTree,
    expected_batch_size: float,
    *,
    key: Tensor,
    steps: int,
    max_batch_size: int | None = None,
    start_step: int = 0,
    device: torch.device | str | None = None,
) -> PoissonBatches[Any]:
    """Return `steps` batches in which each row is by an independent coin.

    With `n` rows, row `i` is in batch `k` where the `i`-th number of
    `random.uniform(random.fold_in(key, k), (n,), torch.float64)` is below
    `probability = expected_batch_size / n`. So batch `k` depends on nothing but the arguments and
    `k`: a run that stopped after `k` steps goes on with `start_step=k`. This is the sampling of
    `optim.privacy.poisson(batches.probability)`. Which rows were drawn, and how many, must stay as
    secret as the noise, and so must the key.

    Batches have all one size, so that one compiled program serves: the rows drawn come first, in
    the order of the data, then rows of zeros up to `max_batch_size`. `mask` tells them apart.

    Parameters
    ----------
    dataset
        A `Dataset`, which gives batches `(images, labels)`, or any tree of tensors with equal
        leading lengths, which gives trees like it.
    expected_batch_size
        How many rows a batch has on average: a number, more than 0 and at most the rows there are.
    key
        The random key of the coins, not the one of the noise.
    steps
        How many batches there are.
    max_batch_size
        To how many rows batches are padded. By default, as many as a batch exceeds in one run of
        a trillion (10^12); a smaller one saves time and may stop the run.
    start_step
        How many batches to leave out, from 0 to all of them.
    device
        Where each batch and its mask are put; by default they stay on the data's device.

    Returns
    -------
    PoissonBatches
        `len()` is the number of batches, `probability` that of the coins, `max_batch_size` the
        padded size. Iterating gives pairs `(batch, mask)`; `mask` is bool, (max_batch_size,).

    Raises
    ------
    TypeError
        A count is not an int, `expected_batch_size` no number, a leaf not a tensor, or `key` not a
        key.
    ValueError
        A number is out of range, lengths differ, or `key` is more than one key.
    RuntimeError
        torch knows no such device; or, while iterating, more rows were drawn than
        `max_batch_size`. Stopping there tells that it happened, which adds at most the probability
        of that to delta: one in a trillion with the default size.

    Examples
    --------
    >>> batches = poisson_batches({"x": torch.arange(1, 5)}, 2, key=random.key(5), steps=2)
    >>> batches.probability, batches.max_batch_size
    (0.5, 4)
    >>> for batch, mask in batches:
    ...     print(batch, mask)
    {'x': tensor([1, 4, 0, 0])} tensor([ True,  True, False, False])
    {'x': tensor([1, 2, 3, 0])} tensor([ True,  True,  True, False])
    """
    who = "poisson_batches"
    rows = (dataset.images, dataset.labels) if isinstance(dataset, Dataset) else dataset
    size = leading_length(who, rows)
    probability = _probability(expected_batch_size, size)
    check_key(who, key)
    check_count(who, "steps", steps, minimum=0)
    check_count(who, "start_step", start_step, minimum=0)
    if start_step > steps:
        raise ValueError(f"{who}: start_step={start_step} lies beyond the end, steps={steps}.")
    if max_batch_size is None:
        max_batch_size = _ample(size, probability, _OVERFLOW / max(steps, 1))
    check_count(who, "max_batch_size", max_batch_size, minimum=1)
    place = None if device is None else usable(who, device)
    return PoissonBatches(rows, size, probability, max_batch_size, key, steps, start_step, place)


def _probability(expected_batch_size: float, size: int) -> float:
    if isinstance(expected_batch_size, bool) or not isinstance(expected_batch_size, int | float):
        raise TypeError(
            "poisson_batches: expected expected_batch_size to be a number, got "
            f"{expected_batch_size!r}."
        )
    if not 0 < expected_batch_size <= size:
        raise ValueError(
            "poisson_batches: expected expected_batch_size to be more than 0 and at most the "
            f"number of rows, {size}, got {expected_batch_size!r}."
        )
    return expected_batch_size / size


def _ample(size: int, probability: float, overflow: float) -> int:
    """Return how many of `size` coins show heads at most, but for a probability of `overflow`.

    By Chernoff's bound, with D the Kullback-Leibler divergence of two coins ::

        P(more than m) <= exp(-n D(m / n || p)),    m >= n p
    """
    low, high = math.floor(size * probability), size
    while high - low > 1:
        middle = (low + high) // 2
        exponent = -size * _divergence(middle / size, probability)
        low, high = (middle, high) if exponent > math.log(overflow) else (low, middle)
    return high


def _divergence(a: float, b: float) -> float:
    heads = a * math.log(a / b) if a > 0 else 0.0
    tails = (1 - a) * math.log((1 - a) / (1 - b)) if a < 1 else 0.0
    return heads + tails
