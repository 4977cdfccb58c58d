"""`jit`: one compiled program for each kind of arguments."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

import torch
from torch import Tensor
from torch._C._dynamo.guards import GlobalStateGuard, TensorGuards

from .. import tree
from . import arguments, backends
from .program import Program, Settings, trace_call

P = ParamSpec("P")
R = TypeVar("R")

_disabled = contextvars.ContextVar("disabled", default=False)


@contextlib.contextmanager
def disable_jit() -> Iterator[None]:
    """Run jitted functions as the plain Python they are, to print, step through and inspect.

    >>> @jit
    ... def double(x):
    ...     print("running on", x)
    ...     return 2 * x
    >>> with disable_jit():
    ...     double(torch.tensor(1.0))
    running on tensor(1.)
    tensor(2.)
    """
    token = _disabled.set(True)
    try:
        yield
    finally:
        _disabled.reset(token)


class Jitted(Generic[P, R]):
    """A function with its compiled programs; made by `jit`."""

    def __init__(self, fun: Callable[P, R], names: arguments.Signature, settings: Settings) -> None:
        functools.update_wrapper(self, fun)
        self._fun = fun
        self._names = names
        self._settings = settings
        self._programs: dict[Any, Program] = {}
        self._last: dict[Any, tuple[TensorGuards, GlobalStateGuard, Program]] = {}

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the program for arguments of this kind, tracing and compiling it if it is new."""
        if torch.compiler.is_compiling() or _inlined():
            return self._fun(*args, **kwargs)
        call, static = arguments.split_static(self._names, (args, kwargs))
        leaves, structure = tree.flatten(call)
        if not _PLAIN.issuperset(map(type, leaves)):
            leaves = arguments.as_tensors(self._names, leaves, structure)
        last = self._last.get((structure, static))
        if last is not None and last[0].check(*leaves) and last[1].check():
            return cast(R, last[2](leaves))
        key = (structure, static, tuple(map(_kind, leaves)), _state())
        program = self._programs.get(key)
        if program is None:
            program = self._compile(leaves, structure, static)
        guards = TensorGuards(*leaves, dynamic_dims_sizes=None, dynamic_dims_strides=None)
        outputs = program(leaves)
        self._programs[key] = program
        self._last[structure, static] = (guards, GlobalStateGuard(), program)
        return cast(R, outputs)

    def _compile(
        self, leaves: list[Tensor], structure: tree.Structure, static: arguments.StaticArguments
    ) -> Program:
        fun = arguments.with_static(self._fun, static)
        traced = trace_call(fun, self._names, structure, leaves)
        return Program(traced, self._names, structure, leaves, self._settings)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    @property
    def trace_count(self) -> int:
        """How many times the function has been traced, which is how many programs were compiled."""
        return len(self._programs)

    def clear_cache(self) -> None:
        """Forget every compiled program."""
        self._programs.clear()
        self._last.clear()


@overload
def jit(
    fun: Callable[P, R],
    *,
    static_argnums: int | Iterable[int] | None = None,
    static_argnames: str | Iterable[str] | None = None,
    donate_argnums: int | Iterable[int] | None = None,
    backend: str | Callable[..., Any] = "inductor",
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Jitted[P, R]: ...


@overload
def jit(
    fun: None = None,
    *,
    static_argnums: int | Iterable[int] | None = None,
    static_argnames: str | Iterable[str] | None = None,
    donate_argnums: int | Iterable[int] | None = None,
    backend: str | Callable[..., Any] = "inductor",
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[[Callable[P, R]], Jitted[P, R]]: ...


def jit(
    fun: Callable[P, R] | None = None,
    *,
    static_argnums: int | Iterable[int] | None = None,
    static_argnames: str | Iterable[str] | None = None,
    donate_argnums: int | Iterable[int] | None = None,
    backend: str | Callable[..., Any] = "inductor",
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Jitted[P, R] | Callable[[Callable[P, R]], Jitted[P, R]]:
    """Compile a pure function of pytrees, once for each kind of arguments.

    The kind of a call is the structure of its arguments, the shape, dtype, device and layout of
    each tensor, and the values of static arguments. A call of a new kind traces `fun` whole (one
    graph or an error) and compiles it; a call of a known kind runs what was compiled. Python
    numbers are traced as 0-d tensors: a new value compiles nothing.

    Parameters
    ----------
    fun
        A function of tensors, numbers and pytrees of them that returns the same, and neither writes
        its inputs nor depends on anything else that changes.
    static_argnums, static_argnames
        Arguments that are settings: hashable, part of the kind, seen by `fun` as they are.
    donate_argnums
        Arguments whose memory the outputs may take. Outputs are written in place where a donated
        tensor has their shape, dtype and device; the caller's donated tensors are used up, and
        raise when used again.
    backend, mode, options
        As in `torch.compile`; `mode` is for the backend "inductor".

    Returns
    -------
    Jitted
        A callable with `trace_count` and `clear_cache()`. Under `vmap`, `grad`, another `jit` or
        `disable_jit()` it is `fun` itself.

    Raises
    ------
    TypeError
        An argument leaf is neither tensor nor number, or a static argument cannot be hashed.
    TraceError
        `fun` cannot be traced, for example because it branches on the value of a tensor.

    Examples
    --------
    >>> @jit(static_argnames="power", backend="eager")
    ... def scaled(x, scale, power):
    ...     return scale * x**power
    >>> scaled(torch.tensor([1.0, 2.0]), 0.5, power=2)
    tensor([0.5000, 2.0000])
    >>> scaled(torch.tensor([1.0, 2.0]), 3.0, power=2)
    tensor([ 3., 12.])
    >>> scaled.trace_count
    1
    """
    if fun is None:
        return lambda fun: jit(
            fun,
            static_argnums=static_argnums,
            static_argnames=static_argnames,
            donate_argnums=donate_argnums,
            backend=backend,
            mode=mode,
            options=options,
        )
    if torch.compiler.is_compiling():
        return fun  # type: ignore[return-value]  # which it is under another jit
    if not callable(fun):
        raise TypeError(f"jit: expected a function, got {type(fun).__name__}.")
    names = arguments.signature(fun, static_argnums, static_argnames, donate_argnums)
    settings = Settings(backend, backends.compile_options(mode, options))
    return Jitted(fun, names, settings)


def _inlined() -> bool:
    """Say whether something else is transforming or interpreting what runs now."""
    return (
        _disabled.get()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._len_torch_dispatch_stack() > 0
    )


_PLAIN = {Tensor, torch.nn.Parameter}


def _state() -> tuple[Any, ...]:
    """Return the settings of torch that a trace depends on."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        *((torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in _KINDS),
    )


_KINDS = ("cpu", "cuda")


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    """Return all that a program may depend on, except the values."""
    return (
        type(tensor),
        tensor.shape,
        tensor.dtype,
        tensor.device,
        None if tensor.is_contiguous() else tensor.stride(),
        tensor.requires_grad,
        torch._C._dispatch_keys(tensor).raw_repr(),
    )
