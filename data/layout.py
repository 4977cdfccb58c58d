"""How folders state classes and parts: `root/train/cat/1.png`, or `root/cat/1.png` and a key."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..functional import random

#: Names (in lower case) of the files that count as images.
IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)

#: What file managers leave behind, beside files that begin with a dot.
_LITTER = frozenset({"desktop.ini", "thumbs.db"})


class Listing(NamedTuple):
    """The images of one part: their files in order, each with the position of its class."""

    files: list[Path]
    labels: list[int]


def stated_split(
    root: Path, test_fraction: float | None, key: Tensor | None
) -> tuple[tuple[str, ...], Listing, Listing]:
    """Return the classes and the two parts, as the folders or the arguments state them."""
    if not root.is_dir():
        raise FileNotFoundError(f"image folder: {root} is not a folder.")
    present = [part for part in ("train", "test") if (root / part).is_dir()]
    if len(present) == 2:
        if test_fraction is not None or key is not None:
            raise ValueError(
                f"image folder: {root} has train/ and test/, which state the split; "
                "leave test_fraction and key out."
            )
        return _split_by_folder(root)
    if present:
        (missing,) = {"train", "test"} - set(present)
        raise ValueError(
            f"image folder: {root} has {present[0]}/ but no {missing}/. Make it, or pass the "
            f"folder {root / present[0]} with test_fraction= and key= to split that one."
        )
    if test_fraction is None or key is None:
        raise ValueError(
            f"image folder: {root} has no train/ and test/. Make them, or state a split with both "
            "test_fraction= and key=, such as test_fraction=0.2, key=random.key(0)."
        )
    return _split_by_key(root, test_fraction, key)


def _split_by_folder(root: Path) -> tuple[tuple[str, ...], Listing, Listing]:
    strangers = [entry for entry in _entries(root) if entry.name not in ("train", "test")]
    if strangers:
        raise ValueError(
            f"image folder: {strangers[0]} lies beside train/ and test/; move it out of {root}."
        )
    train, test = _files_by_class(root / "train"), _files_by_class(root / "test")
    if train.keys() != test.keys():
        raise ValueError(
            f"image folder: the classes below {root} differ: only in train/ "
            f"{sorted(train.keys() - test.keys())}, only in test/ "
            f"{sorted(test.keys() - train.keys())}."
        )
    return tuple(train), _listing(train), _listing(test)


def _split_by_key(
    root: Path, test_fraction: float, key: Tensor
) -> tuple[tuple[str, ...], Listing, Listing]:
    if isinstance(test_fraction, bool) or not isinstance(test_fraction, int | float):
        raise TypeError(
            f"image folder: expected test_fraction to be a number, got {test_fraction!r}."
        )
    if not 0 < test_fraction < 1:
        raise ValueError(
            f"image folder: expected test_fraction between 0 and 1, got {test_fraction}."
        )
    train, test = {}, {}
    for label, (name, files) in enumerate(_files_by_class(root).items()):
        test_count = max(1, round(test_fraction * len(files)))
        if test_count >= len(files):
            raise ValueError(
                f"image folder: test_fraction={test_fraction} leaves no image of class {name!r} "
                f"to train on: {root / name} has {len(files)}."
            )
        order = random.permutation(random.fold_in(key, label), len(files)).tolist()
        chosen = set(order[:test_count])
        test[name] = [file for index, file in enumerate(files) if index in chosen]
        train[name] = [file for index, file in enumerate(files) if index not in chosen]
    return tuple(train), _listing(train), _listing(test)


def _listing(files_by_class: dict[str, list[Path]]) -> Listing:
    pairs = [(file, i) for i, files in enumerate(files_by_class.values()) for file in files]
    return Listing([file for file, _ in pairs], [label for _, label in pairs])


def _files_by_class(folder: Path) -> dict[str, list[Path]]:
    """Return the image files of each class folder in `folder`, all in sorted order."""
    entries = _entries(folder)
    stray = [entry for entry in entries if not entry.is_dir()]
    if stray:
        raise ValueError(
            f"image folder: {stray[0]} lies beside the class folders; move it into one of them, "
            f"or out of {folder}."
        )
    classes = {entry.name: _image_files(entry) for entry in entries if entry.is_dir()}
    if len(classes) < 2:
        raise ValueError(
            f"image folder: expected a folder for each of at least two classes in {folder}, "
            f"found {sorted(classes)}."
        )
    return classes


def _image_files(class_folder: Path) -> list[Path]:
    files = _entries(class_folder)
    for file in files:
        if file.is_dir() or not _is_image_name(file):
            raise ValueError(
                f"image folder: {file} is not an image file ({', '.join(sorted(IMAGE_SUFFIXES))}); "
                "move it out of the class folder."
            )
    if not files:
        raise ValueError(f"image folder: the class folder {class_folder} has no images.")
    return files


def check_distinct(files: list[Path]) -> None:
    """Refuse two paths that, links followed, are one file: it would be trained and tested on."""
    first_path: dict[Path, Path] = {}
    for file in files:
        target = file.resolve()
        if target in first_path:
            raise ValueError(
                f"image folder: {first_path[target]} and {file} are the same file, {target}. "
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
