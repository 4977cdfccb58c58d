"""What the recipes of torch.optim have in common: a rule, and the same parts around it."""

from __future__ import annotations

from torch import Tensor

from .. import checks
from ..leafwise import Scalar
from ..pieces.decay import add_decayed_weights
from ..pieces.scaling import scale, scale_by_learning_rate
from ..schedules import Schedule
from ..transformation import GradientTransformation, chain


def descent(
    *rule: GradientTransformation,
    lr: Scalar | Schedule,
    weight_decay: Scalar = 0,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
) -> GradientTransformation:
    """Return the steps of `rule` downhill at a learning rate, or uphill with `maximize`.

    Weight decay is added to the gradient before the rule sees it, or, decoupled, after the rule.

    >>> import torch
    >>> from purefn import optim
    >>> sgd = descent(lr=0.5, weight_decay=0.1)
    >>> params = torch.tensor([10.0])
    >>> sgd.update(torch.tensor([1.0]), sgd.init(params), params)[0]
    tensor([-1.])
    """
    checks.learning_rate("lr", lr)
    checks.non_negative("weight_decay", weight_decay)
    checks.flag("decoupled_weight_decay", decoupled_weight_decay)
    decay = decayed(weight_decay)
    return chain(
        *uphill(maximize),
        *([] if decoupled_weight_decay else decay),
        *rule,
        *(decay if decoupled_weight_decay else []),
        scale_by_learning_rate(lr),
    )


def uphill(maximize: bool) -> list[GradientTransformation]:
    """Return the part that turns gradients around, where there is to be one."""
    checks.flag("maximize", maximize)
    return [scale(-1)] if maximize else []


def decayed(weight_decay: Scalar) -> list[GradientTransformation]:
    """Return the part that adds weight decay, where it is not known to be 0."""
    return [] if is_zero(weight_decay) else [add_decayed_weights(weight_decay)]


def is_zero(value: Scalar) -> bool:
    """Say whether `value` is the number 0; of a tensor that cannot be known."""
    return not isinstance(value, Tensor) and value == 0
