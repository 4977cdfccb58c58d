"""Deterministic mini-batches: a pure function from a key and a step to rows of the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Generic, TypeVar, cast, overload

import torch
from torch import Tensor

from ..functional import random, tree
from ..functional.random.threefry import check_key
from .dataset import Dataset

Batch = TypeVar("Batch")


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Batches(Generic[Batch]):
    """What `batches` returns: iterating gives the batches from `start_step` on, again and again."""

    rows: tree.PyTree
    size: int
    batch_size: int
    key: Tensor | None
    epochs: int
    start_step: int
    device: torch.device | None
    drop_last: bool

    @property
    def steps_per_epoch(self) -> int:
        """How many batches one pass over the data takes."""
        if self.drop_last:
            return self.size // self.batch_size
        return -(-self.size // self.batch_size)

    def __len__(self) -> int:
        """Return the number of batches from `start_step` to the end."""
        return self.epochs * self.steps_per_epoch - self.start_step

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of steps `start_step`, `start_step + 1`, ..."""
        data_device = tree.leaves(self.rows)[0].device
        first_epoch, first = divmod(self.start_step, self.steps_per_epoch)
        for epoch in range(first_epoch, self.epochs):
            order = self._order(epoch).to(data_device)
            for index in range(first, self.steps_per_epoch):
                yield self._gather(order[index * self.batch_size : (index + 1) * self.batch_size])
            first = 0

    def _order(self, epoch: int) -> Tensor:
        """Return the order of the rows in an epoch, a permutation of `0, ..., size - 1`."""
        if self.key is None:
            return torch.arange(self.size)
        return random.permutation(random.fold_in(self.key, epoch), self.size).long()

    def _gather(self, rows: Tensor) -> Batch:
        def gather(leaf: Tensor) -> Tensor:
            batch = leaf.index_select(0, rows.to(leaf.device))
            return batch if self.device is None else batch.to(self.device)

        return cast(Batch, tree.map(gather, self.rows))


@overload
def batches(
    dataset: Dataset,
    batch_size: int,
    *,
    key: Tensor | None,
    epochs: int,
    start_step: int = 0,
    device: torch.device | str | None = None,
    drop_last: bool = True,
) -> Batches[tuple[Tensor, Tensor]]: ...


@overload
def batches(
    dataset: tree.PyTree,
    batch_size: int,
    *,
    key: Tensor | None,
    epochs: int,
    start_step: int = 0,
    device: torch.device | str | None = None,
    drop_last: bool = True,
) -> Batches[Any]: ...


def batches(
    dataset: tree.PyTree,
    batch_size: int,
    *,
    key: Tensor | None,
    epochs: int,
    start_step: int = 0,
    device: torch.device | str | None = None,
    drop_last: bool = True,
) -> Batches[Any]:
    """Return the shuffled batches of `epochs` passes over `dataset`.

    The rows of epoch `e` come in the order `random.permutation(random.fold_in(key, e), n)`, cut
    into pieces of `batch_size`. So batch `k` depends on nothing but the arguments and `k`: a run
    that stopped after `k` steps goes on with `start_step=k`, at once and with the same batches.

    Parameters
    ----------
    dataset
        A `Dataset`, which gives batches `(images, labels)`, or any tree of tensors with equal
        leading lengths, which gives trees like it.
    batch_size
        How many rows a batch has.
    key
        The random key that shuffles; `None` leaves every epoch in the order of the data, as
        evaluation wants it.
    epochs
        How many passes; 0 gives no batch.
    start_step
        How many batches of the whole sequence to leave out, from 0 to all of them.
    device
        Where each batch is put; by default it stays on the data's device. A data set that fits is
        faster moved whole, once: `tree.map(lambda leaf: leaf.to("cuda"), dataset)`.
    drop_last
        Whether to leave out, in each epoch, the rows that do not fill a batch. With `False` they
        come as a shorter one, even where the data do not fill a single batch.

    Returns
    -------
    Batches
        `len()` is the number of batches; every iteration starts again at `start_step`. Batches are
        copies: no later write reaches the data.

    Raises
    ------
    TypeError
        A count is not an int, `drop_last` not a bool, a leaf not a tensor, or `key` neither a key
        nor `None`.
    ValueError
        A count is out of range, `batch_size` is larger than the data, lengths differ, or `key` is
        more than one key.
    RuntimeError
        torch knows no such device, or cannot use it here.

    Examples
    --------
    >>> for batch in batches({"x": torch.arange(5)}, 2, key=None, epochs=1, drop_last=False):
    ...     print(batch)
    {'x': tensor([0, 1])}
    {'x': tensor([2, 3])}
    {'x': tensor([4])}
    >>> shuffled = batches(torch.arange(6), 3, key=random.key(0), epochs=2)
    >>> tail = batches(torch.arange(6), 3, key=random.key(0), epochs=2, start_step=3)
    >>> len(shuffled), len(tail), torch.equal(list(shuffled)[3], list(tail)[0])
    (4, 1, True)
    """
    rows = (dataset.images, dataset.labels) if isinstance(dataset, Dataset) else dataset
    size = leading_length("batches", rows)
    check_count("batches", "batch_size", batch_size, minimum=1)
    check_count("batches", "epochs", epochs, minimum=0)
    check_count("batches", "start_step", start_step, minimum=0)
    if not isinstance(drop_last, bool):
        raise TypeError(f"batches: expected drop_last to be True or False, got {drop_last!r}.")
    if drop_last and batch_size > size:
        raise ValueError(
            f"batches: batch_size={batch_size} is larger than the data, which have {size} rows. "
            "Make it smaller, or pass drop_last=False for one batch of all rows."
        )
    if key is not None:
        check_key("batches", key)
    place = None if device is None else usable("batches", device)
    result: Batches[Any] = Batches(
        rows, size, batch_size, key, epochs, start_step, place, drop_last
    )
    total = epochs * result.steps_per_epoch
    if start_step > total:
        raise ValueError(
            f"batches: start_step={start_step} lies beyond the end: {epochs} epochs of "
            f"{result.steps_per_epoch} batches are {total} steps."
        )
    return result


def usable(who: str, device: torch.device | str) -> torch.device:
    """Return the device, refusing one on which nothing can be put."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch built without CUDA
        raise RuntimeError(f"{who}: device {str(device)!r} cannot be used: {error}") from error


def check_count(who: str, name: str, value: int, minimum: int) -> None:
    """Refuse what is no int, or one below `minimum`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{who}: expected {name} to be an int, got {value!r}.")
    if value < minimum:
        raise ValueError(f"{who}: expected {name} to be at least {minimum}, got {value}.")


def leading_length(who: str, rows: tree.PyTree) -> int:
    """Return the common leading length of all leaves, refusing whatever has none."""
    leaves, names = tree.leaves(rows), tree.path_strings(rows, "dataset")
    if not leaves:
        raise ValueError(f"{who}: expected a dataset with at least one tensor, got none.")
    for leaf, name in zip(leaves, names, strict=True):
        if not isinstance(leaf, Tensor):
            raise TypeError(f"{who}: expected {name} to be a tensor, got {leaf!r}.")
        if leaf.ndim == 0:
            raise ValueError(f"{who}: expected {name} to have rows, got a 0-d tensor.")
        if len(leaf) != len(leaves[0]):
            raise ValueError(
                f"{who}: the lengths differ: {names[0]} has {len(leaves[0])} rows, "
                f"{name} has {len(leaf)}."
            )
    if len(leaves[0]) == 0:
        raise ValueError(f"{who}: expected a dataset with at least one row, got none.")
    return len(leaves[0])
