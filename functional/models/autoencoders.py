"""Autoencoders: an encoder that makes a short code of an input, and a decoder that undoes it.

Hinton & Salakhutdinov 2006, Reducing the dimensionality of data with neural networks. Any two
layers make one; `mlp` serves as both for vectors, and two convolutional ones for images stand here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, overload

from torch import Tensor

from .. import nn
from ..abstract import ShapeDtype, eval_shape
from ..nn.checks import check_input, positive_int
from ..nn.combinators import Part, Stateless, abstract
from ..nn.layer import describe
from .perceptron import check_widths

Activation = Callable[[Tensor], Tensor]


@overload
def autoencoder(encoder: Stateless, decoder: Stateless) -> nn.Layer: ...  # type: ignore[overload-overlap]
@overload
def autoencoder(encoder: Part, decoder: Part) -> nn.StatefulLayer: ...
def autoencoder(encoder: Part, decoder: Part) -> nn.Layer | nn.StatefulLayer:
    """Return the layer `decoder(encoder(x))`, whose output has the shape of its input.

    The parts are called "encoder" and "decoder" in parameters, state and errors. Each can be used
    alone: `encoder(params["encoder"], x)` is the code.

    Parameters
    ----------
    encoder, decoder
        Layers, or pure functions of a tensor. The result is stateful when one of them is.

    Raises
    ------
    TypeError
        A part is neither a layer nor a function.
    LayerError
        The output does not have the shape of the input, which `init` compares; or a part refuses
        its input.

    Examples
    --------
    >>> import torch
    >>> from purefn.functional import models, random
    >>> encoder, decoder = models.mlp([32, 4]), models.mlp([32, 64])
    >>> model = models.autoencoder(encoder, decoder)
    >>> params = model.init(random.key(0), torch.zeros(8, 64))
    >>> model(params, torch.zeros(8, 64)).shape
    torch.Size([8, 64])
    >>> encoder(params["encoder"], torch.zeros(8, 64)).shape
    torch.Size([8, 4])
    """
    chain = nn.serial(encoder=encoder, decoder=decoder)

    def init(key: Tensor, x: Any) -> Any:
        drawn = chain.init(key, x)
        trees = drawn if isinstance(chain, nn.StatefulLayer) else (drawn,)
        y = eval_shape(chain.apply, *abstract((*trees, x), key))
        y = y[0] if isinstance(chain, nn.StatefulLayer) else y
        if not isinstance(y, ShapeDtype) or y.shape != x.shape:
            raise nn.LayerError(
                f"autoencoder expected its decoder to return the shape of the input, got "
                f"{describe(y)} for {describe(x)}."
            )
        return drawn

    return dataclasses.replace(chain, init=init)


def conv_encoder(
    features: int, *, widths: Sequence[int] = (32, 64), activation: Activation = nn.relu
) -> nn.Layer:
    """Return the layer from images `(N, C, H, W)` to codes `(N, features)`.

    A convolution of 3 x 3 with stride 2 for each of `widths`, each followed by `activation`, and a
    linear layer over all that they leave.

    Parameters
    ----------
    features
        The length of a code.
    widths
        The channels of the convolutions.
    activation
        A pure function of a tensor.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        On use: the images have other sizes or channels than the parameters.

    Examples
    --------
    >>> import torch
    >>> from purefn.functional import models, random
    >>> encoder = models.conv_encoder(8)
    >>> params = encoder.init(random.key(0), torch.zeros(2, 1, 8, 8))
    >>> encoder(params, torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 8])
    """
    positive_int("conv_encoder", "features", features)
    parts: dict[str, Stateless] = {"images": nn.lift(_images)}
    for index, width in enumerate(check_widths("conv_encoder", "widths", widths), 1):
        parts[f"conv{index}"] = nn.conv2d(width, 3, stride=2, padding=1)
        parts[f"act{index}"] = activation
    return nn.serial(**parts, flat=nn.flatten(), head=nn.linear(features))


def conv_decoder(
    shape: Sequence[int], *, widths: Sequence[int] = (64, 32), activation: Activation = nn.relu
) -> nn.Layer:
    """Return the layer from codes `(N, features)` to images `(N, *shape)`.

    A linear layer, `activation`, and a transposed convolution of 4 x 4 for each of `widths`, which
    doubles height and width; the last one makes the image and has no activation, so that its
    outputs may be logits of pixels. It mirrors `conv_encoder` with `widths` in reverse.

    Parameters
    ----------
    shape
        The shape `(C, H, W)` of an image.
    widths
        The channels that the transposed convolutions are given.
    activation
        A pure function of a tensor.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above, or the height or width cannot be halved `len(widths)`
        times.
    LayerError
        On use: the codes are not of shape `(N, features)`.

    Examples
    --------
    >>> import torch
    >>> from purefn.functional import models, random
    >>> decoder = models.conv_decoder((1, 8, 8))
    >>> params = decoder.init(random.key(0), torch.zeros(2, 16))
    >>> decoder(params, torch.zeros(2, 16)).shape
    torch.Size([2, 1, 8, 8])
    """
    if not isinstance(shape, Sequence) or len(shape) != 3:
        raise ValueError(
            f"conv_decoder: expected the three integers (C, H, W) of an image for shape, got "
            f"{shape!r}."
        )
    channels, height, width = (positive_int("conv_decoder", "shape", length) for length in shape)
    inside = check_widths("conv_decoder", "widths", widths)
    factor = 2 ** len(inside)
    if height % factor or width % factor:
        raise ValueError(
            f"conv_decoder: expected a height and width that are multiples of {factor}, for "
            f"{len(inside)} widths, got shape {tuple(shape)}."
        )
    start = (inside[0], height // factor, width // factor)
    parts: dict[str, Stateless] = {}
    for index, out_channels in enumerate((*inside[1:], channels), 1):
        parts[f"act{index}"] = activation
        parts[f"conv{index}"] = nn.conv_transpose2d(out_channels, 4, stride=2, padding=1)
    return nn.serial(
        codes=nn.lift(_codes),
        head=nn.linear(math.prod(start)),
        image=nn.unflatten(1, start),
        **parts,
    )


def _images(x: Any) -> Any:
    """Hand images on, refusing others: one without its batch would make rows of channels."""
    check_input("conv_encoder", x, ("N", "C", "H", "W"))
    return x


def _codes(x: Any) -> Any:
    """Hand codes on, refusing others."""
    check_input("conv_decoder", x, ("N", "features"))
    return x
