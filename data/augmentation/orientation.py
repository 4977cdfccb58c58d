"""Images mirrored, rotated, stretched and moved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

from ...functional import random
from .arguments import (
    Interval,
    PerImage,
    check_images,
    check_interval,
    check_number,
    filling,
    per_image,
    select,
    widened,
)
from .drawing import between, uniforms

#: How a value between pixels is found, with torchvision's names.
Interpolation = Literal["nearest", "bilinear"]


def random_horizontal_flip(key: Tensor, images: Tensor, *, p: float = 0.5) -> Tensor:
    """Mirror left and right with probability `p`, each image of `(N, C, H, W)` on its own.

    Raises
    ------
    TypeError, ValueError
        `images` is no batch of floating-point images, or `p` no probability.

    Examples
    --------
    >>> random_horizontal_flip(random.key(0), torch.tensor([[[[1.0, 2.0]]]]), p=1.0)
    tensor([[[[2., 1.]]]])
    """
    return _random_flip("random_horizontal_flip", key, images, p, axis=3)


def random_vertical_flip(key: Tensor, images: Tensor, *, p: float = 0.5) -> Tensor:
    """Mirror top and bottom with probability `p`, each image of `(N, C, H, W)` on its own.

    Raises
    ------
    TypeError, ValueError
        `images` is no batch of floating-point images, or `p` no probability.

    Examples
    --------
    >>> random_vertical_flip(random.key(0), torch.tensor([[[[1.0], [2.0]]]]), p=1.0)
    tensor([[[[2.],
              [1.]]]])
    """
    return _random_flip("random_vertical_flip", key, images, p, axis=2)


def _random_flip(name: str, key: Tensor, images: Tensor, p: float, axis: int) -> Tensor:
    check_images(name, images)
    p = check_number(name, "p", p, 0, 1)
    return select(random.bernoulli(key, p, images.shape[:1]), images.flip(axis), images)


def affine(
    images: Tensor,
    *,
    angle: PerImage = 0.0,
    translate: tuple[PerImage, PerImage] = (0.0, 0.0),
    scale: PerImage = 1.0,
    shear: tuple[PerImage, PerImage] = (0.0, 0.0),
    center: tuple[PerImage, PerImage] | None = None,
    interpolation: Interpolation = "nearest",
    fill: float | Sequence[float] = 0.0,
) -> Tensor:
    """Return the images rotated, scaled, sheared and moved: torchvision's `affine`.

    A pixel at `p`, seen from the center `c`, goes to

        p' = c + t + s R(angle) [[1, 0], [-tan b, 1]] [[1, -tan a], [0, 1]] (p - c)

    with `a, b` the shear. What comes from outside the image is `fill`.

    Parameters
    ----------
    images
        Shape `(N, C, H, W)`, floating-point. Half precision is computed in float32.
    angle
        Degrees, clockwise.
    translate
        Pixels to the right and down.
    scale
        The factor, positive.
    shear
        Degrees along x and along y.
    center
        Pixels from the left upper corner, by default the middle.
    interpolation
        `"nearest"` or `"bilinear"`.
    fill
        A number, or one for each channel.

    All numbers may be tensors of shape `(N,)`, one for each image.

    Raises
    ------
    TypeError, ValueError
        An argument is not one of the above. (The values of a tensor are not looked at.)

    Examples
    --------
    >>> affine(torch.arange(4.0).reshape(1, 1, 2, 2), angle=90.0)
    tensor([[[[2., 0.],
              [3., 1.]]]])
    """
    check_images("affine", images)
    if interpolation not in get_args(Interpolation):
        raise ValueError(
            f"affine: expected interpolation to be one of {get_args(Interpolation)}, "
            f"got {interpolation!r}."
        )
    for name, pair in (("translate", translate), ("shear", shear), ("center", center)):
        if pair is not None and (not isinstance(pair, tuple | list) or len(pair) != 2):
            raise TypeError(f"affine: expected {name} to be a pair (x, y), got {pair!r}.")
    height, width = images.shape[2:]
    cx, cy = (width / 2, height / 2) if center is None else center
    matrix = _inverse(
        _number(images, "angle", angle),
        (_number(images, "translate", translate[0]), _number(images, "translate", translate[1])),
        _number(images, "scale", scale, least=1e-9),
        (_number(images, "shear", shear[0]), _number(images, "shear", shear[1])),
        (_number(images, "center", cx) - width / 2, _number(images, "center", cy) - height / 2),
    )
    return _sample(images, _grid(images, matrix), interpolation, filling("affine", fill, images))


def _number(images: Tensor, name: str, value: PerImage, least: float = -1e9) -> Tensor:
    """Return one number for each image, of shape `(N, 1, 1)` or `(1, 1, 1)`."""
    return per_image("affine", name, value, images, least)[..., 0]


def _inverse(
    angle: Tensor,
    translate: tuple[Tensor, Tensor],
    scale: Tensor,
    shear: tuple[Tensor, Tensor],
    center: tuple[Tensor, Tensor],
) -> tuple[Tensor, ...]:
    """Return `m0, ..., m5`, which take a new pixel `(x, y, 1)` to where its value comes from."""
    rotation, (shear_x, shear_y) = angle.deg2rad(), (s.deg2rad() for s in shear)
    a = torch.cos(rotation - shear_y) / torch.cos(shear_y)
    b = -(a * torch.tan(shear_x) + torch.sin(rotation))
    c = torch.sin(rotation - shear_y) / torch.cos(shear_y)
    d = torch.cos(rotation) - c * torch.tan(shear_x)
    m0, m1, m3, m4 = d / scale, -b / scale, -c / scale, a / scale  # [[a, b], [c, d]] has det 1
    (cx, cy), (tx, ty) = center, translate
    m2 = cx - m0 * (cx + tx) - m1 * (cy + ty)
    m5 = cy - m3 * (cx + tx) - m4 * (cy + ty)
    return m0, m1, m2, m3, m4, m5


def _grid(images: Tensor, matrix: tuple[Tensor, ...]) -> Tensor:
    """Return where each pixel's value comes from, of shape `(N, H, W, 2)`, from -1 to 1."""
    m0, m1, m2, m3, m4, m5 = matrix
    count, _, height, width = images.shape
    x = torch.arange(width, dtype=m0.dtype, device=images.device) - (width - 1) / 2
    y = torch.arange(height, dtype=m0.dtype, device=images.device)[:, None] - (height - 1) / 2
    from_x = (m0 * x + m1 * y + m2) / (width / 2)
    from_y = (m3 * x + m4 * y + m5) / (height / 2)
    return torch.stack(torch.broadcast_tensors(from_x, from_y), 3).expand(count, -1, -1, -1)


