"""The U-Net: one output for each pixel, from what is seen at several scales."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import torch

from .. import nn
from ..nn.checks import check_input, positive_int
from ..nn.combinators import Part, Stateless, combination, named_parts
from .perceptron import check_widths


@overload
def unet(
    out_channels: int,
    *,
    widths: Sequence[int] = ...,
    in_channels: int = ...,
    norm: Stateless = ...,
) -> nn.Layer: ...
@overload
def unet(
    out_channels: int,
    *,
    widths: Sequence[int] = ...,
    in_channels: int = ...,
    norm: Part = ...,
) -> nn.StatefulLayer: ...
def unet(
    out_channels: int,
    *,
    widths: Sequence[int] = (64, 128, 256, 512, 1024),
    in_channels: int = 1,
    norm: Part = nn.identity,
) -> nn.Layer | nn.StatefulLayer:
    """Return a U-Net, from images `(N, in_channels, H, W)` to `(N, out_channels, H, W)`.

    With two convolutions of 3 x 3 in each of `down` and `up`, a level with others below it is

        U(x) = up([d, enlarge(U_below(max_pool(d)))]),    d = down(x),

    and the lowest one is `down` alone; a convolution of 1 x 1 ends it. Ronneberger et al. 2015,
    U-Net: convolutional networks for biomedical image segmentation (arXiv:1505.04597). Unlike
    there, convolutions are padded, so that the output has the image's size and nothing is cropped.

    Parameters
    ----------
    out_channels
        How many values each pixel gets, such as the logits of classes.
    widths
        How many channels each level has, from the top.
    in_channels
        How many channels an image has, which `init` compares with its example.
    norm
        A layer between each convolution of 3 x 3 and its rectifier: the paper has none. With
        `nn.batch_norm()` the network is stateful, with `nn.group_norm(8)` it is not.

    Raises
    ------
    TypeError, ValueError
        A number is not an integer of at least 1, or `widths` is empty.
    LayerError
        On use: the images have other channels, or a height or width that cannot be halved
        `len(widths) - 1` times: pad them, as with `nn.zero_pad2d`.

    Examples
    --------
    >>> from purefn.functional import models, random
    >>> model = models.unet(2, widths=(8, 16, 32))
    >>> images = torch.zeros(1, 1, 32, 24)
    >>> params = model.init(random.key(0), images)
    >>> model(params, images).shape
    torch.Size([1, 2, 32, 24])
    """
    positive_int("unet", "out_channels", out_channels)
    positive_int("unet", "in_channels", in_channels)
    checked = check_widths("unet", "widths", widths)
    return nn.serial(
        images=_images(in_channels, 2 ** (len(checked) - 1)),
        top=_level(checked, norm),
        head=nn.conv2d(out_channels, 1),
    )


def _level(widths: tuple[int, ...], norm: Part) -> nn.Layer | nn.StatefulLayer:
    """Return `U` for a level and those below it."""
    width, *below = widths
    if not below:
        return nn.serial(down=_convolutions(width, norm))
    inside = nn.serial(
        pool=nn.max_pool2d(2),
        level=_level(tuple(below), norm),
        enlarge=nn.conv_transpose2d(width, 2, stride=2),
    )
    parts = {
        "down": _convolutions(width, norm),
        "below": inside,
        "join": lambda pair: torch.cat(pair, 1),
        "up": _convolutions(width, norm),
    }
    return combination(
        "unet",
        named_parts("unet", (), parts),
        next_input=lambda name, x, y: (x, y) if name == "below" else y,
        result=lambda outputs, x: x,
    )


def _convolutions(width: int, norm: Part) -> nn.Layer | nn.StatefulLayer:
    return nn.serial(
        conv1=nn.conv2d(width, 3, padding=1),
        norm1=norm,
        relu1=nn.relu,
        conv2=nn.conv2d(width, 3, padding=1),
        norm2=norm,
        relu2=nn.relu,
    )


def _images(channels: int, factor: int) -> nn.Layer:
    """Return the layer that hands images on, refusing others."""

    def images(x: Any) -> Any:
        check_input("unet", x, ("N", channels, "H", "W"))
        if any(length % factor or not length for length in x.shape[-2:]):
            raise nn.LayerError(
                f"unet expected height and width to be multiples of {factor}, got shape "
                f"{tuple(x.shape)}; pad the images, as with nn.zero_pad2d."
            )
        return x

    return nn.lift(images)
