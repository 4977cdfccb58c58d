"""Augmentations one after the other, and on some of the images."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ...functional import random
from .arguments import check_images, check_number, select

#: What `compose` and `random_apply` take: a pure function of a key and a batch of images.
Augmentation = Callable[[Tensor, Tensor], Tensor]


def compose(*augmentations: Augmentation) -> Augmentation:
    """Return the function of a key and images that applies all of them, in that order.

    The one at position `i` gets the key `random.fold_in(key, i)`.

    Raises
    ------
    TypeError
        One of them is not callable.

    Examples
    --------
    >>> import torch
    >>> from functools import partial
    >>> from purefn.data import augmentation
    >>> augment = compose(
    ...     partial(augmentation.random_crop, size=32, padding=4),
    ...     augmentation.random_horizontal_flip,
    ... )
    >>> augment(random.key(0), torch.rand(8, 3, 32, 32)).shape
    torch.Size([8, 3, 32, 32])
    """
    for position, augmentation in enumerate(augmentations):
        if not callable(augmentation):
            raise TypeError(
                f"compose: expected functions of a key and images, got {augmentation!r} at "
                f"position {position}."
            )

    def augment(key: Tensor, images: Tensor) -> Tensor:
        for position, augmentation in enumerate(augmentations):
            images = augmentation(random.fold_in(key, position), images)
        return images

    return augment


def random_apply(augmentation: Augmentation, p: float = 0.5) -> Augmentation:
    """Return the function that does what `augmentation` does to each image with probability `p`.

    torchvision's `RandomApply`, with a decision for each image. The images keep their shape and
    dtype.

    Raises
    ------
    TypeError, ValueError
        `augmentation` is not callable or `p` no probability; or, on use, shape or dtype changes.

    Examples
    --------
    >>> import torch
    >>> from functools import partial
    >>> from purefn.data import augmentation
    >>> jitter = partial(augmentation.color_jitter, brightness=0.4, saturation=0.4)
    >>> random_apply(jitter, 0.8)(random.key(0), torch.rand(8, 3, 32, 32)).shape
    torch.Size([8, 3, 32, 32])
    """
    if not callable(augmentation):
        raise TypeError(
            f"random_apply: expected a function of a key and images, got {augmentation!r}."
        )
    p = check_number("random_apply", "p", p, 0, 1)

    def augment(key: Tensor, images: Tensor) -> Tensor:
        check_images("random_apply", images)
        decision, rest = random.split(key).unbind()
        changed = augmentation(rest, images)
        if changed.shape != images.shape or changed.dtype != images.dtype:
            raise ValueError(
                f"random_apply: images of shape {tuple(images.shape)} and {images.dtype} became "
                f"{tuple(changed.shape)} and {changed.dtype}; what changes these has to be done to "
                "all of them."
            )
        return select(random.bernoulli(decision, p, images.shape[:1]), changed, images)

    return augment
