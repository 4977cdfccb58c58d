"""What an optimizer is judged by: a class of torch.optim, a transcription, another recipe."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..functional import tree
from ..optim import GradientTransformation, apply_updates
from ..optim.inspection import entries
from .problems import Case

__all__ = ["Transcription", "whole_tree"]

#: The parameters and parts of the state by name, each the list of its leaves.
Snapshot = dict[str, list[Tensor]]

#: `transcription(theta, gradients, **hyperparameters)` computes in numpy, in float64, with one
#: array of parameters and the array of gradients of each step. After each step it yields `theta`,
#: or `theta` and a dict of the state, by the names of our fields.
Transcription = Callable[..., Iterable[Any]]

#: What the fields of our states are that torch.optim calls so; of several names the one there is.
TORCH_NAMES: Mapping[str, tuple[str, ...]] = {
    "acc_delta": ("e_x",),
    "exp_avg": ("mu",),
    "exp_avg_sq": ("nu",),
    "exp_inf": ("nu",),
    "grad_avg": ("mu",),
    "max_exp_avg_sq": ("nu_max",),
    "momentum_buffer": ("trace", "mu"),
    "square_avg": ("nu", "e_g"),
    "sum": ("sum_of_squares",),
}
#: Parameters of torch's classes that say how to compute, not what.
_SWITCHES = {"params", "foreach", "fused", "capturable", "differentiable"}


class Reference(NamedTuple):
    """Something that a rule is compared with.

    Attributes
    ----------
    title
        What reports call it.
    takes
        The names of its hyperparameters, with their parameters.
    run
        `run(case, extras)` yields a snapshot after each step; `extras` are the extra arguments of
        every step, by name.
    names
        For names of parts of its state, those that ours may have.
    is_torch
        Whether it says what 0 / 0 is, too: what a rule makes of it when `eps` is 0.
    """

    title: str
    takes: Mapping[str, inspect.Parameter]
    run: Callable[[Case, Mapping[str, Any]], Iterator[Snapshot]]
    names: Mapping[str, tuple[str, ...]] = {}
    is_torch: bool = False


def whole_tree(transcription: Transcription) -> Transcription:
    """Mark a transcription that needs all leaves together: it receives lists of arrays.

    `theta` and each of the gradients are then lists with an array for each leaf, and so are `theta`
    and the state that it yields (a value of the state may also be one number, for all leaves).

    >>> @whole_tree
    ... def normalized(theta, gradients, lr=0.1):
    ...     for g in gradients:
    ...         norm = np.sqrt(sum((leaf**2).sum() for leaf in g))
    ...         theta = [leaf - lr * grad / norm for leaf, grad in zip(theta, g)]
    ...         yield theta
    """
    transcription.whole_tree = True  # type: ignore[attr-defined]
    return transcription


def as_reference(reference: Any, states: Mapping[str, str]) -> Reference:
    """Return how to run `reference`, whatever it is; `states` maps our names to its own."""
    names = {theirs: (ours,) for ours, theirs in states.items()}
    if isinstance(reference, GradientTransformation):
        run = _recipe_runner(lambda **ignored: reference)
        return Reference("the other transformation", {}, run, names)
    if not callable(reference):
        raise TypeError(
            f"check_optimizer: reference is {reference!r}; expected a class of torch.optim, a "
            "transcription `(theta, gradients, **hyperparameters)` or another recipe."
        )
    title = getattr(reference, "__name__", None) or repr(reference)
    taken = {
        name: parameter
        for name, parameter in inspect.signature(reference).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and name not in _SWITCHES
    }
    made = getattr(reference, "func", reference)  # of a functools.partial
    if isinstance(made, type) and issubclass(made, torch.optim.Optimizer):
        title = f"torch.optim.{made.__name__}"
        return Reference(title, taken, _torch_runner(reference), {**TORCH_NAMES, **names}, True)
    if _makes_transformations(reference):
        return Reference(title, taken, _recipe_runner(reference), names)
    numbers = dict(list(taken.items())[2:])  # after theta and gradients
    return Reference(title, numbers, _transcription_runner(reference), names)


def _makes_transformations(function: Callable[..., Any]) -> bool:
    """Say whether `function` is a recipe: all it takes has defaults, or it does not yield."""
    if inspect.isgeneratorfunction(function) or getattr(function, "whole_tree", False):
        return False
    parameters = list(inspect.signature(function).parameters.values())
    return not all(parameter.default is parameter.empty for parameter in parameters[:2])


# --- transcriptions ------------------------------------------------------------------------------


def _transcription_runner(
    transcription: Transcription,
) -> Callable[[Case, Mapping[str, Any]], Iterator[Snapshot]]:
    """Return how to run a transcription.

    A changing learning rate reaches it as a 0-d array that is written between the steps: it then
    sees the rate of the step, unless it computes something of the rate before the first.
    """
    declared = inspect.signature(transcription).parameters

    def run(case: Case, extras: Mapping[str, Any]) -> Iterator[Snapshot]:
        given = dict(case.hyperparameters)
        if case.rates is not None:
            given["lr"] = np.array(case.rates[0])
        theta = [_array(leaf) for leaf in tree.leaves(case.params)]
        columns = [[_array(leaf) for leaf in tree.leaves(grads)] for grads in case.gradients]
        of_all = {name: value for name, value in extras.items() if name in declared}
        with np.errstate(all="ignore"):
            rows = iter(
                _whole(transcription, theta, columns, given | of_all)
                if getattr(transcription, "whole_tree", False)
                else _by_leaf(transcription, theta, columns, given, of_all)
            )
            for step in range(len(case.gradients)):
                if case.rates is not None:
                    given["lr"][...] = case.rates[step]
                snapshot = next(rows, None)
                if snapshot is None:
                    return
                yield snapshot

    return run


def _whole(
    transcription: Transcription, theta: Any, columns: Any, given: Mapping[str, Any]
) -> Iterator[Snapshot]:
    for theta_and_state in transcription(theta, columns, **given):
        yield _snapshot(*_pair(theta_and_state))


def _by_leaf(
    transcription: Transcription,
    theta: Sequence[Any],
    columns: Sequence[Any],
    given: Mapping[str, Any],
    extras: Mapping[str, Sequence[Any]],
) -> Iterator[Snapshot]:
    def of_leaf(values: Sequence[Any], index: int) -> list[Any]:
        return [value[index] if isinstance(value, list) else value for value in values]

    runs = [
        transcription(
            leaf,
            [grads[index] for grads in columns],
            **given,
            **{name: of_leaf(values, index) for name, values in extras.items()},
        )
        for index, leaf in enumerate(theta)
    ]
    for row in zip(*runs, strict=True):
        pairs = [_pair(theta_and_state) for theta_and_state in row]
        names = pairs[0][1]
        yield _snapshot(
            [leaf for leaf, _ in pairs],
            {name: [state[name] for _, state in pairs] for name in names},
        )


def array_like(value: Any) -> Any:
    """Return an extra argument as transcriptions get it: arrays, a list of them for a tree."""
    if isinstance(value, Tensor):
        return _array(value)
    if isinstance(value, dict | list | tuple):
        return [_array(leaf) for leaf in tree.leaves(value)]
    return value


def _array(leaf: Tensor) -> Any:
    return leaf.detach().numpy().copy()


def _pair(yielded: Any) -> tuple[Any, Mapping[str, Any]]:
    if isinstance(yielded, tuple) and len(yielded) == 2 and isinstance(yielded[1], dict):
        return yielded
    return yielded, {}


def _snapshot(theta: Sequence[Any], state: Mapping[str, Any]) -> Snapshot:
    def tensors(values: Any) -> list[Tensor]:
        values = values if isinstance(values, list) else [values]
        return [_tensor(value) for value in values]

    return {"params": tensors(list(theta)), **{name: tensors(v) for name, v in state.items()}}


def _tensor(value: Any) -> Tensor:
    array = np.array(value)
    return torch.as_tensor(array if np.iscomplexobj(array) else array.astype(np.float64))


# --- torch.optim ---------------------------------------------------------------------------------


def _torch_runner(
    make: Callable[..., torch.optim.Optimizer],
) -> Callable[[Case, Mapping[str, Any]], Iterator[Snapshot]]:
    def run(case: Case, extras: Mapping[str, Any]) -> Iterator[Snapshot]:
        leaves = [leaf.clone() for leaf in tree.leaves(case.params)]
        with _in_float64():
            optimizer = make(leaves, **case.hyperparameters)
        for step, grads in enumerate(case.gradients):
            for group in optimizer.param_groups if case.rates is not None else []:
                group["lr"] = case.rates[step]  # type: ignore[index]
            for leaf, grad in zip(leaves, tree.leaves(grads), strict=True):
                leaf.grad = grad.clone()
            with _in_float64():
                optimizer.step()
            held = [optimizer.state[leaf] for leaf in leaves]
            known = {name for name in held[0] if all(state.get(name) is not None for state in held)}
            kept = {
                name: [torch.as_tensor(state[name]).clone() for state in held]
                for name in known - {"step"}
            }
            yield {"params": [leaf.clone() for leaf in leaves], **kept}

    return run


@contextlib.contextmanager
def _in_float64() -> Iterator[None]:
    """Let torch.optim keep its numbers of steps, products and rates in float64.

    It makes them in the default dtype, whatever that of the parameters is.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


# --- other recipes -------------------------------------------------------------------------------


def _recipe_runner(
    make: Callable[..., GradientTransformation],
) -> Callable[[Case, Mapping[str, Any]], Iterator[Snapshot]]:

    def run(case: Case, extras: Mapping[str, Any]) -> Iterator[Snapshot]:
        given, params, state = dict(case.hyperparameters), case.params, None
        for step, grads in enumerate(case.gradients):
            if case.rates is not None:
                given["lr"] = case.rates[step]
            optimizer = make(**given)
            state = optimizer.init(params) if step == 0 else state
            extra = {name: values[step] for name, values in extras.items()}
            updates, state = optimizer.update(grads, state, params, **extra)
            params = apply_updates(params, updates)
            named = {entry.name: tree.leaves(entry.value) for entry in entries(state)}
            yield {**named, "params": tree.leaves(params)}

    return run
