"""`jit`: one compiled program for each kind of arguments."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
import threading
import types
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar, cast, overload

import torch
from torch import Tensor
from torch._C._dynamo.guards import GlobalStateGuard, TensorGuards

from .. import tree
from . import arguments, donation, persistence
from .assembly import Settings, settings_of
from .containers import Reader, reader
from .errors import UncompiledWarning
from .kinds import Kind, kind_of
from .lowering import Lowered, as_tensors, compile_trace, strided, trace_kind
from .program import Program, Uncompiled, autograd_records
from .purity import Check
from .surroundings import surroundings

P = ParamSpec("P")
R = TypeVar("R")

#: One thread traces and compiles at a time: neither torch's modes nor inductor take more.
_COMPILING = threading.RLock()
#: The jitted functions that something still refers to.
LIVE: weakref.WeakSet[Jitted[Any, Any]] = weakref.WeakSet()
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


class _Known(NamedTuple):
    """The kind of the last call in the form that is looked at fastest, and its program."""

    static: arguments.StaticArguments
    read: Reader
    leaves: TensorGuards
    state: GlobalStateGuard
    program: Program | Uncompiled


class Jitted(Generic[P, R]):
    """A function with its compiled programs; made by `jit`."""

    def __init__(self, fun: Callable[P, R], names: arguments.Signature, settings: Settings) -> None:
        functools.update_wrapper(self, fun)
        self._fun = fun
        self.names = names
        self._settings = settings
        self._programs: dict[Kind, Program | Uncompiled] = {}
        self._last: _Known | None = None
        LIVE.add(self)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the program for arguments of this kind, tracing and compiling it if it is new."""
        if torch.compiler.is_compiling() or _inlined():
            return self._fun(*args, **kwargs)
        call, static = arguments.split_static(self.names, (args, kwargs))
        last = self._last
        if last is not None and last.static == static:
            known = last.read(*call)
            if (
                known is not None
                and last.leaves.check(*known)
                and last.state.check()
                and last.program.is_current
            ):
                return cast(R, last.program(known))
        leaves, structure = tree.flatten(call)
        if not _PLAIN.issuperset(map(type, leaves)):
            leaves = as_tensors(self.names, leaves, structure)
        leaves = strided(self.names, leaves, structure)
        kind = kind_of(leaves, structure, static)
        program = self._programs.get(kind)
        if program is None or not program.is_current:
            with _COMPILING:
                program = self._compile(leaves, structure, static)
        same = TensorGuards(*leaves, dynamic_dims_sizes=None, dynamic_dims_strides=None)
        outputs = program(leaves)
        self._programs[kind] = program
        self._last = _Known(static, reader(structure), same, GlobalStateGuard(), program)
        return cast(R, outputs)

    def _compile(
        self, leaves: list[Tensor], structure: tree.Structure, static: arguments.StaticArguments
    ) -> Program | Uncompiled:
        traced = trace_kind(self.names, leaves, structure, static)
        if not autograd_records([*leaves, *traced.captured]):
            return compile_trace(traced, self.names, leaves, structure, self._settings)
        donation.refuse_gradients(
            leaves,
            arguments.donated_leaves(self.names, structure),
            lambda index: arguments.leaf_name(self.names, structure.accessors()[index]),
        )
        warnings.warn(
            f"jit({self.name}) runs uncompiled: an argument or a captured tensor requires a "
            "gradient, and torch's autograd must see what is computed. Differentiate inside the "
            "function, with pf.grad, and pass plain tensors (.detach()).",
            UncompiledWarning,
            stacklevel=3,
        )
        return Uncompiled(arguments.with_static(self._fun, static), structure)

    def lower(self, *args: Any, **kwargs: Any) -> Lowered:
        """Trace for arguments of this kind, without computing or compiling.

        A leaf may be a `ShapeDtype` in the place of a tensor. What comes back shows its `graph()`
        and `cost()`, and can `compile()` ahead of time; nothing enters the cache.

        >>> lowered = jit(torch.sin).lower(torch.ones(3))
        >>> lowered.cost().outputs
        12
        """
        return Lowered(self.names, self._settings, args, kwargs)

    @property
    def name(self) -> str:
        """What errors call the function."""
        return self.names.name

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What was traced so far, in order."""
        return tuple(self._programs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    @property
    def trace_count(self) -> int:
        """How many times the function has been traced, which is how many programs were compiled."""
        return len(self._programs)

    def clear_cache(self) -> None:
        """Forget every compiled program."""
        self._programs.clear()
        self._last = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the compiled programs to a file, for another process to `load`.

        The file holds machine code for this kind of processor and these versions, and the tensors
        that the function captured.

        Raises
        ------
        ValueError
            A program cannot be written: only those of the backend "inductor" can.
        """
        persistence.save(path, self._fun, self._programs)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Add the programs of a file that `save` wrote; calls of their kinds compile nothing.

        Load only what you trust: a file of programs can run any code.

        Raises
        ------
        ValueError
            The file holds no programs, or was made from another version of the function, of torch
            or of Python, or for another processor.
        """
        for kind, program in persistence.load(path, self._fun).items():
            self._programs[kind] = program.bound_to(self.names)


class CheckedJitted(Jitted[P, R]):
    """A jitted function that at every call is compared with its Python."""

    def __init__(self, fun: Callable[P, R], names: arguments.Signature, settings: Settings) -> None:
        super().__init__(fun, names, settings)
        self._surroundings: dict[Kind, dict[str, Any]] = {}

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the program, run the function on copies, and raise `PurityError` if they differ."""
        if torch.compiler.is_compiling() or _inlined():
            return self._fun(*args, **kwargs)
        call, static = arguments.split_static(self.names, (args, kwargs))
        given, structure = tree.flatten(call)
        leaves = as_tensors(self.names, given, structure)
        check = Check(self.names, leaves, structure, static)
        now = surroundings(self._fun)
        traced = self._surroundings.setdefault(kind_of(leaves, structure, static), now)
        outputs = super().__call__(*args, **kwargs)
        with disable_jit():
            check.compare(outputs, traced, now)
        return outputs


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
    check_purity: bool = False,
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
    check_purity: bool = False,
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
    check_purity: bool = False,
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
        tensor has their shape, layout, dtype and device; the caller's donated tensors are used up,
        and raise when used again.
    backend, mode, options
        As in `torch.compile`; `mode` is for the backend "inductor". One option is `jit`'s own:
        `{"contract_per_example": False}` leaves per-example gradients in the order in which they
        are written, where otherwise those that are only squared and summed, or weighted and summed,
        are never formed (`lower(...).graph(contracted=True)` shows what is computed instead).
    check_purity
        For debugging: at every call also run `fun` itself, twice and on copies, and raise a
        `PurityError` that names the output which differs and the variable that has changed since
        the trace. What changes a result by less than rounding may (1e-4 of the largest magnitude
        in float32) is not seen.

    Returns
    -------
    Jitted
        A callable with `trace_count`, `clear_cache()` and `lower(*args)`. Under `vmap`, `grad`,
        another `jit` or `disable_jit()` it is `fun` itself.

    Raises
    ------
    TypeError
        An argument leaf is neither tensor nor number, or a static argument cannot be hashed.
    TraceError
        `fun` cannot be traced, for example because it branches on the value of a tensor.
    CompileError
        The backend failed on what was traced.

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
            check_purity=check_purity,
        )
    if torch.compiler.is_compiling():
        return fun  # type: ignore[return-value]  # which it is under another jit
    if not callable(fun):
        raise TypeError(f"jit: expected a function, got {type(fun).__name__}.")
    names = arguments.signature(fun, static_argnums, static_argnames, donate_argnums)
    settings = settings_of(backend, mode, options)
    return (CheckedJitted if check_purity else Jitted)(fun, names, settings)


def _inlined() -> bool:
    """Say whether something else is transforming or interpreting what runs now."""
    return (
        _disabled.get()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._len_torch_dispatch_stack() > 0
    )


_PLAIN = {Tensor, torch.nn.Parameter}
