"""`check_optimizer`: an update rule against a reference, step by step and state by state."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import hypothesis
import torch
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

from . import configurations, problems, properties, runs, steps, strategies
from .problems import Case
from .references import Reference, as_reference
from .report import Counterexample, VacuousError
from .runs import Run, Subject, as_subject, records
from .shrinking import shrunk
from .steps import Steps

__all__ = ["Counterexample", "VacuousError", "check_optimizer"]

_OTHERS = ("arguments", "complex", "infinities", "large", "long")
#: What `without` may leave out.
PROPERTIES = (*steps.PATHS, "order of leaves", "maximize", "schedule", "precision", "rates", *_OTHERS)


class _Trial(NamedTuple):
    """All that a check is about, apart from the case."""

    subject: Subject
    reference: Reference
    required: Mapping[str, str]
    without: Collection[str]
    length: int
    rates: bool  # whether the learning rate may change
    any_shape: bool  # whether the rule takes leaves of every shape
    thorough: int  # the number of the case that is tried with every property at every step


def check_optimizer(
    ours: Any,
    reference: Any,
    *,
    hyperparameters: Mapping[str, Any] | None = None,
    states: Mapping[str, str] | None = None,
    uncompared: Collection[str] = (),
    extra: Callable[[int, Any, Any], Mapping[str, Any]] | None = None,
    shapes: Any = None,
    steps: int = 60,
    examples: int | None = None,
    without: Collection[str] = (),
    seed: int = 0,
) -> None:
    """Require that an update rule computes what `reference` does, however it is run.

    Every case has its own hyperparameters, parameters and gradients: of scales from 1e-8 to 1e2,
    with flipping signs, zeros, spikes, constant, decreasing and growing runs. In each,

    - the parameters follow the reference in float64, and so does every part of the state that it
      knows, with a learning rate that changes in every second case;
    - no input is written; state and updates keep their structure, shapes and dtypes;
    - a run remembers nothing but its state: resumed with a new transformation in every step, or in
      turns with another run, it is the same;
    - each step is the same leaf by leaf, under `vmap`, under `jit` (in one program), on strided
      tensors and with tensors as hyperparameters;
    - steps in float32, bfloat16 and float16 are the float64 steps up to rounding;
    - the order of leaves does not matter, `maximize` negates the gradients, and a schedule gives
      what its rates do.

    What two runs may differ by comes from the dtype, the magnitudes and what a disturbance of a few
    ulps changes, and must be below a thousandth of the movement.

    Parameters
    ----------
    ours
        A recipe (a function of hyperparameters that returns a `GradientTransformation`), or a
        transformation.
    reference
        A class of torch.optim; a transcription in numpy, `(theta, gradients, **hyperparameters)`,
        of one leaf or of all (`whole_tree`), which yields `theta` or `(theta, state)` after each
        gradient; another recipe; or a transformation.
    hyperparameters
        Values, or hypothesis strategies, for hyperparameters of both. Those that both have by name
        and that are not given are drawn; the first case has those given, and the defaults.
    states
        Maps parts of our state (the names that `optim.get` knows) to names in the state of the
        reference, where they are not those of `references.TORCH_NAMES` or the same.
    uncompared
        Parts of our state of which the reference has no counterpart, and which change nothing of
        what the parameters do.
    extra
        `extra(step, params, grads)` returns the extra arguments of an update, by name. A
        transcription that has a parameter of that name gets a list with the value of every step.
    shapes
        A tree of tensors, or a list of shapes, for rules that do not take every shape.
    steps
        The length of a run.
    examples
        The number of cases: 16 unless hyperparameters are given, then 4.
    without
        Properties that the rule does not have, of `PROPERTIES`.
    seed
        Another seed draws other cases.

    Raises
    ------
    Counterexample
        An `AssertionError` that tells the property, and the first step, leaf and element at which
        it shows, on a case as small as could be found.
    VacuousError
        An `AssertionError`: the check could not have failed. Nothing moves, or by less than the
        tolerance; the reference stops early; a part of the state is compared with nothing.

    Examples
    --------
    >>> from purefn import optim
    >>> check_optimizer(optim.sgd, torch.optim.SGD, examples=1)
    >>> def impatient(lr=1e-3):
    ...     return optim.sgd(lr * (1 + 1e-6))
    >>> try:
    ...     check_optimizer(impatient, torch.optim.SGD, examples=1)
    ... except Counterexample as found:
    ...     print(found.property, found.step, found.expected, found.got)
    reference 1 -1.0 -1.000001
    """
    subject, judge = as_subject(ours, extra), as_reference(reference, states or {})
    unknown = set(without) - set(PROPERTIES)
    if unknown:
        raise ValueError(f"without: {sorted(unknown)} not among {', '.join(PROPERTIES)}.")
    fixed, drawn = _given(subject, judge, hyperparameters or {})
    shared = set(subject.takes) & set(judge.takes) - set(drawn)
    rows = configurations.covering(subject.make, shared, fixed, _acceptor(subject, reference))
    rows[1:] = sorted(rows[1:], key=_number_of_options, reverse=True)
    rates = "rates" not in without and "lr" in shared and _lr_may_change(judge, fixed)
    examples = examples or (4 if hyperparameters else 16)
    trial = _Trial(subject, judge, states or {}, set(without), steps, rates, shapes is None, min(1, examples - 1))
    verdict = _Verdict()

    def examine(values: Any, others: Any, leaves: Any, chance: int) -> None:
        if verdict.cases < len(rows):
            row, leaves = rows[verdict.cases], _TREES[verdict.cases % len(_TREES)]
        else:
            row = {**{name: others[name] for name in others if name in shared}, **fixed}
        leaves = leaves if shapes is None else problems.of_shapes(shapes)
        _examine(trial, {**row, **values}, leaves, chance, verdict)

    drawn_case = st.tuples(
        st.fixed_dictionaries(drawn),
        strategies.hyperparameters(subject.make) if subject.takes else st.just({}),
        strategies.trees(_EMPTY_TENSORS).filter(problems.has_numbers),
        st.integers(0, 2**20),
    )
    _for_each(drawn_case, examine, examples, seed)
    verdict.conclude(uncompared)


class _Verdict:
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


def _for_each(
    strategy: st.SearchStrategy[Any], body: Callable[..., None], examples: int, seed: int
) -> None:
    """Call `body` with what hypothesis draws; the first error ends it, and is raised as it is."""
    errors: list[Exception] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        derandomize=False,
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(strategy)
    def every_case(drawn: Any) -> None:
        if not errors:
            try:
                body(*drawn)
            except Exception as error:
                errors.append(error)

    every_case()
    if errors:
        raise errors[0]


def _examine(
    trial: _Trial, hyperparameters: Mapping[str, Any], shapes: Any, chance: int, verdict: _Verdict
) -> None:
    """Try one set of hyperparameters."""
    number = verdict.cases
    verdict.cases += 1
    reasons = []
    divides_by_zero = hyperparameters.get("eps", 1) == 0 and not trial.reference.is_torch
    for careful in (True,) if divides_by_zero else (False, True):
        case = _case(trial, hyperparameters, shapes, number, chance, careful)
        try:
            _examine_case(trial, case, number, verdict)
            return
        except VacuousError as reason:
            reasons.append(reason)
    if number == 0:
        raise reasons[-1]
    verdict.vacuous.append(reasons[-1])


def _examine_case(trial: _Trial, case: Case, number: int, verdict: _Verdict) -> None:
    subject, thorough = trial.subject, number == trial.thorough
    last = _Last(subject, thorough)

    def follows(case: Case) -> None:
        run, compared = properties.follows(subject, trial.reference, trial.required, case)
        last.keep(run)
        verdict.compared |= compared

    _require(lambda case: properties.forgets(subject, case), case.first(_SOME_STEPS))
    _require(follows, case)
    if number == 0 and trial.rates:
        _require(follows, _with_rates(trial, case, pause=False))
    for name, other in _other_cases(trial, case, number).items():
        if name not in trial.without:
            _require(follows, other)
    for name, check in _checks(trial, last, number, thorough).items():
        if name not in trial.without:
            _require(check, case)
    run = last.run(case)
    parts = set(records(run)) - {"params"}
    verdict.parts |= parts
    verdict.compared |= {
        name for name in parts - verdict.compared if properties.acts(subject, run, name)
    }


def _other_cases(trial: _Trial, case: Case, number: int) -> dict[str, Case]:
    """Return cases with the same hyperparameters on which the reference must be followed too."""

    def on(shapes: Any, length: int, chance: int = 1) -> Case:
        params, gradients = problems.problem(shapes, length, chance, zeros=False, tiny=False)
        return Case(case.hyperparameters, params, gradients)

    found = {}
    if number == trial.thorough and trial.any_shape:
        found["large"] = on(problems.large_tree(), 2)
    if number == 2:
        found["long"] = on(tree.map(torch.clone, case.params), 3 * trial.length)
    if number in (0, 3) and trial.reference.is_torch:
        found["infinities"] = problems.with_infinities(case.first(20))
        found["complex"] = on(problems.complex_tree(), 20)
    return found


class _Last:
    """Remembers the last run and the steps of it that are looked at, for several properties."""

    def __init__(self, subject: Subject, thorough: bool) -> None:
        self.subject, self.thorough = subject, thorough
        self.run_: Run | None = None
        self.steps_: Steps | None = None

    def keep(self, run: Run) -> None:
        self.run_ = run

    def run(self, case: Case) -> Run:
        """Return the run of a case."""
        if self.run_ is None or self.run_.case is not case:
            self.run_ = runs.run(self.subject, case, watched=False)
        return self.run_

    def steps(self, case: Case) -> Steps:
        """Return steps of the run of a case."""
        run = self.run(case)
        if self.steps_ is None or self.steps_.run is not run:
            length = len(case.gradients)
            chosen = range(length) if self.thorough else [i for i in _CHOSEN if i < length]
            self.steps_ = Steps(self.subject, run, chosen)
        return self.steps_


#: The steps that are tried of the others, from 0.
_CHOSEN = (0, 1, 2, 7, 20, 41, 59)
_SOME_STEPS = 12
_PRECISIONS = ((torch.float32,), (torch.bfloat16,))


def _checks(
    trial: _Trial, last: _Last, number: int, thorough: bool
) -> dict[str, Callable[[Case], object]]:
    """Return the properties that a case is tried for, by name."""
    subject = trial.subject

    def path(name: str) -> Callable[[Case], None]:
        return lambda case: steps.require_path(last.steps(case), name)

    def precision(dtypes: Sequence[torch.dtype]) -> Callable[[Case], None]:
        return lambda case: steps.require_precision(last.steps(case), dtypes)

    def halves(case: Case) -> None:
        moderated = _Last(subject, thorough).steps(problems.moderate(case))
        steps.require_precision(moderated, (torch.float16, torch.float32, torch.bfloat16))

    found = {name: path(name) for name in steps.PATHS if name != "jit" or thorough or number < 3}
    for index, dtypes in enumerate(_PRECISIONS):
        if thorough or number % len(_PRECISIONS) == index:
            found[f"precision {index}"] = precision(dtypes)
    if number % 3 == 2:
        found["precision half"] = halves
    if thorough and subject.extra is None:  # it may know this tree and these signs
        found["order of leaves"] = lambda case: properties.ignores_order(subject, case)
        if "maximize" in subject.takes:
            found["maximize"] = lambda case: properties.climbs(subject, case)
    if thorough:
        found["arguments"] = lambda case: properties.takes_arguments(subject, case)
        found["schedule"] = lambda case: properties.follows_schedule(subject, case)
    return found


def _require(check: Callable[[Case], object], case: Case) -> None:
    """Require a property of a case; the counter-example is as small as it could be made."""
    try:
        check(case)
    except Counterexample as found:
        raise shrunk(check, found) from None


# ------------------------------------------------------------------------------------------ the cases


def _case(
    trial: _Trial,
    hyperparameters: Mapping[str, Any],
    shapes: Any,
    number: int,
    chance: int,
    careful: bool,
) -> Case:
    """Return a case; a `careful` one has no zeros, no tiny gradients and no lr of 0."""
    params, gradients = problems.problem(
        shapes, trial.length, chance, zeros=not careful, tiny=not careful
    )
    case = Case(dict(hyperparameters), params, gradients)
    if trial.rates and number % 2:
        return _with_rates(trial, case, pause=number % 4 == 3 and not careful)
    return case


def _with_rates(trial: _Trial, case: Case, pause: bool) -> Case:
    lr = case.hyperparameters.get("lr", trial.subject.takes["lr"].default)
    if isinstance(lr, bool) or not isinstance(lr, int | float):
        return case
    return case._replace(rates=problems.changing_rates(lr, trial.length, pause=pause))


#: Trees that the first cases take in turn.
_TREES = (
    problems.mixed_tree(),
    problems.mixed_tree(),
    {"only": torch.empty(3, 2)},
    [torch.empty(()), torch.empty(())],
    torch.empty(7),
    problems.mixed_tree(),
)
_EMPTY_TENSORS = strategies.shapes(min_side=0).map(torch.empty)


# ------------------------------------------------------------------------------------ hyperparameters


def _given(
    subject: Subject, reference: Reference, hyperparameters: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, st.SearchStrategy[Any]]]:
    """Part what the caller gives into values and strategies; add what the reference must have."""
    drawn = {
        name: value
        for name, value in hyperparameters.items()
        if isinstance(value, st.SearchStrategy)
    }
    fixed = {name: value for name, value in hyperparameters.items() if name not in drawn}
    for name, parameter in reference.takes.items():
        ours = subject.takes.get(name)
        needed = parameter.default is parameter.empty and name not in hyperparameters
        if needed and ours is not None and ours.default is not ours.empty:
            fixed[name] = ours.default
    return fixed, drawn


def _acceptor(subject: Subject, reference: Any) -> Callable[[Mapping[str, Any]], bool]:
    """Return the function that says whether both accept a set of hyperparameters."""

    def accepts(values: Mapping[str, Any]) -> bool:
        try:
            subject.make(**values)
            if isinstance(reference, type):
                reference([torch.zeros(1)], **values)
        except (TypeError, ValueError):
            return False
        return True

    return accepts


def _number_of_options(values: Mapping[str, Any]) -> int:
    """Return how many hyperparameters are not zero, and how many not False."""
    return sum(bool(value) for value in values.values())


def _lr_may_change(reference: Reference, fixed: Mapping[str, Any]) -> bool:
    """Say whether the reference sees a learning rate that changes from step to step.

    A transcription that computes something of it before the first step does not.
    """
    params, gradients = problems.problem(torch.empty(2), 4, seed=1, zeros=False, tiny=False)
    values = dict(fixed)
    lr = values.pop("lr", 0.1)
    if not isinstance(lr, float) or lr == 0:
        return False
    final = []
    for rates in ([lr] * 4, [lr, lr / 2, lr / 3, lr / 4]):
        try:
            *_, last = reference.run(Case({**values, "lr": lr}, params, gradients, rates), {})
        except Exception:
            return False
        final.append(last["params"][0])
    return not torch.equal(*final)
