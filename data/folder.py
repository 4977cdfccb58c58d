"""Your own pictures: one folder for each class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..functional import random
from .dataset import Dataset, check_dataset, scale_pixels
from .extras import import_pillow

#: Names (in lower case) of the files that count as images.
IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)

#: What file managers leave behind, beside files that begin with a dot.
_LITTER = frozenset({"desktop.ini", "thumbs.db"})

Mode = Literal["L", "RGB"]


class _Listing(NamedTuple):
    """The images of one part: their files in order, each with the position of its class."""

    files: list[Path]
    labels: list[int]


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

    Examples
    --------
    >>> train, test = image_folder("pets", size=64)  # doctest: +SKIP
    >>> train, test = image_folder(
    ...     "pets", size=64, test_fraction=0.2, key=random.key(0)
    ... )  # doctest: +SKIP
    """
    root = Path(root).expanduser()
    shape = _checked_size(size)
    if mode not in ("L", "RGB"):
        raise ValueError(f"image_folder: expected mode 'L' or 'RGB', got {mode!r}.")
    classes, train, test = _stated_split(root, test_fraction, key)
    files = train.files + test.files
    _check_distinct(files)
    pixels = _read_images(files, shape, mode)
    images = scale_pixels(pixels, 255)
    labels = torch.tensor(train.labels + test.labels)
    count = len(train.files)
    return (
        check_dataset(Dataset(images[:count], labels[:count], classes), f"{root} train"),
        check_dataset(Dataset(images[count:], labels[count:], classes), f"{root} test"),
    )


