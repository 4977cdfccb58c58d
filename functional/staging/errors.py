"""One readable message for each way in which tracing a function can fail."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optree
import torch
from torch._dynamo.exc import TorchDynamoException
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
)

_ROOT = Path(__file__).parents[2]
_PACKAGES = (
    *(Path(package.__path__[0]) for package in (torch, optree)),
    *(_ROOT / package for package in ("functional", "optim", "data")),
)

TRACE_FAILURES = (TorchDynamoException,)


class TraceError(RuntimeError):
    """A function given to `jit` cannot be traced into one program; torch's error is the cause."""


class RetraceWarning(UserWarning):
    """A global or a captured variable changed, which no argument shows, and cost a new trace."""


class DonationWarning(UserWarning):
    """A donated tensor could not be reused, because no output has its shape and dtype."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep torch from logging pages about an operator that fails while it is traced.

    The same failure arrives as an exception, with the user's line in it.
    """
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def explain(error: Exception, name: str, rerun: Callable[[], Any]) -> Exception:
    """Return the exception that tells the user why tracing failed with `error`.

    `rerun` runs the function once more, abstractly and without the compiler: what it raises by
    itself, a layer's complaint about a shape say, is the better message. Otherwise the message is
    the first line of the compiler's, with the user's line.
    """
    try:
        rerun()
    except (DataDependentOutputException, DynamicOutputShapeException) as own:
        return _value_needed(own, name)
    except TorchDynamoException:
        pass
    except Exception as own:
        own.__cause__ = None
        return own
    return TraceError(
        f"jit({name}) could not be traced{_place(getattr(error, 'real_stack', None))}: "
        f"{_first_line(error)}\nTo look at it step by step, run it within `pf.disable_jit()`."
    )


def _value_needed(error: Exception, name: str) -> TraceError:
    return TraceError(
        f"jit({name}) needs the value of a traced tensor"
        f"{_place(traceback.extract_tb(error.__traceback__))}. While a function is traced, tensors "
        "have shapes and dtypes but no values, so `if`, `while`, `bool()`, `int()` and `.item()` "
        "cannot look at one. Use `torch.where` or `torch.cond` for a choice that depends on data; "
        "mark an argument that is a setting as static (static_argnames); or debug within "
        "`pf.disable_jit()`."
    )


def _place(stack: traceback.StackSummary | None) -> str:
    """Say which line of the user's is the innermost of `stack`."""
    own = [
        frame
        for frame in stack or ()
        if not any(Path(frame.filename).is_relative_to(package) for package in _PACKAGES)
        and not frame.filename.startswith("<")
    ]
    if not own:
        return ""
    return f" at {own[-1].filename}:{own[-1].lineno}, in {own[-1].name}: `{own[-1].line}`"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
