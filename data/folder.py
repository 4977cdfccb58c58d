"""Your own pictures: one folder for each class."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .dataset import Dataset, check_dataset, scale_pixels
from .decoding import Mode, read_image
from .extras import import_pillow
from .layout import Listing, check_distinct, stated_split


def image_folder(
    root: str | os.PathLike[str],
    *,
    size: int | tuple[int, int] | None = None,
    mode: Mode = "RGB",
    test_fraction: float | None = None,
    key: Tensor | None = None,
) -> tuple[Dataset, Dataset]:
    """Return the images below `root` as `(train, test)`, with folder names as classes.

    Either the folders state the split (`root/train/cat/1.png`, `root/test/cat/2.png`), or `root`
    holds the classes (`root/cat/1.png`) and `test_fraction` and `key` state it. Then each class is
    split on its own: `round(test_fraction * n)` of its `n` images, at least one, chosen by the key,
    are for testing. No file comes twice, by a link or otherwise, so none is ever both.

    Classes and files are in sorted order. Whatever begins with a dot, and what file managers leave
    behind, is passed over; anything else that has no place in this layout is refused.

    Parameters
    ----------
    root
        The folder.
    size
        `(height, width)`, or one number for both: every image is stretched to that size (bilinear,
        antialiased). Without it all images must be equally large.
    mode
        `"RGB"` gives three channels (equal ones from a grey image), `"L"` one (from a colour image
        its luma, ITU-R BT.601).
    test_fraction, key
        The part of each class to test on, between 0 and 1, and the random key that chooses it.

    Raises
    ------
    FileNotFoundError
        `root` is not a folder.
    ImportError
        Pillow is not installed.
    TypeError
        `test_fraction` is not a number.
    ValueError
        `train` without `test` or the reverse; no stated split, or two; classes that differ between
        the parts; fewer than two classes; a class without images; a file or folder beside `train`
        and `test`, or a file beside the classes; two names for one file; a file that is no image,
        cannot be read, has transparent pixels, several frames or grey values of more than 8 bits;
        sizes that differ.

    For folders too large for memory there is `image_files`.

    Examples
    --------
    >>> train, test = image_folder("pets", size=64)  # doctest: +SKIP
    >>> train, test = image_folder(
    ...     "pets", size=64, test_fraction=0.2, key=random.key(0)
    ... )  # doctest: +SKIP
    """
    root = Path(root).expanduser()
    shape = None if size is None else _checked_size(size)
    _check_mode(mode)
    classes, train, test = stated_split(root, test_fraction, key)
    files = train.files + test.files
    check_distinct(files)
    pixels = _read_images(files, shape, mode)
    images = scale_pixels(pixels, 255)
    labels = torch.tensor(train.labels + test.labels)
    count = len(train.files)
    return (
        check_dataset(Dataset(images[:count], labels[:count], classes), f"{root} train"),
        check_dataset(Dataset(images[count:], labels[count:], classes), f"{root} test"),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFiles:
    """Labelled images that stay in their files until they are asked for.

    `files[i]` is the pair of pixels, uint8 of shape `(channels, height, width)`, and label, int64
    of shape `()`: what `read_batches` makes batches of, in worker processes.

    Attributes
    ----------
    files
        The paths.
    labels
        Shape `(n,)`, int64: positions in `classes`.
    classes
        What the labels mean.
    size
        `(height, width)`, to which each image is stretched (bilinear, antialiased).
    mode
        `"RGB"` or `"L"`.

    Examples
    --------
    >>> pixels, label = image_files("pets", size=64)[0][7]  # doctest: +SKIP
    """

    files: tuple[Path, ...]
    labels: Tensor
    classes: tuple[str, ...]
    size: tuple[int, int]
    mode: Mode

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Decode one image; a file that cannot be read is a `ValueError` that names it."""
        return read_image(self.files[index], self.size, self.mode), self.labels[index]


def image_files(
    root: str | os.PathLike[str],
    *,
    size: int | tuple[int, int],
    mode: Mode = "RGB",
    test_fraction: float | None = None,
    key: Tensor | None = None,
) -> tuple[ImageFiles, ImageFiles]:
    """Return the images below `root` as `(train, test)`, without reading them.

    Layout, classes, order and split are those of `image_folder`, and so is each image, but for its
    dtype: `files[i][0] / 255` is `dataset.images[i]`. A damaged file is found when it is read.

    Parameters
    ----------
    root, mode, test_fraction, key
        As for `image_folder`.
    size
        `(height, width)`, or one number for both: every image is stretched to that size.

    Raises
    ------
    FileNotFoundError, ImportError, TypeError, ValueError
        As for `image_folder`, but for what only reading can tell.

    Examples
    --------
    >>> from purefn import data
    >>> train, test = image_files("pets", size=224)  # doctest: +SKIP
    >>> batches = data.read_batches(
    ...     train, 64, key=random.key(0), epochs=10, workers=4
    ... )  # doctest: +SKIP
    """
    root = Path(root).expanduser()
    shape = _checked_size(size)
    _check_mode(mode)
    import_pillow()  # missing, it would be missed in each worker
    classes, train, test = stated_split(root, test_fraction, key)
    check_distinct(train.files + test.files)

    def part(listing: Listing) -> ImageFiles:
        labels = torch.tensor(listing.labels)
        return ImageFiles(tuple(listing.files), labels, classes, shape, mode)

    return part(train), part(test)


def _checked_size(size: int | tuple[int, int]) -> tuple[int, int]:
    shape = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(shape) != 2 or not all(_is_length(side) for side in shape):
        raise ValueError(
            f"image folder: expected size to be a positive int or (height, width), got {size!r}."
        )
    return shape[0], shape[1]


def _is_length(side: Any) -> bool:
    return isinstance(side, int) and not isinstance(side, bool) and side > 0


def _check_mode(mode: Mode) -> None:
    if mode not in ("L", "RGB"):
        raise ValueError(f"image folder: expected mode 'L' or 'RGB', got {mode!r}.")


def _read_images(files: list[Path], shape: tuple[int, int] | None, mode: Mode) -> Tensor:
    """Return uint8 pixels of shape `(n, channels, height, width)`."""
    first = read_image(files[0], shape, mode)
    images = torch.empty(len(files), *first.shape, dtype=torch.uint8)
    for index, file in enumerate(files):
        image = read_image(file, shape, mode)
        if image.shape != first.shape:
            raise ValueError(
                f"image folder: the sizes differ: {files[0]} is {_height_by_width(first)}, {file} "
                f"is {_height_by_width(image)}. Pass size=(height, width) to bring all to one size."
            )
        images[index] = image
    return images


def _height_by_width(image: Tensor) -> str:
    return f"{image.shape[1]} x {image.shape[2]}"
