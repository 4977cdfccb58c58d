"""Residual networks for images.

He et al. 2015, Deep residual learning for image recognition (arXiv:1512.03385), in torchvision's
version, which strides in the 3 x 3 convolution of a bottleneck; Zagoruyko & Komodakis 2016, Wide
residual networks (arXiv:1605.07146); Xie et al. 2016, Aggregated residual transformations for deep
neural networks (arXiv:1611.05431). Parameters and state have torchvision's names, so that
`tree.from_state_dict(weights)` loads them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .. import nn
from ..initializers import kaiming_normal
from ..nn.checks import check_bools, check_input, positive_int
from ..nn.combinators import combination, named_parts
from .perceptron import check_widths

#: What a block does to its input, by part name: of its channels inside, and its stride.
Body = Callable[[int, int], dict[str, Any]]


def residual_network(
    num_classes: int = 1000,
    *,
    depths: Sequence[int],
    bottleneck: bool = False,
    width: int = 64,
    widening: int = 1,
    groups: int = 1,
    in_channels: int = 3,
) -> nn.StatefulLayer:
    """Return a residual network of other sizes than those below: torchvision's `ResNet`.

    A convolution of 7 x 7 and a maximum over 3 x 3, both with stride 2, are followed by stages of
    blocks `relu(shortcut(x) + body(x))`, the mean over all places and a linear layer. Each stage
    after the first halves height and width and has twice the channels. Small images need another
    beginning, such as `nn.at(model, "maxpool").set(nn.identity)`.

    Parameters
    ----------
    num_classes
        How many logits there are.
    depths
        How many blocks each stage has.
    bottleneck
        Whether a block has convolutions of 1 x 1, 3 x 3 and 1 x 1, the last of which makes four
        times the channels, in the place of two of 3 x 3.
    width
        How many channels the first stage has, before that factor.
    widening, groups
        How many times a stage's width the convolution of 3 x 3 in a bottleneck has, and its groups;
        torchvision's `width_per_group` is `64 * widening / groups`.
    in_channels
        How many channels an image has, which `init` compares with its example.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above; or `widening` or `groups` are given without `bottleneck`,
        or do not divide.
    LayerError
        On use: the images have other dimensions or channels than the parameters.

    Examples
    --------
    >>> from purefn.functional import models, random, tree
    >>> model = models.residual_network(10, depths=(1, 1, 1), width=16, in_channels=1)
    >>> images = torch.zeros(2, 1, 32, 32)
    >>> params, state = model.init(random.key(0), images)
    >>> model(params, state, images)[0].shape, tree.size(params)
    (torch.Size([2, 10]), 78394)
    """
    name = "residual_network"
    options = {"width": width, "widening": widening, "groups": groups}
    options |= {"num_classes": num_classes, "in_channels": in_channels}
    for argument, value in options.items():
        positive_int(name, argument, value)
    check_bools(name, bottleneck=bottleneck)
    if not bottleneck and (widening, groups) != (1, 1):
        raise ValueError(
            f"{name}: expected bottleneck=True beside widening={widening} and groups={groups}."
        )
    if width * widening % groups:
        raise ValueError(
            f"{name}: expected width * widening to be a multiple of groups={groups}, got "
            f"{width * widening}."
        )
    body, expansion = (_bottleneck(widening, groups), 4) if bottleneck else (_basic, 1)
    return _resnet(
        body, expansion, check_widths(name, "depths", depths), num_classes, in_channels, width
    )


def resnet18(num_classes: int = 1000, *, in_channels: int = 3) -> nn.StatefulLayer:
    """Return ResNet-18 for images `(N, in_channels, H, W)`: torchvision's `resnet18`.

    It maps to logits `(N, num_classes)`. Batch norm makes it stateful: in training the running
    statistics of the next step come back.

    Parameters
    ----------
    num_classes
        How many logits there are.
    in_channels
        How many channels an image has, which `init` compares with its example.

    Raises
    ------
    TypeError, ValueError
        A number is not an integer of at least 1.
    LayerError
        On use: the images have other dimensions or channels than the parameters.

    Examples
    --------
    >>> from purefn.functional import models, random, tree
    >>> model = models.resnet18(num_classes=10)
    >>> images = torch.zeros(2, 3, 64, 64)
    >>> params, state = model.init(random.key(0), images)
    >>> logits, state = model(params, state, images)
    >>> logits.shape, tree.size(params)
    (torch.Size([2, 10]), 11181642)
    """
    return _resnet(_basic, 1, (2, 2, 2, 2), num_classes, in_channels)


def resnet34(num_classes: int = 1000, *, in_channels: int = 3) -> nn.StatefulLayer:
    """Return ResNet-34; see `resnet18`.

    >>> isinstance(resnet34(), nn.StatefulLayer)
    True
    """
    return _resnet(_basic, 1, (3, 4, 6, 3), num_classes, in_channels)


def resnet50(num_classes: int = 1000, *, in_channels: int = 3) -> nn.StatefulLayer:
    """Return ResNet-50, of bottlenecks; see `resnet18`.

    >>> isinstance(resnet50(), nn.StatefulLayer)
    True
    """
    return _resnet(_bottleneck(1), 4, (3, 4, 6, 3), num_classes, in_channels)


def resnet101(num_classes: int = 1000, *, in_channels: int = 3) -> nn.StatefulLayer:
    """Return ResNet-101, of bottlenecks; see `resnet18`.

    >>> isinstance(resnet101(), nn.StatefulLayer)
    True
    """
    return _resnet(_bottleneck(1), 4, (3, 4, 23, 3), num_classes, in_channels)


def resnet152(num_classes: int = 1000, *, in_channels: int = 3) -> nn.StatefulLayer:
    """Return ResNet-152, of bottlenecks; see `resnet18`.

    >>> isinstance(resnet152(), nn.StatefulLayer)
    True
    """
    return _resnet(_bottleneck(1), 4, (3, 8, 36, 3), num_classes, in_channels)


def resnext50_32x4d(num_classes: int = 1000, *, in_channels: int = 3) -> nn.StatefulLayer:
    """Return ResNeXt-50, whose 3 x 3 convolutions have 32 groups of 4 channels; see `resnet18`.

    >>> isinstance(resnext50_32x4d(), nn.StatefulLayer)
    True
    """
    return _resnet(_bottleneck(2, groups=32), 4, (3, 4, 6, 3), num_classes, in_channels)


def resnext101_32x8d(num_classes: int = 1000, *, in_channels: int = 3) -> nn.StatefulLayer:
    """Return ResNeXt-101 of 32 groups of 8 channels; see `resnet18`.

    >>> isinstance(resnext101_32x8d(), nn.StatefulLayer)
    True
    """
    return _resnet(_bottleneck(4, groups=32), 4, (3, 4, 23, 3), num_classes, in_channels)


def resnext101_64x4d(num_classes: int = 1000, *, in_channels: int = 3) -> nn.StatefulLayer:
    """Return ResNeXt-101 of 64 groups of 4 channels; see `resnet18`.

    >>> isinstance(resnext101_64x4d(), nn.StatefulLayer)
    True
    """
    return _resnet(_bottleneck(4, groups=64), 4, (3, 4, 23, 3), num_classes, in_channels)


def wide_resnet50_2(num_classes: int = 1000, *, in_channels: int = 3) -> nn.StatefulLayer:
    """Return ResNet-50 with twice the channels inside its bottlenecks; see `resnet18`.

    >>> isinstance(wide_resnet50_2(), nn.StatefulLayer)
    True
    """
    return _resnet(_bottleneck(2), 4, (3, 4, 6, 3), num_classes, in_channels)


def wide_resnet101_2(num_classes: int = 1000, *, in_channels: int = 3) -> nn.StatefulLayer:
    """Return ResNet-101 with twice the channels inside its bottlenecks; see `resnet18`.

    >>> isinstance(wide_resnet101_2(), nn.StatefulLayer)
    True
    """
    return _resnet(_bottleneck(2), 4, (3, 4, 23, 3), num_classes, in_channels)


def logits_layer(num_classes: int) -> nn.Layer:
    """Return the last layer."""
    return nn.linear(num_classes)


def _resnet(
    body: Body,
    expansion: int,
    depths: Sequence[int],
    num_classes: int,
    in_channels: int,
    first_width: int = 64,
) -> nn.StatefulLayer:
    """Return a network of stages of blocks, whose outputs have `expansion` times the width."""
    positive_int("resnet", "num_classes", num_classes)
    positive_int("resnet", "in_channels", in_channels)
    stages, channels = {}, first_width
    for index, depth in enumerate(depths):
        width, stride = first_width * 2**index, 1 if index == 0 else 2
        blocks = [_block(body(width, stride), channels, width * expansion, stride)]
        channels = width * expansion
        blocks += [_block(body(width, 1), channels, channels, 1) for _ in range(depth - 1)]
        stages[f"layer{index + 1}"] = nn.serial(*blocks)
    return nn.serial(
        images=_images(in_channels),
        conv1=_convolution(first_width, 7, 2),
        bn1=nn.batch_norm(),
        relu=nn.relu,
        maxpool=nn.max_pool2d(3, stride=2, padding=1),
        **stages,
        avgpool=nn.global_avg_pool(),
        fc=logits_layer(num_classes),
    )


def _images(channels: int) -> nn.Layer:
    """Return the layer that hands images on, refusing others."""

    def images(x: Any) -> Any:
        check_input("resnet", x, ("N", channels, "H", "W"))
        return x

    return nn.lift(images)


def _block(
    body: dict[str, Any], channels: int, out_channels: int, stride: int
) -> nn.Layer | nn.StatefulLayer:
    """Return `relu(shortcut(x) + body(x))`, where a shortcut to another shape is a `downsample`.

    Unlike in `nn.residual`, the parts of the body stand beside the shortcut: torchvision's names.
    """
    is_alike = stride == 1 and channels == out_channels
    shortcut = nn.serial(_convolution(out_channels, 1, stride), nn.batch_norm())
    parts = named_parts("block", (), {"downsample": nn.identity if is_alike else shortcut, **body})
    return combination(
        "block",
        parts,
        next_input=lambda name, x, y: x if name == "downsample" else y,
        result=lambda outputs, x: torch.relu(outputs[0] + x),
    )


def _basic(width: int, stride: int) -> dict[str, Any]:
    return {
        "conv1": _convolution(width, 3, stride),
        "bn1": nn.batch_norm(),
        "relu": nn.relu,
        "conv2": _convolution(width, 3),
        "bn2": nn.batch_norm(),
    }


def _bottleneck(widening: int, groups: int = 1) -> Body:
    def body(width: int, stride: int) -> dict[str, Any]:
        return {
            "conv1": _convolution(width * widening, 1),
            "bn1": nn.batch_norm(),
            "relu1": nn.relu,
            "conv2": _convolution(width * widening, 3, stride, groups),
            "bn2": nn.batch_norm(),
            "relu2": nn.relu,
            "conv3": _convolution(width * 4, 1),
            "bn3": nn.batch_norm(),
        }

    return body


def _convolution(out_channels: int, size: int, stride: int = 1, groups: int = 1) -> nn.Layer:
    return nn.conv2d(
        out_channels,
        size,
        stride=stride,
        padding=size // 2,
        groups=groups,
        bias=False,
        weight_init=kaiming_normal(mode="fan_out", nonlinearity="relu"),
    )
