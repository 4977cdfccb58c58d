"""Weights with a structure as matrices: orthogonal, the identity, sparse."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import random
from ..random import threefry
from .plain import Initializer, check_number, check_stddev, drawing_dtype, eye
from .scaled import fans


def orthogonal(gain: float = 1.0) -> Initializer:
    """Return the initializer whose matrix `(out, -1)` has orthonormal rows or columns.

    Whichever are fewer are orthonormal, then scaled by `gain`: the Q of the QR decomposition of a
    normal matrix, with the signs that make it uniform over the orthogonal group. Saxe et al. 2013,
    Exact solutions to the nonlinear dynamics of learning in deep linear neural networks.

    >>> weight = orthogonal()(random.key(0), (2, 5))
    >>> torch.allclose(weight @ weight.T, torch.eye(2), atol=1e-6)
    True
    """
    check_number("orthogonal", "gain", gain)

    def init(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        fans(shape)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise TypeError(f"orthogonal: expected a floating-point dtype, got {dtype}.")
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
    if isinstance(groups, bool) or not isinstance(groups, int):
        raise TypeError(f"dirac: expected groups to be a Python integer, got {groups!r}.")
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
    check_number("sparse", "sparsity", sparsity)
    check_stddev("sparse", stddev)
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparse: expected a sparsity within [0, 1], got {sparsity!r}.")

    def init(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        shape = threefry.check_shape("sparse", shape)
        if len(shape) != 2:
            raise ValueError(f"sparse: expected a shape of two dimensions, got {tuple(shape)}.")
        value_key, order_key = random.split(key)
        ranks = random.uniform(order_key, shape).argsort(dim=0).argsort(dim=0)
        kept = ranks >= math.ceil(sparsity * shape[0])
        values = stddev * random.normal(value_key, shape, drawing_dtype(dtype))
        return torch.where(kept, values, 0.0).to(dtype)

    return init


def _check_convolution(name: str, shape: Sequence[int]) -> None:
    shape = threefry.check_shape(name, shape)
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