def _checked_size(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    shape = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(shape) != 2 or not all(_is_length(side) for side in shape):
        raise ValueError(
            f"image_folder: expected size to be a positive int or (height, width), got {size!r}."
        )
    return shape


def _is_length(side: Any) -> bool:
    return isinstance(side, int) and not isinstance(side, bool) and side > 0


def _stated_split(
    root: Path, test_fraction: float | None, key: Tensor | None
) -> tuple[tuple[str, ...], _Listing, _Listing]:
    """Return the classes and the two parts, as the folders or the arguments state them."""
    if not root.is_dir():
        raise FileNotFoundError(f"image_folder: {root} is not a folder.")
    present = [part for part in ("train", "test") if (root / part).is_dir()]
    if len(present) == 2:
        if test_fraction is not None or key is not None:
            raise ValueError(
                f"image_folder: {root} has train/ and test/, which state the split; "
                "leave test_fraction and key out."
            )
        return _split_by_folder(root)
    if present:
        (missing,) = {"train", "test"} - set(present)
        raise ValueError(
            f"image_folder: {root} has {present[0]}/ but no {missing}/. Make it, or pass the "
            f"folder {root / present[0]} with test_fraction= and key= to split that one."
        )
    if test_fraction is None or key is None:
        raise ValueError(
            f"image_folder: {root} has no train/ and test/. Make them, or state a split with both "
            "test_fraction= and key=, such as test_fraction=0.2, key=random.key(0)."
        )
    return _split_by_key(root, test_fraction, key)


def _split_by_folder(root: Path) -> tuple[tuple[str, ...], _Listing, _Listing]:
    strangers = [entry for entry in _entries(root) if entry.name not in ("train", "test")]
    if strangers:
        raise ValueError(
            f"image_folder: {strangers[0]} lies beside train/ and test/; move it out of {root}."
        )
    train, test = _files_by_class(root / "train"), _files_by_class(root / "test")
    if train.keys() != test.keys():
        raise ValueError(
            f"image_folder: the classes below {root} differ: only in train/ "
            f"{sorted(train.keys() - test.keys())}, only in test/ "
            f"{sorted(test.keys() - train.keys())}."
        )
    return tuple(train), _listing(train), _listing(test)


def _split_by_key(
    root: Path, test_fraction: float, key: Tensor
) -> tuple[tuple[str, ...], _Listing, _Listing]:
    if isinstance(test_fraction, bool) or not isinstance(test_fraction, int | float):
        raise TypeError(
            f"image_folder: expected test_fraction to be a number, got {test_fraction!r}."
        )
    if not 0 < test_fraction < 1:
        raise ValueError(
            f"image_folder: expected test_fraction between 0 and 1, got {test_fraction}."
        )
    train, test = {}, {}
    for label, (name, files) in enumerate(_files_by_class(root).items()):
        test_count = max(1, round(test_fraction * len(files)))
        if test_count >= len(files):
            raise ValueError(
                f"image_folder: test_fraction={test_fraction} leaves no image of class {name!r} "
                f"to train on: {root / name} has {len(files)}."
            )
        order = random.permutation(random.fold_in(key, label), len(files)).tolist()
        chosen = set(order[:test_count])
        test[name] = [file for index, file in enumerate(files) if index in chosen]
        train[name] = [file for index, file in enumerate(files) if index not in chosen]
    return tuple(train), _listing(train), _listing(test)


def _listing(files_by_class: dict[str, list[Path]]) -> _Listing:
    pairs = [(file, i) for i, files in enumerate(files_by_class.values()) for file in files]
    return _Listing([file for file, _ in pairs], [label for _, label in pairs])


def _files_by_class(folder: Path) -> dict[str, list[Path]]:
    """Return the image files of each class folder in `folder`, all in sorted order."""
    entries = _entries(folder)
    stray = [entry for entry in entries if not entry.is_dir()]
    if stray:
        raise ValueError(
            f"image_folder: {stray[0]} lies beside the class folders; move it into one of them, "
            f"or out of {folder}."
        )
    classes = {entry.name: _image_files(entry) for entry in entries if entry.is_dir()}
    if len(classes) < 2:
        raise ValueError(
            f"image_folder: expected a folder for each of at least two classes in {folder}, "
            f"found {sorted(classes)}."
        )
    return classes


def _image_files(class_folder: Path) -> list[Path]:
    files = _entries(class_folder)
    for file in files:
        if file.is_dir() or not _is_image_name(file):
            raise ValueError(
                f"image_folder: {file} is not an image file ({', '.join(sorted(IMAGE_SUFFIXES))}); "
                "move it out of the class folder."
            )
    if not files:
        raise ValueError(f"image_folder: the class folder {class_folder} has no images.")
    return files


def _check_distinct(files: list[Path]) -> None:
    """Refuse two paths that, links followed, are one file: it would be trained and tested on."""
    first_path: dict[Path, Path] = {}
    for file in files:
        target = file.resolve()
        if target in first_path:
            raise ValueError(
                f"image_folder: {first_path[target]} and {file} are the same file, {target}. "
                "Remove the link: each image may be there once."
            )
        first_path[target] = file


def _entries(folder: Path) -> list[Path]:
    """Return what is in `folder`, sorted by name, without hidden files and litter."""
    visible = [
        entry
        for entry in folder.iterdir()
        if not entry.name.startswith(".") and entry.name.lower() not in _LITTER
    ]
    return sorted(visible, key=lambda entry: entry.name)


def _is_image_name(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES


def _read_images(files: list[Path], shape: tuple[int, int] | None, mode: Mode) -> Tensor:
    """Return uint8 pixels of shape `(n, channels, height, width)`."""
    first = _read_image(files[0], shape, mode)
    images = torch.empty(len(files), *first.shape, dtype=torch.uint8)
    for index, file in enumerate(files):
        image = _read_image(file, shape, mode)
        if image.shape != first.shape:
            raise ValueError(
                f"image_folder: the sizes differ: {files[0]} is {_height_by_width(first)}, {file} "
                f"is {_height_by_width(image)}. Pass size=(height, width) to bring all to one size."
            )
        images[index] = image
    return images


def _height_by_width(image: Tensor) -> str:
    return f"{image.shape[1]} x {image.shape[2]}"


def _read_image(file: Path, shape: tuple[int, int] | None, mode: Mode) -> Tensor:
    """Return one image as uint8 pixels of shape `(channels, height, width)`, upright."""
    image_module, operations = import_pillow()
    try:
        with image_module.open(file) as opened:
            frames = getattr(opened, "n_frames", 1)
            image = operations.exif_transpose(opened)
    # Pillow's decoders raise SyntaxError, struct.error and others for damaged files.
    except Exception as error:
        raise ValueError(f"image_folder: cannot read the image {file}: {error}") from error
    if frames > 1:
        raise ValueError(f"image_folder: {file} has {frames} frames, expected a single image.")
    image = _opaque(file, image).convert(mode)
    if shape is not None:
        height, width = shape
        image = image.resize((width, height), image_module.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if mode == "L" else pixels.permute(2, 0, 1)


def _opaque(file: Path, image: Any) -> Any:
    """Return an opaque 8-bit image, refusing what a conversion would silently clip or drop."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise ValueError(
            f"image_folder: {file} has more than 8 bits a pixel (Pillow's mode {image.mode!r}); "
            "save it with 8 bits first."
        )
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    lowest_alpha, _ = image.getchannel("A").getextrema()
    if lowest_alpha < 255:
        raise ValueError(
            f"image_folder: {file} has transparent pixels; put it on a background first."
        )
    return image
