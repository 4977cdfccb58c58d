"""Weight decay."""

from __future__ import annotations

from torch import Tensor

from ..functional import tree
from . import checks
from .leafwise import Scalar, add_scaled, leafwise
from .transformation import GradientTransformation, stateless


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

    def update(updates: tree.PyTree, params: tree.PyTree | None) -> tree.PyTree:
        checks.given("add_decayed_weights", params)

        def decayed(p: Tensor, g: Tensor) -> Tensor:
            return add_scaled(g, p, weight_decay)

        return leafwise(decayed, {"params": params, "updates": updates})

    return stateless(update, "add_decayed_weights")
