"""How a rule for one leaf runs over the leaves of whole trees.

In eager the leaves go list by list through `foreach`; under a transform or a compiler, and where a
list cannot answer what the rule asks, one by one. What was found out about trees, and the programs
recorded for their lists, is remembered for the next step, whose trees look the same.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._dynamo.guards import TensorGuards

from ..functional import tree
from . import checks, foreach

#: Dtypes too narrow to compute with.
HALF = (torch.float16, torch.bfloat16)

_DTYPE, _DEVICE, _IS_CPU, _REQUIRES_GRAD = map(
    operator.attrgetter, ("dtype", "device", "is_cpu", "requires_grad")
)


class Computation(NamedTuple):
    """What is computed at corresponding leaves of trees.

    Attributes
    ----------
    recipe
        `recipe(rounded)` makes the function of a leaf, given how to round a value to its dtype.
    identity
        What the recipe is made of; where it is the same, so is what is computed.
    reads
        The names of the trees whose leaves the function takes.
    scalars
        What it takes after the leaves.
    kept
        For each result the dtype that it is kept in, or None for that of the first leaf.
    """

    recipe: Callable[[Callable[[Any], Any]], Callable[..., Any]]
    identity: Sequence[Any]
    reads: Sequence[str]
    scalars: Sequence[Any]
    kept: Sequence[torch.dtype | None]


class Memory:
    """What a transformation remembers of its last step: how leaves looked, never what they held."""

    def __init__(self) -> None:
        self.trees: _Known | None = None
        self.identity: Sequence[Any] = ()
        self.programs: dict[Any, foreach.Program | None] = {}


class _Known(NamedTuple):
    """Trees once seen; `same` is true of leaves that are like theirs in every respect."""

    names: tuple[str, ...]
    structure: tree.Structure
    same: TensorGuards
    groups: Sequence[Sequence[int]]


def compute(
    computation: Computation,
    trees: Mapping[str, tree.PyTree],
    memory: Memory,
    *,
    any_width: frozenset[str] = frozenset(),
) -> list[tree.PyTree]:
    """Return the tree of each result, after the checks of `checks.same_leaves`."""
    eager = _eager()
    known = memory.trees if eager else None
    columns = _recognized(known, trees)
    if known is None or columns is None:
        structure, columns = checks.same_leaves(trees, any_width=any_width)
        first = computation.reads[0]
        checks.trainable(trees[first], first, leaves=columns[list(trees).index(first)])
        groups: Sequence[Sequence[int]] = []
        if eager and all(map(checks.plain, columns)) and not _is_empty(columns[0]):
            tracked = _tracked(columns)
            groups = [] if tracked and torch.is_grad_enabled() else _groups(columns)
            known = _Known(tuple(trees), structure, _guards(columns), groups)
            memory.trees = None if tracked else known
    else:
        structure, groups = known.structure, known.groups
    by_name = dict(zip(trees, columns, strict=True))
    read = [by_name[name] for name in computation.reads]
    return [
        tree.unflatten(structure, column) for column in _computed(computation, read, groups, memory)
    ]


def _recognized(known: _Known | None, trees: Mapping[str, tree.PyTree]) -> list[Any] | None:
    """Return the leaves of each tree, if all look like those that are known."""
    if known is None or known.names != tuple(trees):
        return None
    try:
        columns = [known.structure.flatten_up_to(given) for given in trees.values()]
        same = known.same.check(*[leaf for column in columns for leaf in column])
    except (TypeError, ValueError):
        return None
    return columns if same else None


def _guards(columns: Sequence[Sequence[Tensor]]) -> TensorGuards:
    leaves = [leaf for column in columns for leaf in column]
    return TensorGuards(*leaves, dynamic_dims_sizes=None, dynamic_dims_strides=None)


def _computed(
    computation: Computation,
    columns: Sequence[Sequence[Tensor]],
    groups: Sequence[Sequence[int]],
    memory: Memory,
) -> Sequence[Sequence[Tensor]]:
    """Return the leaves of each result; those that are in no group are computed one by one."""
    if len(groups) == 1 and len(groups[0]) == len(columns[0]):
        return _on_list(computation, columns, memory)
    results: list[list[Any]] = [[None] * len(columns[0]) for _ in computation.kept]
    left = set(range(len(columns[0])))
    for places in groups:
        left.difference_update(places)
        group = [[column[place] for place in places] for column in columns]
        for result, leaves in zip(results, _on_list(computation, group, memory), strict=True):
            for place, leaf in zip(places, leaves, strict=True):
                result[place] = leaf
    for place in left:
        row = on_leaf(computation, *[column[place] for column in columns])
        for result, leaf in zip(results, row, strict=True):
            result[place] = leaf
    return results


def on_leaf(computation: Computation, first: Tensor, *rest: Tensor) -> list[Tensor]:
    """Compute with one leaf of each tree."""
    leaves = _aligned([working(leaf) for leaf in (first, *rest)])
    wide = leaves[0].dtype
    rule = computation.recipe(lambda value: working(stored(value, first.dtype)).to(wide))
    result = rule(*leaves, *computation.scalars)
    given = result if isinstance(result, tuple) else (result,)
    return [
        stored(value, dtype or first.dtype)
        for value, dtype in zip(given, computation.kept, strict=True)
    ]


def _on_list(
    computation: Computation, columns: Sequence[Sequence[Tensor]], memory: Memory
) -> Sequence[Sequence[Tensor]]:
    """Do what `on_leaf` does for leaves of one device, and of one dtype in each column."""
    dtypes = [column[0].dtype for column in columns]
    alike = all(dtype in (torch.float32, torch.float64) for dtype in dtypes)
    rows = columns
    if not alike or len(set(dtypes)) > 1:
        each = (_aligned([working(leaf) for leaf in row]) for row in zip(*columns, strict=True))
        rows = [list(column) for column in zip(*each, strict=True)]
    program = _program(computation, rows, dtypes, memory)
    if program is None:
        one_by_one = [on_leaf(computation, *row) for row in zip(*columns, strict=True)]
        return list(zip(*one_by_one, strict=True))
    results = program.run(rows, computation.scalars)
    kept = [dtype or dtypes[0] for dtype in computation.kept]
    if alike and all(values[0].dtype is dtype for values, dtype in zip(results, kept, strict=True)):
        return results
    return [
        [stored(value, dtype) for value in values]
        for values, dtype in zip(results, kept, strict=True)
    ]


def _program(
    computation: Computation,
    rows: Sequence[Sequence[Tensor]],
    dtypes: Sequence[torch.dtype],
    memory: Memory,
) -> foreach.Program | None:
    """Return the program that computes with such lists, or None if there is none."""
    differentiable = torch.is_grad_enabled()
    if differentiable and any(_is_differentiated(scalar) for scalar in computation.scalars):
        return None
    identity = computation.identity
    if len(identity) != len(memory.identity) or not all(
        map(operator.is_, identity, memory.identity)
    ):
        memory.identity, memory.programs = identity, {}
    like = rows[0][0]
    key = (*dtypes, like.device, *map(_kind, computation.scalars))
    if key in memory.programs:
        return memory.programs[key]
    program = _recorded(computation, rows, dtypes)
    if program is None or not program.constants:
        memory.programs[key] = program
    # Another step may find other values in the tensors that the rule has brought along.
    return None if program and differentiable and program.is_differentiated() else program


def _recorded(
    computation: Computation, rows: Sequence[Sequence[Tensor]], dtypes: Sequence[torch.dtype]
) -> foreach.Program | None:
    like = rows[0][0]
    rule = computation.recipe(functools.partial(foreach.rounded, dtype=dtypes[0].to_real()))
    own = all(dtype in HALF for dtype in dtypes)
    try:
        return foreach.record(
            rule, len(rows), computation.scalars, like.dtype, like.device, own=own
        )
    except foreach.NotListable:
        return None


def _kind(scalar: Any) -> Any:
    """Return all about a scalar that a program depends on."""
    return (
        (scalar.dtype, scalar.device, scalar.ndim) if isinstance(scalar, Tensor) else type(scalar)
    )


def _groups(columns: Sequence[Sequence[Tensor]]) -> list[Sequence[int]]:
    """Return the places of leaves that are computed with together, list by list.

    Their dtypes are those of one leaf of each tree, and they are on one device. A leaf of no
    dimensions goes alone: a scalar of a wider dtype widens what is computed of it.
    """
    first, everywhere = columns[0], range(len(columns[0]))
    one_device = all(map(_IS_CPU, first)) or len(set(map(_DEVICE, first))) == 1
    one_dtype = all(len(set(map(_DTYPE, column))) == 1 for column in columns)
    if one_dtype and one_device and all(map(Tensor.dim, first)):
        return [everywhere]
    groups: dict[Any, list[int]] = {}
    for place, row in zip(everywhere, zip(*columns, strict=True), strict=True):
        if row[0].ndim:
            groups.setdefault((row[0].device, *map(_DTYPE, row)), []).append(place)
    return list(groups.values())


def _eager() -> bool:
    """Say whether operations are just carried out, for no transform and no compiler."""
    return (
        not torch.compiler.is_compiling()
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch._C._len_torch_dispatch_stack() == 0
        and torch.autograd.forward_ad._current_level < 0
    )


def _is_empty(leaves: Sequence[Tensor]) -> bool:
    """Say whether there are no values to compute with."""
    return not leaves or leaves[0].is_meta


def _tracked(columns: Sequence[Sequence[Tensor]]) -> bool:
    """Say whether a leaf requires a gradient: then a derivative may be wanted of it."""
    return any(any(map(_REQUIRES_GRAD, column)) for column in columns)


def _is_differentiated(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def working(leaf: Tensor) -> Tensor:
    """Return `leaf` in the form in which it is computed with."""
    if leaf.is_complex():
        return torch.view_as_real(leaf)
    return leaf.float() if leaf.dtype in HALF else leaf


def _aligned(leaves: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return leaves in the widest of their dtypes."""
    dtypes = {leaf.dtype for leaf in leaves}
    if len(dtypes) == 1:
        return leaves
    wide = functools.reduce(torch.promote_types, dtypes)
    return [leaf.to(wide) for leaf in leaves]


def stored(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what was computed for a leaf of `dtype` in the form in which it is kept."""
    if dtype.is_complex:
        return torch.view_as_complex(value.to(dtype.to_real()))
    return value.to(dtype)
