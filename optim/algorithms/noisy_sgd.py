"""Gradient descent with noise that fades."""

from __future__ import annotations

from torch import Tensor

from ..leafwise import Scalar
from ..pieces.noise import add_noise
from ..schedules import Schedule
from ..transformation import GradientTransformation
from .recipes import descent

__all__ = ["noisy_sgd"]


def noisy_sgd(
    lr: Scalar | Schedule = 1e-3,
    eta: Scalar = 0.01,
    gamma: Scalar = 0.55,
    weight_decay: Scalar = 0,
    *,
    key: Tensor | int,
    maximize: bool = False,
) -> GradientTransformation:
    """Return gradient descent with noise (Neelakantan et al. 2015, arXiv:1511.06807).

    At step `t = 1, 2, ...` ::

        theta <- theta - lr (g + weight_decay theta + n),    n ~ N(0, eta / t^gamma)

    Parameters
    ----------
    lr
        Learning rate: a number, a 0-d tensor or a schedule.
    eta, gamma
        Variance of the noise at the first step, and the exponent with which it falls.
    weight_decay
        A number or 0-d tensor, at least 0.
    key
        A key of `purefn.functional.random`, or an integer to make one of. It lives in the state.
    maximize
        Climb instead of descend.

    Raises
    ------
    TypeError
        `key` is neither a key nor an integer.
    ValueError
        A hyperparameter is out of its range; in `update`, `params` is missing while
        `weight_decay` is set, or a gradient does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.noisy_sgd(lr=0.1, key=0)
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": torch.tensor([5.0])}, state, params)
    >>> optim.apply_updates(params, updates)["w"].round(decimals=1)
    tensor([0.5000])
    """
    return descent(add_noise(eta, gamma, key), lr=lr, weight_decay=weight_decay, maximize=maximize)
