"""Running a rule: whole runs, and all steps of a run each from its own start."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..functional import tree
from ..optim import GradientTransformation, apply_updates
from ..optim.inspection import entries
from .configurations import names
from .problems import Case
from .report import Counterexample

#: Values of each leaf at every step, by name: `params`, or a part of the state.
Record = dict[str, list[Tensor]]


class Subject(NamedTuple):
    """The rule that is checked.

    Attributes
    ----------
    title
        What reports call it.
    make
        Makes the transformation from hyperparameters.
    takes
        The hyperparameters, by name.
    extra
        `extra(step, params, grads)` returns the extra arguments of an update, or None.
    """

    title: str
    make: Callable[..., GradientTransformation]
    takes: Mapping[str, inspect.Parameter]
    extra: Callable[[int, Any, Any], Mapping[str, Any]] | None = None

    def at(self, case: Case, step: int) -> GradientTransformation:
        """Make the transformation with the learning rate of a step, counted from 0."""
        if case.rates is None or "lr" not in self.takes:
            return self.make(**case.hyperparameters)
        return self.make(**{**case.hyperparameters, "lr": case.rates[step]})

    def value(self, case: Case, name: str) -> Any:
        """Return a hyperparameter, given or by default; None if there is none."""
        parameter = self.takes.get(name)
        default = None if parameter is None else parameter.default
        return case.hyperparameters.get(name, default)

    def extras(self, step: int, params: Any, grads: Any) -> Mapping[str, Any]:
        """Return the extra arguments of a step, counted from 0."""
        return {} if self.extra is None else self.extra(step, params, grads)


class Run(NamedTuple):
    """What a rule did: parameters and states from the start to the end, and each step."""

    case: Case
    params: list[tree.PyTree]
    states: list[Any]
    updates: list[tree.PyTree]
    extras: list[Mapping[str, Any]]


def as_subject(ours: Any, extra: Any) -> Subject:
    """Return the rule `ours`, a recipe or a transformation."""
    if isinstance(ours, GradientTransformation):
        return Subject("the transformation", lambda **ignored: ours, {}, extra)
    if not callable(ours):
        raise TypeError(
            f"check_optimizer: ours is {ours!r}; expected a recipe, such as optim.adam, or a "
            "GradientTransformation."
        )
    title = getattr(ours, "__name__", None) or repr(ours)
    return Subject(title, ours, names(ours), extra)


def run(subject: Subject, case: Case, *, watched: bool = True, resumed: bool = False) -> Run:
    """Run the rule, on a copy of the state in every step.

    When `watched`, an input that is written, and a state or update of another structure, shape or
    dtype, is a counter-example. When `resumed`, every step has a new transformation, as if the run
    had been saved and resumed.
    """
    params, state = case.params, None
    record = Run(case, [params], [], [], [])
    made: dict[Any, GradientTransformation] = {}  # for each learning rate
    for step, grads in enumerate(case.gradients):
        rate = None if case.rates is None else case.rates[step]
        if resumed or rate not in made:
            made[rate] = subject.at(case, step)
        optimizer = made[rate]
        if step == 0:
            before_init = tree.map(torch.clone, params)
            state = optimizer.init(params)
            record.states.append(state)
            if not all(map(same, tree.leaves(before_init), tree.leaves(params))):
                raise Counterexample("inputs", "init writes the parameters.", case, name="params")
            if watched:
                _require_counts(case, state)
        extra = subject.extras(step, params, grads)
        given = {"params": params, "state": tree.map(torch.clone, state), "gradients": grads}
        before = tree.map(torch.clone, given) if watched else None
        updates, state = optimizer.update(grads, given["state"], params, **extra)
        if watched:
            _require_unwritten(case, step, before, given)
            _require_same_form(case, step, "updates", params, updates)
            _require_same_form(case, step, "state", record.states[0], state)
        params = apply_updates(params, updates)
        record.params.append(params)
        record.states.append(state)
        record.updates.append(updates)
        record.extras.append(extra)
    return record


def same(left: Tensor, right: Tensor) -> bool:
    """Say whether two tensors are of one kind and equal bit by bit, NaNs to NaNs."""
    if (left.dtype, left.shape, left.device) != (right.dtype, right.shape, right.device):
        return False
    return torch.equal(left, right) or torch.allclose(left, right, rtol=0, atol=0, equal_nan=True)


def _require_unwritten(case: Case, step: int, before: Any, after: Any) -> None:
    rows = zip(tree.leaves(before), tree.leaves(after), strict=True)
    for index, (old, new) in enumerate(rows):
        if not same(old, new):
            path = tree.path_strings(after, "")[index]
            name = next(name for name in after if path.startswith(f"['{name}']"))
            leaf = name + path.removeprefix(f"['{name}']")
            raise Counterexample(
                "inputs",
                f"update writes its input: {leaf} at step {step + 1} has other values after it.",
                case,
                step=step + 1,
                leaf=leaf,
                name=name,
            )


def _require_same_form(case: Case, step: int, name: str, expected: Any, given: Any) -> None:
    """Require the structure of `expected`, and tensors of its shapes, dtypes and devices."""
    leaves, structure = tree.flatten(expected)
    found, found_structure = tree.flatten(given)
    if structure != found_structure:
        raise Counterexample(
            "state" if name == "state" else "updates",
            f"{name} after step {step + 1} has another structure than before:\n"
            f"  expected {structure}\n  got      {found_structure}",
            case,
            step=step + 1,
        )
    for index, (old, new) in enumerate(zip(leaves, found, strict=True)):
        if _form(old) != _form(new) or not isinstance(new, Tensor):
            path = tree.path_strings(given, name)[index]
            raise Counterexample(
                "state" if name == "state" else "updates",
                f"{path} does not keep its shape and dtype: {_form(old)} before step {step + 1}, "
                f"{_form(new)} after it.",
                case,
                step=step + 1,
                leaf=path,
                name=name,
                expected=_form(old),
                got=_form(new),
            )


def _require_counts(case: Case, state: Any) -> None:
    """Require that a state counts in int64, which never stops, and with no axis to broadcast."""
    for name, leaves in parts(state).items():
        for leaf in leaves if is_count(name) else []:
            if _form(leaf) != _form(torch.tensor(0)):
                raise Counterexample(
                    "state",
                    f"`{name}` is {_form(leaf)}, expected {_form(torch.tensor(0))}: narrower "
                    "counts stop or overflow, and an axis is broadcast to updates.",
                    case,
                    name=name,
                    expected=_form(torch.tensor(0)),
                    got=_form(leaf),
                )


def is_count(name: str) -> bool:
    """Say whether a part of a state is a number of steps."""
    return name == "count" or name.endswith(".count")


def _form(leaf: Any) -> str:
    if not isinstance(leaf, Tensor):
        return f"{type(leaf).__name__}, no tensor"
    return f"{str(leaf.dtype).removeprefix('torch.')} of shape {tuple(leaf.shape)}"


def records(run: Run) -> Record:
    """Return the parameters and every part of the state after each step, with the steps stacked."""
    named = [parts(state) for state in run.states[1:]]
    columns = {"params": [tree.leaves(params) for params in run.params[1:]]}
    for name in named[0] if named else []:
        columns[name] = [state[name] for state in named]
    return {name: _stacked(rows) for name, rows in columns.items()}


def parts(state: Any) -> dict[str, list[Tensor]]:
    """Return the leaves of each part of a state, by its name."""
    values = {entry.path: entry.value for entry in entries(state)}
    return {name: tree.leaves(values[path]) for name, path in _paths(state).items()}


def _paths(state: Any) -> dict[str, str]:
    """Return the path of each part of a state by its name; by the path where two have that name."""
    found = list(entries(state))
    unique = [entry.name for entry in found]
    return {
        entry.name if unique.count(entry.name) == 1 else entry.path: entry.path for entry in found
    }


def recorded(snapshots: Iterator[Mapping[str, Sequence[Tensor]]], steps: int) -> Record:
    """Return what a reference yields, with the steps stacked; fewer where it yields fewer."""
    rows = []
    for snapshot in snapshots:
        rows.append(snapshot)
        if len(rows) == steps:
            break
    names = [name for name in rows[0] if all(name in row for row in rows)] if rows else []
    return {name: _stacked([row[name] for row in rows]) for name in names}


def _stacked(rows: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [torch.stack(list(column)) for column in zip(*rows, strict=True)]


#: The names of the parts that the leaves of a state belong to, by the structure of the state.
_PART_NAMES: dict[Any, list[str]] = {}


def part_names(state: Any) -> list[str]:
    """Return for each leaf of a state the name of the part that it belongs to."""
    structure = tree.structure(state)
    if structure not in _PART_NAMES:
        named = {path: name for name, path in _paths(state).items()}
        _PART_NAMES[structure] = [
            next((named[path] for path in named if _is_inside(leaf, path)), "state")
            for leaf in tree.path_strings(state, "state")
        ]
    return _PART_NAMES[structure]


def _is_inside(leaf: str, path: str) -> bool:
    return leaf == path or leaf.startswith((f"{path}.", f"{path}["))
