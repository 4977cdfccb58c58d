"""Normalisation within each example: over groups of channels, single ones or neighbouring ones."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

from ..initializers import Initializer, ones, zeros
from .checks import (
    SPATIAL,
    check_input,
    check_int,
    check_maybe_batched,
    check_number,
    check_positive,
    positive_int,
)
from .layer import Layer, LayerError, Params, State, StatefulLayer, lift
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


def group_norm(
    num_groups: int,
    *,
    eps: float = 1e-5,
    affine: bool = True,
    bias: bool = True,
    weight_init: Initializer = ones,
    bias_init: Initializer = zeros,
) -> Layer:
    """Return the layer `y = (x - E[x]) / sqrt(Var[x] + eps) * weight + bias` for groups of `C`.

    For inputs of shape `(N, C, *spatial)`. Mean and (biased) variance are over the `C / num_groups`
    channels of a group and all places of one example; `weight` and `bias` have an element for each
    channel, as in `torch.nn.GroupNorm`. Wu & He 2018, Group normalization.

    Parameters
    ----------
    num_groups
        Into how many groups the channels, a multiple of it, are split in order.
    eps
        Added to the variance, above 0.
    affine, bias
        Whether there are parameters at all, and whether `bias` is one of them.
    weight_init, bias_init
        Initializers in the place of ones and zeros.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        The input has other channels, ones that cannot be split evenly, or fewer than two values in
        each group; is not floating-point or not of the dtype of the parameters; or the parameters
        are not this layer's.

    Examples
    --------
    >>> from purefn.functional import random
    >>> layer = group_norm(2)
    >>> params = layer.init(random.key(0), torch.ones(1, 4))
    >>> layer(params, torch.tensor([[1.0, 3.0, 10.0, 30.0]]))
    tensor([[-1.0000,  1.0000, -1.0000,  1.0000]])
    """
    positive_int("group_norm", "num_groups", num_groups)
    check_positive("group_norm", "eps", eps)
    names = affine_names("group_norm", affine, bias)

    def init(key: Tensor, x: Any) -> Params:
        check_input("group_norm", x, channels_first("C", x))
        _check_groups(x, num_groups)
        return draw_affine(key, names, x.shape[1:2], x.dtype, weight_init, bias_init)

    def apply(
        params: Params, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        check_input("group_norm", x, channels_first(check_affine("group_norm", params, names), x))
        check_same_dtype("group_norm", x, params)
        _check_groups(x, num_groups)
        # Of a half its gradients round more under torch.func than in torch.
        wide = widened(x, {"x": x, **params})
        y = F.group_norm(wide["x"], num_groups, wide.get("weight"), wide.get("bias"), eps)
        return y.to(x.dtype)

    return Layer(init, apply, uses_key=False)


def instance_norm(
    *,
    eps: float = 1e-5,
    affine: bool = False,
    bias: bool = True,
    spatial_dims: int | None = None,
    weight_init: Initializer = ones,
    bias_init: Initializer = zeros,
) -> Layer:
    """Return the layer `y = (x - E[x]) / sqrt(Var[x] + eps) * weight + bias` for single channels.

    For inputs of shape `(N, C, *spatial)`. Mean and (biased) variance are over all places of one
    channel of one example, in training and otherwise, as in `torch.nn.InstanceNorm1d`, `2d` and
    `3d` without `track_running_stats`; with it the layer is `tracked_instance_norm`. Ulyanov et al.
    2016, Instance normalization: the missing ingredient for fast stylization.

    Parameters
    ----------
    eps
        Added to the variance, above 0.
    affine, bias
        Whether there are `weight` and `bias`, and whether `bias` is one of them.
    spatial_dims
        How many spatial dimensions inputs have, 1 to 3; then a single example `(C, *spatial)` will
        do as well. Unless given there may be any number, and there is a batch.
    weight_init, bias_init
        Initializers in the place of ones and zeros.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        The input has other channels or dimensions, or a single place; is not floating-point or not
        of the dtype of the parameters; or the parameters are not this layer's.

    Examples
    --------
    >>> instance_norm()({}, torch.tensor([[[1.0, 3.0], [10.0, 30.0]]]))
    tensor([[[-1.0000,  1.0000],
             [-1.0000,  1.0000]]])
    >>> instance_norm(spatial_dims=1)({}, torch.tensor([[1.0, 3.0], [10.0, 30.0]]))
    tensor([[-1.0000,  1.0000],
            [-1.0000,  1.0000]])
    """
    name = "instance_norm"
    check_positive(name, "eps", eps)
    names = affine_names(name, affine, bias)
    _check_spatial_dims(name, spatial_dims)

    def init(key: Tensor, x: Any) -> Params:
        _check_instances(name, x, "C", spatial_dims)
        _check_places(name, x, spatial_dims)
        channels = x.shape[0 if _is_single(x, spatial_dims) else 1]
        return draw_affine(key, names, (channels,), x.dtype, weight_init, bias_init)

    def apply(
        params: Params, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        _check_instances(name, x, check_affine(name, params, names), spatial_dims)
        check_same_dtype(name, x, params)
        _check_places(name, x, spatial_dims)
        is_single = _is_single(x, spatial_dims)
        y = _instance_norm(x[None] if is_single else x, params, eps)
        return y[0] if is_single else y

    return Layer(init, apply, uses_key=False)


def tracked_instance_norm(
    *,
    eps: float = 1e-5,
    momentum: float = 0.1,
    affine: bool = False,
    bias: bool = True,
    spatial_dims: int | None = None,
    weight_init: Initializer = ones,
    bias_init: Initializer = zeros,
) -> StatefulLayer:
    """Return `instance_norm` with running statistics that it uses outside of training.

    The state moves in training towards the means over the batch of the instances' means and
    unbiased variances,

        running = (1 - momentum) running + momentum E[instance],

    into which no gradient flows; a batch without values moves nothing. It has the buffers of
    `torch.nn.InstanceNorm1d`, `2d` and `3d` with `track_running_stats=True`: `running_mean`,
    `running_var` and `num_batches_tracked`, which counts nothing, in torch neither. So a momentum
    of `None`, for which torch would need it and stands still, is refused.

    Options and errors are those of `instance_norm`, and `momentum`: the weight of the new batch in
    the state, within `[0, 1]`. Outside of training a single place will do.

    Examples
    --------
    >>> from purefn.functional import random
    >>> layer = tracked_instance_norm()
    >>> x = torch.tensor([[[1.0, 3.0]], [[4.0, 4.0]]])
    >>> _, state = layer(*layer.init(random.key(0), x), x, train=True)
    >>> state["running_mean"]
    tensor([0.3000])
    """
    name = "tracked_instance_norm"
    check_positive(name, "eps", eps)
    check_momentum(name, momentum)
    names = affine_names(name, affine, bias)
    _check_spatial_dims(name, spatial_dims)

    def init(key: Tensor, x: Any) -> tuple[Params, State]:
        _check_instances(name, x, "C", spatial_dims)
        channels = x.shape[0 if _is_single(x, spatial_dims) else 1]
        params = draw_affine(key, names, (channels,), x.dtype, weight_init, bias_init)
        return params, running_statistics(key, channels, x.dtype)

    def apply(
        params: Params,
        state: State,
        x: Tensor,
        *,
        key: Tensor | None = None,
        train: bool = False,
    ) -> tuple[Tensor, State]:
        channels = check_tracked(name, params, state, names, train)
        _check_instances(name, x, channels, spatial_dims)
        check_tracked_dtypes(name, x, params, state)
        is_single = _is_single(x, spatial_dims)
        batch = x[None] if is_single else x
        if train:
            _check_places(name, x, spatial_dims)
            y = _instance_norm(batch, params, eps)
            state = _next_state(state, batch, momentum)
        else:
            y = normalize_by(state, batch, params, eps)
        return y[0] if is_single else y, state

    return StatefulLayer(init, apply, uses_key=False)


def local_response_norm(
    size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Layer:
    """Return the layer `y_c = x_c / (k + alpha / size sum_i x_i²)**beta` for each channel `c`.

    For inputs of shape `(N, C, *spatial)` with at least one spatial dimension. The sum is over the
    `size` channels from `c - size // 2` to `c + (size - 1) // 2`, those that there are, as in
    `torch.nn.LocalResponseNorm`. Krizhevsky et al. 2012, ImageNet classification with deep
    convolutional neural networks.

    Parameters
    ----------
    size
        How many channels are summed.
    alpha, beta, k
        Finite numbers as in the equation, `alpha` of at least 0 and `k` above 0.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        The input has fewer than three dimensions or is not floating-point.

    Examples
    --------
    >>> layer = local_response_norm(2, alpha=2.0, beta=1.0)
    >>> layer({}, torch.tensor([[[1.0], [2.0]]]))
    tensor([[[0.5000],
             [0.3333]]])
    """
    name = "local_response_norm"
    positive_int(name, "size", size)
    check_number(name, "alpha", alpha)
    check_number(name, "beta", beta)
    check_positive(name, "k", k)
    if not 0 <= alpha < math.inf:
        raise ValueError(f"{name}: expected a finite alpha >= 0, got {alpha}.")
    if not math.isfinite(beta):
        raise ValueError(f"{name}: expected a finite beta, got {beta}.")

    def local_response_norm(x: Tensor) -> Tensor:
        check_input(name, x, channels_first("C", x, least_spatial=1))
        if not x.numel():
            return x
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # squares of halves soon overflow
        squares = wide.square().reshape(x.shape[0], 1, x.shape[1], -1)
        squares = F.pad(squares, (0, 0, size // 2, (size - 1) // 2))
        means = F.avg_pool2d(squares, (size, 1), stride=1).reshape(x.shape)
        return (wide / (k + alpha * means) ** beta).to(x.dtype)

    return lift(local_response_norm, name)


def _instance_norm(x: Tensor, params: Params, eps: float) -> Tensor:
    if not x.numel():  # on a batch of none torch fails
        return x
    wide = widened(x, params)
    weight, bias = wide.get("weight"), wide.get("bias")
    wide_x = for_transforms(x)
    y = F.instance_norm(wide_x, None, None, weight, bias, use_input_stats=True, eps=eps)
    return y.to(x.dtype)


def _next_state(state: State, x: Tensor, momentum: float) -> State:
    """Move the running statistics towards the means of those of the instances."""
    if not x.numel():
        return state
    places = x.detach().flatten(2).to(state["running_mean"].dtype)
    var, mean = torch.var_mean(places, 2, correction=1)
    return {
        "running_mean": (1 - momentum) * state["running_mean"] + momentum * mean.mean(0),
        "running_var": (1 - momentum) * state["running_var"] + momentum * var.mean(0),
        "num_batches_tracked": state["num_batches_tracked"],
    }


def _check_groups(x: Any, num_groups: int) -> None:
    if x.shape[1] % num_groups:
        raise LayerError(
            f"group_norm expected channels divisible by num_groups = {num_groups}, got shape "
            f"{tuple(x.shape)}."
        )
    # torch takes groups without values, and gives the weight a gradient of NaN.
    if math.prod(x.shape[1:]) // num_groups < 2:
        raise LayerError(
            f"group_norm expected more than one value in each of {num_groups} groups, got shape "
            f"{tuple(x.shape)}."
        )


def _check_spatial_dims(layer: str, spatial_dims: int | None) -> None:
    if spatial_dims is not None:
        check_int(layer, "spatial_dims", spatial_dims)
        if spatial_dims not in SPATIAL:
            raise ValueError(
                f"{layer}: expected spatial_dims to be 1, 2, 3 or None, got {spatial_dims}."
            )


def _check_instances(layer: str, x: Any, channels: int | str, spatial_dims: int | None) -> None:
    """Refuse an input without the channels or dimensions."""
    if spatial_dims is None:
        check_input(layer, x, channels_first(channels, x, least_spatial=1))
    else:
        check_maybe_batched(layer, x, spatial_dims, channels)


def _is_single(x: Any, spatial_dims: int | None) -> bool:
    """Say whether an input is one example and no batch."""
    return spatial_dims is not None and len(x.shape) == spatial_dims + 1


def _check_places(layer: str, x: Any, spatial_dims: int | None) -> None:
    """Refuse examples with a single value in each channel."""
    if math.prod(x.shape[1 if _is_single(x, spatial_dims) else 2 :]) == 1:
        raise LayerError(
            f"{layer} expected more than one value in each channel of an example, got shape "
            f"{tuple(x.shape)}."
        )
