"""What torch.func's transforms, the levels, have made of a tensor."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch._C._functorch import TransformType
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters


def current() -> int:
    """Return the level of the innermost transform that runs, 0 where none does."""
    interpreter = functorch.peek_interpreter_stack()
    return 0 if interpreter is None else int(interpreter.level())


def lowered(tensor: Tensor, level: int = 0) -> Tensor:
    """Return what `tensor` was before the transforms above `level` wrapped it."""
    while functorch.is_functorch_wrapped_tensor(tensor) and (
        functorch.maybe_get_level(tensor) > level
    ):
        tensor = functorch.get_unwrapped(tensor)
    return tensor


def is_batched(tensor: Tensor) -> bool:
    """Say whether some vmap has given `tensor` a hidden axis."""
    while functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_batchedtensor(tensor):
            return True
        tensor = functorch.get_unwrapped(tensor)
    return False


def is_mapped(tensor: Tensor) -> bool:
    """Say whether the innermost vmap has given `tensor` a hidden axis."""
    return functorch.is_batchedtensor(tensor) and (
        functorch.maybe_get_level(tensor) == functorch.maybe_current_level()
    )


def runs_reverse() -> bool:
    """Say whether some transform that runs may go backwards."""
    return any(
        interpreter.key() == TransformType.Grad
        for interpreter in retrieve_all_functorch_interpreters()
    )


def holds(predicate: Tensor) -> bool | None:
    """Return whether `predicate` is true anywhere in a batch; None where it has no value."""
    physical = lowered(predicate)
    if isinstance(physical, torch._subclasses.FakeTensor):
        return None
    return bool(lowered(physical.any()))


def is_differentiable(tensor: Tensor) -> bool:
    """Say whether `tensor` has a dtype that derivatives exist for."""
    return tensor.is_floating_point() or tensor.is_complex()