def _sample(images: Tensor, grid: Tensor, interpolation: Interpolation, colour: Tensor) -> Tensor:
    """Return the values at the places of the grid, where the outside has the colour."""

    def sampled(values: Tensor) -> Tensor:
        return F.grid_sample(values, grid, interpolation, "zeros", align_corners=False)

    values = widened(images)
    known = sampled(torch.ones_like(values[:, :1]))  # the part that comes from inside
    return (sampled(values) + (1 - known) * colour).to(images.dtype)


def rotate(
    images: Tensor,
    angle: PerImage,
    *,
    interpolation: Interpolation = "nearest",
    fill: float | Sequence[float] = 0.0,
) -> Tensor:
    """Return the images rotated by `angle` degrees, counter-clockwise: torchvision's `rotate`.

    Raises
    ------
    TypeError, ValueError
        An argument is not one that `affine` takes.

    Examples
    --------
    >>> rotate(torch.arange(4.0).reshape(1, 1, 2, 2), 90.0)
    tensor([[[[1., 3.],
              [0., 2.]]]])
    """
    turned = angle.neg() if isinstance(angle, Tensor) else -check_number("rotate", "angle", angle)
    return affine(images, angle=turned, interpolation=interpolation, fill=fill)


def random_rotation(
    key: Tensor,
    images: Tensor,
    degrees: float | Interval,
    *,
    interpolation: Interpolation = "nearest",
    fill: float | Sequence[float] = 0.0,
) -> Tensor:
    """Rotate each image by an angle of its own, uniform in an interval.

    Parameters
    ----------
    key
        A random key.
    images
        Shape `(N, C, H, W)`, floating-point.
    degrees
        `(low, high)`, or a number `d` for `(-d, d)`; counter-clockwise.
    interpolation, fill
        As for `affine`.

    Raises
    ------
    TypeError, ValueError
        An argument is not one of the above.

    Examples
    --------
    >>> random_rotation(random.key(0), torch.rand(4, 3, 16, 16), 15, fill=0.5).shape
    torch.Size([4, 3, 16, 16])
    """
    check_images("random_rotation", images)
    low, high = _around_zero("random_rotation", "degrees", degrees)
    (u,) = uniforms(key, images, 1)
    angle = between(u, low, high)
    return rotate(images, angle, interpolation=interpolation, fill=fill)


