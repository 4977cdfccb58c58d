"""VGG networks for images: plain stacks of 3 x 3 convolutions.

Simonyan & Zisserman 2014, Very deep convolutional networks for large-scale image recognition
(arXiv:1409.1556), and the same with batch norm after each convolution. Parameters and state have
torchvision's names, so that `tree.from_state_dict(weights)` loads them, and begin as torchvision's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from .. import nn
from ..initializers import kaiming_normal, normal, zeros
from ..nn.checks import check_input, check_probability, positive_int
from ..nn.combinators import Part, Stateless

T = TypeVar("T")

#: How many convolutions the five stages have: columns A, B, D and E of table 1.
_A, _B, _D, _E = (1, 1, 2, 2, 2), (2, 2, 2, 2, 2), (2, 2, 3, 3, 3), (2, 2, 4, 4, 4)


def vgg11(
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    hidden_features: int = 4096,
    dropout: float = 0.5,
) -> nn.Layer:
    """Return VGG-11 for images `(N, in_channels, H, W)`: torchvision's `vgg11`.

    It maps to logits `(N, num_classes)`. What the five stages leave of an image, a 32nd of its
    height and width, is brought to 7 x 7 by adaptive pooling.

    Parameters
    ----------
    num_classes
        How many logits there are.
    in_channels
        How many channels an image has, which `init` compares with its example.
    hidden_features
        The lengths of the two hidden layers behind the convolutions. With 4096 these have more
        than 119 million parameters, with 512 less than 14.
    dropout
        The probability with which an element of a hidden layer is set to zero in training.

    Raises
    ------
    TypeError, ValueError
        A number is not an integer of at least 1, or `dropout` no probability.
    LayerError
        On use: the images have other dimensions or channels than the parameters, or are smaller
        than 32 x 32; or no key is given for dropout in training.

    Examples
    --------
    >>> import torch
    >>> from purefn.functional import models, random, tree
    >>> model = models.vgg11(10, hidden_features=32)
    >>> images = torch.zeros(2, 3, 32, 32)
    >>> params = model.init(random.key(0), images)
    >>> model(params, images).shape, tree.size(params)
    (torch.Size([2, 10]), 10024714)
    """
    return _plain(_A, num_classes, in_channels, hidden_features, dropout)


def vgg13(
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    hidden_features: int = 4096,
    dropout: float = 0.5,
) -> nn.Layer:
    """Return VGG-13; see `vgg11`.

    >>> isinstance(vgg13(), nn.Layer)
    True
    """
    return _plain(_B, num_classes, in_channels, hidden_features, dropout)


def vgg16(
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    hidden_features: int = 4096,
    dropout: float = 0.5,
) -> nn.Layer:
    """Return VGG-16; see `vgg11`.

    >>> isinstance(vgg16(), nn.Layer)
    True
    """
    return _plain(_D, num_classes, in_channels, hidden_features, dropout)


def vgg19(
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    hidden_features: int = 4096,
    dropout: float = 0.5,
) -> nn.Layer:
    """Return VGG-19; see `vgg11`.

    >>> isinstance(vgg19(), nn.Layer)
    True
    """
    return _plain(_E, num_classes, in_channels, hidden_features, dropout)


def vgg11_bn(
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    hidden_features: int = 4096,
    dropout: float = 0.5,
) -> nn.StatefulLayer:
    """Return VGG-11 with batch norm after each convolution: torchvision's `vgg11_bn`.

    Arguments and errors are those of `vgg11`. In training the running statistics of the next step
    come back.

    >>> isinstance(vgg11_bn(), nn.StatefulLayer)
    True
    """
    return _normalized(_A, num_classes, in_channels, hidden_features, dropout)


def vgg13_bn(
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    hidden_features: int = 4096,
    dropout: float = 0.5,
) -> nn.StatefulLayer:
    """Return VGG-13 with batch norm after each convolution; see `vgg11_bn`.

    >>> isinstance(vgg13_bn(), nn.StatefulLayer)
    True
    """
    return _normalized(_B, num_classes, in_channels, hidden_features, dropout)


def vgg16_bn(
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    hidden_features: int = 4096,
    dropout: float = 0.5,
) -> nn.StatefulLayer:
    """Return VGG-16 with batch norm after each convolution; see `vgg11_bn`.

    >>> isinstance(vgg16_bn(), nn.StatefulLayer)
    True
    """
    return _normalized(_D, num_classes, in_channels, hidden_features, dropout)


def vgg19_bn(
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    hidden_features: int = 4096,
    dropout: float = 0.5,
) -> nn.StatefulLayer:
    """Return VGG-19 with batch norm after each convolution; see `vgg11_bn`.

    >>> isinstance(vgg19_bn(), nn.StatefulLayer)
    True
    """
    return _normalized(_E, num_classes, in_channels, hidden_features, dropout)


def logits_layer(num_classes: int) -> nn.Layer:
    """Return the last layer of a classifier, as torchvision draws it."""
    return _linear(num_classes)


def _plain(
    depths: Sequence[int], num_classes: int, in_channels: int, hidden_features: int, dropout: float
) -> nn.Layer:
    def convolution(width: int) -> tuple[Stateless, ...]:
        return _convolution(width), nn.relu

    return nn.serial(
        images=_images(in_channels),
        features=nn.serial(*_stages(depths, convolution)),
        avgpool=nn.adaptive_avg_pool2d(7),
        flat=nn.flatten(),
        classifier=_classifier(num_classes, hidden_features, dropout),
    )


def _normalized(
    depths: Sequence[int], num_classes: int, in_channels: int, hidden_features: int, dropout: float
) -> nn.StatefulLayer:
    def convolution(width: int) -> tuple[Part, ...]:
        return _convolution(width), nn.batch_norm(), nn.relu

    return nn.serial(
        images=_images(in_channels),
        features=nn.serial(*_stages(depths, convolution)),
        avgpool=nn.adaptive_avg_pool2d(7),
        flat=nn.flatten(),
        classifier=_classifier(num_classes, hidden_features, dropout),
    )


def _stages(
    depths: Sequence[int], convolution: Callable[[int], tuple[T, ...]]
) -> list[T | nn.Layer]:
    """Return the parts of all stages, each of which ends by halving the image."""
    parts: list[T | nn.Layer] = []
    for depth, width in zip(depths, (64, 128, 256, 512, 512), strict=True):
        for _ in range(depth):
            parts += convolution(width)
        parts.append(nn.max_pool2d(2))
    return parts


def _classifier(num_classes: int, hidden_features: int, dropout: float) -> nn.Layer:
    positive_int("vgg", "num_classes", num_classes)
    positive_int("vgg", "hidden_features", hidden_features)
    check_probability("vgg", "dropout", dropout)
    hidden = (_linear(hidden_features), nn.relu, nn.dropout(dropout))
    return nn.serial(*hidden, *hidden, logits_layer(num_classes))


def _images(channels: int) -> nn.Layer:
    """Return the layer that hands images on, refusing others."""
    positive_int("vgg", "in_channels", channels)

    def images(x: Any) -> Any:
        check_input("vgg", x, ("N", channels, "H", "W"))
        if min(x.shape[-2:]) < 32:
            raise nn.LayerError(
                f"vgg expected images of at least 32 x 32, got shape {tuple(x.shape)}."
            )
        return x

    return nn.lift(images)


def _convolution(out_channels: int) -> nn.Layer:
    return nn.conv2d(
        out_channels,
        3,
        padding=1,
        weight_init=kaiming_normal(mode="fan_out", nonlinearity="relu"),
        bias_init=zeros,
    )


def _linear(out_features: int) -> nn.Layer:
    return nn.linear(out_features, weight_init=normal(0.01), bias_init=zeros)
