"""Room for the examples of `vmap` in tensors that are written in place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..border import is_mapped


def beside(tensor: Tensor, others: Iterable[Any]) -> Tensor:
    """Return `tensor`, mapped by `vmap` if one of the tensors among `others` is.

    What is written in place under `vmap` may have a value for each example, for which an unmapped
    tensor has no room. The values stay, and no derivative goes to `others`.
    """
    for other in others:
        if isinstance(other, Tensor) and is_mapped(other):
            # Nothing, with an example dimension; a boolean has no derivative.
            nothing = other.reshape(-1)[:0].any()
            tensor = tensor | nothing if tensor.dtype == torch.bool else tensor + nothing
    return tensor
