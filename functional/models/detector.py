"""A detector in one stage: for each anchor the classes and the box that it stands for.

Lin et al. 2017, Focal loss for dense object detection (arXiv:1708.02002), RetinaNet, with the names
and values of torchvision's `RetinaNetHead`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import nn
from ..initializers import constant, normal, zeros
from ..nn.checks import check_input, check_number, positive_int
from ..nn.combinators import combination, named_parts
from ..nn.layer import describe


class RetinaNetOutputs(NamedTuple):
    """What the head says of every anchor of every level, in the order of `grid_anchors`.

    `cls_logits` of shape `(N, A, num_classes)` are independent of each other: softmax is not meant.
    `bbox_regression` of shape `(N, A, 4)` are codes for `decode_boxes`.

    Examples
    --------
    >>> RetinaNetOutputs(torch.zeros(1, 9, 3), torch.zeros(1, 9, 4)).cls_logits.sigmoid().mean()
    tensor(0.5000)
    """

    cls_logits: Tensor
    bbox_regression: Tensor


def retinanet_head(
    num_classes: int,
    num_anchors: int,
    *,
    channels: int = 256,
    num_convs: int = 4,
    prior_probability: float = 0.01,
) -> nn.Layer:
    """Return the network over the feature maps of a pyramid that sees objects in them.

    Two subnets of `num_convs` 3 x 3 convolutions with ReLU and one more, the same for all levels,
    give `num_classes` logits and 4 numbers for each of `num_anchors` boxes at each point. The input
    is a list of maps, `(N, C, H, W)` each with its own `H` and `W`; the output is a
    `RetinaNetOutputs` of all levels in a row.

    Parameters are those of torchvision's `RetinaNetHead`, `classification_head.conv.0.0.weight` and
    so on; weights begin with a standard deviation of 0.01, and biases at zero but that of the
    logits, `-log((1 - p) / p)`, so that an untrained head finds an object with the probability `p`
    and the many anchors without one do not drown the loss (section 4.1 of the paper).

    Parameters
    ----------
    num_classes
        How many kinds of objects there are, without one for the background.
    num_anchors
        How many anchors there are at each point: sizes times ratios.
    channels
        The width of the subnets; torchvision's have that of the maps.
    num_convs
        How many convolutions there are before the last.
    prior_probability
        The `p` above, between 0 and 1.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        On use: the input is no list of maps of one batch, a map does not have the channels or dtype
        of the parameters, or these are not the head's.

    Examples
    --------
    >>> from purefn.functional import random
    >>> head = retinanet_head(3, num_anchors=2, channels=8)
    >>> maps = [torch.ones(1, 8, 4, 4), torch.ones(1, 8, 2, 2)]
    >>> outputs = head(head.init(random.key(0), maps), maps)
    >>> outputs.cls_logits.shape, outputs.bbox_regression.shape
    (torch.Size([1, 40, 3]), torch.Size([1, 40, 4]))
    """
    name = "retinanet_head"
    counts = {"num_classes": num_classes, "num_anchors": num_anchors, "channels": channels}
    for argument, value in counts.items():
        positive_int(name, argument, value)
    positive_int(name, "num_convs", num_convs, minimum=0)
    check_number(name, "prior_probability", prior_probability)
    if not 0 < prior_probability < 1:
        raise ValueError(
            f"{name}: expected prior_probability between 0 and 1, got {prior_probability}."
        )
    prior = constant(-math.log((1 - prior_probability) / prior_probability))

    def convolution(length: int, bias_init: Any = zeros) -> nn.Layer:
        return nn.conv2d(length, 3, padding=1, weight_init=normal(0.01), bias_init=bias_init)

    blocks = nn.serial(*(nn.serial(convolution(channels), nn.relu) for _ in range(num_convs)))
    logits = nn.serial(
        conv=blocks,
        cls_logits=convolution(num_anchors * num_classes, prior),
        anchors=lambda y: _by_anchor(y, num_classes),
    )
    codes = nn.serial(
        conv=blocks,
        bbox_reg=convolution(num_anchors * 4),
        anchors=lambda y: _by_anchor(y, 4),
    )
    heads = {
        "classification_head": _over_levels(name, logits),
        "regression_head": _over_levels(name, codes),
    }
    head = combination(
        name,
        named_parts(name, (), heads),
        next_input=lambda part, x, y: x,
        result=lambda outputs, x: RetinaNetOutputs(*outputs),
    )
    assert isinstance(head, nn.Layer)
    return head


def _by_anchor(y: Tensor, length: int) -> Tensor:
    """Return `(N, A length, H, W)` as `(N, H W A, length)`."""
    by_class: Tensor = y.unflatten(1, (-1, length))
    return by_class.permute(0, 3, 4, 1, 2).flatten(1, 3)


def _over_levels(name: str, layer: nn.Layer) -> nn.Layer:
    """Return the layer that joins what `layer` gives for each map."""

    def init(key: Tensor, x: Any) -> nn.Params:
        return layer.init(key, _maps(name, x)[0])

    def apply(
        params: nn.Params, x: Any, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        maps = _maps(name, x)
        return torch.cat([layer(params, level, key=key, train=train) for level in maps], 1)

    return nn.Layer(init, apply, layer.uses_key)


def _maps(name: str, x: Any) -> Sequence[Any]:
    if not isinstance(x, list | tuple) or not x:
        raise nn.LayerError(f"{name} expected a list of feature maps, got {describe(x)}.")
    batch: int | str = "N"
    for level in x:
        check_input(name, level, (batch, "C", "H", "W"))
        batch = level.shape[0]
    return x