def random_affine(
    key: Tensor,
    images: Tensor,
    degrees: float | Interval,
    *,
    translate: tuple[float, float] = (0.0, 0.0),
    scale: Interval = (1.0, 1.0),
    shear: float | Interval = 0.0,
    interpolation: Interpolation = "nearest",
    fill: float | Sequence[float] = 0.0,
) -> Tensor:
    """Rotate, move, scale and shear each image by numbers of its own: torchvision's `RandomAffine`.

    Parameters
    ----------
    key
        A random key.
    images
        Shape `(N, C, H, W)`, floating-point.
    degrees
        The angle's interval `(low, high)`, or a number `d` for `(-d, d)`; clockwise.
    translate
        The greatest move along x and y, as a part of width and height; whole pixels are moved.
    scale
        The interval of the factor.
    shear
        The interval of the shear along x in degrees, or a number `d` for `(-d, d)`.
    interpolation, fill
        As for `affine`.

    Raises
    ------
    TypeError, ValueError
        An argument is not one of the above.

    Examples
    --------
    >>> images = torch.rand(4, 3, 16, 16)
    >>> random_affine(random.key(0), images, 10, translate=(0.1, 0.1), scale=(0.9, 1.1)).shape
    torch.Size([4, 3, 16, 16])
    """
    check_images("random_affine", images)
    right, down = _parts("random_affine", "translate", translate)
    ends = (
        _around_zero("random_affine", "degrees", degrees),
        (-right * images.shape[3], right * images.shape[3]),
        (-down * images.shape[2], down * images.shape[2]),
        check_interval("random_affine", "scale", scale, 1e-9),
        _around_zero("random_affine", "shear", shear),
    )
    draws = uniforms(key, images, len(ends))
    angle, x, y, factor, slant = (between(u, *e) for u, e in zip(draws, ends, strict=True))
    return affine(
        images,
        angle=angle,
        translate=(x.round(), y.round()),
        scale=factor,
        shear=(slant, 0.0),
        interpolation=interpolation,
        fill=fill,
    )


def _around_zero(name: str, argument: str, value: float | Interval) -> Interval:
    """Return `(-value, value)` of a number, and an interval as it is."""
    if isinstance(value, int | float):
        end = check_number(name, argument, value, 0)
        return -end, end
    return check_interval(name, argument, value)


def _parts(name: str, argument: str, value: tuple[float, float]) -> tuple[float, float]:
    """Return a pair of numbers from 0 to 1, of x and of y, or refuse it."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"{name}: expected {argument} to be a pair (x, y), got {value!r}.")
    x, y = (check_number(name, argument, part, 0, 1) for part in value)
    return x, y
