"""LeNet-5, a small convolutional network for small images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .. import nn
from ..nn.checks import check_input, positive_int


def lenet(
    num_classes: int = 10,
    *,
    padding: int = 0,
    activation: Callable[[Tensor], Tensor] = nn.relu,
) -> nn.Layer:
    """Return LeNet-5 for images `(N, C, H, W)`, with logits `(N, num_classes)`.

    LeCun et al. 1998, Gradient-based learning applied to document recognition, figure 2, in the
    form that is usual today and that torch's introduction to neural networks has: maxima in the
    place of trained averages, a connection from every map of the third layer to every one of the
    second, rectifiers, and a linear layer in the place of radial basis functions. Names of
    parameters are those of that introduction: `conv1`, `conv2`, `fc1`, `fc2` and `fc3`.

    Parameters
    ----------
    num_classes
        How many logits there are.
    padding
        How many zeros are put around an image. The paper's images measure 32 x 32; `padding=2`
        makes that of the 28 x 28 of MNIST. Smaller ones need 16 x 16 with the padding, and the
        length of `fc1`'s input is inferred by `init`.
    activation
        A pure function of a tensor.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        On use: the images are too small, or have other sizes or channels than the parameters.

    Examples
    --------
    >>> import torch
    >>> from purefn.functional import models, random, tree
    >>> model = models.lenet(padding=2)
    >>> params = model.init(random.key(0), torch.zeros(1, 1, 28, 28))
    >>> model(params, torch.zeros(8, 1, 28, 28)).shape, tree.size(params)
    (torch.Size([8, 10]), 61706)
    """
    positive_int("lenet", "num_classes", num_classes)
    positive_int("lenet", "padding", padding, minimum=0)
    return nn.serial(
        images=nn.lift(_images),
        conv1=nn.conv2d(6, 5, padding=padding),
        act1=activation,
        pool1=nn.max_pool2d(2),
        conv2=nn.conv2d(16, 5),
        act2=activation,
        pool2=nn.max_pool2d(2),
        flat=nn.flatten(),
        fc1=nn.linear(120),
        act3=activation,
        fc2=nn.linear(84),
        act4=activation,
        fc3=nn.linear(num_classes),
    )


def _images(x: Any) -> Any:
    """Hand images on, refusing others: one without its batch would make rows of channels."""
    check_input("lenet", x, ("N", "C", "H", "W"))
    return x
