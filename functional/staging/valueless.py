"""What Python may ask of a tensor that has no value, while `jit` traces.

Operators are no business of this file: they answer with tensors that have no value either. But a
tensor is also printed, formatted, handed to numpy or to a C library. Printing shows shape and
dtype, the others are refused with the reason. A tensor that has a value, because the function found
it in its closure, answers as always.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor
from torch._C import _functorch as functorch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from .. import tree
from ..border import describe
from ..one_hot import compared
from .errors import OUTLIVED, TraceError, ValuelessError


class Valueless(TorchFunctionMode):
    """Answers for tensors that are traced, at every level of torch.func."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.one_hot:
            return _one_hot(*args, **kwargs)
        question = _QUESTIONS.get(func)
        if question is None:
            return func(*args, **kwargs)
        if not any(map(is_traced, tree.leaves(list(args)))):
            if func is torch.tensor:
                return func(*args, **kwargs)
            with _disable_current_modes():
                return func(*args, **kwargs)
        return question(func, args, kwargs)


def is_traced(value: Any) -> bool:
    """Say whether `value` is a tensor without values, whatever torch.func has wrapped it in."""
    while isinstance(value, Tensor) and functorch.is_functorch_wrapped_tensor(value):
        value = functorch.get_unwrapped(value)
    return isinstance(value, FakeTensor)


Question = Callable[[Callable[..., Any], Any, Mapping[str, Any]], Any]


def _show(func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> str:
    return f"Traced({describe(args[0])})"


def _format(func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> str:
    tensor, form = args
    if form:
        raise ValuelessError(f"formats a traced tensor as {form!r}", "print")
    return _show(func, (tensor,), {})


def _refuse(what: str, reason: str) -> Question:
    """Return what lets torch refuse and says why, with torch's own error as the cause.

    torch answers for constants that the function itself makes: `torch.tensor(3).item()`.
    """

    def question(func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> Any:
        try:
            return func(*args, **kwargs)
        except Exception as error:
            raise ValuelessError(what, reason) from error

    return question


def _forbid(what: str) -> Question:
    """Return what refuses before torch is asked, who would give away an address or its insides."""

    def question(func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> Any:
        raise ValuelessError(what, "library")

    return question


def _copy(func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> Tensor:
    tensor, memo = args
    return memo.setdefault(id(tensor), tensor.clone())  # type: ignore[no-any-return]


def _tensor(func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> Any:
    if isinstance(args[0], Tensor):
        return func(*args, **kwargs)
    raise ValuelessError("gives a container of traced tensors to torch.tensor", "stack")


def _one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    try:
        return compared(tensor, num_classes)
    except Exception as error:
        if num_classes != -1:
            raise
        raise ValuelessError(
            "leaves it to `one_hot` to find the number of classes", "classes"
        ) from error


_VALUE = _refuse("needs the value of a traced tensor", "value")
_NUMPY = _refuse("gives a traced tensor to numpy", "numpy")
_QUESTIONS: dict[Any, Question] = {
    Tensor.__repr__: _show,
    Tensor.__format__: _format,
    **dict.fromkeys((Tensor.__bool__, Tensor.is_nonzero, torch.is_nonzero), _VALUE),
    **dict.fromkeys((Tensor.__int__, Tensor.__float__, Tensor.__complex__), _VALUE),
    **dict.fromkeys((Tensor.__index__, Tensor.item, Tensor.tolist, Tensor.__contains__), _VALUE),
    **dict.fromkeys((torch.equal, Tensor.equal, torch.allclose, Tensor.allclose), _VALUE),
    **dict.fromkeys((Tensor.numpy, Tensor.__array__), _NUMPY),
    Tensor.__reduce_ex__: _forbid("pickles a traced tensor"),
    Tensor.__deepcopy__: _copy,
    Tensor.data_ptr: _forbid("asks for the memory of a traced tensor"),
    torch.tensor: _tensor,
    Tensor.data.__set__: _forbid("assigns to the `.data` of a traced tensor"),  # type: ignore[attr-defined]
}


def expire(mode: FakeTensorMode) -> None:
    """End the life of the tensors that were traced under `mode`: their use is an error from now.

    They may have been stored in an attribute or a list that `jit` does not see.
    """
    mode.__class__ = _Expired


@contextlib.contextmanager
def revived(mode: FakeTensorMode) -> Iterator[None]:
    """Let a compiler use the tensors of a mode that has expired."""
    mode.__class__ = FakeTensorMode
    try:
        yield
    finally:
        expire(mode)


class _Expired(FakeTensorMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise TraceError(f"This tensor has outlived the trace that made it. {OUTLIVED}")
