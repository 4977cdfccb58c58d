"""How the mathematics of an optimizer is written for one leaf and applied to whole trees.

Every transformation states its rule as a function of single tensors. Neighbours in a chain are
joined in one `Step` before they come here; how the rules then run is decided in `execution`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..functional import tree
from . import checks, execution
from .execution import HALF as HALF
from .execution import Computation, Memory
from .execution import stored as stored
from .execution import working as working

#: A hyperparameter: a Python number, or a 0-d tensor (traced, batched or differentiated).
Scalar = float | Tensor


class Rule(NamedTuple):
    """What one transformation does at each leaf, whatever the other leaves are.

    Attributes
    ----------
    function
        `function(update, *read, *scalars)` returns the new update, or a tuple of it and of what is
        written. It depends on its arguments alone: what it does may be noted once and repeated. One
        function made with the transformation, not in every step, spares noting it again.
    reads
        The trees whose corresponding leaves it reads, by the names that errors give them.
    writes
        How many tensors it returns beside the update.
    scalars
        What the step gives to every leaf: numbers and 0-d tensors.
    kept
        For a rule that writes anew what it reads, in this order: the dtype of each of these trees,
        or None where that is the parameter's.
    """

    function: Callable[..., Any]
    reads: Mapping[str, tree.PyTree]
    writes: int = 0
    scalars: Sequence[Scalar] = ()
    kept: Sequence[torch.dtype | None] | None = None


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


def take(step: Step, updates: tree.PyTree, memory: Memory | None = None) -> tuple[tree.PyTree, Any]:
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
    computation = Computation(
        functools.partial(_composed, step.rules),
        identity=[rule.function for rule in step.rules],
        reads=["updates", *[name for rule in step.rules for name in rule.reads]],
        scalars=[scalar for rule in step.rules for scalar in rule.scalars],
        kept=[None, *[dtype for rule in step.rules for dtype in rule.kept or [None] * rule.writes]],
    )
    any_width = frozenset(
        name
        for rule in step.rules
        for name, dtype in zip(rule.reads, rule.kept or (), strict=False)
        if dtype is not None
    )
    trees = dict(sorted(trees.items(), key=lambda named: named[0] in any_width))
    results = execution.compute(computation, trees, memory or Memory(), any_width=any_width)
    return results[0], step.state(*results[1:])


def _composed(rules: Sequence[Rule], rounded: Callable[[Any], Any]) -> Callable[..., Any]:
    """Return the function of a leaf that applies `rules` in turn, with `rounded` in between."""
    reads = sum(len(rule.reads) for rule in rules)

    def composed(update: Any, *given: Any) -> tuple[Any, ...]:
        read, scalars = iter(given[:reads]), iter(given[reads:])
        written: list[Any] = []
        for position, rule in enumerate(rules):
            arguments = [
                *itertools.islice(read, len(rule.reads)),
                *itertools.islice(scalars, len(rule.scalars)),
            ]
            result = rule.function(rounded(update) if position else update, *arguments)
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
    memory: Memory | None = None,
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
    computation = _only(rule, tuple(trees), results)
    any_width = frozenset() if same_dtypes else frozenset(trees)
    computed = execution.compute(computation, trees, memory or Memory(), any_width=any_width)
    return computed[0] if results == 1 else tuple(computed)


def _only(rule: Callable[..., Any], reads: Sequence[str], results: int) -> Computation:
    return Computation(lambda rounded: rule, [rule], reads, (), [None] * results)


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
    computation = _only(rule, (*trees, *(free or {})), results)
    computed = [execution.on_leaf(computation, *row) for row in zip(*columns, strict=True)]
    trees_of_results = [
        tree.unflatten(structure, [row[place] for row in computed]) for place in range(results)
    ]
    return trees_of_results[0] if results == 1 else tuple(trees_of_results)


def add_scaled(x: Tensor, y: Tensor, coefficient: Scalar) -> Tensor:
    """Return `x + coefficient * y`, by torch's own kernel when the coefficient is a number."""
    if isinstance(coefficient, Tensor):
        return x + coefficient * y
    return torch.add(x, y, alpha=coefficient)
