"""Rules that see whole leaves (norms, factors, products of matrices), over stacks of equal leaves.

A small leaf costs more in calls of torch than in arithmetic. Leaves of one shape, dtype and device
are therefore computed with together, as one tensor with a leading axis.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..functional import tree
from . import checks
from .leafwise import stored, working

_Result = TypeVar("_Result")
#: Returns the parts of a stack, each in memory of its own.
_unstacked: Callable[[Tensor], Sequence[Tensor]] = torch.unbind_copy  # type: ignore[assignment]
#: Bytes of a leaf above which copying it into a stack costs more than calls of its own do.
STACKED_BYTES = 2**16
#: Bytes of a stack: its intermediate results stay in the cache.
STACK_BYTES = 2**19


def per_shape(
    rule: Callable[..., Any],
    trees: Mapping[str, tree.PyTree],
    free: Mapping[str, tree.PyTree] | None = None,
    *,
    results: int = 1,
) -> Any:
    """Apply a `rule` to corresponding leaves of `trees`, several of one shape at a time.

    Every tensor that the rule receives and returns has a leading axis more than the leaves, over
    which it must compute independently: a norm is `x.flatten(1).norm(dim=1)`. Leaves of the `free`
    trees, which it reads after those of `trees`, may have any shape, one for each shape of the
    first. Dtypes are as for `leafwise.per_leaf`: results have those of the first tree, half
    precision is computed with in float32.

    >>> trees = {"x": {"v": torch.ones(2), "w": 2 * torch.ones(2)}}
    >>> per_shape(lambda x: x.sum(dim=1, keepdim=True).expand(-1, 2), trees)
    {'v': tensor([2., 2.]), 'w': tensor([4., 4.])}
    """
    structure, columns = checks.same_leaves(trees)
    name, first = next(iter(trees.items()))
    checks.trainable(first, name, leaves=columns[0])
    for free_name, given in (free or {}).items():
        tree.map(lambda *pair: None, first, given, names=(name, free_name))  # names the path
        columns.append(list(structure.flatten_up_to(given)))  # type: ignore[arg-type]
    computed: list[dict[int, Tensor]] = [{} for _ in range(results)]
    with full_precision(columns[0]):
        for places in _stacks(columns):
            lists = _on_stack(rule, [[column[place] for place in places] for column in columns])
            for result, leaves in zip(computed, lists, strict=True):
                result.update(zip(places, leaves, strict=True))
    trees_of_results = [
        tree.unflatten(structure, [result[place] for place in range(len(columns[0]))])
        for result in computed
    ]
    return trees_of_results[0] if results == 1 else tuple(trees_of_results)


@contextlib.contextmanager
def full_precision(leaves: Iterable[Tensor]) -> Iterator[None]:
    """Leave autocast, which is for models: an optimizer's products are as precise as its state.

    >>> x = torch.eye(2)
    >>> with torch.autocast("cpu", torch.bfloat16), full_precision([x]):
    ...     (x @ x).dtype
    torch.float32
    """
    with contextlib.ExitStack() as left:
        for device in {leaf.device.type for leaf in leaves}:
            if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
                left.enter_context(torch.autocast(device, enabled=False))
        yield


def outside_autocast(update: Callable[..., _Result]) -> Callable[..., _Result]:
    """Return the `update` of a transformation, to be run in full precision."""

    @functools.wraps(update)
    def outside(
        updates: tree.PyTree, state: Any, params: tree.PyTree | None = None, **extra: object
    ) -> _Result:
        tensors = [leaf for leaf in tree.leaves(updates) if isinstance(leaf, Tensor)]
        with full_precision(tensors):
            return update(updates, state, params, **extra)

    return outside


def _on_stack(rule: Callable[..., Any], columns: list[list[Tensor]]) -> list[Sequence[Tensor]]:
    """Return the leaves of each result of `rule` for leaves of one shape."""
    dtype = columns[0][0].dtype
    if len(columns[0]) == 1:
        result = rule(*[working(leaf).unsqueeze(0) for (leaf,) in columns])
        given = result if isinstance(result, tuple) else (result,)
        return [[stored(value.squeeze(0), dtype)] for value in given]
    result = rule(*[working(torch.stack(leaves)) for leaves in columns])
    given = result if isinstance(result, tuple) else (result,)
    return [_unstacked(stored(value, dtype)) for value in given]


def _stacks(columns: list[list[Tensor]]) -> Iterator[list[int]]:
    """Yield the places of leaves that are stacked; a large one is alone, as all are for a compiler.

    (A compiler makes few kernels of many leaves by itself.)
    """
    first = columns[0]
    groups: dict[Any, list[int]] = {}
    for place, leaf in enumerate(first):
        if leaf.nbytes <= STACKED_BYTES and checks.plain([leaf]):
            groups.setdefault((leaf.shape, leaf.dtype, leaf.device), []).append(place)
        else:
            yield [place]
    for places in groups.values():
        length = max(1, STACK_BYTES // max(1, first[places[0]].nbytes))
        for start in range(0, len(places), length):
            yield places[start : start + length]
