"""Why jitted functions were traced more than once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .compilation import LIVE, Jitted
from .kinds import differences


class Retrace(NamedTuple):
    """One trace after the first: its number, the trace it is closest to, and what changed."""

    number: int
    closest: int
    changes: tuple[str, ...]

    def __str__(self) -> str:
        """Show one line: `2: images: float32 of shape (64, 64) -> float32 of shape (32, 64)`."""
        origin = f" (from {self.closest})" if self.closest != self.number - 1 else ""
        return f"{self.number}{origin}: {'; '.join(self.changes)}"


class History(NamedTuple):
    """How often a function was traced, and why again."""

    name: str
    traces: int
    retraces: tuple[Retrace, ...]

    def __str__(self) -> str:
        """Show the function, then one line for each trace after the first."""
        times = {1: "once", 2: "twice"}.get(self.traces, f"{self.traces} times")
        return "\n".join([f"{self.name} was traced {times}.", *(f"  {r}" for r in self.retraces)])


class Retraces(tuple[History, ...]):
    """The histories of some functions; print it to read them."""

    __slots__ = ()

    def __str__(self) -> str:
        """Show the histories one below the other."""
        return "\n".join(map(str, self)) or "Nothing was traced more than once."

    def __repr__(self) -> str:
        """Show the same as `str`."""
        return str(self)


def explain_retraces(fun: Callable[..., Any] | None = None) -> Retraces:
    """Say for every trace after the first which argument changed, and from what to what.

    Each trace is compared with the closest one before it: the one from which the fewest leaves,
    static arguments and settings of torch differ.

    Parameters
    ----------
    fun
        A jitted function; all that were traced more than once and still exist if None.

    Returns
    -------
    Retraces
        Prints as text; a tuple of a `History` for each function. It holds no tensors.

    Raises
    ------
    TypeError
        `fun` was not made by `jit`.

    Examples
    --------
    >>> import torch
    >>> from purefn.functional import jit
    >>> @jit(backend="eager")
    ... def scale(x, factor):
    ...     return x * factor
    >>> for x in (torch.ones(2), torch.ones(3), torch.ones(3, dtype=torch.float64)):
    ...     _ = scale(x, 2.0)
    >>> explain_retraces(scale)
    scale was traced 3 times.
      2: x: float32 of shape (2,) -> float32 of shape (3,)
      3: x: float32 of shape (3,) -> float64 of shape (3,); ...
    """
    if fun is None:
        repeated = [jitted for jitted in LIVE if jitted.trace_count > 1]
        return Retraces(map(_history, sorted(repeated, key=lambda jitted: jitted.name)))
    jitted = getattr(fun, "__func__", fun)
    if not isinstance(jitted, Jitted):
        raise TypeError(f"explain_retraces: expected a function made by jit, got {fun!r}.")
    return Retraces([_history(jitted)])


def _history(jitted: Jitted[..., Any]) -> History:
    retraces = [_closest(jitted, number) for number in range(1, len(jitted.kinds))]
    return History(jitted.name, len(jitted.kinds), tuple(retraces))


def _closest(jitted: Jitted[..., Any], index: int) -> Retrace:
    """Compare a trace with the one before it that differs in least, the last of several."""
    new = jitted.kinds[index]
    changes: Sequence[tuple[int, list[str]]] = [
        (earlier, differences(jitted.names, old, new))
        for earlier, old in enumerate(jitted.kinds[:index])
    ]
    closest, least = min(reversed(changes), key=lambda change: len(change[1]))
    return Retrace(index + 1, closest + 1, tuple(least))
