"""Hyperparameters at which a rule takes another branch, and sets of them that reach every pair."""

from __future__ import annotations

import inspect
import itertools
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

#: For each name, values that are tried besides the default. None is a half, which is what it leaves
#: of 1, and no two that are taken together are the same: what is mistaken for the other would not
#: show.
_VALUES: Mapping[str, Sequence[Any]] = {
    "lr": (0.1, 0.7),
    "eps": (1e-3, 0.0, 1e-8),
    "weight_decay": (0.13, 0.0),
    "momentum": (0.9, 0.6, 0.0),
    "dampening": (0.3, 0.0),
    "alpha": (0.65, 0.92),
    "rho": (0.65, 0.95),
    "lr_decay": (0.07, 0.0),
    "initial_accumulator_value": (0.3, 0.0),
    "t0": (10.0,),
    "lambd": (0.11, 0.0),
    "etas": ((0.3, 1.7),),
    "step_sizes": ((1e-2, 0.2),),
    "momentum_decay": (0.3, 0.0),
}
#: How many sets of hyperparameters the choice is made among.
_CANDIDATES = 300


def names(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of `function` that can be given by name."""
    return {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }


def takes_any(function: Any) -> bool:
    """Say whether `function` takes any parameter by name."""
    if not callable(function) or isinstance(function, tuple):
        return False
    kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
    return inspect.Parameter.VAR_KEYWORD in kinds


def taking(
    parameters: Mapping[str, inspect.Parameter], function: Callable[..., Any]
) -> Callable[..., Any]:
    """Return `function`, which takes any parameter, with a signature that says which."""

    def named(**given: Any) -> Any:
        return function(**given)

    rows = [row.replace(kind=inspect.Parameter.KEYWORD_ONLY) for row in parameters.values()]
    named.__signature__ = inspect.Signature(rows)  # type: ignore[attr-defined]
    return named


def covering(
    recipe: Callable[..., Any],
    drawn: Collection[str],
    given: Mapping[str, Any],
    accepts: Callable[[Mapping[str, Any]], bool],
) -> list[dict[str, Any]]:
    """Return sets of hyperparameters that have every pair of values of two of them.

    Of the names in `drawn`, values are chosen by name and default; `given` are in every set. The
    first set is `given` alone, the second has the most options on. What has its default is not
    named, so that a wrong default shows. Sets that the rule does not accept are left out.
    """
    parameters = names(recipe)
    options = {
        name: _options(parameter)
        for name, parameter in parameters.items()
        if name in drawn and name not in given
    }
    options = {name: values for name, values in options.items() if len(values) > 1}
    chance = random.Random(0)
    candidates = [
        {name: chance.choice(values) for name, values in options.items()}
        for _ in range(_CANDIDATES if options else 0)
    ]
    candidates = [row for row in candidates if accepts({**given, **row})]
    missing = set().union(*map(_pairs, candidates)) if candidates else set()
    chosen: list[dict[str, Any]] = [dict(given)]
    while missing:
        best = max(candidates, key=lambda row: len(_pairs(row) & missing))
        missing -= _pairs(best)
        named = {key: value for key, value in best.items() if value != parameters[key].default}
        chosen.append({**given, **named})
    return [chosen[0], *sorted(chosen[1:], key=_options_used, reverse=True)]


def _options_used(row: Mapping[str, Any]) -> int:
    """Return how many hyperparameters are neither zero nor False."""
    return sum(bool(value) for value in row.values())


def _pairs(row: Mapping[str, Any]) -> set[Any]:
    if len(row) == 1:
        return set(row.items())
    return set(itertools.combinations(row.items(), 2))


def _options(parameter: inspect.Parameter) -> list[Any]:
    """Return the values to try for a parameter, the default first."""
    default = parameter.default
    start = [] if default is parameter.empty else [default]
    if isinstance(default, bool):
        return [default, not default]
    if parameter.name == "betas" and isinstance(default, tuple):
        # With sqrt(b2) < b1 the steps of Adam have no bound.
        later = [0.93, 0.88, 0.97][: len(default) - 1]
        return [default, (0.6, *later), (0.0,) * len(default)]
    known = _VALUES.get(parameter.name, ())
    if known and isinstance(default, tuple) == isinstance(known[0], tuple) and default is not None:
        return start + [value for value in known if value != default]
    if isinstance(default, float):
        return [default, 0.6 * default] if default else [default, 0.12]
    return start
