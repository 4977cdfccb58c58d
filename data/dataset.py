"""What every loader returns: images with their labels."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional import tree


@tree.dataclass
class Dataset:
    """Labelled images, a pytree with two leaves.

    Attributes
    ----------
    images
        Shape `(n, channels, height, width)`, float32; the loaders give values from 0 to 1.
    labels
        Shape `(n,)`, int64: positions in `classes`.
    classes
        What the labels mean; static, so part of the tree's structure.

    Examples
    --------
    >>> ds = Dataset(torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 1]), classes=("cat", "dog"))
    >>> len(ds)
    3
    >>> first_two = tree.map(lambda leaf: leaf[:2], ds)
    >>> first_two.labels
    tensor([0, 1])
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...] = tree.static()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)


def check_dataset(dataset: Dataset, name: str = "dataset") -> Dataset:
    """Return `dataset` unchanged if its parts fit together; `name` is what an error calls it.

    Every loader of this package ends with this check. Tree operations do not repeat it, so that a
    dataset may hold whatever they put into it.

    Raises
    ------
    TypeError
        The images are not float32 or the labels not int64.
    ValueError
        A shape is wrong, the lengths differ, there is no image, or a label is not the position of
        a class (the first such label is named).

    Examples
    --------
    >>> check_dataset(Dataset(torch.zeros(2, 1, 8, 8), torch.tensor([0, 7]), ("cat", "dog")))
    Traceback (most recent call last):
    ...
    ValueError: dataset.labels[1] is 7: expected 0 to 1, the positions of the 2 classes.
    """
    images, labels, classes = dataset.images, dataset.labels, dataset.classes
    for field, value, dtype, ndim in (
        ("images", images, torch.float32, 4),
        ("labels", labels, torch.int64, 1),
    ):
        if value.dtype != dtype:
            raise TypeError(f"{name}.{field}: expected dtype {dtype}, got {value.dtype}.")
        if value.ndim != ndim:
            raise ValueError(
                f"{name}.{field}: expected {ndim} dimensions, got shape {tuple(value.shape)}."
            )
    if len(images) != len(labels):
        raise ValueError(f"{name}: {len(images)} images but {len(labels)} labels.")
    if len(images) == 0:
        raise ValueError(f"{name}: expected at least one image, got none.")
    strangers = torch.nonzero((labels < 0) | (labels >= len(classes)))
    if len(strangers):
        first = int(strangers[0, 0])
        raise ValueError(
            f"{name}.labels[{first}] is {int(labels[first])}: expected 0 to {len(classes) - 1}, "
            f"the positions of the {len(classes)} classes."
        )
    return dataset


def scale_pixels(images: Tensor, maximum: int) -> Tensor:
    """Return integer pixels from 0 to `maximum` as float32 from 0 to 1."""
    return images.to(torch.float32).div_(maximum)
