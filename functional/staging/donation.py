"""Donated tensors: written in place by a program, and unusable for the caller afterwards."""

from __future__ import annotations

import functools
import operator
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


def refuse_repeated(
    leaves: Sequence[Tensor], donated: Sequence[int], name: Callable[[int], str]
) -> None:
    """Raise a `ValueError` where a donated leaf is also another leaf of the call."""
    if len(set(map(id, leaves))) == len(leaves):
        return
    owners = {id(leaves[index]): index for index in reversed(donated)}
    for index, leaf in enumerate(leaves):
        owner = owners.get(id(leaf), index)
        if owner != index:
            raise ValueError(
                f"jit: {name(owner)} is donated, and {name(index)} is the same tensor. Donate each "
                "tensor once and pass it nowhere else, or .clone() one of them."
            )


def refuse_gradients(
    leaves: Sequence[Tensor], donated: Sequence[int], name: Callable[[int], str]
) -> None:
    """Raise a `ValueError` where a donated leaf requires a gradient."""
    for index in donated:
        if leaves[index].requires_grad:
            raise ValueError(
                f"jit: {name(index)} is donated but requires a gradient; donate plain tensors "
                "(.detach()), and differentiate with pf.grad inside the function."
            )


def watched(tensors: Sequence[Tensor]) -> list[int]:
    """Return the positions of the tensors whose memory something else looks at.

    A view, a module's parameter, a numpy array, an autograd graph: they must never see a new value.
    """
    storages = list(map(Tensor.untyped_storage, tensors))
    holders = list(map(Tensor._use_count, tensors))  # type: ignore[attr-defined]
    storage_holders = list(map(torch._C._storage_Use_Count, map(_address, storages)))
    owned = list(map(torch.UntypedStorage.resizable, storages))
    count = len(storages)
    alone = [_ALONE[0]] * count, [_ALONE[1]] * count, [True] * count
    if (holders, storage_holders, owned) == alone:
        return []
    rows = zip(holders, storage_holders, owned, strict=True)
    return [index for index, row in enumerate(rows) if row != (*_ALONE, True)]


_address = operator.attrgetter("_cdata")


def _holders(tensor: Tensor) -> tuple[int, int]:
    """Count who holds `tensor` and its storage, the wrapper of the storage made here included."""
    storage = tensor.untyped_storage()
    holders: int = tensor._use_count()  # type: ignore[attr-defined]
    return holders, int(torch._C._storage_Use_Count(storage._cdata))


_ALONE = _holders(torch.empty(1))


def bury(tensors: Sequence[Tensor], lent: Sequence[Tensor]) -> None:
    """Make donated tensors raise at any later use, and free them of the memory that was lent."""
    nothing = _empty(tensors[0].device)
    for tensor, same in zip(tensors, lent, strict=True):
        if same is tensor:
            # What reaches the tensor past Python finds no element, rather than new values.
            tensor.data = nothing if tensor.is_cpu else _empty(tensor.device)
        tensor.__class__ = DonatedTensor


@functools.cache
def _empty(device: torch.device) -> Tensor:
    return torch.empty(0, device=device)
