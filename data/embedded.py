"""The data set that comes with the package."""

from __future__ import annotations

import importlib.resources

import numpy as np
import torch

from .dataset import Dataset, check_dataset, scale_pixels

#: The names of the ten digits, which are their own labels.
DIGIT_CLASSES = tuple("0123456789")

_INK_LEVELS = 16
_TEST_EVERY = 5


def digits() -> tuple[Dataset, Dataset]:
    """Return real handwritten digits, 8 x 8 pixels, as `(train, test)`; nothing is downloaded.

    The 1,797 images are the test part of UCI's *Optical Recognition of Handwritten Digits*
    (Alpaydin and Kaynak, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0), with 17 shades of grey
    scaled to 0 ... 1. Shapes are `(n, 1, 8, 8)` and `(n,)`.

    The split is fixed and stratified: of each digit, every fifth image in file order is for
    testing, which leaves 1,442 to train and 355 to test. All 13 writers are in both parts; the
    accuracy says nothing about handwriting of other people (`digits.md` beside this file has more).

    Examples
    --------
    >>> train, test = digits()
    >>> len(train), len(test)
    (1442, 355)
    >>> train.images.shape, train.classes[int(train.labels[0])]
    (torch.Size([1442, 1, 8, 8]), '0')
    """
    file = importlib.resources.files(__package__).joinpath("digits.npz")
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        images = scale_pixels(torch.from_numpy(arrays["images"]), _INK_LEVELS)[:, None]
        labels = torch.from_numpy(arrays["labels"]).long()
    is_test = _occurrence(labels) % _TEST_EVERY == _TEST_EVERY - 1
    train = Dataset(images[~is_test], labels[~is_test], DIGIT_CLASSES)
    test = Dataset(images[is_test], labels[is_test], DIGIT_CLASSES)
    return check_dataset(train, "digits train"), check_dataset(test, "digits test")


def _occurrence(labels: torch.Tensor) -> torch.Tensor:
    """Return for each label how many equal ones come before it."""
    one_hot = torch.nn.functional.one_hot(labels)
    return one_hot.cumsum(0).gather(1, labels[:, None])[:, 0] - 1
