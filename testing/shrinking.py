"""Making a counter-example as small as it goes: fewer steps, leaves, elements, simpler numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..functional import tree
from .problems import Case
from .report import Counterexample, VacuousError

#: Requires a property of a case: it raises a counter-example, or passes.
Check = Callable[[Case], object]


def shrunk(check: Check, found: Counterexample, attempts: int = 120) -> Counterexample:
    """Return a counter-example of the same property on the simplest case that was found.

    The passes are repeated until none makes it smaller, or after so many `attempts`.
    """
    search = _Search(check, found, attempts)
    while search.pass_over():
        pass
    if search.best is not found:
        search.best.found = found
    return search.best


class _Search:
    """The smallest counter-example so far, and how many more cases may be tried."""

    def __init__(self, check: Check, found: Counterexample, attempts: int) -> None:
        self.check, self.best, self.attempts = check, found, attempts

    def pass_over(self) -> bool:
        """Try every pass until it makes nothing smaller; say whether one did."""
        start = self.best
        for simpler in _PASSES:
            while self._improves(simpler):
                pass
        return self.best is not start

    def _improves(self, simpler: Callable[[Counterexample], Iterator[Case]]) -> bool:
        """Take the first smaller case of a pass that still fails, if there is one."""
        for candidate in simpler(self.best):
            if self.attempts <= 0:
                return False
            self.attempts -= 1
            smaller = _failure(self.check, candidate, self.best.property)
            if smaller is not None:
                self.best = smaller
                return True
        return False


def _failure(check: Check, case: Case, property: str) -> Counterexample | None:  # noqa: A002
    try:
        check(case)
    except Counterexample as smaller:
        return smaller if smaller.property == property else None
    except VacuousError:
        return None
    except Exception:  # a case that the rule or the reference does not take
        return None
    return None


def _fewer_steps(failure: Counterexample) -> Iterator[Case]:
    case, step = failure.case, failure.step
    if step is not None and step < len(case.gradients):
        yield case.first(step)
    length = len(case.gradients)
    skipped = length // 2
    while skipped:
        rates = None if case.rates is None else case.rates[skipped:]
        yield case._replace(gradients=case.gradients[skipped:], rates=rates)
        skipped //= 2


def _fewer_leaves(failure: Counterexample) -> Iterator[Case]:
    """Yield the case with one leaf only, the others gone or, where they must stay, zero."""
    case, paths = failure.case, tree.path_strings(failure.case.params, "params")
    if len(paths) < 2:
        return
    if failure.leaf in paths:
        yield _only(case, paths.index(failure.leaf))
    for index in range(len(paths)):
        yield _without(case, index)


def _only(case: Case, kept: int) -> Case:
    return _each_tree(case, lambda index, leaf: leaf if index == kept else None)


def _without(case: Case, left_out: int) -> Case:
    return _each_tree(case, lambda index, leaf: None if index == left_out else leaf)


def _one_element(failure: Counterexample) -> Iterator[Case]:
    """Yield the case with one element of one leaf, or with a single element in every leaf."""
    case = failure.case
    leaves = tree.leaves(case.params)
    if failure.element and len(leaves) == 1 and leaves[0].numel() > 1:
        one = tuple(slice(i, i + 1) for i in failure.element)
        yield _each_tree(case, lambda index, leaf: leaf[failure.element].clone())
        yield _each_tree(case, lambda index, leaf: leaf[one].clone())
        for axis, place in enumerate(failure.element):
            if leaves[0].shape[axis] > 1:
                yield _each_tree(
                    case, lambda _, leaf, a=axis, p=place: leaf.narrow(a, p, 1).clone()
                )


def _simpler_hyperparameters(failure: Counterexample) -> Iterator[Case]:
    case = failure.case
    for name in case.hyperparameters:
        rest = {key: value for key, value in case.hyperparameters.items() if key != name}
        if name not in _KEPT:
            yield case._replace(hyperparameters=rest)
    if case.rates is not None:
        yield case._replace(rates=None)
    for lr in (1.0, 0.1):
        if case.hyperparameters.get("lr") not in (None, 1.0, lr):
            yield case._replace(hyperparameters={**case.hyperparameters, "lr": lr}, rates=None)


#: Hyperparameters that are better simple numbers than the defaults.
_KEPT = ("lr",)


def _simpler_numbers(failure: Counterexample) -> Iterator[Case]:
    case = failure.case
    leaves = tree.leaves(case.params)
    if any((leaf != 0).any() for leaf in leaves):
        yield case._replace(params=tree.zeros_like(case.params))
        if any((leaf != 1).any() for leaf in leaves):
            yield case._replace(params=tree.ones_like(case.params))
    for step, grads in enumerate(case.gradients):
        for simple in (torch.zeros_like, torch.ones_like, _one_digit):
            simpler = tree.map(simple, grads)
            if (simple is _one_digit and not _equal(grads, simpler)) or (
                simple is not _one_digit and _complexity(grads) > _complexity(simpler)
            ):
                yield case._replace(
                    gradients=[*case.gradients[:step], simpler, *case.gradients[step + 1 :]]
                )


def _one_digit(leaf: Tensor) -> Tensor:
    """Return the numbers with one digit."""
    exponent = leaf.abs().clamp(min=1e-300).log10().floor()
    rounded = (leaf / 10**exponent).round() * 10**exponent if not leaf.is_complex() else leaf
    return torch.where(leaf == 0, leaf, rounded)


def _complexity(values: tree.PyTree) -> int:
    leaves = tree.leaves(values)
    if all((leaf == 0).all() for leaf in leaves):
        return 0
    return 1 if all((leaf == 1).all() for leaf in leaves) else 2


def _equal(left: tree.PyTree, right: tree.PyTree) -> bool:
    return all(map(torch.equal, tree.leaves(left), tree.leaves(right)))


def _each_tree(case: Case, function: Callable[..., Any]) -> Case:
    """Return the case with `function(index, leaf)` for every leaf of parameters and gradients."""

    def mapped(values: tree.PyTree) -> tree.PyTree:
        leaves, structure = tree.flatten(values)
        changed = [function(index, leaf) for index, leaf in enumerate(leaves)]
        return tree.unflatten(structure, changed)

    return case._replace(
        params=mapped(case.params), gradients=[mapped(grads) for grads in case.gradients]
    )


_PASSES = (
    _fewer_steps,
    _fewer_leaves,
    _one_element,
    _simpler_hyperparameters,
    _simpler_numbers,
)
