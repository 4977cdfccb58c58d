"""Assertions about functions as programs: how often they are traced, whether they are one graph.

And that they write none of their inputs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...functional import tree
from ...functional.border import describe
from ...functional.staging import Jitted, TraceError, explain_retraces, make_graph
from ...functional.staging.compilation import LIVE
from . import differences
from .concrete import concrete
from .naming import function_name, leaf_names

__all__ = ["assert_max_traces", "assert_no_graph_breaks", "assert_no_input_mutation"]


def assert_max_traces(fun: Callable[..., Any] | int | None = None, n: int | None = None) -> Any:
    """Require that a function is traced at most `n` times; say which argument made `jit` do more.

    As a decorator above `jit` or below it, or as a context, of one jitted function or of all::

        @assert_max_traces(n=1)              with assert_max_traces(step, n=1):
        @pf.jit                                  train()
        def step(params, batch): ...         with assert_max_traces(n=0):   # nothing is traced here
                                                 train()

    Above `jit` and as a context, traces are counted from there on. Below `jit` (or without it)
    every run of the Python function is a trace, so that outside of `jit` it may be called `n`
    times.

    Parameters
    ----------
    fun
        A function; `assert_max_traces(3)` is `assert_max_traces(n=3)`.
    n
        How many traces are allowed.

    Returns
    -------
    The function, of the same arguments, that raises when it is traced too often; or, without
    `fun`, what decorates one. Both can be entered as a context.

    Raises
    ------
    AssertionError
        There was one more trace: during the call, or at the end of the context.

    Examples
    --------
    >>> import torch
    >>> import purefn.functional as pf
    >>> step = assert_max_traces(pf.jit(lambda x, lr: x - lr, backend="eager"), n=1)
    >>> step(torch.ones(2), 0.1)
    tensor([0.9000, 0.9000])
    >>> step(torch.ones(3), 0.2)
    Traceback (most recent call last):
    ...
    AssertionError: assert_max_traces: <lambda> was traced 2 times, 1 allowed.
      2: x: float32 of shape (2,) -> float32 of shape (3,)
    """
    if isinstance(fun, int):
        fun, n = None, fun
    if isinstance(n, bool) or not isinstance(n, int) or n < 0:
        raise ValueError(f"assert_max_traces: expected n to be an int, at least 0, got {n!r}.")
    if fun is None:
        return _Limit(n)
    return _LimitedJit(fun, n) if isinstance(fun, Jitted) else _LimitedFunction(fun, n)


def assert_no_graph_breaks(
    fun: Callable[..., Any], *args: Any, compiler: str = "jit", **kwargs: Any
) -> None:
    """Require that a function is one graph for these arguments; nothing is computed or compiled.

    Parameters
    ----------
    fun
        A function, jitted or not.
    args, kwargs
        Its arguments.
    compiler
        "jit", which never breaks a graph but refuses, or "torch.compile" (with its default
        settings), which falls back to Python in between.

    Raises
    ------
    AssertionError
        The function cannot be one graph; the message says where and why.

    Examples
    --------
    >>> import torch
    >>> assert_no_graph_breaks(torch.sin, torch.ones(2))
    >>> def choose(x):
    ...     return x if x.sum() > 0 else -x
    >>> assert_no_graph_breaks(choose, torch.ones(2))
    Traceback (most recent call last):
    ...
    AssertionError: assert_no_graph_breaks: jit(choose) needs the value of a traced tensor...
    """
    if compiler not in ("jit", "torch.compile"):
        raise ValueError(
            f"assert_no_graph_breaks: expected compiler 'jit' or 'torch.compile', got {compiler!r}."
        )
    if compiler == "torch.compile":
        _check_dynamo(fun, args, kwargs)
        return
    try:
        make_graph(fun)(*args, **kwargs)
    except TraceError as error:
        raise AssertionError(f"assert_no_graph_breaks: {error}") from error


def assert_no_input_mutation(fun: Callable[..., Any]) -> Callable[..., Any]:
    """Return `fun`, with the requirement that it leaves its arguments as they are.

    At every call the tensors among the arguments (numbers, numpy arrays and containers too) are
    compared with copies made before. A write of the same value is found as well, from the version
    that torch counts; through numpy, which torch does not see, only a new value is.

    Raises
    ------
    AssertionError
        When called: an argument has changed; the message names every leaf that was written.
    TraceError
        When called: an argument is traced by `jit` or batched by `vmap`.

    Examples
    --------
    >>> import torch
    >>> @assert_no_input_mutation
    ... def step(params, grads):
    ...     params["w"] -= grads["w"]
    ...     return params
    >>> step({"w": torch.ones(2)}, {"w": torch.ones(2)})
    Traceback (most recent call last):
    ...
    AssertionError: assert_no_input_mutation: step writes its arguments:
      params['w']: 2 of 2 elements of float32 of shape (2,) differ
        largest absolute difference 1 at [0]: 1.0 != 0.0
        largest relative difference inf at [0]: 1.0 != 0.0
        largest ulps difference 1065353216 at [0]: 1.0 != 0.0
    """

    @functools.wraps(fun)
    def checked(*args: Any, **kwargs: Any) -> Any:
        given = (args, kwargs)
        names, versions, before = leaf_names(fun, *given), _versions(given), tree.map(_copy, given)
        result = fun(*args, **kwargs)
        written = _written(names, before, versions, given)
        if written:
            title = f"assert_no_input_mutation: {function_name(fun)} writes its arguments:"
            raise AssertionError("\n  ".join([title, *written]))
        return result

    return checked


# --- traces --------------------------------------------------------------------------------------


class _Limit:
    """`assert_max_traces(n=...)`: decorates a function, or watches all jitted ones in a block."""

    def __init__(self, n: int) -> None:
        self._n = n

    def __call__(self, fun: Callable[..., Any]) -> Callable[..., Any]:
        limited: Callable[..., Any] = assert_max_traces(fun, self._n)
        return limited

    def __enter__(self) -> None:
        self._before = {jitted: jitted.trace_count for jitted in LIVE}

    def __exit__(self, error: type[BaseException] | None, *rest: Any) -> None:
        if error is None:
            for jitted in list(LIVE):
                _check_traces(jitted, self._before.get(jitted, 0), self._n)


class _LimitedJit:
    """A jitted function that may be traced `n` times more."""

    def __init__(self, jitted: Jitted[..., Any], n: int) -> None:
        functools.update_wrapper(self, jitted)
        self._jitted, self._n, self._before = jitted, n, jitted.trace_count

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self._jitted(*args, **kwargs)
        _check_traces(self._jitted, self._before, self._n)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._jitted, name)

    def __enter__(self) -> None:
        self._before = self._jitted.trace_count

    def __exit__(self, error: type[BaseException] | None, *rest: Any) -> None:
        if error is None:
            _check_traces(self._jitted, self._before, self._n)


def _check_traces(jitted: Jitted[..., Any], before: int, n: int) -> None:
    traces = jitted.trace_count - before
    if traces > n:
        history = explain_retraces(jitted)[0].retraces
        retraces = [str(retrace) for retrace in history if retrace.number > before]
        raise AssertionError("\n  ".join([_too_many(jitted.name, traces, n), *retraces]))


class _LimitedFunction:
    """A plain function that may be run `n` times: what `jit` traces."""

    def __init__(self, fun: Callable[..., Any], n: int) -> None:
        functools.update_wrapper(self, fun)
        self._fun, self._n = fun, n
        self._seen: list[dict[str, str]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        names = leaf_names(self._fun, args, kwargs)
        now = dict(zip(names, map(describe, tree.leaves((args, kwargs))), strict=True))
        self._seen.append(now)
        if len(self._seen) > self._n:
            changes = (
                [] if self._n == 0 else [f"{len(self._seen)}: {_changes(self._seen[-2], now)}"]
            )
            title = _too_many(function_name(self._fun), len(self._seen), self._n)
            raise AssertionError("\n  ".join([title, *changes]))
        return self._fun(*args, **kwargs)


def _too_many(name: str, traces: int, n: int) -> str:
    times = "once" if traces == 1 else f"{traces} times"
    return f"assert_max_traces: {name} was traced {times}, {n} allowed."


def _changes(old: dict[str, str], new: dict[str, str]) -> str:
    changed = [
        f"{path}: {old.get(path, 'nothing')} -> {new.get(path, 'nothing')}"
        for path in {**old, **new}
        if old.get(path) != new.get(path)
    ]
    return "; ".join(changed) or (
        "its arguments have the same shapes and dtypes: it runs outside of jit, or a new jit of it "
        "is made each time, or the layout, a setting of torch or what it captures has changed"
    )


# --- graphs --------------------------------------------------------------------------------------


def _check_dynamo(fun: Callable[..., Any], args: Any, kwargs: Any) -> None:
    torch._dynamo.reset()
    found = torch._dynamo.explain(fun)(*args, **kwargs)
    if found.break_reasons:
        reasons = [
            f"{each.user_stack[-1].filename}:{each.user_stack[-1].lineno}: "
            f"{each.reason.splitlines()[0]}"
            for each in found.break_reasons
        ]
        title = (
            f"assert_no_graph_breaks: torch.compile breaks {function_name(fun)} in "
            f"{len(found.break_reasons)} places:"
        )
        raise AssertionError("\n  ".join([title, *reasons]))


# --- arguments -----------------------------------------------------------------------------------


def _copy(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return concrete("assert_no_input_mutation", leaf).clone()
    return leaf.copy() if hasattr(leaf, "copy") else leaf


def _versions(given: Any) -> list[int | None]:
    return [
        leaf._version if isinstance(leaf, Tensor) and not leaf.is_inference() else None
        for leaf in tree.leaves(given)
    ]


def _written(names: list[str], before: Any, versions: list[int | None], after: Any) -> list[str]:
    """Describe every leaf that has changed, or has been written with what it held."""
    structural = differences.structural_difference(before, after, "(args, kwargs)")
    if structural is not None:
        return [f"a container has changed: {structural}"]
    same = [old == new for old, new in zip(versions, _versions(after), strict=True)]
    rows = zip(names, tree.leaves(before), tree.leaves(after), same, strict=True)
    who, found = "assert_no_input_mutation", []
    for name, old, new, same_version in rows:
        difference = differences.leaf_difference(who, old, new, differences.exactly)
        if difference is not None:
            found.append(f"{name}: {difference}")
        elif not same_version:
            found.append(f"{name}: written with the values that it had")
    return found
