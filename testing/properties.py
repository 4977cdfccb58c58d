"""What must hold of every update rule, one function each: it raises a `Counterexample`, or passes.

Each takes the rule and a case. `properties_of_steps` holds those that look at single steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..functional import tree
from ..optim import apply_updates
from . import comparison, runs
from .problems import Case, disturbed
from .references import Reference, array_like
from .report import Counterexample, VacuousError
from .runs import Record, Run, Subject


def follows(
    subject: Subject, reference: Reference, required: Mapping[str, str], case: Case
) -> tuple[Run, set[str]]:
    """Require that the rule does what the reference does; return its run and what was compared.

    Parameters and every part of the state of which the reference has a counterpart agree after
    each step; `count` is the number of steps. `required` are parts of the state, by our name, that
    the rule must have where the reference has its own.
    """
    run = runs.run(subject, case)
    steps = len(case.gradients)
    extras = _columns(run.extras)
    expected = runs.recorded(reference.run(case, extras), steps)
    require_steps(reference, expected, steps)
    moved = runs.recorded(reference.run(disturbed(case, comparison.DISTURBANCE), extras), steps)
    got = runs.records(run)
    ours = _our_names(reference, required, expected, got)
    _require_names(reference, required, expected, got, case)
    expected, moved = (_as_ours(ours, got, values) for values in (expected, moved))
    start = tree.leaves(case.params)
    allowed = {
        name: [
            comparison.tolerances(rows, other, start[leaf] if name == "params" else None)
            for leaf, (rows, other) in enumerate(zip(values, moved[name], strict=True))
        ]
        for name, values in expected.items()
    }
    _leave_out_infinite(expected, allowed)
    compared = set(expected)
    _add_counts(got, expected, allowed, steps)
    difference = comparison.first_difference(got, expected, allowed)
    if difference is not None:
        name = "the parameters" if difference.name == "params" else f"`{difference.name}`"
        raise from_difference(
            "reference",
            f"{subject.title} does not follow {reference.title}: {name} differ"
            f"{'' if difference.name == 'params' else 's'} from step {difference.step} on.",
            case,
            difference,
        )
    reasons = comparison.unjudged(expected["params"], allowed["params"], start)
    if reasons:
        leaf, reason = next(iter(reasons.items()))
        path = tree.path_strings(case.params, "params")[leaf]
        raise VacuousError(
            f"{path} {reason} in {steps} steps of {reference.title}: nothing is shown of it "
            f"(hyperparameters: {dict(case.hyperparameters)})."
        )
    return run, compared | {name for name in got if runs.is_count(name)}


def _leave_out_infinite(expected: Record, allowed: Record) -> None:
    """Allow everything after the step in which a parameter became infinite."""
    for leaf, rows in enumerate(expected["params"]):
        before = torch.cat([torch.zeros_like(rows[:1]), rows[:-1]]).isinf()
        for values in allowed.values():
            if leaf < len(values) and values[leaf].shape == rows.shape and before.any():
                values[leaf] = values[leaf].masked_fill(before.cummax(0).values, torch.inf)


def require_steps(reference: Reference, expected: Record, steps: int) -> None:
    """Require that the reference has gone as far as the rule."""
    found = len(expected["params"][0]) if expected.get("params") else 0
    if found < steps:
        raise VacuousError(
            f"{reference.title} yields {found} of {steps} steps; a transcription yields after "
            "every gradient."
        )


def _columns(extras: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = extras[0] if extras else {}
    return {name: [array_like(extra[name]) for extra in extras] for name in names}


def _our_names(
    reference: Reference, required: Mapping[str, str], expected: Record, got: Record
) -> dict[str, str]:
    """Return for each part of our state of which there is one the name of the counterpart."""
    found = {
        ours: theirs for ours, theirs in required.items() if theirs in expected and ours in got
    }
    for theirs in set(expected) - set(found.values()):
        candidates = (*reference.names.get(theirs, ()), theirs)
        ours = next((name for name in candidates if name in got), None)
        if ours is not None:
            found.setdefault(ours, theirs)
    return found


def _require_names(
    reference: Reference, required: Mapping[str, str], expected: Record, got: Record, case: Case
) -> None:
    """Require the parts of the state that the caller has named, where the reference has them."""
    for name, theirs in required.items():
        if theirs in expected and name not in got:
            raise Counterexample(
                "reference",
                f"{reference.title} has a counterpart of `{name}`, `{theirs}`, but the state of "
                f"the rule has only {', '.join(sorted(set(got) - {'params'})) or 'nothing'}.",
                case,
                name=name,
            )


def _as_ours(ours: Mapping[str, str], got: Record, expected: Record) -> Record:
    """Return the values of the reference by our names, in our shapes and as float64.

    One number stands for all leaves.
    """
    found: Record = {}
    for name, theirs in ours.items():
        values = expected[theirs]
        found[name] = [
            _wide(values[leaf if len(values) > 1 else 0]).reshape(rows.shape)
            for leaf, rows in enumerate(got[name])
        ]
    return found


def _wide(values: Tensor) -> Tensor:
    return values if values.is_complex() else values.double()


def _add_counts(got: Record, expected: Record, allowed: Record, steps: int) -> None:
    for name in got:
        if runs.is_count(name) and name not in expected:
            expected[name] = [torch.arange(1, steps + 1).double() for _ in got[name]]
            allowed[name] = [torch.zeros(steps) for _ in got[name]]


def from_difference(
    property: str,  # noqa: A002 - the attribute's name
    summary: str,
    case: Case,
    difference: comparison.Difference,
) -> Counterexample:
    """Return the counter-example that a difference is."""
    paths = tree.path_strings(case.params, "params")
    many = difference.leaf < len(paths)
    return Counterexample(
        property,
        summary,
        case,
        step=difference.step,
        leaf=paths[difference.leaf] if many else None,
        name=difference.name,
        element=difference.element,
        expected=difference.expected,
        got=difference.got,
        tolerance=difference.tolerance,
        also=difference.also,
    )


# --- without a reference -------------------------------------------------------------------------


def forgets(subject: Subject, case: Case) -> None:
    """Require that a transformation remembers nothing but its state.

    Two runs of one transformation, in turns, are what each is with a new one at every step.
    """
    case = case._replace(rates=None)
    alone = runs.run(subject, case, resumed=True)
    optimizer = subject.make(**case.hyperparameters)
    other = case.gradients[::-1]
    params, state = case.params, optimizer.init(case.params)
    other_params = tree.map(lambda leaf: leaf + 1, params)
    other_state = optimizer.init(other_params)
    for step, grads in enumerate(case.gradients):
        extra = subject.extras(step, params, grads)
        updates, state = optimizer.update(grads, state, params, **extra)
        params = apply_updates(params, updates)
        _require_same(case, step, alone, params, state)
        if step >= 2:
            extra = subject.extras(step, other_params, other[step])
            updates, other_state = optimizer.update(other[step], other_state, other_params, **extra)
            other_params = apply_updates(other_params, updates)


def _require_same(case: Case, step: int, alone: Run, params: Any, state: Any) -> None:
    names = ("params", "state")
    pairs = zip(names, (alone.params[step + 1], alone.states[step + 1]), (params, state))  # noqa: B905
    for name, expected, given in pairs:
        rows = zip(tree.leaves(expected), tree.leaves(given), strict=True)
        for index, (old, new) in enumerate(rows):
            if not runs.same(old, new):
                leaf = tree.path_strings(given, name)[index]
                raise Counterexample(
                    "two runs",
                    f"{leaf} at step {step + 1} depends on more than the state: one "
                    "transformation that makes two runs in turns gives another result than a new "
                    "one in every step.",
                    case,
                    step=step + 1,
                    leaf=leaf,
                    name=name,
                )


def takes_arguments(subject: Subject, case: Case) -> None:
    """Require that parameters are asked for or not needed, and unknown arguments are ignored."""
    run = runs.run(subject, case.first(3), watched=False)
    for step, grads in enumerate(run.case.gradients):
        state, params, extra = run.states[step], run.params[step], run.extras[step]
        optimizer = subject.at(run.case, step)
        calls = {"with an extra argument": {"params": params, "unrelated": grads}}
        try:
            optimizer.update(grads, state, **extra)
            calls["without params"] = {}
        except (TypeError, ValueError):  # it says that it needs them
            pass
        for words, given in calls.items():
            try:
                made = optimizer.update(grads, state, **given, **extra)
            except Exception as error:
                text = f"update fails {words}: {type(error).__name__}: {error}"
                raise Counterexample("arguments", text, case, step=step + 1) from error
            expected = (run.updates[step], run.states[step + 1])
            if not all(map(runs.same, tree.leaves(made), tree.leaves(expected))):
                text = f"{words}, step {step + 1} is another than without it."
                raise Counterexample("arguments", text, case, step=step + 1)


def ignores_order(subject: Subject, case: Case) -> None:
    """Require that leaves move as they do in a tree of another order and structure."""
    leaves = tree.leaves(case.params)
    if len(leaves) < 2:
        return

    def reordered(values: Any) -> list[Any]:
        return tree.leaves(values)[::-1]

    turned = case._replace(
        params=reordered(case.params), gradients=[reordered(grads) for grads in case.gradients]
    )
    expected = runs.records(runs.run(subject, case, watched=False))["params"]
    got = runs.records(runs.run(subject, turned, watched=False))["params"][::-1]
    require_near(
        "order of leaves",
        "updates depend on the order of the leaves: in the reversed tree, as a list,",
        subject,
        case,
        got,
        expected,
    )


def climbs(subject: Subject, case: Case) -> None:
    """Require that `maximize=True` is the same rule on negated gradients."""
    negated = [tree.map(lambda leaf: -leaf, grads) for grads in case.gradients]
    down = {**case.hyperparameters, "maximize": False}
    up = {**case.hyperparameters, "maximize": True}
    expected = runs.run(subject, case._replace(hyperparameters=down, gradients=negated))
    got = runs.run(subject, case._replace(hyperparameters=up))
    require_near(
        "maximize",
        "maximize=True is not the rule on negated gradients:",
        subject,
        case._replace(hyperparameters=up),
        runs.records(got)["params"],
        runs.records(expected)["params"],
    )


def follows_schedule(subject: Subject, case: Case) -> None:
    """Require that a schedule as `lr` gives what its rates give one by one."""
    if case.rates is None:
        return
    rates = torch.tensor(case.rates, dtype=torch.float64)
    last = len(rates) - 1
    scheduled = {**case.hyperparameters, "lr": lambda step: rates[step.clamp(max=last)]}
    expected = runs.records(runs.run(subject, case, watched=False))["params"]
    planned = case._replace(hyperparameters=scheduled, rates=None)
    optimizer = subject.make(**scheduled)
    rule = subject._replace(make=lambda **ignored: optimizer)
    got = runs.records(runs.run(rule, planned))["params"]
    summary = "a schedule as lr does not give what the same rates give one by one:"
    require_near("schedule", summary, subject, case, got, expected)


def require_near(
    property: str,  # noqa: A002 - the attribute's name
    summary: str,
    subject: Subject,
    case: Case,
    got: list[Tensor],
    expected: list[Tensor],
) -> None:
    """Require that parameters after each step are those of `expected`, as far as rounding lets."""
    moved = disturbed(case, comparison.DISTURBANCE)
    other = runs.records(runs.run(subject, moved, watched=False))["params"]
    rows = zip(expected, other, tree.leaves(case.params), strict=True)
    allowed = [comparison.tolerances(*row) for row in rows]
    difference = comparison.first_difference(
        {"params": got}, {"params": expected}, {"params": allowed}
    )
    if difference is not None:
        text = f"{summary} the parameters differ from step {difference.step} on."
        raise from_difference(property, text, case, difference)


def acts(subject: Subject, run: Run, name: str) -> bool:
    """Say whether a part of the state has an effect on parameters, at some step of a run."""
    length = len(run.updates)
    return any(_acts_after(subject, run, name, step) for step in {1, length // 3, length // 2})


def _acts_after(subject: Subject, run: Run, name: str, step: int) -> bool:
    leaves, structure = tree.flatten(run.states[step])
    named = zip(leaves, runs.part_names(run.states[step]), strict=True)
    state = tree.unflatten(
        structure, [_changed(leaf) if part == name else leaf for leaf, part in named]
    )
    params = run.params[step]
    for later in range(step, min(step + 10, len(run.updates))):
        grads = run.case.gradients[later]
        extra = subject.extras(later, params, grads)
        updates, state = subject.at(run.case, later).update(grads, state, params, **extra)
        params = apply_updates(params, updates)
        pairs = zip(tree.leaves(params), tree.leaves(run.params[later + 1]), strict=True)
        if not all(runs.same(*pair) for pair in pairs):
            return True
    return False


def _changed(leaf: Tensor) -> Tensor:
    if leaf.dtype is torch.bool:
        return ~leaf
    return leaf * 1.5 + 0.25 if leaf.is_floating_point() or leaf.is_complex() else leaf + 1
