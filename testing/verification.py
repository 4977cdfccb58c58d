"""`check_optimizer`: an update rule against a reference, step by step and state by state."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import hypothesis
import torch
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

from . import configurations, problems, strategies
from .examination import PROPERTIES, Trial, Verdict, examine
from .problems import Case
from .references import Reference, as_reference
from .report import Counterexample, VacuousError
from .runs import Subject, as_subject

__all__ = ["Counterexample", "VacuousError", "check_optimizer"]

#: How many cases there are, with and without hyperparameters that the caller gives.
_EXAMPLES = {True: 4, False: 16}


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
        gradient; another recipe; or a transformation. With the rule itself as its reference all is
        checked but the mathematics.
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
    reference 1 -0.001 -0.001000001
    """
    if not set(without) <= set(PROPERTIES):
        unknown = sorted(set(without) - set(PROPERTIES))
        raise ValueError(f"without: {unknown} not among {', '.join(PROPERTIES)}.")
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}.")
    if shapes is not None and not problems.has_numbers(problems.of_shapes(shapes)):
        raise ValueError(f"shapes: expected a leaf that is not empty, got {shapes!r}.")
    subject, judge = as_subject(ours, extra), as_reference(reference, states or {})
    if configurations.takes_any(ours):
        takes = {**judge.takes, **subject.takes}
        subject = subject._replace(make=configurations.taking(takes, ours), takes=takes)
    fixed, drawn = _given(subject, judge, hyperparameters or {})
    shared = set(subject.takes) & set(judge.takes) - set(drawn)
    if subject.takes and judge.takes and not shared and not hyperparameters:
        raise VacuousError(
            f"check_optimizer: {subject.title} takes {', '.join(subject.takes)}, the reference "
            f"{', '.join(judge.takes)}: with no name in common only defaults would be compared. "
            "Give both the same names, or pass `hyperparameters`."
        )
    rows = configurations.covering(subject.make, shared, fixed, _acceptor(subject, reference))
    examples = examples or _EXAMPLES[bool(hyperparameters)]
    trial = Trial(
        subject,
        judge,
        required=states or {},
        without=frozenset(without),
        length=steps,
        rates="rates" not in without and "lr" in shared and _lr_may_change(judge, fixed),
        any_shape=shapes is None,
        thorough=min(1, examples - 1),
    )
    verdict = Verdict()

    def one_case(values: Any, others: Any, leaves: Any, chance: int) -> None:
        number = verdict.cases
        if number < len(rows):
            row, leaves = rows[number], problems.TREES[number % len(problems.TREES)]
        else:
            row = {**{name: others[name] for name in others if name in shared}, **fixed}
        leaves = leaves if shapes is None else problems.of_shapes(shapes)
        examine(trial, {**row, **values}, leaves, chance, verdict)

    _for_each(_strategy(subject, fixed, drawn), one_case, examples, seed)
    verdict.conclude(uncompared)


def _strategy(
    subject: Subject, fixed: Mapping[str, Any], drawn: Mapping[str, st.SearchStrategy[Any]]
) -> st.SearchStrategy[Any]:
    """Draw what the caller has strategies for, other hyperparameters, a tree and a seed."""
    given = {name: st.just(value) for name, value in fixed.items() if name in subject.takes}
    empty_tensors = strategies.shapes(min_side=0).map(torch.empty)
    return st.tuples(
        st.fixed_dictionaries(dict(drawn)),
        strategies.hyperparameters(subject.make, **given) if subject.takes else st.just({}),
        strategies.trees(empty_tensors).filter(problems.has_numbers),
        st.integers(0, 2**20),
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
