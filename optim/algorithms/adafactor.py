"""Adafactor: second moments of matrices as the product of a row and a column."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import Scalar
from ..moments import first_step
from ..schedules import Schedule
from ..stacking import per_shape
from ..transformation import GradientTransformation, chain
from ..whole_tree import rate_at
from .recipes import is_zero, uphill

__all__ = [
    "RelativeStepState",
    "ScaleByFactoredRmsState",
    "adafactor",
    "scale_by_factored_rms",
    "scale_by_relative_step",
]


class ScaleByFactoredRmsState(NamedTuple):
    """The number of steps (int64, 0-d) and averages of squared gradients.

    `row_var` (shape `(..., m, 1)`) and `col_var` (`(..., 1, n)`) are means over columns and over
    rows of leaves of two or more dimensions; `variance` is the average itself for the others. Where
    a leaf has no such average the tensor is empty.
    """

    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    row_var: tree.PyTree
    col_var: tree.PyTree
    variance: tree.PyTree


class RelativeStepState(NamedTuple):
    """How many updates have been made, an int64 0-d tensor."""

    count: Tensor  # type: ignore[assignment]  # hides tuple.count


def scale_by_factored_rms(
    beta2_decay: Scalar = -0.8, eps: Scalar | None = None
) -> GradientTransformation:
    """Divide gradients by the root of a second moment kept as a row and a column of each matrix.

    ::

        w_t = t^beta2_decay                                       the weight of the newest gradient
        R_t = (1 - w_t) R_{t-1} + w_t mean_columns(g_t^2)
        C_t = (1 - w_t) C_{t-1} + w_t mean_rows(g_t^2)
        V_t = R_t C_t / max(mean(R_t), eps)
        update = g_t / max(sqrt(V_t), eps)

    (Shazeer & Stern 2018, arXiv:1804.04235.) `V_t` of vectors and scalars is the average of `g_t^2`
    itself. Of leaves with more than two dimensions the last two are rows and columns. `eps` bounds
    the divisor from below, as in torch; in the paper and in optax it is added to `g_t^2`.

    Parameters
    ----------
    beta2_decay
        The exponent, at most 0.
    eps
        At least 0. None is the machine epsilon of the dtype that is computed in: float32 for
        leaves in half precision, where torch takes 0.0078 for bfloat16. With 0 a leaf whose
        gradients have all been zero becomes NaN.

    Raises
    ------
    TypeError
        In `init`, a leaf is complex.
    ValueError
        A hyperparameter is out of its range, or, in `update`, a gradient does not match the state.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> rescale = optim.scale_by_factored_rms()
    >>> state = rescale.init({"w": torch.zeros(2, 2)})
    >>> gradient = torch.tensor([[1.0, 2.0], [10.0, 20.0]])  # the product of a column and a row
    >>> rescale.update({"w": gradient}, state)[0]
    {'w': tensor([[1., 1.],
            [1., 1.]])}
    """
    _check_exponent(beta2_decay)
    if eps is not None:
        checks.non_negative("eps", eps)

    def init(params: tree.PyTree) -> ScaleByFactoredRmsState:
        checks.trainable(params)
        checks.real("scale_by_factored_rms", params)

        def zeros(shape: Callable[[Tensor], tuple[int, ...]]) -> tree.PyTree:
            return tree.map(lambda leaf: leaf.new_zeros(shape(leaf)), params)

        return ScaleByFactoredRmsState(first_step(params), *map(zeros, _SHAPES.values()))

    def update(
        updates: tree.PyTree,
        state: ScaleByFactoredRmsState,
        params: tree.PyTree | None = None,
        **extra: object,
    ) -> tuple[tree.PyTree, ScaleByFactoredRmsState]:
        checks.state("scale_by_factored_rms", state, ScaleByFactoredRmsState)
        count = state.count + 1
        weight = count.double() ** beta2_decay

        def rule(g: Tensor, row: Tensor, col: Tensor, variance: Tensor) -> tuple[Tensor, ...]:
            smallest = torch.finfo(g.dtype).eps if eps is None else eps
            w = weight.to(g.dtype)
            if g.ndim > 2:  # a stack of matrices
                squares = g * g
                row = torch.lerp(row, _mean(squares, -1), w)
                col = torch.lerp(col, _mean(squares, -2), w)
                v = row * (col / _mean(row, -2).clamp(min=smallest))
            else:
                v = variance = torch.lerp(variance, g * g, w)
            return g * v.clamp(min=smallest * smallest).rsqrt(), row, col, variance

        checks.trainable(updates, "updates")
        free = {f"state.{name}": getattr(state, name) for name in _SHAPES}
        for (name, average), shape in zip(free.items(), _SHAPES.values(), strict=True):
            checks.state_tensors(name, average, "updates", updates, shape)
        updates, *averages = per_shape(rule, {"updates": updates}, free, results=4)
        return updates, ScaleByFactoredRmsState(count, *averages)

    return GradientTransformation(init, update)


def scale_by_relative_step(
    lr: Scalar | Schedule = 1e-2,
    min_scale: Scalar = 1e-3,
    d: Scalar = 1.0,
    weight_decay: Scalar = 0.0,
) -> GradientTransformation:
    """Turn a direction into a step downhill that is relative to the size of the parameters.

    ::

        rho_t = min(lr_t, 1 / sqrt(t))
        update = -rho_t max(min_scale, RMS(theta)) u_t / max(1, RMS(u_t) / d)
                 - lr_t weight_decay theta

    with `RMS(x) = sqrt(mean(x^2))` over a leaf: Adafactor's step (arXiv:1804.04235, algorithm 4),
    as torch computes it.

    Parameters
    ----------
    lr
        The largest relative step: a number, a 0-d tensor or a schedule.
    min_scale
        What counts as the size of smaller parameters, at least 0.
    d
        The bound of a direction's root mean square, at least 1.
    weight_decay
        At least 0.

    Raises
    ------
    ValueError
        A hyperparameter is out of its range, or, in `update`, `params` is missing.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> step = optim.scale_by_relative_step(lr=0.1)
    >>> params = {"w": torch.full((2,), 10.0)}
    >>> step.update({"w": torch.tensor([3.0, -3.0])}, step.init(params), params)[0]
    {'w': tensor([-1.,  1.])}
    """
    checks.learning_rate("lr", lr)
    checks.non_negative("min_scale", min_scale)
    _check_threshold(d)
    checks.non_negative("weight_decay", weight_decay)

    def init(params: tree.PyTree) -> RelativeStepState:
        checks.trainable(params)
        checks.real("scale_by_relative_step", params)
        return RelativeStepState(first_step(params))

    def update(
        updates: tree.PyTree,
        state: RelativeStepState,
        params: tree.PyTree | None = None,
        **extra: object,
    ) -> tuple[tree.PyTree, RelativeStepState]:
        checks.state("scale_by_relative_step", state, RelativeStepState)
        checks.given("scale_by_relative_step", params)
        count = state.count + 1
        rate = torch.as_tensor(rate_at(lr, state.count), dtype=torch.float64, device=count.device)
        rho = torch.minimum(rate, count.double().rsqrt())
        decay = rate * weight_decay

        def rule(u: Tensor, p: Tensor) -> Tensor:
            size = _rms(p).clamp(min=min_scale)
            step = u * (-rho * size / (_rms(u) / d).clamp(min=1.0))
            return step if is_zero(weight_decay) else step - decay * p

        return (
            per_shape(rule, {"updates": updates, "params": params}),
            RelativeStepState(count),
        )

    return GradientTransformation(init, update)


def adafactor(
    lr: Scalar | Schedule = 1e-2,
    beta2_decay: Scalar = -0.8,
    eps: tuple[Scalar | None, Scalar] = (None, 1e-3),
    d: Scalar = 1.0,
    weight_decay: Scalar = 0.0,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Return Adafactor, `torch.optim.Adafactor` (Shazeer & Stern 2018, arXiv:1804.04235).

    `scale_by_factored_rms` and then `scale_by_relative_step`. An infinite or NaN gradient makes its
    leaf NaN.

    Parameters
    ----------
    lr
        The largest step relative to the parameters, and the rate of weight decay: a number, a 0-d
        tensor or a schedule.
    beta2_decay
        The newest squared gradient has weight `t^beta2_decay` in the average; at most 0.
    eps
        The smallest divisor (None: see `scale_by_factored_rms`; in a tree of several dtypes each
        leaf has its own, while torch takes the first's for all) and the smallest size of
        parameters.
    d
        The bound of the root mean square of a rescaled gradient, at least 1.
    weight_decay
        At least 0; decoupled, as in AdamW.
    maximize
        Climb instead of descend.

    Raises
    ------
    TypeError
        In `init`, a leaf is complex.
    ValueError
        A hyperparameter is out of its range; in `update`, `params` is missing or a gradient does
        not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.adafactor(lr=0.1)
    >>> params = {"w": torch.tensor([1.0, 1.0])}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": torch.tensor([5.0, -0.5])}, state, params)
    >>> optim.apply_updates(params, updates)
    {'w': tensor([0.9000, 1.1000])}
    """
    checks.learning_rate("lr", lr)
    _check_exponent(beta2_decay)
    checks.pair("eps", eps)
    if eps[0] is not None:
        checks.non_negative("eps[0]", eps[0])
    checks.non_negative("eps[1]", eps[1])
    _check_threshold(d)
    checks.non_negative("weight_decay", weight_decay)
    return chain(
        *uphill(maximize),
        scale_by_factored_rms(beta2_decay, eps[0]),
        scale_by_relative_step(lr, eps[1], d, weight_decay),
    )


