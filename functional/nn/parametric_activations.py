"""Activations with a slope that is learned, or drawn in training."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

from .. import random
from ..initializers import Initializer, constant
from .checks import check_flag, check_input, check_number, needed_key, positive_int
from .layer import Layer, Params
from .parameters import check_parameters, check_same_dtype, drawn


def prelu(num_parameters: int = 1, *, weight_init: Initializer | None = None) -> Layer:
    """Return the layer `y = max(x, 0) + weight min(x, 0)`.

    The parameter is that of `torch.nn.PReLU`, `weight` of shape `(num_parameters,)`. He et al.
    2015, Delving deep into rectifiers.

    Parameters
    ----------
    num_parameters
        1, a slope for all elements, or the number of channels of inputs `(N, C, ...)`.
    weight_init
        An initializer in the place of the constant 0.25.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        The input has other channels, is not floating-point or not of the dtype of the parameters;
        or the parameters are not this layer's.

    Examples
    --------
    >>> layer = prelu()
    >>> x = torch.tensor([2.0, -2.0])
    >>> layer(layer.init(random.key(0), x), x)
    tensor([ 2.0000, -0.5000])
    """
    positive_int("prelu", "num_parameters", num_parameters)
    pattern = ("...",) if num_parameters == 1 else ("N", num_parameters, "...")
    draw = weight_init or constant(0.25)

    def init(key: Tensor, x: Any) -> Params:
        check_input("prelu", x, pattern)
        return {"weight": drawn("weight_init", draw, key, (num_parameters,), x.dtype)}

    def apply(
        params: Params, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        check_parameters("prelu", params, {"weight": (num_parameters,)})
        check_input("prelu", x, pattern)
        check_same_dtype("prelu", x, params)
        return F.prelu(x, params["weight"])

    return Layer(init, apply, uses_key=False)


def rrelu(lower: float = 1 / 8, upper: float = 1 / 3) -> Layer:
    """Return the layer that gives negative elements a slope drawn between `lower` and `upper`.

    In training the slope of each element is uniform over `[lower, upper)` and depends on the key
    and the input's shape alone; otherwise it is `(lower + upper) / 2`. Xu et al. 2015, Empirical
    evaluation of rectified activations in convolutional network.

    Raises
    ------
    TypeError, ValueError
        `lower` or `upper` is not a finite number, or `lower > upper`.
    LayerError
        No key is given in training, or the input is not floating-point.

    Examples
    --------
    >>> layer = rrelu(0.25, 0.75)
    >>> layer({}, torch.tensor([2.0, -2.0]))
    tensor([ 2., -1.])
    >>> y = layer({}, -torch.ones(1000), key=random.key(0), train=True)
    >>> bool(y.min() > -0.75), bool(y.max() <= -0.25)
    (True, True)
    """
    check_number("rrelu", "lower", lower)
    check_number("rrelu", "upper", upper)
    if not -math.inf < lower <= upper < math.inf:
        raise ValueError(f"rrelu: expected finite lower <= upper, got {lower} and {upper}.")

    def init(key: Tensor, x: Any) -> Params:
        check_input("rrelu", x, ("...",))
        return {}

    def apply(
        params: Params, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        check_parameters("rrelu", params, {})
        check_input("rrelu", x, ("...",))
        check_flag("rrelu", "train", train)
        if not train:
            return F.leaky_relu(x, (lower + upper) / 2)
        slope = random.uniform(needed_key("rrelu", key), x.shape, torch.float32, lower, upper)
        return torch.where(x > 0, x, slope.to(x.dtype) * x)

    return Layer(init, apply)
