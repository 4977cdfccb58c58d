"""How the mathematics of an optimizer, written for one leaf, runs over whole trees.

Every transformation states its rule as a function of single tensors. Neighbours in a chain are
joined in one `Step` before they come here; what is common to all about matching trees, dtypes and
speed is decided here.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..functional import tree
from . import checks, foreach

#: Dtypes too narrow to compute with.
HALF = (torch.float16, torch.bfloat16)
#: A hyperparameter: a Python number, or a 0-d tensor (traced, batched or differentiated).
Scalar = float | Tensor

_DTYPE, _DEVICE, _IS_CPU, _REQUIRES_GRAD = map(
    operator.attrgetter, ("dtype", "device", "is_cpu", "requires_grad")
)


class Rule(NamedTuple):
    """What one transformation does at each leaf, whatever the other leaves are.

    Attributes
    ----------
    function
        `function(update, *read)` returns the new update, or a tuple of it and of what is written.
    reads
        The trees whose corresponding leaves it reads, by the names that errors give them.
    writes
        How many tensors it returns beside the update.
    """

    function: Callable[..., Any]
    reads: Mapping[str, tree.PyTree]
    writes: int = 0


class Step(NamedTuple):
    """One step of a transformation, or of several in a row: their rules, one after the other.

    Attributes
    ----------
    rules
        The rules.
    state
        `state(*trees)` makes the next state of the trees that the rules have written.
    params
        Parameters that the updates must match, where they are known.
    """

    rules: Sequence[Rule]
    state: Callable[..., Any]
    params: tree.PyTree | None = None


def take(step: Step, updates: tree.PyTree) -> tuple[tree.PyTree, Any]:
    """Return the updates and the state after `step`.

    All its rules are applied in one pass over the leaves, by the terms of `leafwise`; between two
    rules the update is rounded to the dtype of the leaf, so that this cannot be told from applying
    them in turn.

    >>> double = Rule(lambda g: 2 * g, reads={})
    >>> add = Rule(lambda g, total: (g, total + g), reads={"total": torch.ones(1)}, writes=1)
    >>> take(Step([double, add], state=lambda total: total), torch.ones(1))
    (tensor([2.]), tensor([3.]))
    """
    trees = {} if step.params is None else {"params": step.params}
    for rule in step.rules:
        trees |= rule.reads
    trees["updates"] = updates
    structure, columns = checks.same_leaves(trees)
    checks.trainable(updates, "updates", leaves=columns[-1])
    by_name = dict(zip(trees, columns, strict=True))
    read = [by_name[name] for rule in step.rules for name in rule.reads]
    results = 1 + sum(rule.writes for rule in step.rules)
    compose = functools.partial(_composed, step.rules)
    updates, *written = [
        tree.unflatten(structure, column)
        for column in _computed(compose, [columns[-1], *read], results)
    ]
    return updates, step.state(*written)


def _composed(rules: Sequence[Rule], rounded: Callable[[Any], Any]) -> Callable[..., Any]:
    """Return the function of a leaf that applies `rules` in turn, with `rounded` in between."""

    def composed(update: Any, *read: Any) -> tuple[Any, ...]:
        unread = iter(read)
        written: list[Any] = []
        for position, rule in enumerate(rules):
            given = itertools.islice(unread, len(rule.reads))
            result = rule.function(rounded(update) if position else update, *given)
            update, *more = result if rule.writes else (result,)
            written += more
        return update, *written

    return composed


def leafwise(
    rule: Callable[..., Any],
    trees: Mapping[str, tree.PyTree],
    *,
    results: int = 1,
    same_dtypes: bool = True,
) -> Any:
    """Apply an elementwise `rule` to corresponding leaves of `trees`, given by name.

    The rule returns one tensor for a tree, or a tuple of `results` of them for as many trees. They
    have the dtypes of the first tree:

    - float16 and bfloat16 leaves are computed with in float32 and rounded once, so that a constant
      such as Adam's `eps` is not lost; what is stored stays in the leaf's dtype;
    - a 0-d tensor of a wider dtype, a learning rate in float64 say, widens no result;
    - a complex leaf is its real and imaginary parts, two independent real numbers, as in torch.

    Raises
    ------
    TypeError
        A leaf is no tensor of floating-point or complex numbers.
    ValueError
        A tree differs from the first in structure, or in the shape, dtype or device of a leaf.

    Examples
    --------
    >>> x, y = {"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])}
    >>> leafwise(lambda x, y: x + y, {"x": x, "y": y})
    {'w': tensor([3.])}
    >>> leafwise(lambda x, y: (x + y, x - y), {"x": x, "y": y}, results=2)
    ({'w': tensor([3.])}, {'w': tensor([-1.])})
    """
    structure, columns = checks.same_leaves(trees, dtypes=same_dtypes)
    name, first = next(iter(trees.items()))
    checks.trainable(first, name, leaves=columns[0])
    computed = _computed(lambda rounded: rule, columns, results, same_dtypes)
    if results == 1:
        return tree.unflatten(structure, computed[0])
    return tuple([tree.unflatten(structure, column) for column in computed])


def per_leaf(
    rule: Callable[..., Any],
    trees: Mapping[str, tree.PyTree],
    free: Mapping[str, tree.PyTree] | None = None,
    *,
    results: int = 1,
) -> Any:
    """Apply a `rule` that is not elementwise (norms, factors, products of matrices) leaf by leaf.

    Like `leafwise`, but the rule may look at shapes, and the leaves of the `free` trees, which it
    reads after those of `trees`, may have any shape. Results have the dtypes of the first tree.

    >>> per_leaf(lambda x, scale: x / scale.sum(), {"x": torch.ones(1)}, {"scale": torch.ones(4)})
    tensor([0.2500])
    """
    structure, columns = checks.same_leaves(trees)
    name, first = next(iter(trees.items()))
    checks.trainable(first, name, leaves=columns[0])
    for free_name, given in (free or {}).items():
        tree.map(lambda *pair: None, first, given, names=(name, free_name))  # names the path
        columns.append(list(structure.flatten_up_to(given)))  # type: ignore[arg-type]
    rows = zip(*columns, strict=True)
    computed = [_on_leaf(lambda rounded: rule, *row) for row in rows]
    trees_of_results = [
        tree.unflatten(structure, [row[place] for row in computed]) for place in range(results)
    ]
    return trees_of_results[0] if results == 1 else tuple(trees_of_results)


def add_scaled(x: Tensor, y: Tensor, coefficient: Scalar) -> Tensor:
    """Return `x + coefficient * y`, by torch's own kernel when the coefficient is a number."""
    if isinstance(coefficient, Tensor):
        return x + coefficient * y
    return torch.add(x, y, alpha=coefficient)


#: Makes the function of a leaf, given how to round what is computed to the dtype of that leaf.
_Recipe = Callable[[Callable[[Any], Any]], Callable[..., Any]]


def _computed(
    recipe: _Recipe, columns: list[list[Tensor]], results: int, same_dtypes: bool = True
) -> Sequence[Sequence[Tensor]]:
    """Return the leaves of each result."""
    groups = _groups(columns, same_dtypes) if _eager(columns) else []
    if len(groups) == 1 and len(groups[0]) == len(columns[0]):
        return _on_list(recipe, columns)
    computed: list[dict[int, Tensor]] = [{} for _ in range(results)]
    for places in groups:
        lists = _on_list(recipe, [[column[place] for place in places] for column in columns])
        for result, leaves in zip(computed, lists, strict=True):
            result.update(zip(places, leaves, strict=True))
    for place, row in enumerate(zip(*columns, strict=True)):
        if place not in computed[0]:
            for result, leaf in zip(computed, _on_leaf(recipe, *row), strict=True):
                result[place] = leaf
    return [[result[place] for place in range(len(columns[0]))] for result in computed]


def _on_leaf(recipe: _Recipe, first: Tensor, *rest: Tensor) -> list[Tensor]:
    rule = recipe(lambda value: working(stored(value, first.dtype)))
    result = rule(working(first), *[working(leaf) for leaf in rest])
    given = result if isinstance(result, tuple) else (result,)
    return [stored(value, first.dtype) for value in given]


def _on_list(recipe: _Recipe, columns: list[list[Tensor]]) -> Sequence[Sequence[Tensor]]:
    """Do what `_on_leaf` does for leaves of one dtype and device."""
    dtype = columns[0][0].dtype
    alike = dtype in (torch.float32, torch.float64)
    rows = columns if alike else [[working(leaf) for leaf in column] for column in columns]
    rule = recipe(functools.partial(foreach.rounded, dtype=dtype.to_real()))
    try:
        results = foreach.run(rule, rows, own=dtype in HALF)
    except foreach.NotListable:
        return list(
            zip(*[_on_leaf(recipe, *row) for row in zip(*columns, strict=True)], strict=True)
        )
    if alike and all(values[0].dtype is dtype for values in results):
        return results
    return [[stored(value, dtype) for value in values] for values in results]


def _groups(columns: list[list[Tensor]], same_dtypes: bool) -> list[Sequence[int]]:
    """Return the places of leaves that are computed with together, list by list.

    They have one dtype and device. A leaf of no dimensions goes alone: a scalar of a wider dtype
    widens what is computed of it.
    """
    first, everywhere = columns[0], range(len(columns[0]))
    compared = columns[:1] if same_dtypes else columns
    dtypes = {dtype for column in compared for dtype in set(map(_DTYPE, column))}
    one_device = all(map(_IS_CPU, first)) or len(set(map(_DEVICE, first))) == 1
    if len(dtypes) == 1 and one_device and all(map(Tensor.dim, first)):
        return [everywhere]
    groups: dict[Any, list[int]] = {}
    for place, row in zip(everywhere, zip(*columns, strict=True), strict=True):
        if row[0].ndim and all(leaf.dtype == row[0].dtype for leaf in row):
            groups.setdefault((row[0].dtype, row[0].device), []).append(place)
    return list(groups.values())


def _eager(columns: list[list[Tensor]]) -> bool:
    """Say whether operations are just carried out, for no transform, compiler or derivative."""
    return (
        all(map(checks.plain, columns))
        and bool(columns[0])
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch._C._len_torch_dispatch_stack() == 0
        and torch.autograd.forward_ad._current_level < 0
        and not (torch.is_grad_enabled() and any(map(_requires_grad, columns)))
    )


def _requires_grad(leaves: list[Tensor]) -> bool:
    return any(map(_REQUIRES_GRAD, leaves))


def working(leaf: Tensor) -> Tensor:
    """Return `leaf` in the form in which it is computed with."""
    if leaf.is_complex():
        return torch.view_as_real(leaf)
    return leaf.float() if leaf.dtype in HALF else leaf


def stored(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what was computed for a leaf of `dtype` in the form in which it is kept."""
    if dtype.is_complex:
        return torch.view_as_complex(value.to(dtype.to_real()))
    return value.to(dtype)
