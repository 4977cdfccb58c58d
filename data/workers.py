"""Batches of rows that are read when they are wanted, by worker processes."""

from __future__ import annotations

import contextlib
import dataclasses
import pickle
import warnings
from collections.abc import Iterator
from typing import Any, Generic, Protocol, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from ..functional import tree
from .batching import Batch, Batches, batches, check_count, usable


class RowReader(Protocol):
    """What `read_batches` reads from: a `torch.utils.data.Dataset` with a length, or its like."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def __getitem__(self, index: int, /) -> Any:
        """Return a row, a tree of tensors."""


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class ReadBatches(Generic[Batch]):
    """What `read_batches` returns: iterating gives the batches from `start_step` on, again."""

    dataset: RowReader
    row_numbers: Batches[Tensor]
    workers: int
    device: torch.device | None

    @property
    def start_step(self) -> int:
        """How many batches of the whole sequence are left out."""
        return self.row_numbers.start_step

    @property
    def steps_per_epoch(self) -> int:
        """How many batches one pass over the data takes."""
        return self.row_numbers.steps_per_epoch

    def __len__(self) -> int:
        """Return the number of batches from `start_step` to the end."""
        return len(self.row_numbers)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of steps `start_step`, `start_step + 1`, ...; workers end with it."""
        with warnings.catch_warnings():
            # More workers than cores are a good thing where the files come over a network.
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            loader: DataLoader[Any] = DataLoader(
                _Reader(self.dataset),  # type: ignore[arg-type]  # a Dataset by what it does
                batch_sampler=_Lists(self.row_numbers),
                collate_fn=_unchanged,
                num_workers=self.workers,
                generator=torch.Generator(),  # or each iteration would draw from the global one
            )
            loaded = iter(loader)
        try:
            for batch in _alive(loaded):
                if isinstance(batch, _Failure):
                    raise batch.error
                yield cast(Batch, batch if self.device is None else self._placed(batch))
        finally:
            _end(loaded)

    def _placed(self, batch: tree.PyTree) -> tree.PyTree:
        return tree.map(lambda leaf: leaf.to(self.device), batch)


def read_batches(
    dataset: RowReader,
    batch_size: int,
    *,
    key: Tensor | None,
    epochs: int,
    start_step: int = 0,
    device: torch.device | str | None = None,
    drop_last: bool = True,
    workers: int = 2,
) -> ReadBatches[Any]:
    """Return the batches that `batches` would, of rows that worker processes read meanwhile.

    For data too large for memory. Which rows make batch `k` depends on nothing but the key and `k`,
    as in `batches`, however many workers there are and whoever is first; a run that stopped after
    `k` steps goes on with `start_step=k`, at once. What is random belongs into the step, with a key
    of its own (`data.augmentation`); a row must depend on its number alone.

    The workers are those of `torch.utils.data.DataLoader`. They start with each iteration and end
    with it, also where it is dropped halfway. An error in one is raised where the batch is
    taken, with a note of the row; one that is killed is an error, too.

    Parameters
    ----------
    dataset
        What has a length and gives for a number a tree of tensors, such as `ImageFiles` or a
        `torch.utils.data.Dataset`. Workers get a copy.
    batch_size, key, epochs, start_step, device, drop_last
        As for `batches`.
    workers
        How many processes; with 0 rows are read in this one.

    Returns
    -------
    ReadBatches
        `len()` is the number of batches; every iteration starts again at `start_step`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As for `batches`; `dataset` has no length, no rows or none by number; or, where a batch is
        taken, rows are no trees of tensors that can be stacked, a tensor requires a gradient, a
        worker cannot send a row, for its type is local to a function, or a worker has ended.

    Examples
    --------
    >>> from purefn.functional import random
    >>> rows = [(torch.tensor(i), torch.tensor(i * i)) for i in range(6)]
    >>> for x, y in read_batches(rows, 3, key=random.key(0), epochs=1, workers=0):
    ...     print(x, y)
    tensor([0, 2, 4]) tensor([ 0,  4, 16])
    tensor([1, 5, 3]) tensor([ 1, 25,  9])
    """
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            "read_batches: expected a dataset with a length that gives a row for a number, got "
            f"{type(dataset).__name__}."
        )
    if len(dataset) == 0:
        raise ValueError("read_batches: expected a dataset with at least one row, got none.")
    check_count("read_batches", "workers", workers, minimum=0)
    row_numbers: Batches[Any] = batches(
        torch.arange(len(dataset)),
        batch_size,
        key=key,
        epochs=epochs,
        start_step=start_step,
        drop_last=drop_last,
    )
    place = None if device is None else usable("read_batches", device)
    return ReadBatches(dataset, row_numbers, workers, place)


