"""Donated tensors: written in place by a program, and unusable for the caller afterwards."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor


class DonatedTensor(Tensor):
    """What becomes of the caller's tensor once it is donated: every use raises.

    Changing a tensor's class costs a tenth of a microsecond and reaches every Python entrance:
    operators, functions, attributes, printing, numpy, pickle.
    """

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> NoReturn:
        name = getattr(func, "__name__", str(func))
        raise RuntimeError(
            f"{name}: this tensor was donated to a jitted function (donate_argnums), which has "
            "written its results into the same memory. Use the function's outputs instead, or copy "
            "the tensor with .clone() before the call."
        )


def lend(leaves: list[Tensor], donated: Sequence[int], name: Callable[[int], str]) -> list[Tensor]:
    """Return `leaves` with the donated ones replaced by tensors that a program may overwrite.

    These alias the caller's storage, unless something else looks at that storage too (a view, a
    module's parameter, a numpy array, an autograd graph) or its own elements overlap: then they are
    copies, so that what else looks there never sees a new value.

    Raises
    ------
    ValueError
        A donated leaf is also another leaf of the call, or requires a gradient.
    """
    if not donated:
        return leaves
    owners = {id(leaves[index]): index for index in reversed(donated)}
    for index, leaf in enumerate(leaves):
        owner = owners.get(id(leaf), index)
        if owner != index:
            raise ValueError(
                f"jit: {name(owner)} is donated, and {name(index)} is the same tensor. Donate each "
                "tensor once and pass it nowhere else, or .clone() one of them."
            )
    lent = list(leaves)
    for index in donated:
        lent[index] = _lend(leaves[index], index, name)
    return lent


def bury(tensor: Tensor, lent: Tensor) -> None:
    """Make `tensor` raise at any later use, and free it of the memory that was lent."""
    if lent.untyped_storage()._cdata == tensor.untyped_storage()._cdata:
        # What reaches the tensor past Python finds no element, rather than new values.
        tensor.data = _empty(tensor.device)
    tensor.__class__ = DonatedTensor


@functools.cache
def _empty(device: torch.device) -> Tensor:
    return torch.empty(0, device=device)


def _lend(tensor: Tensor, index: int, name: Callable[[int], str]) -> Tensor:
    if tensor.requires_grad:
        raise ValueError(
            f"jit: {name(index)} is donated but requires a gradient; donate plain tensors "
            "(.detach()), and differentiate with pf.grad inside the function."
        )
    ours_alone = _watchers(tensor) == _WATCHERS and tensor.untyped_storage().resizable()
    alias = tensor.detach()
    return alias if ours_alone and not torch._debug_has_internal_overlap(tensor) else alias.clone()


def _watchers(tensor: Tensor) -> tuple[int, int]:
    """Count who holds `tensor` and its storage, the wrapper of the storage made here included."""
    storage = tensor.untyped_storage()
    holders: int = tensor._use_count()  # type: ignore[attr-defined]
    return holders, int(torch._C._storage_Use_Count(storage._cdata))


_WATCHERS = _watchers(torch.empty(1))
