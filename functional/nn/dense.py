"""Fully connected layers, of one input and of two."""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

from .. import initializers
from .checks import check_bools, check_input, positive_int
from .layer import Layer, LayerError, Params, describe
from .parameters import check_parameters, check_same_dtype, weight_and_bias


def linear(
    out_features: int,
    *,
    bias: bool = True,
    weight_init: initializers.Initializer | None = None,
    bias_init: initializers.Initializer | None = None,
) -> Layer:
    """Return the layer `y = x W^T + b` over the last dimension.

    Parameters are those of `torch.nn.Linear`: `weight` of shape `(out_features, in_features)` and
    `bias` of shape `(out_features,)`. By default both are uniform within
    `±1 / sqrt(in_features)`, as in torch.

    Parameters
    ----------
    out_features
        The length of the output's last dimension; that of the input is inferred by `init`.
    bias
        Whether there is a `b`.
    weight_init, bias_init
        Initializers in the place of the default ones.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        The input is not of shape `(..., in_features)`, not floating-point, or not of the dtype
        of the parameters; or the parameters are not this layer's.

    Examples
    --------
    >>> import torch
    >>> from purefn.functional import random
    >>> layer = linear(3)
    >>> params = layer.init(random.key(0), torch.ones(8, 5))
    >>> params["weight"].shape, params["bias"].shape
    (torch.Size([3, 5]), torch.Size([3]))
    >>> layer(params, torch.ones(8, 5)).shape
    torch.Size([8, 3])
    """
    positive_int("linear", "out_features", out_features)
    check_bools("linear", bias=bias)
    shapes: dict[str, tuple[int | str, ...]] = {"weight": (out_features, "in_features")}
    if bias:
        shapes["bias"] = (out_features,)

    def init(key: Tensor, x: Any) -> Params:
        check_input("linear", x, ("...", "in_features"))
        weight_shape = (out_features, x.shape[-1])
        return weight_and_bias(key, weight_shape, x.dtype, bias, weight_init, bias_init)

    def apply(
        params: Params, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        check_parameters("linear", params, shapes)
        check_input("linear", x, ("...", params["weight"].shape[1]))
        check_same_dtype("linear", x, params)
        return F.linear(x, params["weight"], params.get("bias"))

    return Layer(init, apply, uses_key=False)


def bilinear(
    out_features: int,
    *,
    bias: bool = True,
    weight_init: initializers.Initializer | None = None,
    bias_init: initializers.Initializer | None = None,
) -> Layer:
    """Return the layer `y[k] = x1^T W[k] x2 + b[k]` over the last dimensions of a pair `(x1, x2)`.

    Parameters are those of `torch.nn.Bilinear`: `weight` of shape
    `(out_features, in1_features, in2_features)` and `bias` of shape `(out_features,)`. By default
    both are uniform within `±1 / sqrt(in1_features)`, as in torch.

    Parameters
    ----------
    out_features, bias, weight_init, bias_init
        As for `linear`; the lengths of the inputs are inferred by `init`.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        The input is not a pair of floating-point tensors of shapes `(..., in1_features)` and
        `(..., in2_features)`, with the same dimensions before the last and of the dtype of the
        parameters; or the parameters are not this layer's.

    Examples
    --------
    >>> import torch
    >>> from purefn.functional import random
    >>> pair = torch.ones(8, 5), torch.ones(8, 2)
    >>> layer = bilinear(3)
    >>> params = layer.init(random.key(0), pair)
    >>> params["weight"].shape
    torch.Size([3, 5, 2])
    >>> layer(params, pair).shape
    torch.Size([8, 3])
    """
    positive_int("bilinear", "out_features", out_features)
    check_bools("bilinear", bias=bias)
    shapes: dict[str, tuple[int | str, ...]] = {
        "weight": (out_features, "in1_features", "in2_features")
    }
    if bias:
        shapes["bias"] = (out_features,)

    def init(key: Tensor, x: Any) -> Params:
        x1, x2 = _pair(x, "in1_features", "in2_features")
        shape = (out_features, x1.shape[-1], x2.shape[-1])
        bound = 1 / math.sqrt(x1.shape[-1]) if x1.shape[-1] else 0.0
        default = initializers.uniform(-bound, bound)
        return weight_and_bias(
            key, shape, x1.dtype, bias, weight_init or default, bias_init or default
        )

    def apply(params: Params, x: Any, *, key: Tensor | None = None, train: bool = False) -> Tensor:
        check_parameters("bilinear", params, shapes)
        weight = params["weight"]
        x1, x2 = _pair(x, *weight.shape[1:])
        check_same_dtype("bilinear", x1, params)
        check_same_dtype("bilinear", x2, params)
        # Not F.bilinear, which has no batching rule.
        products = (x1.unsqueeze(-1) * x2.unsqueeze(-2)).flatten(-2)
        return F.linear(products, weight.flatten(1), params.get("bias"))

    return Layer(init, apply, uses_key=False)


def _pair(x: Any, features1: int | str, features2: int | str) -> tuple[Any, Any]:
    """Return both inputs of `bilinear`, or refuse them."""
    if not isinstance(x, tuple) or len(x) != 2:
        raise LayerError(f"bilinear expected a pair of tensors (x1, x2), got {describe(x)}.")
    x1, x2 = x
    check_input("bilinear", x1, ("...", features1))
    check_input("bilinear", x2, ("...", features2))
    if x1.shape[:-1] != x2.shape[:-1]:
        raise LayerError(
            "bilinear expected inputs with the same dimensions before the last, got "
            f"{describe(x1)} and {describe(x2)}."
        )
    return x1, x2
