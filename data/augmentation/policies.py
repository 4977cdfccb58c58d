"""Operations chosen at random from one table: RandAugment and TrivialAugment.

Names, order and strengths are torchvision's. An operation is chosen for each image, and all of
them are computed for all images, since a compiled step has no choice: the moves as one `affine`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .arguments import check_count, check_images, select
from .color import adjust_brightness, adjust_contrast, adjust_saturation
from .drawing import integers, uniforms
from .orientation import Interpolation, affine
from .sharpness import adjust_sharpness
from .tones import autocontrast, equalize, posterize, solarize


class Strength(NamedTuple):
    """The magnitude of an operation at strength 0 and at strength 1; whether its sign is drawn."""

    weakest: float
    strongest: float
    signed: bool = False


#: The operations in torchvision's order; a magnitude says nothing to those without one.
OPERATIONS = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
)
_MOVES = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
_BLENDS = {
    "Brightness": adjust_brightness,
    "Color": adjust_saturation,
    "Contrast": adjust_contrast,
    "Sharpness": adjust_sharpness,
}


def rand_augment_strengths(height: int, width: int) -> dict[str, Strength]:
    """Return RandAugment's table for images of that size."""
    return {
        **{name: Strength(0.0, 0.3, signed=True) for name in ("ShearX", "ShearY")},
        "TranslateX": Strength(0.0, 150 / 331 * width, signed=True),
        "TranslateY": Strength(0.0, 150 / 331 * height, signed=True),
        "Rotate": Strength(0.0, 30.0, signed=True),
        **{name: Strength(0.0, 0.9, signed=True) for name in _BLENDS},
        "Posterize": Strength(8.0, 4.0),
        "Solarize": Strength(1.0, 0.0),
    }


def trivial_augment_strengths() -> dict[str, Strength]:
    """Return TrivialAugment's wide table."""
    return {
        **{name: Strength(0.0, 0.99, signed=True) for name in ("ShearX", "ShearY", *_BLENDS)},
        **{name: Strength(0.0, 32.0, signed=True) for name in ("TranslateX", "TranslateY")},
        "Rotate": Strength(0.0, 135.0, signed=True),
        "Posterize": Strength(8.0, 2.0),
        "Solarize": Strength(1.0, 0.0),
    }


def rand_augment(
    key: Tensor,
    images: Tensor,
    *,
    num_ops: int = 2,
    magnitude: int = 9,
    num_magnitude_bins: int = 31,
    interpolation: Interpolation = "nearest",
    fill: float | Sequence[float] = 0.0,
) -> Tensor:
    """Apply operations to each image, each chosen at random, all of one strength.

    Cubuk et al. 2019, RandAugment (arXiv:1909.13719), in torchvision's version, `RandAugment`, with
    its table of 14 operations and its defaults. Signs are drawn, too.

    Parameters
    ----------
    key
        A random key.
    images
        Shape `(N, C, H, W)` with 1 or 3 channels, floating-point, from 0 to 1.
    num_ops
        How many operations, one after the other.
    magnitude, num_magnitude_bins
        The strength is `magnitude / (num_magnitude_bins - 1)`, from 0 to 1.
    interpolation, fill
        As for `affine`.

    Raises
    ------
    TypeError, ValueError
        An argument is not one of the above.

    Examples
    --------
    >>> from purefn.functional import random
    >>> images = torch.rand(4, 3, 16, 16)
    >>> rand_augment(random.key(0), images).shape
    torch.Size([4, 3, 16, 16])
    """
    check_images("rand_augment", images, channels=(1, 3))
    check_count("rand_augment", "num_ops", num_ops, 0)
    check_count("rand_augment", "num_magnitude_bins", num_magnitude_bins, 2)
    if check_count("rand_augment", "magnitude", magnitude, 0) >= num_magnitude_bins:
        raise ValueError(
            f"rand_augment: expected magnitude to be below num_magnitude_bins = "
            f"{num_magnitude_bins}, got {magnitude}."
        )
    table = rand_augment_strengths(*images.shape[2:])
    strength = torch.full(
        images.shape[:1], magnitude / (num_magnitude_bins - 1), device=images.device
    )
    draws = uniforms(key, images, 2 * num_ops)
    for which, sign in zip(draws[::2], draws[1::2], strict=True):
        images = _one_operation(images, table, strength, which, sign, interpolation, fill)
    return images


