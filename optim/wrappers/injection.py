"""Hyperparameters that live in the state."""

from __future__ import annotations

import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...functional import tree
from .. import checks
from ..moments import first_step
from ..transformation import GradientTransformation, State

__all__ = ["InjectHyperparamsState", "inject_hyperparams"]


class InjectHyperparamsState(NamedTuple):
    """The number of steps, hyperparameters by name, and the state inside.

    `hyperparams` are yours to change, by `optim.replace`; `scheduled` are the values that schedules
    had at the last step.
    """

    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    hyperparams: dict[str, Any]
    scheduled: dict[str, Tensor]
    inner_state: State


def inject_hyperparams(
    inner_factory: Callable[..., GradientTransformation],
    static_args: str | Iterable[str] = (),
) -> Callable[..., GradientTransformation]:
    """Return `inner_factory` with the hyperparameters that it is called with kept in the state.

    Of the arguments that are passed,

    - numbers, and tuples of numbers, become 0-d float64 tensors on the parameters' device;
    - 0-d tensors are kept as they are;
    - functions are schedules of the number of steps so far (int64, 0-d), evaluated at each;
    - everything else (strings, bools, None, transformations), what the signature annotates as
      `int`, and what `static_args` names goes to the factory unchanged.

    They are read by `optim.get(state, "lr")` and changed between steps by
    `optim.replace(state, lr=0.01)`, without a new trace under `jit`. Arguments left at their
    defaults are not in the state (in optax they are): a `momentum` of 0 that nobody
    means to change costs no buffer. Pass what you mean to change.

    Values are checked once, when the optimizer is made; what `replace` puts there is not.

    Parameters
    ----------
    inner_factory
        A recipe or piece, such as `optim.adam`.
    static_args
        Names of arguments that are no hyperparameters: functions that are no schedules, numbers
        that the factory needs as Python numbers.

    Raises
    ------
    ValueError
        `static_args` names no argument of the factory; in the call, the factory's own refusals.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.inject_hyperparams(optim.sgd)(lr=0.5, momentum=0.9)
    >>> state = optimizer.init({"w": torch.zeros(1)})
    >>> state = optim.replace(state, lr=0.25)
    >>> updates, state = optimizer.update({"w": torch.ones(1)}, state)
    >>> updates, optim.get(state, "lr")
    ({'w': tensor([-0.2500])}, tensor(0.2500, dtype=torch.float64))
    """
    static = {static_args} if isinstance(static_args, str) else set(static_args)
    signature = inspect.signature(inner_factory)
    unknown = static - set(signature.parameters)
    if unknown:
        raise ValueError(
            f"static_args: {', '.join(map(repr, sorted(unknown)))} names no argument of "
            f"{_name(inner_factory)}, which has {', '.join(signature.parameters)}."
        )
    static |= {p.name for p in signature.parameters.values() if p.annotation in (int, "int")}

    @functools.wraps(inner_factory)
    def make(*args: Any, **kwargs: Any) -> GradientTransformation:
        given = signature.bind(*args, **kwargs).arguments
        varying = {name: value for name, value in given.items() if name not in static}
        schedules = {name: value for name, value in varying.items() if callable(value)}
        numbers = {name: value for name, value in varying.items() if _is_numeric(value)}
        fixed = {n: v for n, v in given.items() if n not in schedules and n not in numbers}

        def build(values: Mapping[str, Any]) -> GradientTransformation:
            own = {**fixed, **values}
            bound = inspect.BoundArguments(signature, OrderedDict((n, own[n]) for n in given))
            return inner_factory(*bound.args, **bound.kwargs)

        return _injected(build, numbers, schedules)

    return make


def _injected(
    build: Callable[[Mapping[str, Any]], GradientTransformation],
    numbers: Mapping[str, Any],
    schedules: Mapping[str, Callable[[Tensor], Any]],
) -> GradientTransformation:
    """Return the transformation that is built anew at each step, of the values in its state."""

    def scheduled(count: Tensor) -> dict[str, Tensor]:
        values = {}
        for name, schedule in schedules.items():
            value = schedule(count)
            checks.scalar(f"{name}(step)", value)
            values[name] = torch.as_tensor(value, dtype=torch.float64, device=count.device)
        return values

    first = scheduled(torch.zeros((), dtype=torch.int64))
    build({**numbers, **first})  # refuses what is out of range

    def init(params: tree.PyTree) -> InjectHyperparamsState:
        count = first_step(params)
        hyperparams = {name: _tensors(value, count.device) for name, value in numbers.items()}
        values = scheduled(count)
        inner_state = build({**hyperparams, **values}).init(params)
        return InjectHyperparamsState(count, hyperparams, values, inner_state)

    def update(
        updates: tree.PyTree,
        state: InjectHyperparamsState,
        params: tree.PyTree | None = None,
        **extra: Any,
    ) -> tuple[tree.PyTree, InjectHyperparamsState]:
        checks.state("inject_hyperparams", state, InjectHyperparamsState)
        checks.states_by_name("inject_hyperparams", state.hyperparams, numbers)
        values = scheduled(state.count)
        inner = build({**state.hyperparams, **values})
        updates, inner_state = inner.update(updates, state.inner_state, params, **extra)
        new = state._replace(count=state.count + 1, scheduled=values, inner_state=inner_state)
        return updates, new

    return GradientTransformation(init, update)


def _is_numeric(value: Any) -> bool:
    """Say whether `value` is a real number, a 0-d tensor of one, or a tuple or list of these."""
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return bool(value) and all(map(_is_numeric, value))
    if isinstance(value, Tensor):
        return value.ndim == 0 and value.is_floating_point()
    return isinstance(value, int | float) and not isinstance(value, bool)


def _tensors(value: Any, device: torch.device) -> Any:
    """Return fresh 0-d tensors, so that a state that is given away takes nobody else's."""
    if isinstance(value, tuple | list):
        return tuple([_tensors(part, device) for part in value])
    if isinstance(value, Tensor):
        return value.to(device, copy=True)
    return torch.tensor(value, dtype=torch.float64, device=device)


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)
