"""Single steps, each from where a run was: other ways to execute, narrower dtypes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .. import functional as pf
from ..functional import tree
from . import comparison
from .problems import Case
from .properties import from_difference
from .report import Counterexample
from .runs import Run, Subject, part_names, same

#: The updates and the state after a step, or after each of several, stacked.
Outcome = tuple[Any, Any]
#: How many times what rounding may change may be the distance of two ways to make one step.
_NOISES = 8


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
        self.expected = _stacked([(run.updates[step], run.states[step + 1]) for step in chosen])
        self.step = _step(subject, run.case)

    @functools.cached_property
    def allowed(self) -> Outcome:
        """How far from what the run did another way to make the steps may be."""
        return _allowed(self.step, self.many, self.expected, comparison.DISTURBANCE)

    @functools.cached_property
    def tensors(self) -> dict[str, Any]:
        """The hyperparameters that may be tensors as such, except the learning rate."""
        return _tensors(self.subject, self.run)


def require_path(steps: Steps, path: str) -> None:
    """Require that another way to execute, one of `PATHS`, gives what the run did at each step."""
    case = steps.run.case
    try:
        got = PATHS[path](steps)
    except Counterexample:
        raise
    except Exception as error:
        raise _failing(steps, path, _WORDS[path], error) from error
    words = f"{_WORDS[path]} differ from those of the run"
    _require_near(case, path, words, steps.chosen, got, steps.expected, steps.allowed)


def require_precision(steps: Steps, dtypes: Sequence[torch.dtype]) -> None:
    """Require that steps in narrow dtypes are the float64 steps from the same rounded numbers.

    The leaves have the `dtypes` in turn.
    """
    case, step = steps.run.case, steps.step
    names = ", ".join([str(dtype).removeprefix("torch.") for dtype in dtypes])
    title = f"precision {names}"
    params = _narrow(case.params, dtypes)
    like = params, steps.subject.at(case, 0).init(params), params
    low = tree.map(lambda leaf, rows: rows.to(leaf.dtype), like, steps.many[:3])
    wide = tree.map(lambda rows, leaf: leaf.to(rows.dtype), steps.many[:3], low)
    unstacked = zip(_unstacked(low, len(steps.starts)), steps.starts, strict=True)
    try:
        rows = [step(*start, *rest[3:]) for start, rest in unstacked]
    except Exception as error:
        raise _failing(steps, title, f"on leaves in {names}", error) from error
    for index, (updates, state) in zip(steps.chosen, rows, strict=True):
        _require_dtypes(case, title, index, "updates", like[0], updates)
        _require_dtypes(case, title, index, "state", like[1], state)
    many = (*wide, *steps.many[3:])
    exact, got = _outcomes(step, many), _stacked(rows)
    allowed = _allowed(step, many, exact, max(torch.finfo(dtype).eps for dtype in dtypes))
    allowed = tree.map(_where_representable, allowed, exact, got)
    words = f"in {names} differ from the same step in float64"
    _require_near(case, title, words, steps.chosen, got, exact, allowed)


def _failing(steps: Steps, property: str, where: str, error: Exception) -> Counterexample:  # noqa: A002
    text = f"{steps.subject.title} fails {where}: {type(error).__name__}: {error}"
    return Counterexample(property, text, steps.run.case)


# ----------------------------------------------------------------------------- ways to execute steps


def _leaf_by_leaf(steps: Steps) -> Outcome:
    with _Watching():
        return _one_by_one(steps.step, steps.starts)


class _Watching(TorchDispatchMode):
    """Does nothing; but under it rules are not run on lists of tensors."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return func(*args, **(kwargs or {}))


def _with_tensors(steps: Steps) -> Outcome:
    """Give every hyperparameter, the learning rate too, as a 0-d tensor."""
    step = _step(steps.subject, steps.run.case, **steps.tensors)
    starts = [
        start if start.lr is None else start._replace(lr=_tensor(start.lr))
        for start in steps.starts
    ]
    return _one_by_one(step, starts)


def _batched(steps: Steps) -> Outcome:
    """Make all the steps at once, each a member of the batch."""
    return _at_once(_step(steps.subject, steps.run.case, **steps.tensors), steps.many)


