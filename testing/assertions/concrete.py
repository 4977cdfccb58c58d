"""Tensors whose values can be looked at, and the refusal of those that have none."""

from __future__ import annotations

from torch import Tensor
from torch._C import _functorch as functorch

from ...functional.staging.errors import TraceError
from ...functional.staging.valueless import is_traced


def concrete(who: str, tensor: Tensor) -> Tensor:
    """Return the tensor without its derivatives; refuse it where it has no value, or several.

    Raises
    ------
    TraceError
        The tensor is traced by `jit`, or stands for all examples of a `vmap`.
    """
    if is_traced(tensor):
        raise TraceError(
            f"{who} looks at values, and a tensor that `jit` traces has none. Return it and check "
            "it outside of jit, or run within `pf.disable_jit()`; assertions about shapes, dtypes "
            "and structures work here."
        )
    while functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_batchedtensor(tensor):
            raise TraceError(
                f"{who} looks at values, and a tensor inside `vmap` has one for each example. "
                "Check the result of vmap; assertions about shapes, dtypes and structures work "
                "here."
            )
        tensor = functorch.get_unwrapped(tensor)
    return tensor.detach()
