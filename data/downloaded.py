"""The classic data sets, downloaded once and kept, through `torchvision.datasets`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .dataset import Dataset, check_dataset, scale_pixels
from .embedded import DIGIT_CLASSES
from .extras import import_torchvision

#: What reading files that are absent, cut short or not what they claim to be raises.
_UNREADABLE = (AssertionError, KeyError, OSError, RuntimeError, ValueError)


def mnist(
    root: str | os.PathLike[str] | None = None, *, download: bool = True
) -> tuple[Dataset, Dataset]:
    """Return MNIST (LeCun et al., 1998) as `(train, test)`: 60,000 and 10,000 images, 1 x 28 x 28.

    Parameters
    ----------
    root
        The folder that keeps the files; without it `cache_folder()`.
    download
        Whether files that are not there are fetched.

    Raises
    ------
    ImportError
        torchvision is not installed.
    RuntimeError
        The files are missing, damaged or cannot be fetched; the message names the folder and what
        belongs there.

    Examples
    --------
    >>> train, test = mnist("~/datasets")  # doctest: +SKIP
    >>> len(train), len(test)  # doctest: +SKIP
    (60000, 10000)
    """
    return _load("mnist", "MNIST", root, download, DIGIT_CLASSES)


def fashion_mnist(
    root: str | os.PathLike[str] | None = None, *, download: bool = True
) -> tuple[Dataset, Dataset]:
    """Return Fashion-MNIST (Xiao et al., 2017) as `(train, test)`: ten kinds of clothing.

    Shapes, arguments and errors are those of `mnist`.

    >>> train, test = fashion_mnist()  # doctest: +SKIP
    >>> train.classes[9]  # doctest: +SKIP
    'Ankle boot'
    """
    return _load("fashion_mnist", "FashionMNIST", root, download)


def cifar10(
    root: str | os.PathLike[str] | None = None, *, download: bool = True
) -> tuple[Dataset, Dataset]:
    """Return CIFAR-10 (Krizhevsky, 2009) as `(train, test)`: 50,000 and 10,000 images, 3 x 32 x 32.

    Arguments and errors are those of `mnist`.

    >>> train, test = cifar10()  # doctest: +SKIP
    >>> train.images.shape  # doctest: +SKIP
    torch.Size([50000, 3, 32, 32])
    """
    return _load("cifar10", "CIFAR10", root, download)


def cifar100(
    root: str | os.PathLike[str] | None = None, *, download: bool = True
) -> tuple[Dataset, Dataset]:
    """Return CIFAR-100 (Krizhevsky, 2009) as `(train, test)`, with its 100 fine classes.

    Shapes are those of `cifar10`, arguments and errors those of `mnist`.

    >>> train, test = cifar100()  # doctest: +SKIP
    >>> len(train.classes)  # doctest: +SKIP
    100
    """
    return _load("cifar100", "CIFAR100", root, download)


def cache_folder() -> Path:
    """Return where downloads are kept: `$PUREFN_DATA`, or `purefn` in the user's cache folder.

    The latter is `$XDG_CACHE_HOME/purefn`, by default `~/.cache/purefn`.

    >>> from unittest import mock
    >>> with mock.patch.dict(os.environ, PUREFN_DATA="datasets"):
    ...     print(cache_folder())
    datasets
    """
    if chosen := os.environ.get("PUREFN_DATA"):
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "purefn"


def _load(
    name: str,
    kind: str,
    root: str | os.PathLike[str] | None,
    download: bool,
    classes: tuple[str, ...] | None = None,
) -> tuple[Dataset, Dataset]:
    """Load both parts of `torchvision.datasets.<kind>`; `classes` replaces torchvision's names."""
    source = getattr(import_torchvision().datasets, kind)
    folder = cache_folder() if root is None else Path(root).expanduser()
    try:
        parts = [source(folder, train=train, download=download) for train in (True, False)]
    except _UNREADABLE as error:
        raise RuntimeError(_advice(name, source, folder, download, error)) from error
    train, test = (
        check_dataset(_dataset(part, classes or tuple(part.classes)), f"{name} {part_name}")
        for part, part_name in zip(parts, ("train", "test"), strict=True)
    )
    return train, test


def _dataset(part: Any, classes: tuple[str, ...]) -> Dataset:
    pixels = torch.as_tensor(part.data)
    labels = torch.as_tensor(part.targets, dtype=torch.int64)
    return Dataset(scale_pixels(_channels_first(pixels), 255), labels, classes)


def _channels_first(pixels: Tensor) -> Tensor:
    """Turn `(n, h, w)` or `(n, h, w, c)` into `(n, c, h, w)`."""
    if pixels.ndim == 3:
        return pixels[:, None]
    return pixels.permute(0, 3, 1, 2)


def _advice(name: str, source: Any, folder: Path, download: bool, error: Exception) -> str:
    """Say what could not be read and what to put where."""
    if hasattr(source, "resources"):
        place, files = folder / source.__name__ / "raw", [file for file, _ in source.resources]
    else:
        place, files = folder, [source.filename]
    remedy = (
        f"Put {', '.join(files)} there and call {name} with download=True, which then only checks "
        "and unpacks."
        if download
        else f"Call {name} with download=True to fetch {', '.join(files)}."
    )
    problem = str(error).strip() or type(error).__name__
    return f"{name}: no readable files in {place} ({problem}). {remedy}"
