"""How the examples of a step are chosen, which decides what the step costs in privacy.

A sampling names its adjacency relation too: what two data sets may differ in to be told apart.
"""

from __future__ import annotations

import dataclasses

from .. import checks
from . import arguments

__all__ = ["FixedSize", "FullBatch", "Poisson", "Sampling", "fixed_size", "full_batch", "poisson"]


@dataclasses.dataclass(frozen=True)
class Poisson:
    """Each example is in each batch with `probability`, whatever the others do; see `poisson`."""

    probability: float


@dataclasses.dataclass(frozen=True)
class FixedSize:
    """Each batch is a uniform subset of `batch_size` of `dataset_size`; see `fixed_size`."""

    batch_size: int
    dataset_size: int


@dataclasses.dataclass(frozen=True)
class FullBatch:
    """Every step uses every example; see `full_batch`."""


#: What `epsilon` and its inverses take as `sampling`.
Sampling = Poisson | FixedSize | FullBatch


def poisson(probability: float) -> Poisson:
    """Say that each example is in each batch independently, with `probability`.

    This is what `data.poisson_batches` draws. Two data sets are adjacent where one has one example
    more (*add or remove one*), and the expected batch size is a constant, not a property of the
    data.

    Raises
    ------
    TypeError
        `probability` is no Python number.
    ValueError
        `probability` is not in (0, 1].

    Examples
    --------
    >>> poisson(0.01)
    Poisson(probability=0.01)
    """
    arguments.number("probability", probability)
    if not 0 < probability <= 1:
        raise ValueError(f"probability: expected a number in (0, 1], got {probability!r}.")
    return Poisson(float(probability))


def fixed_size(batch_size: int, dataset_size: int) -> FixedSize:
    """Say that each batch is a uniform subset of `batch_size` examples, drawn anew in each step.

    `random.choice(key, dataset_size, (batch_size,), replace=False)` draws one. Within a batch no
    example comes twice, and batches are independent of each other: passes over shuffled data are
    no such batches. Two data sets are adjacent where one example differs (*replace one*), and their
    size is public. An example that is replaced takes one gradient out and puts another in, so that
    the sum moves by up to twice the clipping norm: the accountants see half the noise multiplier.

    Raises
    ------
    TypeError
        A size is no int.
    ValueError
        A size is less than 1, or the batch is larger than the data.

    Examples
    --------
    >>> fixed_size(batch_size=64, dataset_size=60_000)
    FixedSize(batch_size=64, dataset_size=60000)
    """
    checks.count("batch_size", batch_size)
    checks.count("dataset_size", dataset_size)
    if batch_size > dataset_size:
        raise ValueError(
            f"batch_size: expected at most dataset_size={dataset_size}, got {batch_size}."
        )
    return FixedSize(batch_size, dataset_size)


def full_batch() -> FullBatch:
    """Say that every step uses every example, so that no sampling hides any.

    It also bounds what shuffled batches cost, for which nothing better is proved at their usual
    sizes: an example is in one batch of an epoch, so `epochs` passes cost `steps=epochs` full
    batches. Two data sets are adjacent where an example of one is missing, its place left empty
    (*add or remove one*).

    Examples
    --------
    >>> full_batch()
    FullBatch()
    """
    return FullBatch()
