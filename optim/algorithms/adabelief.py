"""AdaBelief: Adam whose second moment is that of the surprise, not of the gradient."""

from __future__ import annotations

from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import Rule, Scalar, Step
from ..moments import corrected_direction, corrections, first_moment, first_step, second_moment
from ..schedules import Schedule
from ..transformation import GradientTransformation, elementwise
from .adam import ScaleByAdamState
from .recipes import descent

__all__ = ["adabelief", "scale_by_belief"]


def scale_by_belief(
    b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-16, eps_root: Scalar = 1e-16
) -> GradientTransformation:
    """Rescale gradients by the belief in them (Zhuang et al. 2020, arXiv:2010.07468, algorithm 2).

    ::

        mu_t = b1 mu_{t-1} + (1 - b1) g_t
        nu_t = b2 nu_{t-1} + (1 - b2) (g_t - mu_t)^2 + eps_root
        update = mu_t / (1 - b1^t) / (sqrt(nu_t / (1 - b2^t)) + eps)

    The state is Adam's, with the paper's `s` as `nu`; `eps_root` adds up in it, as in the paper and
    in the authors' program. With `eps = eps_root = 0` a parameter whose gradients have all been
    zero becomes NaN (0 / 0).

    Raises
    ------
    ValueError
        `b1` or `b2` lies outside [0, 1), `eps` or `eps_root` is negative, or, in `update`, a
        gradient does not match the state.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> belief = optim.scale_by_belief(b1=0.5)
    >>> state = belief.init({"w": torch.zeros(1)})
    >>> updates, state = belief.update({"w": torch.tensor([2.0])}, state)
    >>> updates
    {'w': tensor([2.])}
    """
    checks.decay_rate("b1", b1)
    checks.decay_rate("b2", b2)
    checks.non_negative("eps", eps)
    checks.non_negative("eps_root", eps_root)

    def init(params: tree.PyTree) -> ScaleByAdamState:
        checks.trainable(params)
        return ScaleByAdamState(
            first_step(params), mu=tree.zeros_like(params), nu=tree.zeros_like(params)
        )

    def rule(g: Tensor, m: Tensor, s: Tensor, *factors: Scalar) -> tuple[Tensor, ...]:
        m = first_moment(m, g, b1)
        s = second_moment(s, g - m, b2) + eps_root
        return corrected_direction(m, s, *factors), m, s

    def step(state: ScaleByAdamState, params: tree.PyTree | None) -> Step:
        checks.state("scale_by_belief", state, ScaleByAdamState)
        count = state.count + 1
        reads = {"state.mu": state.mu, "state.nu": state.nu}
        rules = [Rule(rule, reads, writes=2, scalars=corrections(count, b1, b2, eps))]
        return Step(rules, lambda mu, nu: ScaleByAdamState(count, mu, nu))

    return elementwise(init, step)


def adabelief(
    lr: Scalar | Schedule = 1e-3,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-16,
    weight_decay: Scalar = 0,
    *,
    decoupled_weight_decay: bool = True,
    maximize: bool = False,
) -> GradientTransformation:
    """Return AdaBelief (Zhuang et al. 2020, arXiv:2010.07468): `scale_by_belief` at a rate.

    ::

        theta <- theta - lr (belief(g) + weight_decay theta)

    The defaults are the authors', except that steps are those of the paper: their program can also
    rectify them as RAdam does.

    Parameters
    ----------
    lr
        Learning rate: a number, a 0-d tensor or a schedule.
    betas
        The decay rates of the first and second moment, in [0, 1).
    eps
        Added to the second moment at every step, and to its root.
    weight_decay
        A number or 0-d tensor, at least 0.
    decoupled_weight_decay
        Decay the parameters; without, `weight_decay` times the parameters is added to gradients.
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
    >>> optimizer = optim.adabelief(lr=0.1, betas=(0.5, 0.999))
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": torch.tensor([25.0])}, state, params)
    >>> optim.apply_updates(params, updates)
    {'w': tensor([0.8000])}
    """
    checks.betas("betas", betas)
    return descent(
        scale_by_belief(*betas, eps=eps, eps_root=eps),
        lr=lr,
        weight_decay=weight_decay,
        decoupled_weight_decay=decoupled_weight_decay,
        maximize=maximize,
    )
