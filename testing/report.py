"""What the verification kit says when it finds something."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..functional import tree
from .problems import Case

__all__ = ["Counterexample", "VacuousError"]

#: Parameters and gradients of up to so many numbers are printed.
_PRINTED = 12


class VacuousError(AssertionError):
    """A check that could not have failed, and so shows nothing."""


class Counterexample(AssertionError):  # noqa: N818 - the word for it
    """An update rule breaks a property, on a case that is as small as it could be made.

    Attributes
    ----------
    property
        Which: "reference", "inputs", "state", "two runs", "order of leaves", "maximize",
        "jit", "vmap", "leaf by leaf", "precision float32", ...
    step
        The first step at which it shows, counted from 1; None where there is no step.
    leaf
        The path of the first leaf that differs, such as `params['w']`.
    name
        What differs there: "params", "updates", or the name of a part of the state.
    element
        The index of an element in the leaf.
    expected, got
        Its two values.
    tolerance
        By how much they may differ.
    hyperparameters
        With which this happens.
    case
        The whole trial: hyperparameters, first parameters, gradients, learning rates.
    found
        The counter-example as it was before it was made smaller.
    """

    def __init__(
        self,
        property: str,  # noqa: A002 - the attribute's name
        summary: str,
        case: Case,
        *,
        step: int | None = None,
        leaf: str | None = None,
        name: str | None = None,
        element: tuple[int, ...] = (),
        expected: Any = None,
        got: Any = None,
        tolerance: float | None = None,
        also: Sequence[str] = (),
    ) -> None:
        super().__init__(summary)
        self.property, self.summary, self.case = property, summary, case
        self.hyperparameters = dict(case.hyperparameters)
        self.step, self.leaf, self.name, self.element = step, leaf, name, element
        self.expected, self.got, self.tolerance, self.also = expected, got, tolerance, also
        self.found: Counterexample | None = None

    def __str__(self) -> str:
        """Tell all of it, one thing a line."""
        lines = [self.summary, "", *_rows(self._facts()), *_rows(_data(self.case))]
        if self.found is not None:
            lines += ["", f"First found {self.found.place()}, before the case was made smaller."]
        return "\n".join(lines)

    def place(self) -> str:
        """Say in which step and leaf of a case of what size it shows."""
        size = f"{len(tree.leaves(self.case.params))} leaves, {len(self.case.gradients)} steps"
        at = ", ".join(
            [
                *([f"at step {self.step}"] if self.step is not None else []),
                *([f"in {self.leaf}"] if self.leaf is not None else []),
            ]
        )
        return f"{at} of a case of {size}, with {_hyperparameters(self.case)}"

    def _facts(self) -> list[tuple[str, str]]:
        facts = [("hyperparameters", _hyperparameters(self.case))]
        if self.step is not None:
            facts.append(("first step", f"{self.step}"))
        if self.leaf is not None:
            index = f"{list(self.element)}" if self.element else ""
            name = self.name or "params"
            facts.append(("where", f"{name}, leaf {self.leaf}{index}"))
        if self.expected is not None:
            facts += [("expected", f"{self.expected!r}"), ("got", f"{self.got!r}")]
            facts.append(("difference", self._difference()))
        if self.also:
            facts.append(("also differ", ", ".join(self.also)))
        return facts

    def _difference(self) -> str:
        if isinstance(self.expected, str) or isinstance(self.got, str):
            return "not of the same kind"
        gap = abs(self.got - self.expected)
        if not math.isfinite(gap):
            return "one of them is not finite"
        size = abs(self.expected)
        ulp = math.ulp(size) if math.isfinite(size) else math.inf
        relative = f", {gap / size:.2g} of the expected value" if size else ""
        allowed = "" if self.tolerance is None else f"; allowed {self.tolerance:.2g}"
        return f"{gap:.3g}{relative}, {gap / ulp:.3g} ulp of float64{allowed}"


def _rows(facts: Sequence[tuple[str, str]]) -> list[str]:
    return [f"  {name:<16} {text}" for name, text in facts]


def _hyperparameters(case: Case) -> str:
    given = ", ".join([f"{name}={value!r}" for name, value in case.hyperparameters.items()])
    return f"{given} (others at their defaults)" if given else "the defaults"


def _data(case: Case) -> list[tuple[str, str]]:
    """Return what is printed of parameters and gradients: all where it is little."""
    numbers = sum(leaf.numel() for leaf in tree.leaves(case.params))
    data = []
    if numbers * (1 + len(case.gradients)) <= _PRINTED:
        data.append(("first params", _numbers(case.params)))
        steps = [_numbers(grads) for grads in case.gradients]
        data += [(f"gradient, step {step}", text) for step, text in enumerate(steps, start=1)]
    else:
        data.append(("problem", f"{numbers} numbers, {len(case.gradients)} gradients: `.case`"))
    if case.rates is not None:
        rates = ", ".join([f"{rate:.6g}" for rate in case.rates[:_PRINTED]])
        data.append(("lr, by step", rates + (" ..." if len(case.rates) > _PRINTED else "")))
    return data


def _numbers(values: tree.PyTree) -> str:
    """Return the numbers of a tree, by path."""
    rows = zip(tree.path_strings(values, ""), tree.leaves(values), strict=True)
    return ", ".join([f"{path}={_leaf(leaf)}" if path else _leaf(leaf) for path, leaf in rows])


def _leaf(leaf: Tensor) -> str:
    return f"{leaf.tolist()!r}" + ("" if leaf.dtype is torch.float64 else f" ({leaf.dtype})")
