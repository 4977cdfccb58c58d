"""Layers: pairs of pure functions, with torch's parameter names and layouts.

`layer` says what a layer is and `combinators` build models of them; the other modules hold the
layers by kind.
"""

from .activations import (
    celu,
    elu,
    gelu,
    hardsigmoid,
    hardswish,
    hardtanh,
    identity,
    leaky_relu,
    log_sigmoid,
    log_softmax,
    mish,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    softmax,
    softplus,
    softsign,
    tanh,
)
from .combinators import parallel, residual, serial
from .convolution import conv1d, conv2d, conv3d
from .dense import linear
from .embeddings import embedding
from .layer import Layer, LayerError, Params, State, StatefulLayer, lift
from .normalization import batch_norm, layer_norm
from .pooling import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
)
from .regularization import dropout
from .shapes import flatten

__all__ = [
    "Layer",
    "LayerError",
    "Params",
    "State",
    "StatefulLayer",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "batch_norm",
    "celu",
    "conv1d",
    "conv2d",
    "conv3d",
    "dropout",
    "elu",
    "embedding",
    "flatten",
    "gelu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "identity",
    "layer_norm",
    "leaky_relu",
    "lift",
    "linear",
    "log_sigmoid",
    "log_softmax",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "mish",
    "parallel",
    "relu",
    "relu6",
    "residual",
    "selu",
    "serial",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "softsign",
    "tanh",
]
