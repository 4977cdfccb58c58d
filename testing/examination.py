"""One case of a check: which properties it is tried for, and what all cases together show."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import torch

from ..functional import tree
from . import problems, properties, runs
from .paths import PATHS, require_path
from .precision import require_precision
from .problems import Case
from .references import Reference
from .report import Counterexample, VacuousError
from .runs import Run, Subject, records
from .shrinking import shrunk
from .steps import Steps

#: What a check may leave out.
PROPERTIES = (
    *PATHS,
    *("arguments", "complex", "infinities", "large", "long", "maximize", "order of leaves"),
    *("precision", "rates", "schedule"),
)
#: The steps that are looked at one by one, from 0, unless all are.
_CHOSEN = (0, 1, 2, 7, 20, 41, 59)
#: How long runs are whose length does not matter.
_SHORT = 12


class Trial(NamedTuple):
    """What a check is about, apart from the case.

    Attributes
    ----------
    subject, reference
        The rule, and what it is compared with.
    required
        Parts of the state that the caller has named, with their names in the reference.
    without
        Properties that are left out.
    length
        The number of steps of a run.
    rates
        Whether the learning rate may change.
    any_shape
        Whether the rule takes leaves of every shape.
    thorough
        The number of the case that is tried with every property at every step.
    """

    subject: Subject
    reference: Reference
    required: Mapping[str, str]
    without: Collection[str]
    length: int
    rates: bool
    any_shape: bool
    thorough: int


class Verdict:
    """What the cases have shown so far."""

    def __init__(self) -> None:
        self.cases = 0
        self.vacuous: list[VacuousError] = []
        self.parts: set[str] = set()
        self.compared: set[str] = set()

    def conclude(self, uncompared: Collection[str]) -> None:
        """Refuse to pass when the cases have not shown enough."""
        if len(self.vacuous) > self.cases / 2:
            raise self.vacuous[0]
        silent = sorted(self.parts - self.compared - set(uncompared))
        if silent:
            raise VacuousError(
                f"{', '.join(silent)}: compared with nothing, and without effect on parameters. "
                "Let the transcription yield it, map it to a name of the reference with `states`, "
                "or, if it is no part of the algorithm, name it in `uncompared`."
            )


def examine(
    trial: Trial, hyperparameters: Mapping[str, Any], shapes: Any, chance: int, verdict: Verdict
) -> None:
    """Try one set of hyperparameters; the first that shows nothing is refused."""
    number = verdict.cases
    verdict.cases += 1
    divides_by_zero = hyperparameters.get("eps", 1) == 0 and not trial.reference.is_torch
    reasons = []
    for careful in (True,) if divides_by_zero else (False, True):
        case = _case(trial, hyperparameters, shapes, number, chance, careful)
        try:
            return _examine_case(trial, case, number, verdict)
        except VacuousError as reason:
            reasons.append(reason)
        except AssertionError:
            raise
        except Exception as error:
            error.add_note(f"in case {number} of check_optimizer, with {dict(hyperparameters)}")
            raise
    if number == 0:
        raise reasons[-1]
    verdict.vacuous.append(reasons[-1])
    return None


def _examine_case(trial: Trial, case: Case, number: int, verdict: Verdict) -> None:
    subject = trial.subject
    last = _Last(subject, thorough=number == trial.thorough)

    def follows(case: Case) -> None:
        run, compared = properties.follows(subject, trial.reference, trial.required, case)
        last.keep(run)
        verdict.compared |= compared

    _require(lambda case: properties.forgets(subject, case), case.first(_SHORT))
    _require(follows, case)
    for name, check in {
        **_of_steps(last, number),
        **(_of_runs(subject) if last.thorough else {}),
    }.items():
        if name.partition(" of ")[0] not in trial.without and name not in trial.without:
            _require(check, case)
    run = last.run(case)
    parts = set(records(run)) - {"params"}
    verdict.parts |= parts
    verdict.compared |= {
        name for name in parts - verdict.compared if properties.acts(subject, run, name)
    }
    for name, other in _other_cases(trial, case, number).items():
        if name not in trial.without:
            _require_other(follows, name, other)


def _of_steps(last: _Last, number: int) -> dict[str, Callable[[Case], object]]:
    """Return the properties of single steps that a case is tried for."""

    def path(name: str) -> Callable[[Case], object]:
        return lambda case: require_path(last.steps(case), name)

    def precision(*dtypes: torch.dtype) -> Callable[[Case], object]:
        return lambda case: require_precision(last.steps(case), dtypes)

    def precision_of_halves(case: Case) -> None:
        moderated = _Last(last.subject, last.thorough).steps(problems.moderate(case))
        require_precision(moderated, (torch.float16,))
        require_precision(moderated, (torch.float16, torch.float32, torch.bfloat16))

    found = {name: path(name) for name in PATHS}
    if number > 2 and not last.thorough:
        del found["jit"]  # it takes the longest
    if last.thorough or number % 2 == 0:
        found["precision of float32"] = precision(torch.float32)
    if last.thorough or number % 2 == 1:
        found["precision of bfloat16"] = precision(torch.bfloat16)
    if number % 3 == 2:
        found["precision of halves"] = precision_of_halves
    return found


def _of_runs(subject: Subject) -> dict[str, Callable[[Case], object]]:
    """Return the properties of whole runs that one case is tried for."""
    found: dict[str, Callable[[Case], object]] = {
        "arguments": lambda case: properties.takes_arguments(subject, case),
        "schedule": lambda case: properties.follows_schedule(subject, case),
    }
    if subject.extra is None:  # it may know the tree and the signs
        found["order of leaves"] = lambda case: properties.ignores_order(subject, case)
        if "maximize" in subject.takes:
            found["maximize"] = lambda case: properties.climbs(subject, case)
    return found


class _Last:
    """Remembers the last run, and the steps of it that are looked at, for several properties."""

    def __init__(self, subject: Subject, thorough: bool) -> None:
        self.subject, self.thorough = subject, thorough
        self._run: Run | None = None
        self._steps: Steps | None = None

    def keep(self, run: Run) -> None:
        self._run = run

    def run(self, case: Case) -> Run:
        """Return the run of a case."""
        if self._run is None or self._run.case is not case:
            self._run = runs.run(self.subject, case, watched=False)
        return self._run

    def steps(self, case: Case) -> Steps:
        """Return steps of the run of a case."""
        run, length = self.run(case), len(case.gradients)
        if self._steps is None or self._steps.run is not run:
            chosen = range(length) if self.thorough else [i for i in _CHOSEN if i < length]
            self._steps = Steps(self.subject, run, chosen)
        return self._steps


def _require(check: Callable[[Case], object], case: Case) -> None:
    """Require a property of a case; the counter-example is as small as it could be made."""
    try:
        check(case)
    except Counterexample as found:
        raise shrunk(check, found) from None


# --- the cases -----------------------------------------------------------------------------------


def _case(
    trial: Trial,
    hyperparameters: Mapping[str, Any],
    shapes: Any,
    number: int,
    chance: int,
    careful: bool,
) -> Case:
    """Return a case; a `careful` one has no zeros, no tiny gradients and no lr of 0."""
    # Squares of tiny numbers have few digits in float32, and without eps nothing hides that.
    tiny = not careful and hyperparameters.get("eps", 1) != 0
    params, gradients = problems.problem(shapes, trial.length, chance, zeros=not careful, tiny=tiny)
    case = Case(dict(hyperparameters), params, gradients)
    if trial.rates and number % 2:
        return _with_rates(trial, case, pause=number % 4 == 3 and not careful)
    return case


def _with_rates(trial: Trial, case: Case, pause: bool) -> Case:
    lr = trial.subject.value(case, "lr")
    if isinstance(lr, bool) or not isinstance(lr, int | float):
        return case
    return case._replace(rates=problems.changing_rates(lr, trial.length, pause=pause))


def _other_cases(trial: Trial, case: Case, number: int) -> dict[str, Case]:
    """Return cases with the same hyperparameters on which the reference must be followed too."""

    def on(shapes: Any, length: int) -> Case:
        params, gradients = problems.problem(shapes, length, 1, zeros=False, tiny=False)
        return Case(case.hyperparameters, params, gradients)

    found = {}
    if number == 0 and trial.rates:
        found["rates"] = _with_rates(trial, case, pause=False)
    if number == trial.thorough and trial.any_shape:
        found["large"] = on(problems.large_tree(), 2)
    if number == 2:
        found["long"] = on(tree.map(torch.clone, case.params), 3 * trial.length)
    if number in (0, 3) and trial.reference.is_torch:
        found["infinities"] = problems.with_infinities(case.first(20))
        if _takes(trial, case, problems.complex_tree()):
            found["complex"] = on(problems.complex_tree(), 20)
    return found


def _takes(trial: Trial, case: Case, params: Any) -> bool:
    try:
        trial.subject.at(case, 0).init(params)
    except (TypeError, ValueError):
        return False
    return True


def _require_other(follows: Callable[[Case], object], name: str, case: Case) -> None:
    try:
        _require(follows, case)
    except AssertionError:
        raise
    except Exception as error:
        text = f"The rule, or its reference, fails: {type(error).__name__}: {error}"
        raise Counterexample(name, text, case) from error
