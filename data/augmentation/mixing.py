"""Images mixed with others of the batch, and their labels with them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .arguments import check_images, check_number
from .drawing import integers, uniforms
from .rectangles import inside_rectangle


def mixup(
    key: Tensor, images: Tensor, labels: Tensor, *, alpha: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return each image mixed with the one before it in the batch, and the labels likewise.

    Zhang et al. 2017, mixup: beyond empirical risk minimization (arXiv:1710.09412):

        x' = l x_i + (1 - l) x_j,    y' = l y_i + (1 - l) y_j,    l ~ Beta(alpha, alpha)

    with `l` drawn for each image. As in torchvision `j = i - 1`, and the first takes the last: a
    random partner where batches are shuffled.

    Parameters
    ----------
    key
        A random key.
    images
        Shape `(N, C, H, W)`, floating-point.
    labels
        Shape `(N, classes)`, floating-point: probabilities. From class numbers:
        `torch.eye(classes)[labels]`.
    alpha
        Positive. The smaller, the nearer are mixed images to one of the two; 1 is uniform.

    Raises
    ------
    TypeError, ValueError
        An argument is not one of the above.

    Examples
    --------
    >>> from purefn.functional import random
    >>> images, labels = mixup(random.key(0), torch.rand(2, 1, 4, 4), torch.eye(2))
    >>> labels.sum(1)
    tensor([1., 1.])
    """
    _check_pairs("mixup", images, labels, alpha)
    share = symmetric_beta(uniforms(key, images, 4), alpha)
    return _mix(images, share[:, None, None, None]), _mix(labels, share[:, None])


def cutmix(
    key: Tensor, images: Tensor, labels: Tensor, *, alpha: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return each image with a rectangle from the one before it, and labels mixed by the areas.

    Yun et al. 2019, CutMix (arXiv:1905.04899): the middle of the rectangle is any pixel, and

        height = sqrt(1 - l) H,    width = sqrt(1 - l) W,    l ~ Beta(alpha, alpha)

    with `l` drawn for each image. What lies outside the image is cut off, and labels are mixed by
    the area that remains. Arguments, and the partner, are as for `mixup`.

    Raises
    ------
    TypeError, ValueError
        As for `mixup`.

    Examples
    --------
    >>> from purefn.functional import random
    >>> images, labels = cutmix(random.key(0), torch.rand(2, 1, 4, 4), torch.eye(2))
    >>> labels.sum(1)
    tensor([1., 1.])
    """
    _check_pairs("cutmix", images, labels, alpha)
    *for_middles, u1, u2, u3, u4 = uniforms(key, images, 6)
    reach = 0.5 * (1 - symmetric_beta((u1, u2, u3, u4), alpha)).sqrt()
    edges = []
    for u, length in zip(for_middles, images.shape[2:], strict=True):
        middle = integers(u, 0, length)
        half = (reach * length).long()
        edges.append(((middle - half).clamp(min=0), (middle + half).clamp(max=length)))
    (top, bottom), (left, right) = edges
    pasted = inside_rectangle(images, top, left, bottom - top, right - left)
    area = (bottom - top) * (right - left) / (images.shape[2] * images.shape[3])
    return torch.where(pasted, images.roll(1, 0), images), _mix(labels, (1 - area)[:, None])


def symmetric_beta(draws: tuple[Tensor, ...], alpha: float) -> Tensor:
    """Return numbers distributed as Beta(alpha, alpha), made of four that are uniform over [0, 1).

    A coordinate of a point on the sphere is symmetrically beta-distributed (Ulrich 1984; Devroye
    1986, Non-uniform random variate generation, chapter IX.4): with

        c = sqrt(1 - U1^(2 / (2 alpha + 1))) cos(2 pi U2),

    `B = (1 + c) / 2` is Beta(alpha + 1, alpha + 1). As for gamma variates
    `G(a) = G(a + 1) U^(1/a)`,

        B U3^(1/alpha) / (B U3^(1/alpha) + (1 - B) U4^(1/alpha))

    is Beta(alpha, alpha), here in logarithms: the powers underflow where alpha is small.
    """
    u1, u2, u3, u4 = draws
    c = (1 - u1 ** (2 / (2 * alpha + 1))).sqrt() * torch.cos(2 * math.pi * u2)
    return torch.sigmoid(2 * torch.atanh(c) + (torch.log1p(-u3) - torch.log1p(-u4)) / alpha)


def _mix(values: Tensor, share: Tensor) -> Tensor:
    """Return `share` of each row and the rest of the one before it."""
    share = share.to(values.dtype)
    mixed: Tensor = share * values + (1 - share) * values.roll(1, 0)
    return mixed


def _check_pairs(name: str, images: Tensor, labels: Tensor, alpha: float) -> None:
    check_images(name, images)
    if not isinstance(labels, Tensor):
        raise TypeError(f"{name}: expected labels to be a tensor, got {labels!r}.")
    if not labels.is_floating_point():
        raise TypeError(
            f"{name}: expected labels to be probabilities of shape ({len(images)}, classes), got "
            f"{labels.dtype}; class numbers become `torch.eye(classes)[labels]`."
        )
    if labels.ndim != 2 or len(labels) != len(images):
        raise ValueError(
            f"{name}: expected labels of shape ({len(images)}, classes), got {tuple(labels.shape)}."
        )
    check_number(name, "alpha", alpha, 1e-6)
