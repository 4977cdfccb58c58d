"""Layers that change the resolution: interpolation and shuffles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

from .checks import SPATIAL, check_bools, check_input, check_positive, positive_int
from .layer import Layer, LayerError, lift

IntOrInts = int | Sequence[int]
Mode = Literal["nearest", "nearest-exact", "linear", "bilinear", "bicubic", "trilinear", "area"]

#: How many spatial dimensions each mode takes.
_DIMS: dict[str, tuple[int, ...]] = {
    "nearest": (1, 2, 3),
    "nearest-exact": (1, 2, 3),
    "linear": (1,),
    "bilinear": (2,),
    "bicubic": (2,),
    "trilinear": (3,),
    "area": (1, 2, 3),
}
_INTERPOLATING = ("linear", "bilinear", "bicubic", "trilinear")


def upsample(
    size: IntOrInts | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: Mode = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool = False,
) -> Layer:
    """Return the layer that resizes inputs `(N, C, L)`, `(N, C, H, W)` or `(N, C, D, H, W)`.

    As `torch.nn.Upsample`; in spite of the name the output may be the smaller one.

    Parameters
    ----------
    size
        The output's length in all spatial dimensions, or in each.
    scale_factor
        In the place of `size`: what the input's lengths are multiplied by, and then rounded down.
    mode
        "nearest", "nearest-exact" (as scikit-image and PIL do it) or "area" (the mean over
        windows), for any number of spatial dimensions; "linear" for one, "bilinear" or "bicubic"
        for two, "trilinear" for three.
    align_corners
        Only with "linear" to "trilinear": whether the centers of the corner elements stay in
        place, and not the outer edges of the corners; by default the edges do.
    recompute_scale_factor
        Whether positions follow from the ratio of the rounded lengths, not from `scale_factor`.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above, or not exactly one of `size` and `scale_factor` is given.
    LayerError
        The input does not have the dimensions of the mode and of the sizes, is empty or not
        floating-point, or is so small that nothing is left of it.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[[1.0, 2.0]]])
    >>> upsample(scale_factor=2)({}, x)
    tensor([[[1., 1., 2., 2.]]])
    >>> upsample(scale_factor=2, mode="linear")({}, x)
    tensor([[[1.0000, 1.2500, 1.7500, 2.0000]]])
    """
    if mode not in _DIMS:
        raise ValueError(f"upsample: expected one of {list(_DIMS)} for mode, got {mode!r}.")
    if align_corners is not None:
        check_bools("upsample", align_corners=align_corners)
        if mode not in _INTERPOLATING:
            raise ValueError(
                f"upsample: expected align_corners only with one of {list(_INTERPOLATING)} for "
                f"mode, got align_corners={align_corners} with {mode!r}."
            )
    option, value = _resolution(mode, size, scale_factor)
    check_bools("upsample", recompute_scale_factor=recompute_scale_factor)
    if recompute_scale_factor and option == "size":
        raise ValueError("upsample: expected recompute_scale_factor only with scale_factor.")

    def upsampled(x: Tensor) -> Any:
        values = _for_input(mode, option, value, x)
        size = [int(length) for length in values] if option == "size" else None
        factors = [float(factor) for factor in values] if option != "size" else None
        if mode == "nearest-exact":
            return _nearest_exact(x, size, factors, recompute_scale_factor)
        return F.interpolate(
            x,
            size=size,
            scale_factor=factors,
            mode=mode,
            align_corners=align_corners,
            recompute_scale_factor=recompute_scale_factor,
        )

    return lift(upsampled, "upsample")


def _resolution(
    mode: str, size: IntOrInts | None, scale_factor: float | Sequence[float] | None
) -> tuple[str, float | Sequence[float]]:
    """Return which of the two options is given, and its checked value."""
    if (size is None) == (scale_factor is None):
        raise ValueError(
            f"upsample: expected either size or scale_factor, got {size!r} and {scale_factor!r}."
        )
    option = "scale_factor" if size is None else "size"
    value: Any = scale_factor if size is None else size
    value = tuple(value) if isinstance(value, Sequence) else value
    if isinstance(value, tuple) and len(value) not in _DIMS[mode]:
        raise ValueError(
            f"upsample: expected one number for {option}, or one for each of the spatial "
            f"dimensions, {' or '.join(map(str, _DIMS[mode]))} with mode {mode!r}, got {value!r}."
        )
    for item in value if isinstance(value, tuple) else [value]:
        if size is None:
            check_positive("upsample", option, item)
        else:
            positive_int("upsample", option, item)
    return option, value


def _for_input(
    mode: str, option: str, value: float | Sequence[float], x: Tensor
) -> Sequence[float]:
    """Return the size or factor of each spatial dimension of an input, or refuse the input."""
    check_input("upsample", x, ("...",))
    dims = x.ndim - 2
    wanted = (len(value),) if isinstance(value, Sequence) else _DIMS[mode]
    if dims not in wanted:
        patterns = " or ".join(f"(N, C, {', '.join(SPATIAL[number])})" for number in wanted)
        raise LayerError(
            f"upsample with mode {mode!r} and {option} {value} expected an input of shape "
            f"{patterns}, got {tuple(x.shape)}."
        )
    values = value if isinstance(value, Sequence) else (value,) * dims
    pairs = zip(x.shape[2:], values, strict=True)
    lengths = values if option == "size" else [int(length * factor) for length, factor in pairs]
    if 0 in x.shape[1:] or min(lengths) < 1:
        raise LayerError(
            f"upsample with {option} {value} expected an input of which something is left, got "
            f"shape {tuple(x.shape)}."
        )
    return values


def _nearest_exact(
    x: Tensor, size: list[int] | None, factors: list[float] | None, recompute: bool
) -> Tensor:
    """Return the elements that torch picks in each dimension.

    Its own kernel finds them for a row of positions, as it has no batching rule for a batch of
    inputs.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)  # that of torch's positions
    for index, length in enumerate(x.shape[2:]):
        picked = F.interpolate(
            torch.arange(length, dtype=dtype, device=x.device).reshape(1, 1, length),
            size=None if size is None else size[index],
            scale_factor=None if factors is None else factors[index],
            mode="nearest-exact",
            recompute_scale_factor=recompute,
        )
        x = x.index_select(2 + index, picked.flatten().long())
    return x