def _compiled(steps: Steps) -> Outcome:
    """Run the step under `jit`, for which one program must serve all steps."""
    case, constant = steps.run.case, steps.many[-1]

    def step(params: Any, state: Any, grads: Any, lr: Any, extra: Any) -> Outcome:
        return steps.step(params, state, grads, lr, {**extra, **constant})  # type: ignore[no-any-return]

    compiled = pf.jit(step, backend="eager")
    rows = []
    for index, start in zip(steps.chosen, steps.starts, strict=True):
        given = (*start[:4], {name: start.extra[name] for name in steps.many[4]})
        before = [leaf.clone() for leaf in tree.leaves(start[:3])]
        rows.append(compiled(*given))
        if not all(map(same, before, tree.leaves(start[:3]))):
            text = f"update writes its input under jit, at step {index + 1}."
            raise Counterexample("jit", text, case, step=index + 1)
    if compiled.trace_count != 1:
        raise Counterexample(
            "jit",
            f"{len(rows)} steps of one kind took {compiled.trace_count} compiled programs; "
            "is something of the state a Python number, or of a changing shape or dtype?",
            case,
            expected=1,
            got=compiled.trace_count,
        )
    return _stacked(rows)


def _strided(steps: Steps) -> Outcome:
    """Give tensors whose elements do not lie in memory in the order of their indices."""

    def spread(leaf: Tensor) -> Tensor:
        if leaf.ndim == 0:
            return leaf
        wide = torch.zeros(*leaf.shape[::-1], 2, dtype=leaf.dtype)
        return wide[..., 0].permute(*range(leaf.ndim)[::-1]).copy_(leaf)

    starts = [Start(*tree.map(spread, start[:3]), *start[3:]) for start in steps.starts]
    return _one_by_one(steps.step, starts)


#: Ways to make steps.
PATHS: Mapping[str, Callable[[Steps], Outcome]] = {
    "leaf by leaf": _leaf_by_leaf,
    "strided": _strided,
    "tensors": _with_tensors,
    "vmap": _batched,
    "jit": _compiled,
}
_WORDS = {
    "leaf by leaf": "leaf by leaf (without torch's foreach kernels)",
    "strided": "on tensors that are not contiguous",
    "tensors": "with hyperparameters that are 0-d tensors",
    "vmap": "under vmap",
    "jit": "under jit",
}

# ------------------------------------------------------------------------------------- making steps


def _step(subject: Subject, case: Case, **changed: Any) -> Callable[..., Outcome]:
    """Return the function that makes one step of the rule."""

    def step(params: Any, state: Any, grads: Any, lr: Any, extra: Any) -> Outcome:
        given = {**case.hyperparameters, **changed}
        optimizer = subject.make(**(given if lr is None else {**given, "lr": lr}))
        updates, state = optimizer.update(grads, state, params, **extra)
        return updates, state

    return step


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
        made = tuple(map(_tensor, value)) if isinstance(value, tuple) else _tensor(value)
        try:
            optimizer = subject.make(**{**run.case.hyperparameters, name: made})
            state = optimizer.init(run.params[0])
        except (TypeError, ValueError):
            continue
        if tree.structure(state) == tree.structure(run.states[0]):
            found[name] = made
    return found


