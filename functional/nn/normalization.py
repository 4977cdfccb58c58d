"""Normalisation over the features of each example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

from ..initializers import Initializer, ones, zeros
from .checks import check_bools, check_input, check_positive, positive_int
from .layer import Layer, LayerError, Params
from .parameters import check_parameters, check_same_dtype
from .per_channel import affine_names, draw_affine


def layer_norm(
    normalized_dims: int = 1,
    *,
    eps: float = 1e-5,
    elementwise_affine: bool = True,
    bias: bool = True,
    weight_init: Initializer = ones,
    bias_init: Initializer = zeros,
) -> Layer:
    """Return the layer `y = (x - E[x]) / sqrt(Var[x] + eps) * weight + bias`.

    Mean and (biased) variance are over the last `normalized_dims` dimensions, whose shape is that
    of `weight` and `bias`, as in `torch.nn.LayerNorm`. Ba et al. 2016, Layer normalization.

    Parameters
    ----------
    normalized_dims
        How many dimensions, counted from the last, are normalised together; their lengths are
        inferred by `init`.
    eps
        Added to the variance, above 0.
    elementwise_affine, bias
        Whether there are parameters at all, and whether `bias` is one of them.
    weight_init, bias_init
        Initializers in the place of ones and zeros.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        The input has too few dimensions, is not floating-point or not of the dtype of the
        parameters; or the parameters are not this layer's.

    Examples
    --------
    >>> import torch
    >>> from purefn.functional import random
    >>> layer = layer_norm()
    >>> params = layer.init(random.key(0), torch.ones(2, 3))
    >>> layer(params, torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[-1.2247,  0.0000,  1.2247]])
    """
    check_positive("layer_norm", "eps", eps)
    check_bools("layer_norm", elementwise_affine=elementwise_affine)
    names = affine_names("layer_norm", elementwise_affine, bias)

    def normalized(x: Tensor, shape: list[int], params: Params) -> Tensor:
        return F.layer_norm(x, shape, params.get("weight"), params.get("bias"), eps)

    return _over_last("layer_norm", normalized_dims, names, weight_init, bias_init, normalized)


def rms_norm(
    normalized_dims: int = 1,
    *,
    eps: float | None = None,
    elementwise_affine: bool = True,
    weight_init: Initializer = ones,
) -> Layer:
    """Return the layer `y = x / sqrt(E[x²] + eps) * weight`.

    The mean is over the last `normalized_dims` dimensions, whose shape is that of `weight`, as in
    `torch.nn.RMSNorm`. Zhang & Sennrich 2019, Root mean square layer normalization.

    Parameters
    ----------
    normalized_dims
        How many dimensions, counted from the last, are normalised together; their lengths are
        inferred by `init`.
    eps
        Added to the mean of squares, above 0; `None` stands for the machine epsilon of the input's
        dtype.
    elementwise_affine
        Whether there is a `weight`.
    weight_init
        An initializer in the place of ones.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        As for `layer_norm`.

    Examples
    --------
    >>> import torch
    >>> from purefn.functional import random
    >>> layer = rms_norm()
    >>> params = layer.init(random.key(0), torch.ones(2, 2))
    >>> layer(params, torch.tensor([[1.0, 7.0]]))
    tensor([[0.2000, 1.4000]])
    """
    if eps is not None:
        check_positive("rms_norm", "eps", eps)
    check_bools("rms_norm", elementwise_affine=elementwise_affine)
    names = affine_names("rms_norm", elementwise_affine, bias=False)

    def normalized(x: Tensor, shape: list[int], params: Params) -> Tensor:
        return F.rms_norm(x, shape, params.get("weight"), eps)

    return _over_last("rms_norm", normalized_dims, names, weight_init, zeros, normalized)


def _over_last(
    name: str,
    normalized_dims: int,
    names: Sequence[str],
    weight_init: Initializer,
    bias_init: Initializer,
    normalized: Callable[[Tensor, list[int], Params], Tensor],
) -> Layer:
    """Return the layer that computes `normalized` of the last dimensions together."""
    positive_int(name, "normalized_dims", normalized_dims)
    letters = tuple(f"D{index}" for index in range(1, normalized_dims + 1))

    def check_dims(x: Any) -> None:
        if len(getattr(x, "shape", letters)) < normalized_dims:
            raise LayerError(
                f"{name} expected an input with the dimensions to normalise, the last "
                f"{normalized_dims}, got shape {tuple(x.shape)}; normalized_dims is their number "
                "and no length."
            )

    def init(key: Tensor, x: Any) -> Params:
        check_dims(x)
        check_input(name, x, ("...", *letters))
        return draw_affine(key, names, x.shape[-normalized_dims:], x.dtype, weight_init, bias_init)

    def apply(
        params: Params, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        check_parameters(name, params, dict.fromkeys(names, letters))
        shape = params["weight"].shape if names else letters
        check_parameters(name, params, dict.fromkeys(names, shape))
        check_dims(x)
        check_input(name, x, ("...", *shape))
        check_same_dtype(name, x, params)
        return normalized(x, list(x.shape[-normalized_dims:]), params)

    return Layer(init, apply, uses_key=False)
