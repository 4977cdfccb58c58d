"""Activations: pure functions of a tensor, layers wherever a combinator receives them.

Equations, defaults and option names are those of torch. For another option give the combinator a
function, `lambda x: nn.leaky_relu(x, 0.2)`.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor
from torch._C._functorch import TransformType
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters

from .checks import check_maybe_batched


def identity(x: Tensor) -> Tensor:
    """Return `x`.

    >>> identity(torch.tensor([1.0, -1.0]))
    tensor([ 1., -1.])
    """
    return x


def relu(x: Tensor) -> Tensor:
    """Return `max(x, 0)`.

    >>> relu(torch.tensor([1.0, -1.0]))
    tensor([1., 0.])
    """
    return F.relu(x)


def relu6(x: Tensor) -> Tensor:
    """Return `min(max(x, 0), 6)`.

    >>> relu6(torch.tensor([7.0, -1.0]))
    tensor([6., 0.])
    """
    return F.relu6(x)


def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    """Return `x` where it is positive, else `negative_slope x`.

    >>> leaky_relu(torch.tensor([1.0, -1.0]), 0.5)
    tensor([ 1.0000, -0.5000])
    """
    return F.leaky_relu(x, negative_slope)


def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """Return `x` where it is positive, else `alpha (exp(x) - 1)`.

    >>> elu(torch.tensor([1.0, -1.0]))
    tensor([ 1.0000, -0.6321])
    """
    return F.elu(x, alpha)


def celu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """Return `max(x, 0) + min(alpha (exp(x / alpha) - 1), 0)`.

    >>> celu(torch.tensor([1.0, -1.0]))
    tensor([ 1.0000, -0.6321])
    """
    return F.celu(x, alpha)


def selu(x: Tensor) -> Tensor:
    """Return `1.0507 elu(x, 1.6733)`, which keeps mean 0 and variance 1 (Klambauer et al. 2017).

    >>> selu(torch.tensor([1.0, -1.0]))
    tensor([ 1.0507, -1.1113])
    """
    return F.selu(x)


def gelu(x: Tensor, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    """Return `x Phi(x)`, Phi being the normal distribution function (Hendrycks & Gimpel 2016).

    >>> gelu(torch.tensor([1.0, -1.0]))
    tensor([ 0.8413, -0.1587])
    """
    return F.gelu(x, approximate=approximate)


def silu(x: Tensor) -> Tensor:
    """Return `x sigmoid(x)`, also called swish.

    >>> silu(torch.tensor([1.0, -1.0]))
    tensor([ 0.7311, -0.2689])
    """
    return F.silu(x)


def mish(x: Tensor) -> Tensor:
    """Return `x tanh(softplus(x))`.

    >>> mish(torch.tensor([1.0, -1.0]))
    tensor([ 0.8651, -0.3034])
    """
    return F.mish(x)


def softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """Return `log(1 + exp(beta x)) / beta`, or `x` where `beta x > threshold`.

    >>> softplus(torch.tensor([1.0, -1.0]))
    tensor([1.3133, 0.3133])
    """
    return F.softplus(x, beta, threshold)


def softsign(x: Tensor) -> Tensor:
    """Return `x / (1 + abs(x))`.

    >>> softsign(torch.tensor([1.0, -1.0]))
    tensor([ 0.5000, -0.5000])
    """
    return F.softsign(x)


def tanh(x: Tensor) -> Tensor:
    """Return the hyperbolic tangent of `x`.

    >>> tanh(torch.tensor([1.0, -1.0]))
    tensor([ 0.7616, -0.7616])
    """
    return torch.tanh(x)


def sigmoid(x: Tensor) -> Tensor:
    """Return `1 / (1 + exp(-x))`.

    >>> sigmoid(torch.tensor([1.0, -1.0]))
    tensor([0.7311, 0.2689])
    """
    return torch.sigmoid(x)


def log_sigmoid(x: Tensor) -> Tensor:
    """Return `log(sigmoid(x))`, without overflow.

    >>> log_sigmoid(torch.tensor([1.0, -1.0]))
    tensor([-0.3133, -1.3133])
    """
    return F.logsigmoid(x)


def hardtanh(x: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """Return `x` clipped to `[min_val, max_val]`.

    >>> hardtanh(torch.tensor([2.0, -0.5]))
    tensor([ 1.0000, -0.5000])
    """
    return F.hardtanh(x, min_val, max_val)


def hardsigmoid(x: Tensor) -> Tensor:
    """Return `relu6(x + 3) / 6`.

    >>> hardsigmoid(torch.tensor([1.5, -3.0]))
    tensor([0.7500, 0.0000])
    """
    if sum(_derivatives()) < 2:
        return F.hardsigmoid(x)
    # torch's kernel has no second derivative.
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return ((F.hardtanh(wide, -3.0, 3.0) + 3) / 6).to(x.dtype)


def hardswish(x: Tensor) -> Tensor:
    """Return `x relu6(x + 3) / 6` (Howard et al. 2019).

    >>> hardswish(torch.tensor([3.0, -3.0]))
    tensor([3., -0.])
    """
    return F.hardswish(x)


def softmax(x: Tensor, dim: int = -1) -> Tensor:
    """Return `exp(x) / sum(exp(x))`, the sum being over `dim`.

    >>> softmax(torch.tensor([0.0, 0.0]))
    tensor([0.5000, 0.5000])
    """
    return F.softmax(x, dim)


def log_softmax(x: Tensor, dim: int = -1) -> Tensor:
    """Return `log(softmax(x))`, without overflow.

    >>> log_softmax(torch.tensor([0.0, 0.0]))
    tensor([-0.6931, -0.6931])
    """
    return F.log_softmax(x, dim)


def softmin(x: Tensor, dim: int = -1) -> Tensor:
    """Return `softmax(-x)`.

    >>> softmin(torch.tensor([0.0, 0.0]))
    tensor([0.5000, 0.5000])
    """
    return F.softmin(x, dim)


def softmax2d(x: Tensor) -> Tensor:
    """Return the softmax over the channels of `(N, C, H, W)` or `(C, H, W)`.

    >>> softmax2d(torch.zeros(1, 2, 1, 1)).flatten()
    tensor([0.5000, 0.5000])
    """
    check_maybe_batched("softmax2d", x, 2)
    return F.softmax(x, -3)


def glu(x: Tensor, dim: int = -1) -> Tensor:
    """Return `a sigmoid(b)`, `a` and `b` being the halves of `x` along `dim` (Dauphin et al. 2017).

    >>> glu(torch.tensor([1.0, 2.0, 0.0, 0.0]))
    tensor([0.5000, 1.0000])
    """
    if _derivatives()[1]:
        # torch's forward derivative has no kernel for halves on the CPU.
        return F.glu(x.to(torch.promote_types(x.dtype, torch.float32)), dim).to(x.dtype)
    return F.glu(x, dim)


def threshold(x: Tensor, threshold: float, value: float) -> Tensor:
    """Return `x` where it is above `threshold`, else `value`.

    >>> threshold(torch.tensor([1.0, 0.1]), 0.5, -2.0)
    tensor([ 1., -2.])
    """
    return F.threshold(x, threshold, value)


def hardshrink(x: Tensor, lambd: float = 0.5) -> Tensor:
    """Return `x` where `abs(x) > lambd`, else 0.

    >>> hardshrink(torch.tensor([1.0, -0.3]))
    tensor([1., 0.])
    """
    return F.hardshrink(x, lambd)


def softshrink(x: Tensor, lambd: float = 0.5) -> Tensor:
    """Return `x` moved by `lambd` towards 0, and 0 where that would pass it; `lambd >= 0`.

    >>> softshrink(torch.tensor([2.0, 0.3, -1.0]))
    tensor([ 1.5000,  0.0000, -0.5000])
    """
    return F.softshrink(x, lambd)


def tanhshrink(x: Tensor) -> Tensor:
    """Return `x - tanh(x)`.

    >>> tanhshrink(torch.tensor([1.0, -1.0]))
    tensor([ 0.2384, -0.2384])
    """
    return F.tanhshrink(x)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _derivatives() -> tuple[int, int]:
    """Return how many of the transforms that run differentiate backwards, and how many forwards."""
    running = [interpreter.key() for interpreter in retrieve_all_functorch_interpreters()]
    return running.count(TransformType.Grad), running.count(TransformType.Jvp)
