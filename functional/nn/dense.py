"""The fully connected layer."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

from .. import initializers
from .checks import check_bools, check_input, positive_int
from .layer import Layer, Params
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
