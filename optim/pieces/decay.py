"""Weight decay."""

from __future__ import annotations

from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import Rule, Scalar, add_scaled
from ..transformation import GradientTransformation, stateless_elementwise

__all__ = ["add_decayed_weights"]


def add_decayed_weights(weight_decay: Scalar) -> GradientTransformation:
    """Add `weight_decay * params` to the updates.

    Before an adaptive rule this is an L2 penalty on the loss (torch's Adam); after it, and before
    the learning rate, it is decoupled weight decay (AdamW; Loshchilov & Hutter 2019,
    arXiv:1711.05101).

    Raises
    ------
    ValueError
        `weight_decay` is negative, or, in `update`, `params` is missing or does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> decay = optim.add_decayed_weights(0.1)
    >>> params = {"w": torch.tensor([10.0])}
    >>> decay.update({"w": torch.tensor([2.0])}, decay.init(params), params)[0]
    {'w': tensor([3.])}
    """
    checks.non_negative("weight_decay", weight_decay)

    def decayed(g: Tensor, p: Tensor) -> Tensor:
        return add_scaled(g, p, weight_decay)

    def rule(params: tree.PyTree | None) -> Rule:
        checks.given("add_decayed_weights", params)
        return Rule(decayed, {"params": params})

    return stateless_elementwise(rule, "add_decayed_weights")
