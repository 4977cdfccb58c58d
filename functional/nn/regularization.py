"""Layers that drop parts of their input in training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import random
from .checks import check_flag, check_input
from .layer import Layer, LayerError, Params
from .parameters import check_parameters


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
    if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p <= 1:
        raise ValueError(f"dropout: expected a probability p within [0, 1], got {p!r}.")

    def init(key: Tensor, x: Any) -> Params:
        check_input("dropout", x, ("...",))
        return {}

    def apply(
        params: Params, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        check_parameters("dropout", params, {})
        check_input("dropout", x, ("...",))
        check_flag("dropout", "train", train)
        if not train or p == 0:
            return x
        if key is None:
            raise LayerError(
                "dropout needs a key in training: call the model with key=... (and a new key for "
                "each step), or with train=False."
            )
        if p == 1:
            return torch.zeros_like(x)
        kept = random.bernoulli(key, 1 - p, x.shape)
        return torch.where(kept, x / (1 - p), 0.0)

    return Layer(init, apply)