def pixel_shuffle(upscale_factor: int) -> Layer:
    """Return the layer that spreads channels: `(..., C r^2, H, W)` to `(..., C, H r, W r)`.

    With `r = upscale_factor`, `y[..., c, h r + i, w r + j] = x[..., c r^2 + i r + j, h, w]`, as in
    `torch.nn.PixelShuffle`. Shi et al. 2016, Real-time single image and video super-resolution
    using an efficient sub-pixel convolutional neural network.

    Raises
    ------
    TypeError, ValueError
        `upscale_factor` is not an integer above 0.
    LayerError
        The input has fewer than three dimensions, or channels that `r^2` does not divide.

    Examples
    --------
    >>> import torch
    >>> pixel_shuffle(2)({}, torch.arange(4).reshape(4, 1, 1))
    tensor([[[0, 1],
             [2, 3]]])
    """
    square = positive_int("pixel_shuffle", "upscale_factor", upscale_factor) ** 2

    def shuffled(x: Tensor) -> Tensor:
        check_input("pixel_shuffle", x, ("...", "C", "H", "W"), floating=False)
        _check_divisible("pixel_shuffle", "channels", x, x.shape[-3], square)
        if not x.numel():  # torch's derivative has another shape
            *leading, channels, height, width = x.shape
            lengths = channels // square, height * upscale_factor, width * upscale_factor
            return x.reshape(*leading, *lengths)
        return F.pixel_shuffle(x, upscale_factor)

    return lift(shuffled, "pixel_shuffle")


def pixel_unshuffle(downscale_factor: int) -> Layer:
    """Return the layer that undoes `pixel_shuffle`: `(..., C, H r, W r)` to `(..., C r^2, H, W)`.

    Raises
    ------
    TypeError, ValueError
        `downscale_factor` is not an integer above 0.
    LayerError
        The input has fewer than three dimensions, or a height or width that `r` does not divide.

    Examples
    --------
    >>> import torch
    >>> pixel_unshuffle(2)({}, torch.arange(4).reshape(1, 2, 2)).flatten()
    tensor([0, 1, 2, 3])
    """
    positive_int("pixel_unshuffle", "downscale_factor", downscale_factor)

    def unshuffled(x: Tensor) -> Tensor:
        check_input("pixel_unshuffle", x, ("...", "C", "H", "W"), floating=False)
        _check_divisible("pixel_unshuffle", "a height", x, x.shape[-2], downscale_factor)
        _check_divisible("pixel_unshuffle", "a width", x, x.shape[-1], downscale_factor)
        if not x.numel():  # torch leaves the shape as it is
            *leading, channels, height, width = x.shape
            lengths = height // downscale_factor, width // downscale_factor
            return x.reshape(*leading, channels * downscale_factor**2, *lengths)
        return F.pixel_unshuffle(x, downscale_factor)

    return lift(unshuffled, "pixel_unshuffle")


def channel_shuffle(groups: int) -> Layer:
    """Return the layer that mixes groups of channels of inputs `(N, C, ...)`.

    Channel `i` of group `j` becomes channel `j` of group `i`. Zhang et al. 2018, ShuffleNet: an
    extremely efficient convolutional neural network for mobile devices.

    Raises
    ------
    TypeError, ValueError
        `groups` is not an integer above 0.
    LayerError
        The input has fewer than three dimensions, or channels that `groups` does not divide.

    Examples
    --------
    >>> import torch
    >>> channel_shuffle(2)({}, torch.arange(6).reshape(1, 6, 1)).flatten()
    tensor([0, 3, 1, 4, 2, 5])
    """
    positive_int("channel_shuffle", "groups", groups)

    def shuffled(x: Tensor) -> Any:
        check_input("channel_shuffle", x, ("N", "C", "L", "..."), floating=False)
        _check_divisible("channel_shuffle", "channels", x, x.shape[1], groups)
        return x.unflatten(1, (groups, x.shape[1] // groups)).transpose(1, 2).flatten(1, 2)

    return lift(shuffled, "channel_shuffle")


def _check_divisible(layer: str, what: str, x: Tensor, length: int, divisor: int) -> None:
    if length % divisor:
        raise LayerError(
            f"{layer} expected {what} divisible by {divisor}, got shape {tuple(x.shape)}."
        )
