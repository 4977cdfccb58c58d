"""Updates made zero, in part or altogether."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...functional import tree
from .. import checks
from ..leafwise import Rule
from ..transformation import GradientTransformation, stateless, stateless_elementwise

__all__ = ["ZeroNansState", "keep_params_nonnegative", "set_to_zero", "zero_nans"]


class ZeroNansState(NamedTuple):
    """Whether each leaf held a NaN at the last update, a 0-d tensor of bool."""

    found_nan: tree.PyTree


def set_to_zero() -> GradientTransformation:
    """Replace updates by zeros, whatever they are (NaN included): parameters stay.

    >>> import torch
    >>> from purefn import optim
    >>> optim.set_to_zero().update({"w": torch.tensor([2.0])}, optim.EmptyState())[0]
    {'w': tensor([0.])}
    """

    def zero(updates: tree.PyTree, params: tree.PyTree | None) -> tree.PyTree:
        checks.trainable(updates, "updates")
        return tree.zeros_like(updates)

    return stateless(zero, "set_to_zero")


def zero_nans() -> GradientTransformation:
    """Replace NaN by 0, and note in the state which leaves held one.

    A complex number with a NaN in either part becomes 0. Infinities stay as they are.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> safe = optim.zero_nans()
    >>> state = safe.init({"w": torch.zeros(2)})
    >>> safe.update({"w": torch.tensor([1.0, torch.nan])}, state)
    ({'w': tensor([1., 0.])}, ZeroNansState(found_nan={'w': tensor(True)}))
    """

    def init(params: tree.PyTree) -> ZeroNansState:
        checks.trainable(params)
        return ZeroNansState(tree.map(_no, params))

    def update(
        updates: tree.PyTree,
        state: ZeroNansState,
        params: tree.PyTree | None = None,
        **extra: object,
    ) -> tuple[tree.PyTree, ZeroNansState]:
        checks.state("zero_nans", state, ZeroNansState)
        checks.trainable(updates, "updates")
        tree.map(_no, updates, state.found_nan, names=("updates", "state.found_nan"))
        found = tree.map(lambda g: g.isnan().any(), updates)
        return tree.map(_without_nan, updates), ZeroNansState(found)

    return GradientTransformation(init, update)


def keep_params_nonnegative() -> GradientTransformation:
    """Stop at 0 where an update would make a parameter negative; the last part of a chain.

    The update `u` of a parameter `p` becomes `-p` where `p + u < 0`. A parameter that is negative
    already moves to 0.

    Raises
    ------
    TypeError
        A parameter is complex.
    ValueError
        In `update`, `params` is missing or does not match.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> projection = optim.keep_params_nonnegative()
    >>> params = {"w": torch.tensor([1.0, 1.0])}
    >>> state = projection.init(params)
    >>> projection.update({"w": torch.tensor([-0.5, -3.0])}, state, params)[0]
    {'w': tensor([-0.5000, -1.0000])}
    """

    def stopped(u: Tensor, p: Tensor) -> Tensor:
        return torch.where(p + u < 0, -p, u)

    def rule(params: tree.PyTree | None) -> Rule:
        checks.given("keep_params_nonnegative", params)
        checks.real("keep_params_nonnegative", params)
        return Rule(stopped, {"params": params})

    return stateless_elementwise(rule, "keep_params_nonnegative")


def _no(leaf: Tensor, *_: object) -> Tensor:
    return torch.zeros((), dtype=torch.bool, device=leaf.device)


def _without_nan(g: Tensor) -> Tensor:
    return torch.where(g.isnan(), torch.zeros_like(g), g)
