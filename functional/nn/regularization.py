"""Layers that drop parts of their input in training.

What is dropped depends on the key and the input's shape alone. Outside training the input passes
unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .. import random
from .checks import SPATIAL, Shape, check_flag, check_input, check_probability, needed_key
from .layer import Layer, Params
from .parameters import check_parameters

#: What `selu` tends to for small inputs, `-1.0507 * 1.6733`, in the digits that torch has.
_SELU_FLOOR = -1.7580993408473766


def dropout(p: float = 0.5) -> Layer:
    """Return the layer that in training sets each element to zero with probability `p`.

    The others are divided by `1 - p`, which keeps the mean; outside training the input passes
    unchanged. What is dropped depends on the key and the input's shape alone. Srivastava et al.
    2014, Dropout: a simple way to prevent neural networks from overfitting.

    Raises
    ------
    ValueError
        `p` is not within `[0, 1]`.
    LayerError
        No key is given in training, unless `p` is 0; or the input is not floating-point.

    Examples
    --------
    >>> layer = dropout(0.5)
    >>> y = layer({}, torch.ones(1000), key=random.key(0), train=True)
    >>> y.unique()
    tensor([0., 2.])
    >>> layer({}, torch.ones(3))
    tensor([1., 1., 1.])
    >>> layer({}, torch.ones(3), train=True)
    Traceback (most recent call last):
    purefn.functional.nn.LayerError: dropout needs a key in training: call the model with \
