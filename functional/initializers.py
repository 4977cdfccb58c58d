"""Initial values of parameters: pure functions of a key, a shape and a dtype.

An initializer is called as `init(key, shape, dtype)`. `zeros`, `ones` and `eye` are initializers
themselves; every other name here returns one: `kaiming_uniform()(key, shape, dtype)`. Values live
on the device of the key. Shapes are torch's, `(out, in / groups, *kernel)`, and so

    fan_in = in / groups * prod(kernel),    fan_out = out * prod(kernel).

Torch's names mean torch's distributions (`xavier_*`, `kaiming_*`: normal is not truncated), and
JAX's names mean JAX's (`glorot_*`, `he_*`, `lecun_*`: normal is truncated at two standard
deviations).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from . import random
from .random import threefry

Mode = Literal["fan_in", "fan_out", "fan_avg", "fan_geo_avg"]
Distribution = Literal["uniform", "normal", "truncated_normal"]

#: Standard deviation of the standard normal distribution truncated to [-2, 2].
_TRUNCATED_STDDEV = 0.87962566103423978


class Initializer(Protocol):
    """The type of an initializer."""

    def __call__(
        self, key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Return a tensor of the given shape and dtype, drawn with `key`."""


def zeros(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Return zeros.

    >>> zeros(random.key(0), (2,))
    tensor([0., 0.])
    """
    threefry.check_key("zeros", key)
    return torch.zeros(shape, dtype=dtype, device=key.device)


def ones(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Return ones.

    >>> ones(random.key(0), (2,))
    tensor([1., 1.])
    """
    threefry.check_key("ones", key)
    return torch.ones(shape, dtype=dtype, device=key.device)


def eye(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the identity matrix, cut or padded with zeros to a shape of two dimensions.

    >>> eye(random.key(0), (2, 3))
    tensor([[1., 0., 0.],
            [0., 1., 0.]])
    """
    threefry.check_key("eye", key)
    if len(shape) != 2:
        raise ValueError(f"eye: expected a shape of two dimensions, got {tuple(shape)}.")
    return torch.eye(*shape, dtype=dtype, device=key.device)


def constant(value: float) -> Initializer:
    """Return the initializer that fills with `value`.

    >>> constant(0.5)(random.key(0), (2,))
    tensor([0.5000, 0.5000])
    """

    def init(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        threefry.check_key("constant", key)
        return torch.full(tuple(shape), value, dtype=dtype, device=key.device)

    return init


def uniform(minval: float = 0.0, maxval: float = 1.0) -> Initializer:
    """Return the initializer that draws uniformly from `[minval, maxval)`.

    >>> values = uniform(-2.0, -1.0)(random.key(0), (100,))
    >>> bool(values.min() >= -2), bool(values.max() < -1)
    (True, True)
    """

    def init(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return random.uniform(key, tuple(shape), dtype, minval, maxval)

    return init


def normal(stddev: float = 1.0, *, mean: float = 0.0) -> Initializer:
    """Return the initializer that draws from the normal distribution.

    >>> normal(0.02)(random.key(0), (3, 2)).shape
    torch.Size([3, 2])
    """

    def init(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return mean + stddev * random.normal(key, tuple(shape), dtype)

    return init


def truncated_normal(
    stddev: float = 1.0, *, mean: float = 0.0, lower: float = -2.0, upper: float = 2.0
) -> Initializer:
    """Return the initializer that draws from the normal distribution cut off on both sides.

    As in JAX, `lower` and `upper` count standard deviations from the mean (torch's `trunc_normal_`
    has them as values), and `stddev` is that of the distribution before it is cut.

    >>> values = truncated_normal(0.5)(random.key(0), (100,))
    >>> bool(values.abs().max() <= 1.0)
    True
    """

    def init(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return mean + stddev * random.truncated_normal(key, lower, upper, tuple(shape), dtype)

    return init


def fans(shape: Sequence[int]) -> tuple[int, int]:
    """Return `(fan_in, fan_out)` of a weight of shape `(out, in / groups, *kernel)`.

    >>> fans((32, 3, 5, 5))
    (75, 800)
    """
    if len(shape) < 2:
        raise ValueError(
            f"fans: expected a shape (out, in, *kernel) of at least two dimensions, got "
            f"{tuple(shape)}; fan_in and fan_out are not defined for it."
        )
    kernel = math.prod(shape[2:])
    return shape[1] * kernel, shape[0] * kernel


def variance_scaling(
    scale: float = 1.0, mode: Mode = "fan_in", distribution: Distribution = "truncated_normal"
) -> Initializer:
    """Return the initializer with mean zero and variance `scale / fan`.

    The fan is `fan_in`, `fan_out`, their arithmetic mean (`fan_avg`) or their geometric mean
    (`fan_geo_avg`). With `truncated_normal` the cut at two standard deviations is allowed for: the
    result has the variance asked for.

    Raises
    ------
    ValueError
        `scale` is not positive, or `mode` or `distribution` is none of the above; on use, the shape
        has fewer than two dimensions.

    Examples
    --------
    >>> weight = variance_scaling(3.0, "fan_in", "uniform")(random.key(0), (100, 9))
    >>> bool(weight.abs().max() <= 1.0)
    True
    """
    if not 0 < scale < math.inf:
        raise ValueError(f"variance_scaling: expected a finite scale > 0, got {scale!r}.")
    if mode not in ("fan_in", "fan_out", "fan_avg", "fan_geo_avg"):
        raise ValueError(
            "variance_scaling: expected mode 'fan_in', 'fan_out', 'fan_avg' or 'fan_geo_avg', got "
            f"{mode!r}."
        )
    if distribution not in ("uniform", "normal", "truncated_normal"):
        raise ValueError(
            "variance_scaling: expected distribution 'uniform', 'normal' or 'truncated_normal', "
            f"got {distribution!r}."
        )

    def init(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        fan_in, fan_out = fans(shape)
        fan = {
            "fan_in": fan_in,
            "fan_out": fan_out,
            "fan_avg": (fan_in + fan_out) / 2,
            "fan_geo_avg": math.sqrt(fan_in * fan_out),
        }[mode]
        stddev = math.sqrt(scale / max(fan, 1))  # a fan of 0 belongs to a weight without elements
        if distribution == "uniform":
            return stddev * math.sqrt(3) * random.uniform(key, tuple(shape), dtype, -1.0, 1.0)
        if distribution == "normal":
            return stddev * random.normal(key, tuple(shape), dtype)
        cut = random.truncated_normal(key, -2.0, 2.0, tuple(shape), dtype)
        return stddev / _TRUNCATED_STDDEV * cut

    return init


def lecun_uniform() -> Initializer:
    """Return `variance_scaling(1, "fan_in", "uniform")` (LeCun et al. 1998, Efficient BackProp).

    >>> lecun_uniform()(random.key(0), (3, 2)).shape
    torch.Size([3, 2])
    """
    return variance_scaling(1.0, "fan_in", "uniform")


def lecun_normal() -> Initializer:
    """Return `variance_scaling(1, "fan_in", "truncated_normal")`.

    >>> lecun_normal()(random.key(0), (3, 2)).shape
    torch.Size([3, 2])
    """
    return variance_scaling(1.0, "fan_in", "truncated_normal")


def glorot_uniform() -> Initializer:
    """Return `variance_scaling(1, "fan_avg", "uniform")`, the same as `xavier_uniform()`.

    >>> glorot_uniform()(random.key(0), (3, 2)).shape
    torch.Size([3, 2])
    """
    return variance_scaling(1.0, "fan_avg", "uniform")


def glorot_normal() -> Initializer:
    """Return `variance_scaling(1, "fan_avg", "truncated_normal")`; `xavier_normal` is not cut.

    >>> glorot_normal()(random.key(0), (3, 2)).shape
    torch.Size([3, 2])
    """
    return variance_scaling(1.0, "fan_avg", "truncated_normal")


def he_uniform() -> Initializer:
    """Return `variance_scaling(2, "fan_in", "uniform")`, the same as `kaiming_uniform()`.

    >>> he_uniform()(random.key(0), (3, 2)).shape
    torch.Size([3, 2])
    """
    return variance_scaling(2.0, "fan_in", "uniform")


def he_normal() -> Initializer:
    """Return `variance_scaling(2, "fan_in", "truncated_normal")`; `kaiming_normal` is not cut.

    >>> he_normal()(random.key(0), (3, 2)).shape
    torch.Size([3, 2])
    """
    return variance_scaling(2.0, "fan_in", "truncated_normal")


def xavier_uniform(gain: float = 1.0) -> Initializer:
    """Return the initializer uniform within `±gain sqrt(6 / (fan_in + fan_out))`.

    Glorot & Bengio 2010, Understanding the difficulty of training deep feedforward neural networks.

    >>> xavier_uniform(calculate_gain("tanh"))(random.key(0), (3, 2)).shape
    torch.Size([3, 2])
    """
    return variance_scaling(gain**2, "fan_avg", "uniform")


def xavier_normal(gain: float = 1.0) -> Initializer:
    """Return the normal initializer of variance `gain^2 2 / (fan_in + fan_out)`.

    >>> xavier_normal()(random.key(0), (3, 2)).shape
    torch.Size([3, 2])
    """
    return variance_scaling(gain**2, "fan_avg", "normal")


def kaiming_uniform(
    a: float = 0.0, *, mode: Mode = "fan_in", nonlinearity: str = "leaky_relu"
) -> Initializer:
    """Return the initializer uniform within `±gain sqrt(3 / fan)`.

    `gain` is `calculate_gain(nonlinearity, a)`, so `a` is the negative slope of a leaky ReLU.
    He et al. 2015, Delving deep into rectifiers.

    >>> kaiming_uniform(mode="fan_out")(random.key(0), (3, 2)).shape
    torch.Size([3, 2])
    """
    return variance_scaling(calculate_gain(nonlinearity, a) ** 2, mode, "uniform")


def kaiming_normal(
    a: float = 0.0, *, mode: Mode = "fan_in", nonlinearity: str = "leaky_relu"
) -> Initializer:
    """Return the normal initializer of variance `gain^2 / fan`; see `kaiming_uniform`.

    >>> kaiming_normal(nonlinearity="relu")(random.key(0), (3, 2)).shape
    torch.Size([3, 2])
    """
    return variance_scaling(calculate_gain(nonlinearity, a) ** 2, mode, "normal")


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """Return the factor by which a nonlinearity wants its layer's weights scaled, as in torch.

    `param` is the negative slope of `leaky_relu`, 0.01 where none is given.

    >>> calculate_gain("tanh")
    1.6666666666666667
    """
    slope = 0.01 if param is None else param
    gains = {
        "linear": 1.0,
        "conv1d": 1.0,
        "conv2d": 1.0,
        "conv3d": 1.0,
        "conv_transpose1d": 1.0,
        "conv_transpose2d": 1.0,
        "conv_transpose3d": 1.0,
        "sigmoid": 1.0,
        "tanh": 5 / 3,
        "relu": math.sqrt(2),
        "leaky_relu": math.sqrt(2 / (1 + slope**2)),
        "selu": 3 / 4,
    }
    if nonlinearity not in gains:
        raise ValueError(f"calculate_gain: expected one of {sorted(gains)}, got {nonlinearity!r}.")
    return gains[nonlinearity]


def orthogonal(gain: float = 1.0) -> Initializer:
    """Return the initializer whose matrix `(out, -1)` has orthonormal rows or columns.

    Whichever are fewer are orthonormal, then scaled by `gain`: the Q of the QR decomposition of a
    normal matrix, with the signs that make it uniform over the orthogonal group. Saxe et al. 2013,
    Exact solutions to the nonlinear dynamics of learning in deep linear neural networks.

    >>> weight = orthogonal()(random.key(0), (2, 5))
    >>> torch.allclose(weight @ weight.T, torch.eye(2), atol=1e-6)
    True
    """

    def init(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        fans(shape)
        rows, columns = shape[0], math.prod(shape[1:])
        wide = rows < columns
        precise = torch.float64 if dtype == torch.float64 else torch.float32
        matrix = random.normal(key, (columns, rows) if wide else (rows, columns), precise)
        q, r = torch.linalg.qr(matrix)
        signs = torch.where(r.diagonal() < 0, -1.0, 1.0).to(precise)
        weight: Tensor = gain * signs * q
        return (weight.T if wide else weight).reshape(tuple(shape)).to(dtype)

    return init


def delta_orthogonal(gain: float = 1.0) -> Initializer:
    """Return the convolution initializer that is `orthogonal` at the kernel's centre, zero around.

    The convolution then keeps norms. Xiao et al. 2018, Dynamical isometry and a mean field theory
    of CNNs. Refuses a shape with fewer output than input channels.

    >>> weight = delta_orthogonal()(random.key(0), (4, 2, 3, 3))
    >>> bool(weight[:, :, 0, 0].any()), bool(weight[:, :, 1, 1].any())
    (False, True)
    """

    def init(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        _check_convolution("delta_orthogonal", shape)
        if shape[0] < shape[1]:
            raise ValueError(
                "delta_orthogonal: expected at least as many output channels as input channels, "
                f"got shape {tuple(shape)}."
            )
        centre = [(length - 1) // 2 for length in shape[2:]]
        return _at_centre(orthogonal(gain)(key, shape[:2], dtype), shape[2:], centre)

    return init


def dirac(groups: int = 1) -> Initializer:
    """Return the convolution initializer that keeps as many input channels as it can.

    In each group output channel `i` is input channel `i`; channels beyond those are zero.

    >>> dirac()(random.key(0), (2, 2, 3))
    tensor([[[0., 1., 0.],
             [0., 0., 0.]],
    <BLANKLINE>
            [[0., 0., 0.],
             [0., 1., 0.]]])
    """
    if groups < 1:
        raise ValueError(f"dirac: expected groups >= 1, got {groups!r}.")

    def init(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        _check_convolution("dirac", shape)
        if shape[0] % groups:
            raise ValueError(
                f"dirac: expected output channels divisible by groups = {groups}, got {shape[0]}."
            )
        group = eye(key, (shape[0] // groups, shape[1]), dtype)
        return _at_centre(group.repeat(groups, 1), shape[2:], [length // 2 for length in shape[2:]])

    return init


def sparse(sparsity: float, *, stddev: float = 0.01) -> Initializer:
    """Return the normal initializer of matrices that has a share of each column set to zero.

    `ceil(sparsity * rows)` elements of each column are zero. Martens 2010, Deep learning via
    Hessian-free optimization.

    >>> (sparse(0.5)(random.key(0), (4, 3)) == 0).sum(dim=0)
    tensor([2, 2, 2])
    """
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparse: expected a sparsity within [0, 1], got {sparsity!r}.")

    def init(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        if len(shape) != 2:
            raise ValueError(f"sparse: expected a shape of two dimensions, got {tuple(shape)}.")
        value_key, order_key = random.split(key)
        ranks = random.uniform(order_key, tuple(shape)).argsort(dim=0).argsort(dim=0)
        kept = ranks >= math.ceil(sparsity * shape[0])
        return torch.where(kept, stddev * random.normal(value_key, tuple(shape), dtype), 0.0)

    return init


def _check_convolution(name: str, shape: Sequence[int]) -> None:
    if len(shape) not in (3, 4, 5):
        raise ValueError(f"{name}: expected a shape (out, in, *kernel), got {tuple(shape)}.")


def _at_centre(matrix: Tensor, kernel: Sequence[int], centre: Sequence[int]) -> Tensor:
    """Return the convolution weight that is `matrix` at the index `centre` of the kernel."""
    flat_centre = 0
    for length, index in zip(kernel, centre, strict=True):
        flat_centre = flat_centre * length + index
    positions = torch.arange(math.prod(kernel), device=matrix.device)
    weight = matrix[..., None] * (positions == flat_centre)
    return weight.reshape(*matrix.shape, *kernel)
