"""Telling a module that asks that the values of its tensors cannot be looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._C._functorch import TransformType

from ..staging.tracing import recorder
from .attending import transforms


@contextmanager
def told_when_traced() -> Iterator[None]:
    """Let `torch.compiler.is_compiling()` be true within while `jit` traces, or `vmap` runs.

    Modules that look at values where they may, such as HuggingFace's at an attention mask to see
    whether it masks anything, ask for this first.
    """
    compiler: Any = torch.compiler
    before = compiler._is_compiling_flag
    compiler._is_compiling_flag = (
        before or recorder() is not None or TransformType.Vmap in transforms()
    )
    try:
        yield
    finally:
        compiler._is_compiling_flag = before
