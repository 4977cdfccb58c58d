"""Steps of one size in every coordinate: signSGD and Signum."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import checks
from ..leafwise import Rule, Scalar
from ..pieces.averaging import ema
from ..schedules import Schedule
from ..transformation import GradientTransformation, stateless_elementwise
from .recipes import descent

__all__ = ["scale_by_sign", "sign_sgd", "signum"]


def scale_by_sign() -> GradientTransformation:
    """Replace updates by their signs; that of 0 is 0, and that of NaN is NaN.

    Of a complex number the real and the imaginary part have a sign each.

    >>> import torch
    >>> from purefn import optim
    >>> optim.scale_by_sign().update({"w": torch.tensor([-3.0, 0.0, 0.1])}, optim.EmptyState())[0]
    {'w': tensor([-1.,  0.,  1.])}
    """
    return stateless_elementwise(lambda params: Rule(sign, reads={}), "scale_by_sign")


def sign_sgd(
    lr: Scalar | Schedule = 1e-3, weight_decay: Scalar = 0, *, maximize: bool = False
) -> GradientTransformation:
    """Return signSGD (Bernstein et al. 2018, arXiv:1802.04434, algorithm 1).

    ::

        theta <- theta - lr (sign(g) + weight_decay theta)

    Parameters
    ----------
    lr
        Learning rate: a number, a 0-d tensor or a schedule.
    weight_decay
        Decoupled, as in AdamW: a number or 0-d tensor, at least 0.
    maximize
        Climb instead of descend.

    Raises
    ------
    ValueError
        A hyperparameter is out of its range; in `update`, `params` is missing while
        `weight_decay` is set, or a gradient does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.sign_sgd(lr=0.5)
    >>> params = {"w": torch.tensor([1.0])}
    >>> updates, _ = optimizer.update({"w": torch.tensor([25.0])}, optimizer.init(params), params)
    >>> optim.apply_updates(params, updates)
    {'w': tensor([0.5000])}
    """
    return descent(
        scale_by_sign(),
        lr=lr,
        weight_decay=weight_decay,
        decoupled_weight_decay=True,
        maximize=maximize,
    )


def signum(
    lr: Scalar | Schedule = 1e-3,
    momentum: Scalar = 0.9,
    weight_decay: Scalar = 0,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Return Signum (Bernstein et al. 2018, arXiv:1802.04434, algorithm 2): signSGD with momentum.

    ::

        m <- momentum m + (1 - momentum) g
        theta <- theta - lr (sign(m) + weight_decay theta)

    The state holds `m` as `ema`.

    Parameters
    ----------
    lr
        Learning rate: a number, a 0-d tensor or a schedule.
    momentum
        The decay rate of the average, in [0, 1).
    weight_decay
        Decoupled, as in AdamW: a number or 0-d tensor, at least 0.
    maximize
        Climb instead of descend.

    Raises
    ------
    ValueError
        A hyperparameter is out of its range; in `update`, `params` is missing while
        `weight_decay` is set, or a gradient does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.signum(lr=0.5)
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = optimizer.init(params)
    >>> for gradient in (25.0, -1.0):
    ...     updates, state = optimizer.update({"w": torch.tensor([gradient])}, state, params)
    ...     params = optim.apply_updates(params, updates)
    >>> params
    {'w': tensor([0.])}
    """
    checks.decay_rate("momentum", momentum)
    return descent(
        ema(momentum, debias=False),
        scale_by_sign(),
        lr=lr,
        weight_decay=weight_decay,
        decoupled_weight_decay=True,
        maximize=maximize,
    )


def sign(x: Tensor) -> Tensor:
    """Return the sign of each element; torch's own is 0 of NaN, which would hide it.

    >>> sign(torch.tensor([-2.0, 0.0, torch.nan]))
    tensor([-1.,  0., nan])
    """
    return torch.where(x.isnan(), x, x.sign())
