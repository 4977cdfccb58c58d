"""Single steps, each from where a run was: other ways to execute, narrower dtypes."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import functional as pf
from ..functional import tree
from ..optim.leafwise import HALF
from . import comparison
from .problems import Case
from .properties import from_difference
from .report import Counterexample
from .runs import Run, Subject, part_names, same

#: The updates and the state after a step, or after each of several, stacked.
Outcome = tuple[Any, Any]
#: How many times what rounding may change may be the distance of two ways to make one step.
_NOISES = 8
#: The same for dtypes in which numbers are stored, but not computed with.
_ROUNDINGS = 1


class Start(NamedTuple):
    """What a step is given."""

    params: Any
    state: Any
    grads: Any
    lr: Any
    extra: Mapping[str, Any]


class Steps:
    """Some steps of a run: what each was given, and what came of it."""

    def __init__(self, subject: Subject, run: Run, chosen: Sequence[int]) -> None:
        self.subject, self.run, self.chosen = subject, run, chosen
        self.starts = [_start(subject, run, step) for step in chosen]
        self.many = _stacked_starts(self.starts)
        self.expected = stacked([(run.updates[step], run.states[step + 1]) for step in chosen])
        self.step = step_of(subject, run.case)

    @functools.cached_property
    def allowed(self) -> Outcome:
        """How far from what the run did another way to make the steps may be."""
        return allowed_of(self.step, self.many, self.expected, (self.many[:3], self.expected))

    @functools.cached_property
    def tensors(self) -> dict[str, Any]:
        """The hyperparameters that may be tensors as such, except the learning rate."""
        return _tensors(self.subject, self.run)


def failing(
    steps: Steps,
    property: str,  # noqa: A002 - the attribute's name
    where: str,
    error: Exception,
) -> Counterexample:
    """Return the counter-example that an error of the rule is."""
    text = f"{steps.subject.title} fails {where}: {type(error).__name__}: {error}"
    return Counterexample(property, text, steps.run.case)


# --- making steps --------------------------------------------------------------------------------


def step_of(subject: Subject, case: Case, **changed: Any) -> Callable[..., Outcome]:
    """Return the function that makes one step of the rule."""

    def step(params: Any, state: Any, grads: Any, lr: Any, extra: Any) -> Outcome:
        given = {**case.hyperparameters, **changed}
        given = given if lr is None else {**given, "lr": lr}
        inputs = {"params": params, "state": state, "gradients": grads, "hyperparameters": given}
        with unwritten(case, inputs):
            updates, state = subject.make(**given).update(grads, state, params, **extra)
        return updates, state

    return step


@contextlib.contextmanager
def unwritten(case: Case, inputs: Any) -> Iterator[None]:
    """Require that no tensor among the inputs is written, where tensors have values."""
    leaves = [leaf for leaf in tree.leaves(inputs) if _has_value(leaf)]
    before = [leaf.clone() for leaf in leaves]
    yield
    if not all(map(same, before, leaves)):
        paths = [
            path
            for leaf, path in zip(
                tree.leaves(inputs), tree.path_strings(inputs, "inputs"), strict=True
            )
            if _has_value(leaf)
        ]
        rows = zip(before, leaves, paths, strict=True)
        path = next(path for old, new, path in rows if not same(old, new))
        text = f"update writes its input: {path} has other values after it."
        raise Counterexample("inputs", text, case, leaf=path)


def _has_value(leaf: Any) -> bool:
    """Say whether a leaf is a tensor, and not one that is batched or traced."""
    return type(leaf) is Tensor and not torch._C._functorch.is_functorch_wrapped_tensor(leaf)


def _start(subject: Subject, run: Run, step: int) -> Start:
    case = run.case
    lr = case.rates[step] if case.rates is not None else subject.value(case, "lr")
    lr = lr if isinstance(lr, float) else None
    return Start(run.params[step], run.states[step], case.gradients[step], lr, run.extras[step])


def _tensors(subject: Subject, run: Run) -> dict[str, Any]:
    """Return hyperparameters as tensors; not zeros: with them a rule may be another one."""
    found: dict[str, Any] = {}
    for name in subject.takes:
        value = subject.value(run.case, name)
        values = value if isinstance(value, tuple) else (value,)
        if name == "lr" or not all(isinstance(part, float) and part for part in values):
            continue
        made = tuple(map(as_tensor, value)) if isinstance(value, tuple) else as_tensor(value)
        try:
            optimizer = subject.make(**{**run.case.hyperparameters, name: made})
            state = optimizer.init(run.params[0])
        except (TypeError, ValueError):
            continue
        if tree.structure(state) == tree.structure(run.states[0]):
            found[name] = made
    return found


def as_tensor(value: float) -> Tensor:
    """Return a hyperparameter as a 0-d tensor."""
    return torch.tensor(value, dtype=torch.float64)


def one_by_one(step: Callable[..., Outcome], starts: Sequence[Start]) -> Outcome:
    """Make one step after the other, in eager."""
    outcome: Outcome = stacked([step(*start) for start in starts])
    return outcome


def outcomes(step: Callable[..., Outcome], many: Any) -> Outcome:
    """Return what `step` does from each start: at once, which is fast, where the rule allows it."""
    try:
        return at_once(step, many)
    except Exception:
        *trees, rates, held, constant = many
        rates = [None] * len(tree.leaves(trees)[0]) if rates is None else rates.tolist()
        extras = tree.unstack(held) if held else [{}] * len(rates)
        rows = zip(unstacked(trees, len(rates)), rates, extras, strict=True)
        starts = [
            Start(params, state, grads, lr, {**extra, **constant})
            for (params, state, grads), lr, extra in rows
        ]
        return one_by_one(step, starts)


def at_once(step: Callable[..., Outcome], many: Any) -> Outcome:
    """Make all the steps at once, by `vmap`."""
    *batched, constant = many

    def member(params: Any, state: Any, grads: Any, lr: Any, extra: Any) -> Outcome:
        return step(params, state, grads, lr, {**extra, **constant})

    outcome: Outcome = pf.vmap(member)(*batched)
    return outcome


def _stacked_starts(starts: Sequence[Start]) -> Any:
    """Return parameters, states, gradients, rates and extra arguments, each stacked.

    Extra arguments that are no tensors come last; they are the same for all steps.
    """
    first = starts[0]
    constant = {
        name: value
        for name, value in first.extra.items()
        if not all(isinstance(leaf, Tensor) for leaf in tree.leaves(value) or [None])
    }
    held = [
        {name: value for name, value in start.extra.items() if name not in constant}
        for start in starts
    ]
    rates = None if first.lr is None else torch.tensor([s.lr for s in starts], dtype=torch.float64)
    trees = stacked([start[:3] for start in starts])
    return (*trees, rates, stacked(held), constant)


def stacked(rows: Sequence[Any]) -> Any:
    """Return equal trees stacked, as `tree.stack` does, without its checks."""
    columns = zip(*map(tree.leaves, rows), strict=True)
    return tree.unflatten(tree.structure(rows[0]), map(torch.stack, columns))


def unstacked(many: Any, length: int) -> list[Any]:
    """Return the trees of which `many` is stacked; `tree.unstack` needs a leaf to know how many."""
    leaves, structure = tree.flatten(many)
    return [tree.unflatten(structure, [leaf[row] for leaf in leaves]) for row in range(length)]


# --- comparing steps -----------------------------------------------------------------------------


def allowed_of(step: Callable[..., Outcome], many: Any, expected: Outcome, like: Any) -> Outcome:
    """Return how far from `expected` each number may be.

    A few times what rounding it does, and what it does when each thing that the step is given
    (parameters, gradients, every part of the state) is rounded in turn: to the dtypes of `like`,
    two trees for what is given and for what comes of it.
    """
    parts = dict.fromkeys(_parts(many))
    calm = outcomes(step, many)
    moved = [outcomes(step, _disturbed(many, part, like[0])) for part in parts]

    def of_leaf(rows: Tensor, like: Tensor, calm: Tensor, *others: Tensor) -> Tensor:
        if not has_digits(rows):
            return torch.zeros(rows.shape)
        size = rows.abs().nan_to_num(0, 0, 0)
        noise = torch.zeros_like(size)
        for other in others:
            noise = noise + (other - calm).abs().nan_to_num(0, 0, 0)
        noises = _ROUNDINGS if like.dtype in HALF else _NOISES
        return noises * (comparison.smoothed(noise, size) + torch.finfo(like.dtype).eps * size)

    return tree.map(of_leaf, expected, like[1], calm, *moved)  # type: ignore[no-any-return]


def _disturbed(many: Any, part: str, like: Any) -> Any:
    """Return the starts with the numbers of one part moved as rounding to `like` may."""
    generator = torch.Generator().manual_seed(len(part))

    def moved(name: str, leaf: Tensor, like: Tensor) -> Tensor:
        if name != part or not has_digits(leaf):
            return leaf
        signs = torch.randint(2, leaf.shape, generator=generator) * 2 - 1
        return leaf * (1 + _disturbance(like.dtype) * signs.to(leaf.dtype))

    leaves, structure = tree.flatten(many[:3])
    changed = map(moved, _parts(many), leaves, tree.leaves(like))
    return (*tree.unflatten(structure, changed), *many[3:])


def _disturbance(dtype: torch.dtype) -> float:
    """Return by what part of itself a number is moved; in float64 by more than its last digit."""
    return max(torch.finfo(dtype).eps, comparison.DISTURBANCE)


def has_digits(leaf: Tensor) -> bool:
    """Say whether the numbers of a leaf are rounded: those of counts are not."""
    return leaf.is_floating_point() or leaf.is_complex()


def _parts(many: Any) -> list[str]:
    """Return for each leaf of parameters, state and gradients what it belongs to."""
    params, state, grads = (tree.leaves(many[0]), part_names(many[1]), tree.leaves(many[2]))
    return ["params"] * len(params) + state + ["gradients"] * len(grads)


def require_near(
    case: Case,
    property: str,  # noqa: A002 - the attribute's name
    words: str,
    chosen: Sequence[int],
    got: Outcome,
    expected: Outcome,
    allowed: Outcome,
) -> None:
    """Require of steps, the `chosen` ones of a run, to differ by no more than is allowed."""
    updates, state = expected
    names = ["updates"] * len(tree.leaves(updates)) + part_names(state)
    columns = zip(names, *map(tree.leaves, (got, expected, allowed)), strict=True)
    by_name: tuple[dict[str, list[Tensor]], ...] = ({}, {}, {})
    for name, *values in columns:
        for held, value in zip(by_name, values, strict=True):
            held.setdefault(name, []).append(value.double() if value.is_floating_point() else value)
    difference = comparison.first_difference(*by_name)
    if difference is not None:
        step = chosen[difference.step - 1] + 1
        text = f"Steps {words}: `{difference.name}` at step {step}."
        raise from_difference(property, text, case, difference._replace(step=step))
