"""Normalisation of each channel over the batch."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

from ..initializers import Initializer, ones, zeros
from .checks import check_input, check_positive
from .layer import Layer, LayerError, Params, State, StatefulLayer
from .parameters import check_same_dtype
from .per_channel import (
    affine_names,
    channels_first,
    check_affine,
    check_momentum,
    check_tracked,
    check_tracked_dtypes,
    draw_affine,
    for_transforms,
    normalize_by,
    running_statistics,
    widened,
)


def batch_norm(
    *,
    eps: float = 1e-5,
    momentum: float | None = 0.1,
    affine: bool = True,
    bias: bool = True,
    weight_init: Initializer = ones,
    bias_init: Initializer = zeros,
) -> StatefulLayer:
    """Return the layer `y = (x - E[x]) / sqrt(Var[x] + eps) * weight + bias` for each channel.

    For inputs of shape `(N, C, *spatial)`, the names being those of `torch.nn.BatchNorm1d`, `2d`
    and `3d`. In training, mean and (biased) variance are the batch's, and the state moves towards
    the batch's mean and unbiased variance,

        running = (1 - momentum) running + momentum batch,

    where a momentum of `None` stands for `1 / num_batches_tracked`, the plain average of all
    batches. A batch without values is counted and moves nothing, as in torch. Otherwise mean and
    variance are the state's, which stays as it is. No gradient flows into the state. Ioffe &
    Szegedy 2015, Batch normalization.

    Parameters are `weight` and `bias`, the state `running_mean`, `running_var` and
    `num_batches_tracked`: `{**tree.to_state_dict(params), **tree.to_state_dict(state)}` is the
    state dict of the torch module.

    Parameters
    ----------
    eps
        Added to the variance, above 0.
    momentum
        The weight of the new batch in the state, within `[0, 1]`, or `None`.
    affine, bias
        Whether there are `weight` and `bias`, and whether `bias` is one of them.
    weight_init, bias_init
        Initializers in the place of ones and zeros.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        The input has other channels or fewer than two dimensions, is not floating-point or not of
        the dtype of the parameters, or in training has a single value for each channel; or the
        parameters or state are not this layer's.

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
    if momentum is not None:
        check_momentum("batch_norm", momentum)
    names = affine_names("batch_norm", affine, bias)

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
        channels = check_tracked("batch_norm", params, state, names, train)
        check_input("batch_norm", x, channels_first(channels, x))
        check_tracked_dtypes("batch_norm", x, params, state)
        if train:
            _check_values("batch_norm", x)
            return _by_batch(x, params, eps), _next_state(state, x, momentum)
        return normalize_by(state, x, params, eps), state

    return StatefulLayer(init, apply, uses_key=False)


def untracked_batch_norm(
    *,
    eps: float = 1e-5,
    affine: bool = True,
    bias: bool = True,
    weight_init: Initializer = ones,
    bias_init: Initializer = zeros,
) -> Layer:
    """Return `batch_norm` by the statistics of each batch alone, in training and otherwise.

    As `torch.nn.BatchNorm1d`, `2d` and `3d` with `track_running_stats=False`. There is no state. An
    example's output always depends on the others of its batch. Options and errors are those of
    `batch_norm`, without `momentum`.

    Examples
    --------
    >>> layer = untracked_batch_norm(affine=False)
    >>> layer({}, torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
    tensor([[-1.0000,  0.0000],
            [ 1.0000,  0.0000]])
    """
    name = "untracked_batch_norm"
    check_positive(name, "eps", eps)
    names = affine_names(name, affine, bias)

    def init(key: Tensor, x: Any) -> Params:
        check_input(name, x, channels_first("C", x))
        return draw_affine(key, names, x.shape[1:2], x.dtype, weight_init, bias_init)

    def apply(
        params: Params, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        check_input(name, x, channels_first(check_affine(name, params, names), x))
        check_same_dtype(name, x, params)
        _check_values(name, x)
        return _by_batch(x, params, eps)

    return Layer(init, apply, uses_key=False)


def _by_batch(x: Tensor, params: Params, eps: float) -> Tensor:
    """Return `x` normalised by its own statistics."""
    wide = widened(x, params)
    weight, bias = wide.get("weight"), wide.get("bias")
    y = F.batch_norm(for_transforms(x), None, None, weight, bias, training=True, eps=eps)
    return y.to(x.dtype)


def _next_state(state: State, x: Tensor, momentum: float | None) -> State:
    """Move the running statistics towards those of the batch."""
    count = state["num_batches_tracked"] + 1
    if not _values_per_channel(x):
        return {**state, "num_batches_tracked": count}
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


def _check_values(name: str, x: Tensor) -> None:
    if _values_per_channel(x) == 1:
        raise LayerError(
            f"{name} expected more than one value for each channel in training, got shape "
            f"{tuple(x.shape)}."
        )


def _values_per_channel(x: Tensor) -> int:
    return math.prod((x.shape[0], *x.shape[2:]))
