"""Hypothesis strategies: shapes, dtypes, tensors, trees, gradients over time, hyperparameters.

Each shrinks towards what one would write by hand: a scalar of float64, a dict with one leaf, a
constant gradient of ones, the defaults of a recipe.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from hypothesis import strategies as st
from torch import Tensor

from ..functional import tree
from .gradients import GradientSequence, Run

__all__ = [
    "dtypes",
    "gradient_sequences",
    "hyperparameters",
    "shapes",
    "tensors",
    "trees",
]

T = TypeVar("T")

#: A shape or dtype, or a strategy for one.
Shape = st.SearchStrategy[tuple[int, ...]] | Sequence[int]
DType = st.SearchStrategy[torch.dtype] | torch.dtype

_FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_COMPLEX = (torch.complex128, torch.complex64)
_INTEGER = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def dtypes(
    *,
    half: bool = True,
    complex: bool = False,  # noqa: A002 - torch's word
    integer: bool = False,
) -> st.SearchStrategy[torch.dtype]:
    """Draw floating-point dtypes, float64 the simplest; `half` adds bfloat16 and float16.

    >>> from hypothesis import find
    >>> find(dtypes(), lambda dtype: dtype.itemsize < 4)
    torch.bfloat16
    """
    chosen = _FLOATING if half else _FLOATING[:2]
    return st.sampled_from(chosen + _COMPLEX * complex + _INTEGER * integer)


def shapes(
    *, min_dims: int = 0, max_dims: int = 3, min_side: int = 1, max_side: int = 4
) -> st.SearchStrategy[tuple[int, ...]]:
    """Draw shapes, `()` the simplest; with `min_side=0` also shapes of empty tensors.

    >>> from hypothesis import find
    >>> find(shapes(), lambda shape: len(shape) == 2)
    (1, 1)
    """
    sides = st.integers(min_side, max_side)
    return st.lists(sides, min_size=min_dims, max_size=max_dims).map(tuple)


def tensors(
    shape: Shape | None = None,
    dtype: DType = torch.float64,
    elements: st.SearchStrategy[Any] | None = None,
) -> st.SearchStrategy[Tensor]:
    """Draw tensors, of zeros the simplest.

    Parameters
    ----------
    shape
        A shape or a strategy for one; by default `shapes()`.
    dtype
        A dtype or a strategy for one.
    elements
        A strategy for the numbers. By default finite ones between -10 and 10 (integers and booleans
        that the dtype has); those that it cannot represent are rounded.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(tensors(shape=(2,)), lambda x: x.sum() >= 1)
    tensor([0., 1.], dtype=torch.float64)
    """
    shape = shapes() if shape is None else shape

    @st.composite
    def drawn(draw: st.DrawFn) -> Tensor:
        sides, kind = draw(_strategy(shape)), draw(_strategy(dtype))
        numbers = _elements(kind) if elements is None else elements
        size = math.prod(sides)
        values = draw(st.lists(numbers, min_size=size, max_size=size))
        return torch.tensor(values, dtype=kind).reshape(tuple(sides))

    return drawn()


def trees(
    leaves: st.SearchStrategy[T] | None = None, *, min_leaves: int = 1, max_leaves: int = 5
) -> st.SearchStrategy[Any]:
    """Draw nested dicts, lists and tuples of `leaves` (by default `tensors()`).

    A dict with one leaf is the simplest; an empty subtree (`None`) may stand among the leaves.

    >>> from hypothesis import find
    >>> find(trees(st.just(0)), lambda drawn: len(tree.leaves(drawn)) == 2)
    {'a': 0, 'b': 0}
    """
    strategy: st.SearchStrategy[Any] = tensors() if leaves is None else leaves

    def containers(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        several = st.lists(children, min_size=1, max_size=max_leaves)
        return st.one_of(several.map(_named), several, several.map(tuple))

    nested = st.recursive(strategy | st.none(), containers, max_leaves=max_leaves)
    outermost = st.lists(nested, min_size=1, max_size=max_leaves).map(_named)
    return outermost.filter(lambda drawn: min_leaves <= len(tree.leaves(drawn)) <= max_leaves)


def gradient_sequences(
    params: Any, *, steps: int = 60, exponents: tuple[int, int] = (-8, 2)
) -> st.SearchStrategy[GradientSequence]:
    """Draw the gradients of `steps` steps for `params`, each leaf with its own course.

    A course is a few runs (`Run`), repeated: constant, flipping its sign, decreasing, zero, a spike
    or noisy, at scales from 1e-8 to 1e2. The simplest is constant. The first gradient of a leaf is
    not zero unless the leaf is empty, so that no drawn sequence leaves a leaf where it was.

    Parameters
    ----------
    params
        A tree of floating-point or complex tensors.
    steps
        How many gradients.
    exponents
        The smallest and largest power of ten.

    Returns
    -------
    A strategy for sequences of trees like `params`; their `repr` tells the runs.

    Examples
    --------
    >>> from hypothesis import find
    >>> params = {"w": torch.ones(2)}
    >>> find(gradient_sequences(params, steps=3), lambda grads: grads[1]["w"][0] < 0)
    GradientSequence(3 steps: {"grads['w']": [2 x flipping 1e0]})
    >>> find(gradient_sequences(params, steps=3), lambda grads: True)[0]
    {'w': tensor([ 1.0000, -0.5000])}
    """
    lowest, highest = exponents
    exponent = st.integers(lowest, highest)
    length = st.integers(2, max(2, min(steps, 20)))
    moving = st.builds(Run, st.sampled_from(_MOVING), exponent, length)
    later = st.builds(Run, st.sampled_from((*_MOVING, "zero")), exponent, length)
    course = st.tuples(moving, st.lists(later, max_size=4)).map(lambda runs: [runs[0], *runs[1]])
    count = len(tree.leaves(params))
    return st.builds(
        lambda seed, runs: GradientSequence(params, steps, seed, runs),
        st.integers(0, 2**16),
        st.lists(course, min_size=count, max_size=count),
    )


def hyperparameters(
    recipe: Callable[..., Any], **overrides: st.SearchStrategy[Any]
) -> st.SearchStrategy[dict[str, Any]]:
    """Draw hyperparameters that `recipe` takes: keyword arguments, of which it has the others.

    What is drawn follows from the names in its signature (`lr`, `betas`, `eps`, `weight_decay`,
    `momentum`, ...) and, of flags, from the default. Nesterov's momentum is drawn without dampening
    and with a momentum above 0, as the recipes demand; what a recipe refuses itself, with a
    `ValueError`, is not drawn. Parameters of other names keep their defaults.

    Parameters
    ----------
    recipe
        A recipe of `purefn.optim`, a class of torch.optim, or anything with such a signature.
    overrides
        Strategies for parameters by name, instead of those above or where there is none.

    Returns
    -------
    A strategy for dicts; the empty one, all defaults, is the simplest.

    Raises
    ------
    TypeError
        `recipe` has no parameter of the name of an override, or one without a default and of a name
        unknown here; or an override is not a strategy.

    Examples
    --------
    >>> from hypothesis import find
    >>> from purefn import optim
    >>> drawn = find(hyperparameters(optim.sgd), lambda drawn: drawn.get("nesterov"))
    >>> drawn["momentum"] > 0
    True
    >>> find(hyperparameters(optim.adam, lr=st.just(0.5)), lambda drawn: "lr" in drawn)
    {'lr': 0.5}
    """
    parameters = _parameters(recipe)
    _check_overrides(recipe, parameters, overrides)
    required, optional = {}, {}
    for name, parameter in parameters.items():
        strategy = overrides.get(name, _strategy_for(parameter))
        if parameter.default is not parameter.empty and strategy is not None:
            optional[name] = strategy
        elif parameter.default is parameter.empty and strategy is not None:
            required[name] = strategy
        elif parameter.default is parameter.empty:
            raise TypeError(
                f"hyperparameters: {name!r} has no default and no strategy is known for this name; "
                f"pass one: hyperparameters({_name(recipe)}, {name}=st.floats(0, 1))."
            )
    drawn = st.fixed_dictionaries(required, optional=optional)
    consistent = drawn.map(lambda values: _consistent(values, parameters, overrides))
    return consistent.filter(lambda values: _is_accepted(recipe, values))


# --- elements and courses ------------------------------------------------------------------------

_MOVING = ("constant", "flipping", "decreasing", "spike", "noisy")


def _strategy(value: Any) -> st.SearchStrategy[Any]:
    return value if isinstance(value, st.SearchStrategy) else st.just(value)


def _named(children: Sequence[Any]) -> dict[str, Any]:
    return dict(zip("abcdefghijklmnopqrstuvwxyz", children, strict=False))


def _elements(dtype: torch.dtype) -> st.SearchStrategy[Any]:
    if dtype is torch.bool:
        return st.booleans()
    if dtype.is_complex:
        return st.builds(complex, st.floats(-10, 10), st.floats(-10, 10))
    if dtype.is_floating_point:
        return st.floats(-10, 10)
    return st.integers(max(-10, torch.iinfo(dtype).min), 10)


# --- hyperparameters -----------------------------------------------------------------------------

#: For a parameter of a name, values; the first is the simplest.
_VALUES: Mapping[str, Sequence[Any]] = {
    "lr": (0.1, 0.01, 1e-3, 0.5, 1.0),
    "b1": (0.9, 0.5, 0.0, 0.99),
    "b2": (0.999, 0.9, 0.99, 0.5),
    "eps": (1e-8, 1e-3, 0.1, 1e-12),
    "weight_decay": (0.1, 0.01, 0.5, 0.0),
    "momentum": (0.9, 0.5, 0.99, 0.0),
    "dampening": (0.5, 0.1, 1.0, 0.0),
    "momentum_decay": (4e-3, 0.1, 0.0),
    "alpha": (0.99, 0.9, 0.5, 0.0),
    "rho": (0.9, 0.5, 0.99, 0.0),
    "lambd": (1e-4, 0.1, 0.0),
    "t0": (1e6, 10.0, 0.0),
    "lr_decay": (0.1, 0.01, 0.0),
    "initial_accumulator_value": (0.1, 1.0, 0.0),
    "etas": ((0.5, 1.2), (0.9, 1.1), (0.1, 3.0)),
    "step_sizes": ((1e-6, 50.0), (1e-3, 0.1), (1e-2, 1.0)),
    "beta2_decay": (-0.8, -0.5, -1.0),
    "d": (1.0, 2.0),
    "ns_steps": (5, 1, 3),
    "trust_coefficient": (1e-3, 0.1),
    "d0": (1e-6, 1e-3),
    "d_coef": (1.0, 0.5),
    "growth_rate": (math.inf, 1.02),
    "eta": (0.01, 0.1),
    "gamma": (0.55, 0.01, 0.9),
    "beta": (1.0, 0.5),
    "warmup_steps": (0, 5),
    "weight_lr_power": (2.0, 1.0),
    "precondition_frequency": (1, 3),
}
#: What torch.optim takes beside hyperparameters.
_NO_HYPERPARAMETERS = {"params", "foreach", "fused", "capturable", "differentiable"}


def _parameters(recipe: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        name: parameter
        for name, parameter in inspect.signature(recipe).parameters.items()
        if parameter.kind in named and name not in _NO_HYPERPARAMETERS
    }


def _strategy_for(parameter: inspect.Parameter) -> st.SearchStrategy[Any] | None:
    """Return what to draw for a parameter, by its name and its default; None if unknown."""
    name, default = parameter.name, parameter.default
    if isinstance(default, bool):
        return st.sampled_from((not default, default))
    if name == "betas":
        size = len(default) if isinstance(default, tuple) else 2
        later = [st.sampled_from(_VALUES["b2"])] * (size - 1)
        return st.tuples(st.sampled_from(_VALUES["b1"]), *later)
    if name == "eps" and isinstance(default, tuple):  # adafactor's, of two different meanings
        return st.tuples(st.sampled_from((default[0], 1e-30, 1e-3)), st.sampled_from((1e-3, 0.1)))
    if name not in _VALUES:
        return None
    return st.sampled_from(_VALUES[name])


def _consistent(
    values: dict[str, Any],
    parameters: Mapping[str, inspect.Parameter],
    overrides: Mapping[str, Any],
) -> dict[str, Any]:
    """Give Nesterov's momentum what it needs, where that is not overridden."""

    def value(name: str) -> Any:
        return values.get(name, parameters[name].default if name in parameters else 0)

    if not value("nesterov"):
        return values
    changed = dict(values)
    if value("dampening") and "dampening" not in overrides:
        changed.pop("dampening")
    if value("momentum") == 0 and "momentum" in parameters and "momentum" not in overrides:
        changed["momentum"] = _VALUES["momentum"][0]
    return {name: changed[name] for name in parameters if name in changed}


def _is_accepted(recipe: Callable[..., Any], values: Mapping[str, Any]) -> bool:
    """Say whether a recipe takes these values; a class of torch.optim is not asked."""
    if "params" in inspect.signature(recipe).parameters:
        return True
    try:
        recipe(**values)
    except ValueError:
        return False
    return True


def _check_overrides(
    recipe: Callable[..., Any], parameters: Mapping[str, Any], overrides: Mapping[str, Any]
) -> None:
    for name, strategy in overrides.items():
        if name not in parameters:
            raise TypeError(
                f"hyperparameters: {_name(recipe)} has no hyperparameter {name!r}; it has "
                f"{', '.join(parameters)}."
            )
        if not isinstance(strategy, st.SearchStrategy):
            raise TypeError(
                f"hyperparameters: expected a strategy for {name!r}, got {strategy!r}; for one "
                f"value write {name}=st.just({strategy!r})."
            )


def _name(recipe: Callable[..., Any]) -> str:
    return getattr(recipe, "__name__", repr(recipe))
