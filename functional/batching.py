"""`vmap`: a function of one example becomes a function of a batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import tree
from .border import Carrier, argument_name, check_callable, describe, function_name, tensor_leaves
from .one_hot import ComparedOneHot

Axes = tree.PyTree


def vmap(
    fun: Callable[..., Any],
    in_axes: Axes = 0,
    out_axes: Axes = 0,
    axis_size: int | None = None,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """Return the function that maps `fun` over an axis of its arguments, all examples at once.

    Parameters
    ----------
    fun
        A pure function of trees that returns a tree of tensors and numbers.
    in_axes
        Which axis of each leaf to map over: an int, which may be negative, or None for a leaf that
        is the same in every example. An int or None for all arguments, or a tuple with one entry
        per positional argument, each an int, None, or a tree of them of which a leaf may stand for
        a whole subtree. Keyword arguments are always mapped over axis 0; what should not be is
        closed over or passed by position with axis None.
    out_axes
        Where the mapped axis goes in each leaf of the output: an int, None, or a tree of them that
        is a prefix of the output. A leaf that does not depend on mapped arguments is repeated,
        unless its axis is None; a leaf that does depend on them may not have axis None.
    axis_size
        The size of the mapped axis; needed only where nothing is mapped.
    chunk_size
        How many examples are computed at a time; the result is the same, with less memory.

    Returns
    -------
    A function of the same arguments with the mapped axes added, and an output with them.

    Raises
    ------
    TypeError
        `in_axes` or `out_axes` holds anything but ints and None; when called, a mapped leaf is not
        a tensor, or a leaf of the output is neither a tensor nor a number.
    ValueError
        When called: the mapped axes differ in size, a leaf has no such axis, or `in_axes` or
        `out_axes` does not fit the arguments or the output; the message names the paths.
    RuntimeError
        When called: `fun` draws from torch's global random generator.

    Examples
    --------
    >>> params, x = {"w": torch.tensor([1.0, 2.0])}, torch.tensor([[1.0, 1.0], [2.0, 0.0]])
    >>> vmap(lambda params, x: params["w"] @ x, in_axes=(None, 0))(params, x)
    tensor([3., 2.])
    >>> vmap(lambda a, b: {"outer": a * b}, in_axes=(0, None), out_axes={"outer": 1})(x, x[0])
    {'outer': tensor([[1., 2.],
            [1., 0.]])}
    """
    check_callable("vmap", fun)
    if isinstance(in_axes, list):
        in_axes = tuple(in_axes)
    if in_axes is not None and not isinstance(in_axes, int | tuple):
        raise TypeError(
            "vmap: expected an int, None or a tuple with one entry per positional argument for "
            f"in_axes, got {in_axes!r}."
        )
    marked_in_axes, marked_out_axes = _marked("in_axes", in_axes), _marked("out_axes", out_axes)
    _check_count("axis_size", axis_size, least=0)
    _check_count("chunk_size", chunk_size, least=1)

    @functools.wraps(fun, updated=())
    def mapped(*args: Any, **kwargs: Any) -> Any:
        values, structure = tree.flatten([list(args), *kwargs.values()])
        axes = _input_axes(fun, marked_in_axes, args)
        axes += [0] * (len(values) - len(axes))
        size = _axis_size(
            values, axes, axis_size, name=lambda index: _leaf_names(fun, args, kwargs)[index]
        )
        carrier, kept = Carrier(), _Kept()

        def flat_fun(_: Tensor, *leaves: Any) -> tuple[Tensor, ...]:
            arguments, *rest = tree.unflatten(structure, leaves)
            output = fun(*arguments, **dict(zip(kwargs, rest, strict=True)))
            output = tensor_leaves("vmap", "output", output)
            kept.axes = _output_axes(marked_out_axes, output)
            return carrier.pack(output)

        # torch.func wants something mapped: a counter that flat_fun ignores.
        counter = torch.empty(size)
        batched = torch.func.vmap(flat_fun, in_dims=(0, *axes), chunk_size=chunk_size)
        outputs = _run(batched, counter, *values)
        return carrier.unpack(
            [_place(output, axis) for output, axis in zip(outputs, kept.axes, strict=False)]
        )

    return mapped


class _NotMapped:
    """Stands for None in trees of axes, where None itself would be an empty subtree."""

    def __repr__(self) -> str:
        return "None"


_NOT_MAPPED = _NotMapped()


class _Kept:
    """What is found out about the output while `fun` runs."""

    axes: Sequence[int | None] = ()


@dataclass(frozen=True)
class _Spread:
    """An axis, and the number of leaves for which it stands."""

    axis: int | _NotMapped
    leaves: int


def _marked(name: str, axes: Axes) -> Axes:
    """Return `axes` with None made a leaf, after a look at the other leaves."""

    def mark(axis: Any) -> int | _NotMapped:
        if axis is None:
            return _NOT_MAPPED
        if isinstance(axis, bool) or not isinstance(axis, int):
            raise TypeError(f"vmap: expected ints and None in {name}, got {axis!r}.")
        return axis

    return tree.map(mark, axes, is_leaf=lambda node: node is None)


def _spread(axes: Axes, values: tree.PyTree, names: tuple[str, str]) -> list[int | None]:
    """Return for each leaf of `values` its axis in `axes`, a prefix of it."""
    if isinstance(axes, int | _NotMapped):
        spreads = [_Spread(axes, len(tree.leaves(values)))]
    else:

        def spread(axis: int | _NotMapped, subtree: tree.PyTree) -> _Spread:
            return _Spread(axis, len(tree.leaves(subtree)))

        try:
            spreads = tree.leaves(tree.map(spread, axes, values, names=names))
        except ValueError as error:
            raise ValueError(f"vmap: {names[0]} is no prefix of {names[1]}: {error}") from error
    return [
        None if isinstance(spread.axis, _NotMapped) else spread.axis
        for spread in spreads
        for _ in range(spread.leaves)
    ]


def _input_axes(fun: Callable[..., Any], axes: Axes, args: Sequence[Any]) -> list[int | None]:
    if isinstance(axes, tuple) and len(axes) != len(args):
        raise ValueError(
            f"vmap: in_axes has {len(axes)} entries, but {function_name(fun)} was called with "
            f"{len(args)} positional arguments."
        )
    return _spread(axes, tuple(args), ("in_axes", "args"))


def _output_axes(axes: Axes, output: tree.PyTree) -> list[int | None]:
    spread = _spread(axes, output, ("out_axes", "output"))
    for index, (axis, tensor) in enumerate(zip(spread, tree.leaves(output), strict=True)):
        problem = None
        if axis is None:
            if _is_mapped(tensor):
                problem = "None, but depends on mapped arguments"
        elif not -tensor.ndim - 1 <= axis <= tensor.ndim:
            problem = f"{axis}, but has shape {tuple(tensor.shape)} before the axis is added"
        if problem is not None:
            path = tree.path_strings(output, "output")[index]
            raise ValueError(f"vmap: {path} has out_axes {problem}.")
    return spread


def _is_mapped(tensor: Tensor) -> bool:
    """Say whether the vmap that runs has given `tensor` a hidden axis."""
    functorch = torch._C._functorch
    if not functorch.is_batchedtensor(tensor):
        return False
    if torch.compiler.is_compiling():
        # Dynamo cannot ask for the level, so there an axis of an outer vmap is refused, too.
        return True
    return functorch.maybe_get_level(tensor) == functorch.maybe_current_level()


def _place(output: Tensor, axis: int | None) -> Tensor:
    """Move the mapped axis, which torch.func has put first, or drop it where all rows are one."""
    return output[0] if axis is None else output.movedim(0, axis)


def _axis_size(
    values: Sequence[Any],
    axes: Sequence[int | None],
    axis_size: int | None,
    name: Callable[[int], str],
) -> int:
    """Return the one size that all mapped axes have; `name` says what errors call a leaf."""
    sizes: dict[int, int] = {}
    for index, (value, axis) in enumerate(zip(values, axes, strict=True)):
        if axis is not None:
            sizes.setdefault(_length(value, axis, name, index), index)

    def found() -> str:
        places = [(name(index), size, axes[index]) for size, index in sizes.items()]
        return "; ".join(f"{path} has size {size} along axis {axis}" for path, size, axis in places)

    if len(sizes) > 1:
        raise ValueError(f"vmap: the mapped axes differ in size: {found()}.")
    if axis_size is not None and sizes and axis_size not in sizes:
        raise ValueError(f"vmap: axis_size is {axis_size}, but {found()}.")
    if axis_size is None and not sizes:
        raise ValueError(
            "vmap: nothing is mapped, so the size of the batch is unknown: give an axis in "
            "in_axes, or axis_size."
        )
    return next(iter(sizes)) if axis_size is None else axis_size


def _length(value: Any, axis: int, name: Callable[[int], str], index: int) -> int:
    if isinstance(value, Tensor) and -value.ndim <= axis < value.ndim:
        return value.shape[axis]
    problem = f"vmap: {name(index)} is {describe(value)}, which has no axis {axis} to map over."
    if isinstance(value, Tensor):
        raise ValueError(problem)
    raise TypeError(
        f"{problem} Give it axis None in in_axes, or close over it (keyword arguments are mapped "
        "over axis 0)."
    )


def _leaf_names(fun: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> list[str]:
    named = [(argument_name(fun, position), arg) for position, arg in enumerate(args)]
    return [
        path for name, arg in (*named, *kwargs.items()) for path in tree.path_strings(arg, name)
    ]


def _check_count(name: str, count: int | None, least: int) -> None:
    if count is None:
        return
    if isinstance(count, bool) or not isinstance(count, int) or count < least:
        raise ValueError(f"vmap: expected an int >= {least} or None for {name}, got {count!r}.")


def _run(batched: Callable[..., Any], *values: Any) -> tuple[Tensor, ...]:
    """Run what torch.func has batched; where that fails for a reason we know, do or say better."""
    try:
        outputs: tuple[Tensor, ...] = batched(*values)
    except RuntimeError as error:
        if ".item()" in str(error):
            # A mode costs each operator microseconds; a pure function may as well run again.
            with ComparedOneHot():
                return batched(*values)  # type: ignore[no-any-return]
        if "random operation" not in str(error):
            raise
        raise RuntimeError(
            "vmap: the function draws from torch's global random generator, whose state examples "
            "cannot share. Draw with purefn.functional.random, from keys that are arguments: "
            "vmap(fun)(random.split(key, n), ...)."
        ) from error
    return outputs