def trivial_augment(
    key: Tensor,
    images: Tensor,
    *,
    num_magnitude_bins: int = 31,
    interpolation: Interpolation = "nearest",
    fill: float | Sequence[float] = 0.0,
) -> Tensor:
    """Apply one operation to each image, chosen at random, of a strength chosen at random.

    Müller & Hutter 2021, TrivialAugment (arXiv:2103.10158), torchvision's `TrivialAugmentWide`.

    Parameters
    ----------
    key
        A random key.
    images
        Shape `(N, C, H, W)` with 1 or 3 channels, floating-point, from 0 to 1.
    num_magnitude_bins
        How many strengths there are, equally far from each other.
    interpolation, fill
        As for `affine`.

    Raises
    ------
    TypeError, ValueError
        An argument is not one of the above.

    Examples
    --------
    >>> from purefn.functional import random
    >>> images = torch.rand(4, 3, 16, 16)
    >>> trivial_augment(random.key(0), images).shape
    torch.Size([4, 3, 16, 16])
    """
    check_images("trivial_augment", images, channels=(1, 3))
    check_count("trivial_augment", "num_magnitude_bins", num_magnitude_bins, 2)
    for_strength, which, sign = uniforms(key, images, 3)
    strength = integers(for_strength, 0, num_magnitude_bins) / (num_magnitude_bins - 1)
    table = trivial_augment_strengths()
    return _one_operation(images, table, strength, which, sign, interpolation, fill)


def _one_operation(
    images: Tensor,
    table: dict[str, Strength],
    strength: Tensor,
    which: Tensor,
    sign: Tensor,
    interpolation: Interpolation,
    fill: float | Sequence[float],
) -> Tensor:
    """Apply the operation, with the sign, that `which` and `sign` draw, both from [0, 1)."""
    operation = integers(which, 0, len(OPERATIONS))
    magnitude = torch.zeros_like(strength)
    for name, (weakest, strongest, signed) in table.items():
        value = weakest + (strongest - weakest) * strength
        if signed:
            value = torch.where(sign < 0.5, -value, value)
        magnitude = torch.where(operation == OPERATIONS.index(name), value, magnitude)
    return apply_operation(images, operation, magnitude, interpolation=interpolation, fill=fill)


def apply_operation(
    images: Tensor,
    operation: Tensor,
    magnitude: Tensor,
    *,
    interpolation: Interpolation = "nearest",
    fill: float | Sequence[float] = 0.0,
) -> Tensor:
    """Apply to each image the operation at its position in `OPERATIONS`, of its magnitude.

    Parameters
    ----------
    images
        Shape `(N, C, H, W)` with 1 or 3 channels, floating-point, from 0 to 1.
    operation, magnitude
        Shape `(N,)`: integers, and numbers whose meaning is the operation's: the tangent of a
        shear, pixels, degrees, a factor less 1, bits, a threshold.
    interpolation, fill
        As for `affine`.

    Examples
    --------
    >>> operation = torch.tensor([OPERATIONS.index("Solarize")])
    >>> apply_operation(torch.ones(1, 1, 1, 1), operation, torch.tensor([0.5])).item()
    0.0
    """

    def is_chosen(*names: str) -> Tensor:
        return torch.stack([operation == OPERATIONS.index(name) for name in names]).any(0)

    def chosen(name: str, otherwise: float = 0.0) -> Tensor:
        """Return the magnitude where the operation is `name`, which others would not bear."""
        return torch.where(is_chosen(name), magnitude, otherwise)

    height, width = images.shape[2:]
    is_shear = is_chosen("ShearX", "ShearY")  # on the corner, where others are on the middle
    results: dict[tuple[str, ...], Tensor] = {
        _MOVES: affine(
            images,
            angle=-chosen("Rotate"),
            translate=(chosen("TranslateX").trunc(), chosen("TranslateY").trunc()),
            shear=(chosen("ShearX").atan().rad2deg(), chosen("ShearY").atan().rad2deg()),
            center=(torch.where(is_shear, 0, width / 2), torch.where(is_shear, 0, height / 2)),
            interpolation=interpolation,
            fill=fill,
        ),
        **{(name,): adjust(images, 1 + chosen(name)) for name, adjust in _BLENDS.items()},
        ("Posterize",): posterize(images, chosen("Posterize", 8.0).round().long()),
        ("Solarize",): solarize(images, chosen("Solarize", 1.0)),
        ("AutoContrast",): autocontrast(images),
        ("Equalize",): equalize(images),
    }
    changed = images
    for names, result in results.items():
        changed = select(is_chosen(*names), result, changed)
    return changed
