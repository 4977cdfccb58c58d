"""One readable message for each way in which tracing a function can fail."""

from __future__ import annotations

import traceback
from pathlib import Path

import optree
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)

_ROOT = Path(__file__).parents[2]
_PACKAGES = (
    *(Path(package.__path__[0]) for package in (torch, optree)),
    *(_ROOT / package for package in ("functional", "optim", "data")),
)


class TraceError(RuntimeError):
    """A function given to `jit` cannot be traced into one program; torch's error is the cause."""


class DonationWarning(UserWarning):
    """A donated tensor could not be reused, because no output has its shape and dtype."""


def explain(error: Exception, name: str) -> Exception:
    """Return the exception that tells the user why tracing failed with `error`.

    An error of the function itself, a layer's complaint about a shape say, is the better message
    and returned as it is; others become a `TraceError` that names the line and what to write.
    """
    if isinstance(error, TraceError):
        return error
    for kinds, words, what, instead in _REASONS:
        if isinstance(error, kinds) and (not words or any(word in str(error) for word in words)):
            return TraceError(f"jit({name}) {what}{_place(error)}. {instead}{_DEBUG}")
    return error


_DEBUG = " To look at it step by step, run it within `pf.disable_jit()`."
_NO_VALUES = "While a function is traced, tensors have shapes and dtypes but no values, so "
_REASONS = (
    (
        (DynamicOutputShapeException,),
        (),
        "makes a tensor whose shape depends on values",
        f"{_NO_VALUES}`nonzero`, `unique` and boolean masks have no shape to give. Keep the shape "
        "and select with `torch.where`, or do this outside of jit.",
    ),
    (
        (DataDependentOutputException,),
        (),
        "needs the value of a traced tensor",
        f"{_NO_VALUES}`if`, `while`, `bool()`, `int()` and `.item()` cannot look at one. Use "
        "`torch.where` or `pf.cond` for a choice that depends on data, `pf.while_loop`, "
        "`pf.fori_loop` or `pf.scan` for a loop; or mark an argument that is a setting as static "
        "(static_argnames).",
    ),
    (
        (RuntimeError, TypeError),
        (".numpy() is not supported", "numpy() ", "can't convert"),
        "gives a traced tensor to numpy",
        f"{_NO_VALUES}numpy has nothing to compute with. Use the torch function of the same name, "
        "compute it outside and pass it as an argument, or mark it static (static_argnames).",
    ),
    (
        (RuntimeError,),
        ("Cannot access data pointer", "data_ptr", "doesn't have storage"),
        "gives a traced tensor to a library that reads its memory",
        f"{_NO_VALUES}a library that is not written in torch operators cannot be called. Call it "
        "outside of jit, or make it an operator with `torch.library.custom_op`.",
    ),
    (
        (UnsupportedOperatorException,),
        (),
        "calls an operator that does not say what shape its result has",
        "Give it a `torch.library.register_fake`, or call it outside of jit.",
    ),
)


def _place(error: Exception) -> str:
    """Say which line of the user's is the innermost of where `error` was raised."""
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(Path(frame.filename).is_relative_to(package) for package in _PACKAGES)
        and not frame.filename.startswith("<")
    ]
    if not own:
        return ""
    return f" at {own[-1].filename}:{own[-1].lineno}, in {own[-1].name}: `{own[-1].line}`"