key=... (and a new key for each step), or with train=False.
    """
    return _dropping("dropout", p, [("...",)], _elements, _zeros)


def dropout1d(p: float = 0.5) -> Layer:
    """Return the layer that drops channels of inputs `(N, C, L)` or `(C, L)`; see `dropout2d`.

    >>> y = dropout1d(0.5)({}, torch.ones(2, 3, 4), key=random.key(0), train=True)
    >>> y.amax(dim=2).equal(y.amin(dim=2))
    True
    """
    return _channel_dropout(1, p)


def dropout2d(p: float = 0.5) -> Layer:
    """Return the layer that drops whole channels of inputs `(N, C, H, W)` in training.

    Each channel of each example is set to zero with probability `p`, and divided by `1 - p`
    otherwise. Tompson et al. 2015, Efficient object localization using convolutional networks.

    Raises
    ------
    ValueError
        `p` is not within `[0, 1]`.
    LayerError
        No key is given in training, unless `p` is 0; or the input does not have the right
        dimensions or is not floating-point.

    Examples
    --------
    >>> y = dropout2d(0.5)({}, torch.ones(1, 4, 8, 8), key=random.key(1), train=True)
    >>> y.mean(dim=(2, 3))
    tensor([[2., 0., 2., 2.]])
    """
    return _channel_dropout(2, p)


def dropout3d(p: float = 0.5) -> Layer:
    """Return the layer that drops channels of inputs `(N, C, D, H, W)` or `(C, D, H, W)`.

    See `dropout2d`.

    >>> y = dropout3d(0.5)({}, torch.ones(2, 3, 4, 4, 4), key=random.key(0), train=True)
    >>> y.amax(dim=(2, 3, 4)).equal(y.amin(dim=(2, 3, 4)))
    True
    """
    return _channel_dropout(3, p)


def alpha_dropout(p: float = 0.5) -> Layer:
    """Return the layer that in training sets each element to a constant with probability `p`.

    With `floor = -1.7581`, to which `selu` tends for small inputs,

        y = a (floor if dropped else x) + b,
        a = ((1 - p) (1 + p floor^2))^(-1/2),    b = -a p floor,

    which keeps mean 0 and variance 1; where `p` is 1, `y` is zero. Klambauer et al. 2017,
    Self-normalizing neural networks. Errors are those of `dropout`.

    Examples
    --------
    >>> y = alpha_dropout(0.5)({}, torch.ones(1000), key=random.key(0), train=True)
    >>> y.unique()
    tensor([-0.7792,  1.6656])
    """
    return _dropping("alpha_dropout", p, [("...",)], _elements, _to_floor)


def feature_alpha_dropout(p: float = 0.5) -> Layer:
    """Return the layer that does as `alpha_dropout` to whole channels of inputs `(N, C, ...)`.

    Errors are those of `dropout2d`.

    Examples
    --------
    >>> layer = feature_alpha_dropout(0.5)
    >>> layer({}, torch.ones(1, 4, 8, 8), key=random.key(1), train=True).mean(dim=(2, 3))
    tensor([[ 1.6656, -0.7792,  1.6656,  1.6656]])
    """
    return _dropping("feature_alpha_dropout", p, [("N", "C", "...")], _channels, _to_floor)


def drop_path(p: float, mode: Literal["row", "batch"] = "row") -> Layer:
    """Return the layer that in training drops a whole path: stochastic depth.

    Inputs have shape `(N, ...)`. Each example is set to zero with probability `p`, and divided by
    `1 - p` otherwise. It goes last into a branch of `residual`, which then passes its input on.
    Huang et al. 2016, Deep networks with stochastic depth; `torchvision.ops.StochasticDepth`.

    Parameters
    ----------
    p
        With which probability a path is dropped.
    mode
        "row" decides for each example, "batch" for all of them together.

    Raises
    ------
    ValueError
        `p` is not within `[0, 1]`, or `mode` is not one of the above.
    LayerError
        No key is given in training, unless `p` is 0; or the input has no dimensions or is not
        floating-point.

    Examples
    --------
    >>> y = drop_path(0.5)({}, torch.ones(4, 2), key=random.key(1), train=True)
    >>> y
    tensor([[2., 2.],
            [0., 0.],
            [2., 2.],
            [2., 2.]])
    """
    if mode not in ("row", "batch"):
        raise ValueError(f"drop_path: expected mode to be 'row' or 'batch', got {mode!r}.")
    return _dropping("drop_path", p, [("N", "...")], _rows if mode == "row" else _whole, _zeros)


def _channel_dropout(dims: int, p: float) -> Layer:
    def mask_shape(shape: Shape) -> Shape:
        return (*shape[:-dims], *(1 for _ in range(dims)))

    # torch's Dropout2d takes three dimensions for (N, C, L), so that (C, H, W) is nobody's.
    lengths = ("C", *SPATIAL[dims])
    patterns = [("N", *lengths)] if dims == 2 else [("N", *lengths), lengths]
    return _dropping(f"dropout{dims}d", p, patterns, mask_shape, _zeros)


def _dropping(
    name: str,
    p: float,
    patterns: Sequence[Sequence[str]],
    mask_shape: Callable[[Shape], Shape],
    drop: Callable[[Tensor, Tensor, float], Tensor],
) -> Layer:
    """Return the layer that in training computes `drop(x, kept, p)`.

    `kept` are booleans of the shape `mask_shape(x.shape)`, which broadcasts to that of `x`.
    """
    check_probability(name, "p", p)

    def init(key: Tensor, x: Any) -> Params:
        check_input(name, x, _fitting(patterns, x))
        return {}

    def apply(
        params: Params, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        check_parameters(name, params, {})
        check_input(name, x, _fitting(patterns, x))
        check_flag(name, "train", train)
        if not train or p == 0:
            return x
        key = needed_key(name, key)
        if p == 1:
            return torch.zeros_like(x)
        return drop(x, random.bernoulli(key, 1 - p, mask_shape(tuple(x.shape))), p)

    return Layer(init, apply)


def _fitting(patterns: Sequence[Sequence[str]], x: Any) -> Sequence[str]:
    """Return the pattern of as many dimensions as the input has, else the first."""
    dims = len(getattr(x, "shape", ()))
    return next((pattern for pattern in patterns if len(pattern) == dims), patterns[0])


def _zeros(x: Tensor, kept: Tensor, p: float) -> Tensor:
    return torch.where(kept, x / (1 - p), 0.0)


def _to_floor(x: Tensor, kept: Tensor, p: float) -> Tensor:
    factor = 1 / math.sqrt((1 - p) * (1 + p * _SELU_FLOOR**2))
    offset = -factor * p * _SELU_FLOOR
    return torch.where(kept, factor * x + offset, factor * _SELU_FLOOR + offset)


def _elements(shape: Shape) -> Shape:
    return shape


def _channels(shape: Shape) -> Shape:
    return (*shape[:2], *(1 for _ in shape[2:]))


def _rows(shape: Shape) -> Shape:
    return (*shape[:1], *(1 for _ in shape[1:]))


def _whole(shape: Shape) -> Shape:
    return tuple(1 for _ in shape)
