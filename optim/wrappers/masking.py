"""Transformations of some leaves only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ...functional import tree
from .. import checks
from ..masks import Mask, Selector, a_bool, inverted, merge, select, select_params
from ..pieces.resetting import set_to_zero
from ..transformation import GradientTransformation, State, chain

__all__ = ["MaskedState", "freeze", "masked", "selective_transform"]


class MaskedState(NamedTuple):
    """The state of the transformation inside, which knows the selected leaves alone."""

    inner_state: State


def masked(
    inner: GradientTransformation, mask: Mask, *, mask_compatible_extra_args: bool = False
) -> GradientTransformation:
    """Transform the leaves that `mask` selects, and pass the others through.

    `inner` sees trees in which the other leaves are None, and keeps no state for them.

    Parameters
    ----------
    inner
        What is done to the selected leaves.
    mask
        A tree of bools, which may be a prefix of the parameters' structure, or a function of the
        name of a leaf, `"conv1.weight"`. True means: transformed.
    mask_compatible_extra_args
        Select in the same way from extra arguments that have the structure of the updates.

    Raises
    ------
    TypeError
        The mask holds something else than bools; the message names the leaf.
    ValueError
        The mask does not fit the parameters; the message names the path.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> decay = optim.masked(
    ...     optim.add_decayed_weights(0.1), lambda name: not name.endswith("bias"))
    >>> params = {"fc": {"weight": torch.tensor([10.0]), "bias": torch.tensor([10.0])}}
    >>> decay.update(params, decay.init(params), params)[0]
    {'fc': {'weight': tensor([11.]), 'bias': tensor([10.])}}
    """
    checks.transformation("masked: inner", inner)
    checks.flag("mask_compatible_extra_args", mask_compatible_extra_args)
    selector = Selector("masked: mask", mask, a_bool)

    def init(params: tree.PyTree) -> MaskedState:
        checks.trainable(params)
        return MaskedState(inner.init(select(params, selector.flags(params))))

    def update(
        updates: tree.PyTree, state: MaskedState, params: tree.PyTree | None = None, **extra: Any
    ) -> tuple[tree.PyTree, MaskedState]:
        checks.state("masked", state, MaskedState)
        flags = selector.flags(updates)
        if mask_compatible_extra_args:
            extra = _selected_extra(extra, tree.structure(updates), flags)
        own_params = select_params(params, updates, flags)
        transformed, inner_state = inner.update(
            select(updates, flags), state.inner_state, own_params, **extra
        )
        return merge("masked", updates, flags, transformed), MaskedState(inner_state)

    return GradientTransformation(init, update)


def freeze(mask: Mask) -> GradientTransformation:
    """Set to zero the updates of the leaves that `mask` selects; the last part of a chain.

    Before a rule with weight decay or momentum it stops gradients only. To spare also the state
    of frozen parameters, use `selective_transform`.

    Parameters
    ----------
    mask
        As in `masked`. True means: frozen.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.chain(optim.sgd(lr=0.5), optim.freeze({"encoder": True, "head": False}))
    >>> params = {"encoder": torch.tensor(1.0), "head": torch.tensor(1.0)}
    >>> optimizer.update(params, optimizer.init(params), params)[0]
    {'encoder': tensor(0.), 'head': tensor(-0.5000)}
    """
    return masked(set_to_zero(), mask)


def selective_transform(
    optimizer: GradientTransformation, *, freeze_mask: Mask
) -> GradientTransformation:
    """Optimize the leaves that are not frozen, and keep no state for those that are.

    What torch does to parameters with `requires_grad=False`: nothing, weight decay included.

    Parameters
    ----------
    optimizer
        The rule for the others.
    freeze_mask
        As in `masked`. True means: frozen.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.selective_transform(
    ...     optim.sgd(lr=0.5, momentum=0.9), freeze_mask=lambda name: name.startswith("encoder"))
    >>> params = {"encoder": torch.tensor(1.0), "head": torch.tensor(1.0)}
    >>> state = optimizer.init(params)
    >>> optimizer.update(params, state, params)[0], optim.get(state, "trace")
    ({'encoder': tensor(0.), 'head': tensor(-0.5000)}, {'encoder': None, 'head': tensor(0.)})
    """
    return chain(masked(optimizer, inverted(freeze_mask)), freeze(freeze_mask))


def _selected_extra(
    extra: dict[str, Any], structure: tree.Structure, flags: Sequence[bool]
) -> dict[str, Any]:
    return {
        name: select(value, flags) if tree.structure(value) == structure else value
        for name, value in extra.items()
    }
