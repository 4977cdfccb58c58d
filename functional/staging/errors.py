"""One readable message for each way in which tracing or compiling a function can fail."""

from __future__ import annotations

import contextlib
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

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
_STANDARD = Path(sysconfig.get_path("stdlib"))


class TraceError(RuntimeError):
    """A function given to `jit` cannot be traced into one program; torch's error is the cause."""


class CompileError(RuntimeError):
    """A backend could not compile what `jit` traced; the backend's error is the cause."""


class PurityError(RuntimeError):
    """A jitted function does not do what was traced, so it depends on more than its arguments."""


class UncompiledWarning(UserWarning):
    """A function runs as plain Python, because torch's own autograd has to record it."""


class DonationWarning(UserWarning):
    """A donated tensor could not be reused, because no output has its shape and dtype."""


class ValuelessError(TraceError):
    """Python asked for the value of a tensor that has none; `explain` finds the line."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what}. {_INSTEAD[reason]}")
        self.what, self.reason = what, reason


def explain(error: Exception, who: str) -> Exception:
    """Return the exception that tells the user why `who`, in words, cannot trace a function.

    An error of the function itself, a layer's complaint about a shape say, is the better message
    and returned as it is; others become a `TraceError` that names the line and what to write.
    """
    if isinstance(error, ValuelessError):
        return _trace_error(error, who, error.what, error.reason)
    if isinstance(error, TraceError):
        return error
    if _is_raised_on_purpose(error):
        return error
    for sign in _SIGNS:
        if isinstance(error, sign.kinds) and sign.is_in(str(error)):
            return _trace_error(error, who, sign.what, sign.reason)
    if isinstance(error, TypeError | AttributeError) and _passed_numpy(error):
        return _trace_error(error, who, "gives a traced tensor to numpy", "numpy")
    return error


@contextlib.contextmanager
def explaining(who: str) -> Iterator[None]:
    """Raise what `explain` makes of an error within."""
    try:
        yield
    except Exception as error:
        explained = explain(error, who)
        if explained is error:
            raise
        raise explained from error


@contextlib.contextmanager
def compiling(name: str, backend: object, compiler: str) -> Iterator[None]:
    """Turn what a backend raises into a `CompileError`.

    An error that did not come through the file `compiler` is a refusal of ours, and stays.
    """
    try:
        yield
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        if isinstance(error, Warning) or all(frame.filename != compiler for frame in frames):
            raise
        which = repr(backend) if isinstance(backend, str) else getattr(backend, "__name__", backend)
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        end = "" if first.rstrip().endswith(".") else "."
        raise CompileError(
            f"jit({name}) was traced, but the backend {which} failed to compile it: "
            f"{type(error).__name__}: {first}{end} `pf.make_graph` shows what it was given; with "
            'backend="eager" nothing is compiled.'
        ) from error


def _trace_error(error: Exception, who: str, what: str, reason: str) -> TraceError:
    return TraceError(f"{who} {what}{_place(error)}. {_INSTEAD[reason]}{_DEBUG}")


#: What became of a traced tensor that is used after its trace.
OUTLIVED = (
    "It was stored in a global, an attribute or a list, and has no value. Return it from the "
    "function instead."
)
_DEBUG = " To look at a jitted function step by step, run it within `pf.disable_jit()`."
_NO_VALUES = "While a function is traced, tensors have shapes and dtypes but no values, so "
_INSTEAD = {
    "shape": f"{_NO_VALUES}`nonzero`, `unique` and boolean masks have no shape to give. Keep the "
    "shape and select with `torch.where`, or do this outside.",
    "value": f"{_NO_VALUES}`if`, `while`, `bool()`, `int()` and `.item()` cannot look at one. Use "
    "`torch.where` or `pf.cond` for a choice that depends on data, `pf.while_loop`, "
    "`pf.fori_loop` or `pf.scan` for a loop; or mark an argument that is a setting as static "
    "(static_argnames).",
    "print": f"{_NO_VALUES}there are no digits to show. Without a format (`{{x}}`) shape and dtype "
    "are shown; to see the value, return it and print it outside.",
    "numpy": f"{_NO_VALUES}numpy has nothing to compute with. Use the torch function of the same "
    "name, compute it outside and pass it as an argument, or mark it static (static_argnames).",
    "classes": f"{_NO_VALUES}nobody knows the largest label. Give the number of classes: "
    "`one_hot(labels, num_classes)`.",
    "stack": "`torch.tensor` reads numbers; join tensors with `torch.stack` or `torch.cat`.",
    "library": f"{_NO_VALUES}what is not written in torch operators cannot read one. Call it "
    "outside, or make it an operator with `torch.library.custom_op`.",
    "operator": "Give it a `torch.library.register_fake`, or call it outside.",
    "outlived": OUTLIVED,
}


class _Sign(NamedTuple):
    """How an error of torch shows what a function did, and which advice follows from it."""

    kinds: tuple[type[Exception], ...]
    words: tuple[str, ...]
    what: str
    reason: str

    def is_in(self, message: str) -> bool:
        return not self.words or any(word in message for word in self.words)


_SIGNS = (
    _Sign(
        (DynamicOutputShapeException,), (), "makes a tensor whose shape depends on values", "shape"
    ),
    _Sign((DataDependentOutputException,), (), "needs the value of a traced tensor", "value"),
    _Sign(
        (RuntimeError,),
        ("data-dependent control flow", "vmap over calling .item()"),
        "needs the value of a traced tensor",
        "value",
    ),
    _Sign(
        (RuntimeError,),
        ("does not support aten::nonzero", "dynamic shape"),
        "makes a tensor whose shape depends on values",
        "shape",
    ),
    _Sign(
        (RuntimeError, TypeError),
        (".numpy() is not supported", "numpy() ", "can't convert", "ndarray"),
        "gives a traced tensor to numpy",
        "numpy",
    ),
    _Sign(
        (RuntimeError, NotImplementedError),
        (
            "Cannot access data pointer",
            "data_ptr",
            "doesn't have storage",
            "data is not allocated yet",
            "Not available for 'meta' device type",
        ),
        "gives a traced tensor to a library that reads its memory",
        "library",
    ),
    _Sign(
        (UnsupportedOperatorException,),
        (),
        "calls an operator that does not say what shape its result has",
        "operator",
    ),
    _Sign(
        (RuntimeError,),
        ("no fake impl registered",),
        "calls an operator that does not say what shape its result has",
        "operator",
    ),
    _Sign(
        (TypeError, AttributeError),
        ("FakeTensor",),
        "gives a traced tensor to what does not take one",
        "library",
    ),
    _Sign(
        (RuntimeError,),
        ("has outlived its trace",),
        "uses a tensor of an earlier trace",
        "outlived",
    ),
)


def _is_raised_on_purpose(error: Exception) -> bool:
    """Say whether a `raise` in code that knows nothing of tracing is where `error` comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    return (
        bool(frames)
        and _is_own(Path(frames[-1].filename))
        and (frames[-1].line or "").startswith("raise ")
        and "FakeTensor" not in str(error)
    )


def _passed_numpy(error: Exception) -> bool:
    """Say whether a function of numpy was running when `error` was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return any("numpy" in Path(frame.filename).parts for frame in frames)


def _place(error: Exception) -> str:
    """Say which line of the user's is the innermost of where `error` was raised."""
    return line_of(traceback.extract_tb(error.__traceback__))


def line_of(stack: traceback.StackSummary) -> str:
    """Say which line of the user's is the innermost of a stack."""
    frames = [frame for frame in stack if _is_own(Path(frame.filename))]
    # A library is only named where the user's own code is installed like one.
    own = [f for f in frames if "site-packages" not in Path(f.filename).parts] or frames
    if not own:
        return ""
    return f" at {own[-1].filename}:{own[-1].lineno}, in {own[-1].name}: `{own[-1].line}`"


def _is_own(file: Path) -> bool:
    """Say whether `file` is neither ours, nor torch's, numpy's or Python's."""
    if str(file).startswith("<") or any(map(file.is_relative_to, _PACKAGES)):
        return False
    if "site-packages" in file.parts:
        return not {"numpy", "scipy"}.intersection(file.parts)
    return not file.is_relative_to(_STANDARD)
