"""Sophia: momentum divided by the diagonal of the Hessian, which is estimated now and then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...functional import control, grad, hvp, random, tree
from .. import checks
from ..leafwise import Scalar, leafwise, working
from ..moments import first_moment, first_step
from ..schedules import Schedule
from ..transformation import GradientTransformation
from ..whole_tree import cast_like
from .recipes import descent

__all__ = [
    "ScaleBySophiaState",
    "gauss_newton_bartlett_diagonal",
    "hutchinson_diagonal",
    "scale_by_sophia",
    "sophia",
]

#: `estimator(key, params, **extra)` returns an estimate of the diagonal of the Hessian, a tree like
#: `params`; `extra` are the extra arguments of `update`.
DiagonalEstimator = Callable[..., tree.PyTree]


class ScaleBySophiaState(NamedTuple):
    """The number of steps (int64, 0-d), two averages, and the key of estimates still to come.

    `mu` averages gradients and `hessian` estimates of the diagonal; they are the authors' `exp_avg`
    and `hessian`.
    """

    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    mu: tree.PyTree
    hessian: tree.PyTree
    key: Tensor


def hutchinson_diagonal(
    key: Tensor,
    params: tree.PyTree,
    *,
    value_fn: Callable[[tree.PyTree], Tensor] | None = None,
    **extra: Any,
) -> tree.PyTree:
    """Return Hutchinson's estimate of the diagonal of the Hessian of `value_fn` at `params`.

    ::

        u * (H u),    u ~ N(0, 1)

    It is unbiased (Liu et al. 2023, arXiv:2305.14342, algorithm 1), and costs about two gradients.

    Raises
    ------
    ValueError
        `value_fn` is missing.

    Examples
    --------
    >>> import torch
    >>> from purefn.functional import random
    >>> keys, x = random.split(random.key(0), 1000), torch.ones(2)
    >>> weights = torch.tensor([1.0, 3.0])
    >>> estimates = [hutchinson_diagonal(key, x, value_fn=lambda x: weights @ x**2) for key in keys]
    >>> torch.allclose(torch.stack(estimates).mean(0), 2 * weights, rtol=0.2)
    True
    """
    if value_fn is None:
        raise ValueError(
            "hutchinson_diagonal needs the loss as a function of the parameters: call "
            "update(grads, state, params, value_fn=lambda params: loss(params, batch))."
        )
    u = _normal_like(key, params)
    return tree.map(torch.mul, u, hvp(value_fn, (params,), (u,)))


def gauss_newton_bartlett_diagonal(
    key: Tensor,
    params: tree.PyTree,
    *,
    sampled_value_fn: Callable[[tree.PyTree, Tensor], Tensor] | None = None,
    batch_size: Scalar | None = None,
    **extra: Any,
) -> tree.PyTree:
    """Return the Gauss-Newton-Bartlett estimate of the diagonal of the Hessian.

    ::

        batch_size * grad * grad,    grad = d sampled_value_fn(params, key) / d params

    (Liu et al. 2023, arXiv:2305.14342, algorithm 2). `sampled_value_fn(params, key)` is the mean
    loss over a batch of that size *with labels drawn by the key from what the model predicts*, as
    by `random.categorical(key, logits)`. It costs one gradient and is never negative.

    Raises
    ------
    ValueError
        `sampled_value_fn` or `batch_size` is missing.

    Examples
    --------
    >>> import torch
    >>> from purefn.functional import random
    >>> def sampled_value(x, key):                     # of labels N(x, 1), two in the batch
    ...     return ((x - (x + random.normal(key, (2,))).detach()) ** 2 / 2).mean()
    >>> keys, x = random.split(random.key(0), 1000), torch.tensor(5.0)
    >>> estimates = [
    ...     gauss_newton_bartlett_diagonal(key, x, sampled_value_fn=sampled_value, batch_size=2)
    ...     for key in keys]
    >>> torch.allclose(torch.stack(estimates).mean(), torch.tensor(1.0), rtol=0.2)
    True
    """
    if sampled_value_fn is None or batch_size is None:
        raise ValueError(
            "gauss_newton_bartlett_diagonal needs the loss with sampled labels, and the size of "
            "its batch: call update(grads, state, params, sampled_value_fn=..., batch_size=...), "
            "where sampled_value_fn(params, key) draws labels from the model's predictions."
        )
    grads = grad(sampled_value_fn)(params, key)
    return tree.map(lambda g: batch_size * g * g, grads)


def scale_by_sophia(
    b1: Scalar = 0.965,
    b2: Scalar = 0.99,
    eps: Scalar = 1e-12,
    gamma: Scalar = 0.01,
    update_interval: int = 10,
    *,
    key: Tensor | int,
    estimator: DiagonalEstimator = hutchinson_diagonal,
) -> GradientTransformation:
    """Rescale gradients by Sophia (Liu et al. 2023, arXiv:2305.14342, algorithm 3).

    ::

        mu_t = b1 mu_{t-1} + (1 - b1) g_t
        h_t = b2 h_{t-1} + (1 - b2) estimate    at steps 1, 1 + update_interval, ...; else h_{t-1}
        update = clip(mu_t / max(gamma h_t, eps), 1)

    where `clip(x, 1)` brings `x` into [-1, 1]; where the Hessian is negative, updates are signs.
    (optax corrects `mu` as Adam does, and divides by `h_{t-1}`.)

    Parameters
    ----------
    b1, b2
        The decay rates of the averages, in [0, 1).
    eps
        What `gamma h` is at least; greater than 0.
    gamma
        The larger, the fewer updates are clipped. The paper tunes it so that 10 to 50 % are not:
        0.01 with Hutchinson's estimates, 0.05 with those of Gauss, Newton and Bartlett.
    update_interval
        Steps from one estimate to the next. In between its arguments are not needed.
    key
        A key of `purefn.functional.random`, or an integer to make one of. It lives in the state,
        where each estimate splits it.
    estimator
        `estimator(key, params, **extra)` with the extra arguments of `update`, such as
        `hutchinson_diagonal` (`value_fn`) and `gauss_newton_bartlett_diagonal`
        (`sampled_value_fn`, `batch_size`).

    Raises
    ------
    TypeError
        A parameter is complex, or `key` is neither a key nor an integer.
    ValueError
        A hyperparameter is out of its range; in `update`, `params` or what the estimator needs is
        missing, or a gradient does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> rescale = optim.scale_by_sophia(b1=0.5, b2=0.0, gamma=1.0, key=0)
    >>> x = torch.tensor([4.0])
    >>> state = rescale.init(x)
    >>> updates, state = rescale.update(x, state, x, value_fn=lambda x: (100 * x**2).sum())
    >>> optim.get(state, "hessian") > 0, updates.abs() <= 1
    (tensor([True]), tensor([True]))
    """
    checks.decay_rate("b1", b1)
    checks.decay_rate("b2", b2)
    checks.positive("eps", eps)
    checks.positive("gamma", gamma)
    checks.count("update_interval", update_interval)
    seed = random.key(key) if isinstance(key, int) else key
    random.split(seed)  # refuses what is no key

    def init(params: tree.PyTree) -> ScaleBySophiaState:
        checks.trainable(params)
        checks.real("sophia", params)
        count = first_step(params)
        key = seed.to(count.device, copy=True)
        return ScaleBySophiaState(count, tree.zeros_like(params), tree.zeros_like(params), key)

    def rule(g: Tensor, m: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        m = first_moment(m, g, b1)
        return (m / (h * gamma).clamp(min=eps)).clamp(-1.0, 1.0), m

    def update(
        updates: tree.PyTree,
        state: ScaleBySophiaState,
        params: tree.PyTree | None = None,
        **extra: Any,
    ) -> tuple[tree.PyTree, ScaleBySophiaState]:
        checks.state("scale_by_sophia", state, ScaleBySophiaState)
        checks.given("scale_by_sophia", params)

        def estimated(hessian: tree.PyTree, key: Tensor) -> tuple[tree.PyTree, Tensor]:
            next_key, key = random.split(key)
            trees = {"state.hessian": hessian, "estimate": estimator(key, params, **extra)}
            return leafwise(lambda h, new: first_moment(h, new, b2), trees), next_key

        hessian, next_key = control.cond(
            state.count % update_interval == 0,
            estimated,
            lambda *kept: kept,
            state.hessian,
            state.key,
        )
        trees = {"updates": updates, "state.mu": state.mu, "state.hessian": hessian}
        direction, mu = leafwise(rule, trees, results=2)
        return direction, ScaleBySophiaState(state.count + 1, mu, hessian, next_key)

    return GradientTransformation(init, update)


def sophia(
    lr: Scalar | Schedule = 1e-4,
    betas: tuple[Scalar, Scalar] = (0.965, 0.99),
    eps: Scalar = 1e-12,
    weight_decay: Scalar = 1e-1,
    *,
    gamma: Scalar = 0.01,
    update_interval: int = 10,
    key: Tensor | int,
    estimator: DiagonalEstimator = hutchinson_diagonal,
) -> GradientTransformation:
    """Return Sophia (Liu et al. 2023, arXiv:2305.14342): `scale_by_sophia` at a learning rate.

    ::

        theta <- theta - lr (sophia(g) + weight_decay theta)

    The default estimator is Hutchinson's (Sophia-H), which asks for the loss as a function of the
    parameters: `update(grads, state, params, value_fn=...)`. With `estimator=
    gauss_newton_bartlett_diagonal` and `gamma=0.05` this is Sophia-G.

    Parameters
    ----------
    lr
        Learning rate: a number, a 0-d tensor or a schedule.
    betas
        The decay rates of gradients and of estimates, in [0, 1).
    eps, gamma, update_interval, key, estimator
        Those of `scale_by_sophia`.
    weight_decay
        Decoupled, as in AdamW: a number or 0-d tensor, at least 0.

    Raises
    ------
    TypeError
        A parameter is complex, or `key` is neither a key nor an integer.
    ValueError
        A hyperparameter is out of its range; in `update`, `params` or what the estimator needs is
        missing, or a gradient does not match.

    Examples
    --------
    >>> import torch
    >>> import purefn.functional as pf
    >>> from purefn import optim
    >>> loss = lambda params: (params["w"] ** 4).sum()
    >>> optimizer = optim.sophia(lr=0.1, key=0)
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update(pf.grad(loss)(params), state, params, value_fn=loss)
    >>> optim.apply_updates(params, updates)
    {'w': tensor([0.8900])}
    """
    checks.betas("betas", betas)
    return descent(
        scale_by_sophia(
            *betas,
            eps,
            gamma,
            update_interval,
            key=key,
            estimator=estimator,
        ),
        lr=lr,
        weight_decay=weight_decay,
        decoupled_weight_decay=True,
    )


def _normal_like(key: Tensor, params: tree.PyTree) -> tree.PyTree:
    """Return standard normal numbers, one key for each leaf."""
    leaves, structure = tree.flatten(params)
    keys = random.split(key, max(len(leaves), 1))
    wide = [working(leaf) for leaf in leaves]
    drawn = [random.normal(k, x.shape, x.dtype) for k, x in zip(keys, wide, strict=False)]
    return cast_like(tree.unflatten(structure, drawn), params)
