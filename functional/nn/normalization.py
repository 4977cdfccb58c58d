"""Normalisation over features and over the batch."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

from ..initializers import Initializer, ones, zeros
from .checks import check_bools, check_input, check_positive, positive_int
from .layer import Layer, LayerError, Params, State, StatefulLayer
from .parameters import check_parameters, check_same_dtype
from .per_channel import (
    affine_names,
    channels_first,
    check_momentum,
    check_tracked,
    draw_affine,
    normalize_by,
    running_statistics,
    widened,
)


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
    >>> from purefn.functional import random
    >>> layer = layer_norm()
    >>> params = layer.init(random.key(0), torch.ones(2, 3))
    >>> layer(params, torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[-1.2247,  0.0000,  1.2247]])
    """
    positive_int("layer_norm", "normalized_dims", normalized_dims)
    check_positive("layer_norm", "eps", eps)
    check_bools("layer_norm", elementwise_affine=elementwise_affine)
    letters = tuple(f"D{index}" for index in range(1, normalized_dims + 1))
    names = affine_names("layer_norm", elementwise_affine, bias)

    def init(key: Tensor, x: Any) -> Params:
        check_input("layer_norm", x, ("...", *letters))
        return draw_affine(key, names, x.shape[-normalized_dims:], x.dtype, weight_init, bias_init)

    def apply(
        params: Params, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        check_parameters("layer_norm", params, dict.fromkeys(names, letters))
        shape = params["weight"].shape if elementwise_affine else letters
        check_input("layer_norm", x, ("...", *shape))
        check_same_dtype("layer_norm", x, params)
        normalized_shape = x.shape[-normalized_dims:]
        return F.layer_norm(x, normalized_shape, params.get("weight"), params.get("bias"), eps)

    return Layer(init, apply, uses_key=False)


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
    >>> from purefn.functional import random
    >>> layer = rms_norm()
    >>> params = layer.init(random.key(0), torch.ones(2, 2))
    >>> layer(params, torch.tensor([[1.0, 7.0]]))
    tensor([[0.2000, 1.4000]])
    """
    positive_int("rms_norm", "normalized_dims", normalized_dims)
    if eps is not None:
        check_positive("rms_norm", "eps", eps)
    check_bools("rms_norm", elementwise_affine=elementwise_affine)
    letters = tuple(f"D{index}" for index in range(1, normalized_dims + 1))
    names = ["weight"] if elementwise_affine else []

    def init(key: Tensor, x: Any) -> Params:
        check_input("rms_norm", x, ("...", *letters))
        return draw_affine(key, names, x.shape[-normalized_dims:], x.dtype, weight_init, zeros)

    def apply(
        params: Params, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        check_parameters("rms_norm", params, dict.fromkeys(names, letters))
        shape = params["weight"].shape if names else letters
        check_input("rms_norm", x, ("...", *shape))
        check_same_dtype("rms_norm", x, params)
        return F.rms_norm(x, x.shape[-normalized_dims:], params.get("weight"), eps)

    return Layer(init, apply, uses_key=False)


def batch_norm(
    *,
    eps: float = 1e-5,
    momentum: float | None = 0.1,
    affine: bool = True,
    weight_init: Initializer = ones,
    bias_init: Initializer = zeros,
) -> StatefulLayer:
    """Return the layer `y = (x - E[x]) / sqrt(Var[x] + eps) * weight + bias` for each channel.

    For inputs of shape `(N, C, *spatial)`, the names being those of `torch.nn.BatchNorm1d`, `2d`
    and `3d`. In training, mean and (biased) variance are the batch's, and the state moves towards
    the batch's mean and unbiased variance,

        running = (1 - momentum) running + momentum batch,

    where a momentum of `None` stands for `1 / num_batches_tracked`, the plain average of all
    batches. Otherwise mean and variance are the state's, which stays as it is. No gradient flows
    into the state. Ioffe & Szegedy 2015, Batch normalization.

    Parameters are `weight` and `bias`, the state `running_mean`, `running_var` and
    `num_batches_tracked`: `{**tree.to_state_dict(params), **tree.to_state_dict(state)}` is the
    state dict of the torch module.

    Parameters
    ----------
    eps
        Added to the variance, above 0.
    momentum
        The weight of the new batch in the state, within `[0, 1]`, or `None`.
    affine
        Whether there are parameters.
    weight_init, bias_init
        Initializers in the place of ones and zeros.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        The input has other channels or fewer than two dimensions, is not floating-point or not of
        the dtype of the parameters, or in training has fewer than two values for each channel; or
        the parameters or state are not this layer's.

    Examples
    --------
    >>> from purefn.functional import random
    >>> layer = batch_norm()
    >>> params, state = layer.init(random.key(0), torch.ones(4, 3))
    >>> x = torch.tensor([[1.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
    >>> y, state = layer(params, state, x, train=True)
    >>> y
    tensor([[-1.0000,  0.0000,  0.0000],
            [ 1.0000,  0.0000,  0.0000]])
    >>> state["running_mean"]
    tensor([0.2000, 0.0000, 0.0000])
    """
    check_positive("batch_norm", "eps", eps)
    check_bools("batch_norm", affine=affine)
    if momentum is not None:
        check_momentum("batch_norm", momentum)
    names = ["weight", "bias"] if affine else []

    def init(key: Tensor, x: Any) -> tuple[Params, State]:
        check_input("batch_norm", x, channels_first("C", x))
        state = running_statistics(key, x.shape[1], x.dtype)
        return draw_affine(key, names, x.shape[1:2], x.dtype, weight_init, bias_init), state

    def apply(
        params: Params,
        state: State,
        x: Tensor,
        *,
        key: Tensor | None = None,
        train: bool = False,
    ) -> tuple[Tensor, State]:
        _check(names, params, state, x, train)
        if train:
            wide = widened(x, params)
            weight, bias = wide.get("weight"), wide.get("bias")
            y = F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)
            return y.to(x.dtype), _next_state(state, x, momentum)
        return normalize_by(state, x, params, eps), state

    return StatefulLayer(init, apply, uses_key=False)


def _next_state(state: State, x: Tensor, momentum: float | None) -> State:
    """Move the running statistics towards those of the batch."""
    count = state["num_batches_tracked"] + 1
    factor = momentum if momentum is not None else 1 / count.to(state["running_mean"].dtype)
    values_per_channel = _values_per_channel(x)
    # Written as in the forward kernel, so that a compiler computes the two moments once.
    biased_var, mean = torch.var_mean(
        x.detach().to(state["running_mean"].dtype),
        [0, *range(2, x.ndim)],
        correction=0,
        keepdim=True,
    )
    var = biased_var.reshape(-1) * (values_per_channel / (values_per_channel - 1))
    mean = mean.reshape(-1)
    return {
        "running_mean": (1 - factor) * state["running_mean"] + factor * mean,
        "running_var": (1 - factor) * state["running_var"] + factor * var,
        "num_batches_tracked": count,
    }


def _check(names: list[str], params: Params, state: State, x: Tensor, train: bool) -> None:
    check_tracked("batch_norm", params, state, names, x, train)
    if train and _values_per_channel(x) < 2:
        raise LayerError(
            "batch_norm expected more than one value for each channel in training, got shape "
            f"{tuple(x.shape)}."
        )


def _values_per_channel(x: Tensor) -> int:
    return math.prod((x.shape[0], *x.shape[2:]))