def _tensor(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _one_by_one(step: Callable[..., Outcome], starts: Sequence[Start]) -> Outcome:
    return _stacked([step(*start) for start in starts])


def _outcomes(step: Callable[..., Outcome], many: Any) -> Outcome:
    """Return what `step` does from each start: at once, which is fast, where the rule allows it."""
    try:
        return _at_once(step, many)
    except Exception:
        *trees, rates, held, constant = many
        rates = [None] * len(tree.leaves(trees)[0]) if rates is None else rates.tolist()
        extras = tree.unstack(held) if held else [{}] * len(rates)
        rows = zip(_unstacked(trees, len(rates)), rates, extras, strict=True)
        return _one_by_one(
            step, [Start(*start, lr, {**extra, **constant}) for start, lr, extra in rows]
        )


def _at_once(step: Callable[..., Outcome], many: Any) -> Outcome:
    *batched, constant = many

    def member(params: Any, state: Any, grads: Any, lr: Any, extra: Any) -> Outcome:
        return step(params, state, grads, lr, {**extra, **constant})

    return pf.vmap(member)(*batched)  # type: ignore[no-any-return]


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
    trees = _stacked([start[:3] for start in starts])
    return (*trees, rates, _stacked(held), constant)


def _stacked(rows: Sequence[Any]) -> Any:
    """Return equal trees stacked, as `tree.stack` does, without its checks."""
    columns = zip(*map(tree.leaves, rows), strict=True)
    return tree.unflatten(tree.structure(rows[0]), map(torch.stack, columns))


def _unstacked(many: Any, length: int) -> list[Any]:
    """Return the trees of which `many` is stacked; `tree.unstack` needs a leaf to know how many."""
    leaves, structure = tree.flatten(many)
    return [tree.unflatten(structure, [leaf[row] for leaf in leaves]) for row in range(length)]


# ------------------------------------------------------------------------------------- comparing steps


def _allowed(step: Callable[..., Outcome], many: Any, expected: Outcome, eps: float) -> Outcome:
    """Return how far from `expected` each number may be.

    A few times what rounding it by `eps` does, and what it does when each thing that the step is
    given (parameters, gradients, every part of the state) is rounded so in turn.
    """
    parts = dict.fromkeys(_parts(many))
    calm = _outcomes(step, many)
    moved = [_outcomes(step, _disturbed(many, part, eps)) for part in parts]

    def of_leaf(rows: Tensor, calm: Tensor, *others: Tensor) -> Tensor:
        if not (rows.is_floating_point() or rows.is_complex()):
            return torch.zeros(rows.shape)
        size = rows.abs().nan_to_num(0, 0, 0)
        noise = torch.zeros_like(size)
        for other in others:
            noise = noise + (other - calm).abs().nan_to_num(0, 0, 0)
        return _NOISES * (comparison.smoothed(noise, size) + eps * size)

    return tree.map(of_leaf, expected, calm, *moved)  # type: ignore[no-any-return]


def _disturbed(many: Any, part: str, eps: float) -> Any:
    """Return the starts with the numbers of one part moved by `eps`, up or down."""
    generator = torch.Generator().manual_seed(len(part))

    def moved(name: str, leaf: Tensor) -> Tensor:
        if name != part or not (leaf.is_floating_point() or leaf.is_complex()):
            return leaf
        signs = torch.randint(2, leaf.shape, generator=generator) * 2 - 1
        return leaf * (1 + eps * signs.to(leaf.dtype))

    leaves, structure = tree.flatten(many[:3])
    changed = map(moved, _parts(many), leaves)
    return (*tree.unflatten(structure, changed), *many[3:])


def _parts(many: Any) -> list[str]:
    """Return for each leaf of parameters, state and gradients what it belongs to."""
    params, state, grads = (tree.leaves(many[0]), part_names(many[1]), tree.leaves(many[2]))
    return ["params"] * len(params) + state + ["gradients"] * len(grads)


def _where_representable(allowed: Tensor, exact: Tensor, got: Tensor) -> Tensor:
    """Allow for the smallest numbers of a dtype, and for results beyond its largest."""
    if not (got.is_floating_point() or got.is_complex()):
        return allowed
    info = torch.finfo(got.dtype)
    beyond = (exact.abs() > info.max / 2) & exact.isfinite()
    return (allowed + 64 * info.smallest_normal * info.eps).masked_fill(beyond, torch.inf)


def _require_near(
    case: Case,
    property: str,  # noqa: A002 - the attribute's name
    words: str,
    chosen: Sequence[int],
    got: Outcome,
    expected: Outcome,
    allowed: Outcome,
) -> None:
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


# --------------------------------------------------------------------------------------------- dtypes


def _narrow(params: Any, dtypes: Sequence[torch.dtype]) -> Any:
    leaves, structure = tree.flatten(params)
    rows = enumerate(leaves)
    return tree.unflatten(structure, [leaf.to(dtypes[i % len(dtypes)]) for i, leaf in rows])


def _require_dtypes(
    case: Case, title: str, step: int, name: str, expected: Any, given: Any
) -> None:
    rows = zip(tree.leaves(expected), tree.leaves(given), strict=True)
    for index, (old, new) in enumerate(rows):
        if old.dtype != new.dtype or old.shape != new.shape:
            leaf = tree.path_strings(given, name)[index]
            raise Counterexample(
                title,
                f"{leaf} does not keep its dtype and shape: {old.dtype} {tuple(old.shape)} before "
                f"step {step + 1}, {new.dtype} {tuple(new.shape)} after it.",
                case,
                step=step + 1,
                leaf=leaf,
                name=name,
                expected=str(old.dtype),
                got=str(new.dtype),
            )
