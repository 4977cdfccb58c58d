"""`scan` and `map`: loops over the slices of tensors."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import tree
from ..batching import vmap
from ..border import function_name, numbers_to_tensors, tensor_leaves
from ..staging.tracing import recorder
from . import flat
from .checks import check_function, check_same, common_length
from .closures import convert
from .scan_primitive import loop

#: What surrounds the one step that stands for as many as it is told.
Around = Callable[[int], contextlib.AbstractContextManager[None]]
#: Takes a step, the first carry, what to go through, its length, the direction and `unroll`.
Run = Callable[..., tuple[list[Tensor], list[Tensor]]]


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]],
    init: tree.PyTree,
    xs: tree.PyTree = None,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | bool = 1,
) -> tuple[Any, Any]:
    """Loop over the slices of `xs` along their first axis, handing a carry from step to step.

    It computes what this does::

        carry, ys = init, []
        for x in xs:
            carry, y = f(carry, x)
            ys.append(y)
        return carry, stack(ys)

    but under `jit` `f` is traced once, so that the time to compile does not grow with the length.
    It can be differentiated in both modes, any number of times, and batched.

    Parameters
    ----------
    f
        A pure function of `(carry, x)` that returns `(carry, y)`; the carry that it returns has the
        structure, shapes and dtypes of the one that it got. It may close over tensors that are
        differentiated or batched.
    init
        The first carry, a tree of tensors; numbers count as 0-d tensors.
    xs
        A tree of tensors of one length along their first axis, or None to loop without slices.
    length
        How many steps; needed only where `xs` has no leaf.
    reverse
        Whether to go from the last slice to the first; `ys` stay in the order of `xs`.
    unroll
        Under `jit`, how many steps are compiled as one, which saves what lies between them; True
        for all of them.

    Returns
    -------
    The last carry, and the tree of the `y` stacked along a new first axis.

    Raises
    ------
    TypeError
        `f` is not a function, or does not return a pair; a leaf is no tensor.
    ValueError
        The carry changes in structure, shape, dtype or device, the lengths differ, or none is
        known; the message names the leaf.

    Notes
    -----
    Under `jit` the reverse derivative keeps the carry of every step and computes the step again on
    the way back, as if `f` were `remat(f)`: what grows with the length is the memory of the carry,
    not that of all a step computes, and a step costs a forward more. The forward derivative
    computes the loop twice, once for the values and once with the tangents. Steps are started from
    Python, some microseconds each.

    Outside of `jit` the loop is a Python loop, and torch keeps what it always keeps.

    Examples
    --------
    >>> import purefn.functional as pf
    >>> def running_sum(total, x):
    ...     total = total + x
    ...     return total, total
    >>> scan(running_sum, torch.tensor(0.0), torch.tensor([1.0, 2.0, 3.0]))
    (tensor(6.), tensor([1., 3., 6.]))
    >>> last = pf.jit(lambda xs: scan(running_sum, 0.0, xs)[0], backend="eager")
    >>> pf.grad(last)(torch.tensor([1.0, 2.0, 3.0]))
    tensor([1., 1., 1.])
    """
    check_function("scan", "f", f)
    length = common_length("scan", xs, length)
    unroll = _steps_at_once(unroll, length)
    (init_leaves, carry_structure), (xs_leaves, xs_structure) = tree.flatten(init), tree.flatten(xs)
    init_leaves = numbers_to_tensors([*init_leaves, *xs_leaves])[: len(init_leaves)]
    init = tensor_leaves("scan", "init", tree.unflatten(carry_structure, init_leaves))
    outputs = _Outputs(tree.structure(None))

    def step(*arguments: Tensor) -> Sequence[Tensor]:
        carry_leaves, x_leaves = flat.split(arguments, len(init_leaves))
        carry = tree.unflatten(carry_structure, carry_leaves)
        result = f(carry, tree.unflatten(xs_structure, x_leaves))
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(
                f"scan: expected {function_name(f)} to return a pair (carry, y), got {result!r}."
            )
        new, y = (tensor_leaves("scan", "the output of f", part) for part in result)
        check_same("scan", ("carry", "f(carry, x)[0]"), carry, new, _KEEP)
        y_leaves, outputs.structure = tree.flatten(y)
        return (*tree.leaves(new), *y_leaves)

    run = _eager if recorder() is None else _recorded(length)
    carry_leaves, ys = run(step, init_leaves, xs_leaves, length, reverse, unroll)
    carry = tree.unflatten(carry_structure, carry_leaves)
    return carry, tree.unflatten(outputs.structure, ys)


def map(  # noqa: A001 - JAX's name
    f: Callable[[Any], Any], xs: tree.PyTree, batch_size: int | None = None
) -> Any:
    """Apply `f` to the slices of `xs` along their first axis, one after the other.

    What `vmap` computes at once, with the memory of one slice; with a `batch_size` that many slices
    are computed at a time, by `vmap`.

    Parameters
    ----------
    f
        A pure function of a slice.
    xs
        A tree of tensors of one length along their first axis.
    batch_size
        How many slices to compute at a time; the last ones may be fewer.

    Returns
    -------
    The tree of results, stacked along a new first axis.

    Raises
    ------
    ValueError
        The leaves of `xs` differ in length or `batch_size` is less than 1.

    Examples
    --------
    >>> map(lambda x: x["a"] * x["b"], {"a": torch.arange(3.0), "b": torch.arange(3.0)})
    tensor([0., 1., 4.])
    >>> map(torch.square, torch.arange(5.0), batch_size=2)
    tensor([ 0.,  1.,  4.,  9., 16.])
    """
    check_function("map", "f", f)

    def slices(fun: Callable[[Any], Any], values: tree.PyTree) -> Any:
        return scan(lambda _, x: (None, fun(x)), None, values)[1]

    length = common_length("map", xs, None)
    if batch_size is None:
        return slices(f, xs)
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"map: expected an int >= 1 or None for batch_size, got {batch_size!r}.")
    whole = length - length % batch_size
    if not length:
        return slices(f, xs)
    if not whole:
        return vmap(f)(xs)
    parts = tree.map(lambda x: x[:whole].reshape(-1, batch_size, *x.shape[1:]), xs)
    results = tree.map(lambda y: y.flatten(0, 1), slices(vmap(f), parts))
    if whole == length:
        return results
    rest = vmap(f)(tree.map(lambda x: x[whole:], xs))
    return tree.map(lambda y, z: torch.cat([y, z]), results, rest)


@contextlib.contextmanager
def unrolled(length: int) -> Iterator[None]:
    """Trace loops of at most `length` steps step by step, so that a graph shows them."""
    token = _unrolled.set(length)
    try:
        yield
    finally:
        _unrolled.reset(token)


@contextlib.contextmanager
def one_step_for_all(around: Around) -> Iterator[None]:
    """Run a single step of every loop, within `around(length)`, for who counts what steps do."""
    token = _around.set(around)
    try:
        yield
    finally:
        _around.reset(token)


_unrolled = contextvars.ContextVar("unrolled", default=-1)
_around: contextvars.ContextVar[Around | None] = contextvars.ContextVar("around", default=None)


class _Outputs:
    """The structure of what a step returns beside the carry, known once it has run."""

    def __init__(self, structure: tree.Structure) -> None:
        self.structure = structure


_KEEP = "A step returns a carry like the one it got; cast or broadcast it in `init` or at the end."


def _eager(
    step: flat.Flat,
    init: Sequence[Tensor],
    xs: Sequence[Tensor],
    length: int,
    reverse: bool,
    unroll: int,
) -> tuple[list[Tensor], list[Tensor]]:
    carry, rows = list(init), []
    for index in range(length)[:: -1 if reverse else 1]:
        carry, y = flat.split(step(*carry, *(x[index] for x in xs)), len(init))
        rows.append(y)
    if not rows:
        # What there is none of has a shape nevertheless.
        zeros = [x.new_zeros(x.shape[1:]) for x in xs]
        _, y = flat.split(step(*carry, *zeros), len(init))
        return carry, [leaf.new_empty((0, *leaf.shape)) for leaf in y]
    ordered = reversed(rows) if reverse else rows
    return carry, [torch.stack(column) for column in zip(*ordered, strict=True)]


def _recorded(length: int) -> Run:
    """Return how a loop is run whose operations are recorded."""
    if (around := _around.get()) is not None:
        return functools.partial(_first, around)
    return _eager if length <= _unrolled.get() else _staged


def _first(
    around: Around,
    step: flat.Flat,
    init: Sequence[Tensor],
    xs: Sequence[Tensor],
    length: int,
    reverse: bool,
    unroll: int,
) -> tuple[list[Tensor], list[Tensor]]:
    slices = [x[0] if length else x.new_zeros(x.shape[1:]) for x in xs]
    with around(length):
        carry, y = flat.split(step(*init, *slices), len(init))
    return carry, [leaf.expand(length, *leaf.shape).contiguous() for leaf in y]


def _staged(
    step: flat.Flat,
    init: Sequence[Tensor],
    xs: Sequence[Tensor],
    length: int,
    reverse: bool,
    unroll: int,
) -> tuple[list[Tensor], list[Tensor]]:
    body, consts, _ = convert("scan", step, [*init, *flat.slices(xs)])
    return loop(body, consts, init, xs, length=length, reverse=reverse, unroll=unroll)


def _steps_at_once(unroll: int | bool, length: int) -> int:
    if isinstance(unroll, bool):
        return max(length, 1) if unroll else 1
    if not isinstance(unroll, int) or unroll < 1:
        raise ValueError(f"scan: expected an int >= 1 or a bool for unroll, got {unroll!r}.")
    return unroll