@dataclasses.dataclass(frozen=True)
class _Lists:
    """The row numbers of each batch, as lists."""

    row_numbers: Batches[Tensor]

    def __iter__(self) -> Iterator[list[int]]:
        for rows in self.row_numbers:
            yield rows.tolist()


@dataclasses.dataclass(frozen=True)
class _Failure:
    """An error on its way out of a worker, where a traceback would hide what it says."""

    error: Exception


@dataclasses.dataclass(frozen=True)
class _Reader:
    """What a worker does: reads the rows of a batch and stacks them."""

    dataset: RowReader

    def __getitems__(self, rows: list[int]) -> Any:
        read = []
        for row in rows:
            try:
                read.append(_checked(self.dataset[row]))
            except Exception as error:
                error = _sendable(error)
                error.add_note(f"while read_batches read row {row}")
                return _Failure(error)
        try:
            batch = tree.map(lambda *leaves: torch.stack(leaves), *read)
        except Exception as error:
            return _Failure(ValueError(f"read_batches: rows {rows} cannot be stacked: {error}"))
        if get_worker_info() is None:
            return batch
        try:
            # What cannot be sent would get lost on its way, and be waited for without end.
            pickle.dumps(tree.map(lambda leaf: None, batch))
        except Exception as error:
            return _Failure(
                TypeError(
                    f"read_batches: a worker cannot send rows {rows}: {error}. Define their types "
                    "at the top of a module, or read with workers=0."
                )
            )
        return batch


def _checked(row: Any) -> Any:
    for leaf, path in zip(tree.leaves(row), tree.path_strings(row, "row"), strict=True):
        if not isinstance(leaf, Tensor):
            raise TypeError(f"read_batches: expected {path} to be a tensor, got {leaf!r}.")
        if leaf.requires_grad:
            raise TypeError(
                f"read_batches: expected {path} to be data, got a tensor that requires a gradient; "
                "give it detached."
            )
    return row


def _sendable(error: Exception) -> Exception:
    """Return the error, or what it says if it does not survive the way to who takes batches."""
    try:
        if isinstance(error, StopIteration):  # of which a generator says something else
            raise error
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _unchanged(batch: Any) -> Any:
    return batch


def _alive(loaded: Iterator[Any]) -> Iterator[Any]:
    """Yield what is loaded, and say what to do where a worker has been killed."""
    while True:
        try:
            batch = next(loaded)
        except StopIteration:
            return
        except (RuntimeError, ConnectionError, FileNotFoundError, EOFError) as error:
            # Not torch's error where a worker ends while it sends: what it sends breaks off.
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            reason = str(error).strip().rstrip(".") or type(error).__name__
            raise RuntimeError(
                f"read_batches: a worker process has ended before its work: {reason}. Too little "
                "memory is the usual reason; fewer workers need less."
            ) from error
        yield batch


def _end(loaded: Any) -> None:
    """End the workers now: an error that somebody keeps would keep them, too."""
    # A worker that was killed is told of again, now or at any later time.
    with contextlib.suppress(RuntimeError):
        getattr(loaded, "_shutdown_workers", lambda: None)()