#: The shapes of the averages that are kept for a leaf, each by its name in the state.
_SHAPES: dict[str, Callable[[Tensor], tuple[int, ...]]] = {
    "row_var": lambda leaf: (*leaf.shape[:-1], 1) if leaf.ndim > 1 else (0,),
    "col_var": lambda leaf: (*leaf.shape[:-2], 1, leaf.shape[-1]) if leaf.ndim > 1 else (0,),
    "variance": lambda leaf: (0,) if leaf.ndim > 1 else tuple(leaf.shape),
}


def _mean(x: Tensor, dim: int) -> Tensor:
    """Return the mean over `dim`, which stays; 0 where it has no element."""
    return x.sum(dim, keepdim=True) / max(1, x.shape[dim])


def _rms(x: Tensor) -> Tensor:
    """Return the root mean square of each leaf of a stack, in the shape that multiplies it."""
    size = math.prod(x.shape[1:])
    norms: Tensor = torch.linalg.vector_norm(x.reshape(len(x), size), dim=1)
    return (norms / math.sqrt(max(1, size))).reshape(-1, *[1] * (x.ndim - 1))


def _check_exponent(beta2_decay: Scalar) -> None:
    checks.scalar("beta2_decay", beta2_decay)
    if not isinstance(beta2_decay, Tensor) and beta2_decay > 0:
        raise ValueError(f"beta2_decay: expected a number that is at most 0, got {beta2_decay!r}.")


def _check_threshold(d: Scalar) -> None:
    checks.scalar("d", d)
    if not isinstance(d, Tensor) and d < 1:
        raise ValueError(f"d: expected a number that is at least 1, got {d!r}.")
