"""`torch.nn.functional.one_hot` of labels whose values cannot be looked at.

torch checks the labels one by one, unless it knows that they are mapped or traced; of labels that
torch.func has wrapped for a derivative, or that `jit` has found in a closure, it does not know.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .border import is_mapped


class ComparedOneHot(TorchFunctionMode):
    """Writes `one_hot` of mapped labels as a comparison, which vmap has a rule for."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.one_hot and any(map(is_mapped, (*args, *kwargs.values()))):
            return compared(*args, **kwargs)
        return func(*args, **kwargs)


def compared(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """Return what `F.one_hot` does for labels from 0 to `num_classes - 1`.

    Another label gives a row of zeros, as torch's own does where it cannot look. Without a number
    of classes it is left to torch, which has to look for the largest label.
    """
    if num_classes < 1:
        return F.one_hot(tensor, num_classes)
    classes = torch.arange(num_classes, device=tensor.device)
    return (tensor.unsqueeze(-1) == classes).long()
