"""What a layer is: a pair of pure functions, one making parameters and one using them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
)

from .. import tree
from ..abstract import ShapeDtype
from ..staging.errors import TraceError

#: Errors that say nothing about a layer's input and have a message of their own.
_NOT_THE_LAYERS = (
    TraceError,
    TorchDynamoException,
    DataDependentOutputException,
    DynamicOutputShapeException,
    torch.OutOfMemoryError,
)

Params = tree.PyTree
State = tree.PyTree
#: Makes a layer again, of other parts.
Rebuild = Callable[[Mapping[str, "Layer | StatefulLayer"]], "Layer | StatefulLayer"]


class LayerError(ValueError):
    """What a layer refuses: an input, parameters, a state or a missing key that does not fit.

    The message begins with the place of the layer in the model, as in
    `model['features']['conv2']: conv2d expected ...`; each combinator adds its part's name to
    `path` while the error passes through.

    Examples
    --------
    >>> error = LayerError("expected a key")
    >>> error.path = ("features", "drop")
    >>> print(error)
    model['features']['drop']: expected a key
    """

    __module__ = "purefn.functional.nn"  # what a traceback calls it: the place to import it from

    # Set from outside: Dynamo does not trace an exception class with a constructor of its own.
    path: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the problem, with the place where it is known."""
        problem = super().__str__()
        if not self.path:
            return problem
        return f"model{''.join(f'[{name!r}]' for name in self.path)}: {problem}"


class Apply(Protocol):
    """The type of `Layer.apply`."""

    def __call__(
        self, params: Params, x: Any, *, key: Tensor | None = None, train: bool = False
    ) -> Any:
        """Return the output of the layer."""


class StatefulApply(Protocol):
    """The type of `StatefulLayer.apply`."""

    def __call__(
        self,
        params: Params,
        state: State,
        x: Any,
        *,
        key: Tensor | None = None,
        train: bool = False,
    ) -> tuple[Any, State]:
        """Return the output of the layer and its next state."""


@dataclass(frozen=True)
class Layer:
    """A pair of pure functions, callable as the second of them.

    Parameters
    ----------
    init
        `init(key, x) -> params` draws parameters for inputs like `x`, a tensor or `ShapeDtype`
        of which only shape and dtype matter. Parameters are a dict, `{}` where there are none;
        they have the dtype of `x` where that is a floating-point one, else float32, and live on
        the device of the key.
    apply
        `apply(params, x, *, key=None, train=False) -> y`. The key is needed only by layers that
        draw random numbers in training.
    uses_key
        Whether `apply` may read its key; combinators split no keys for parts that do not.
    kind
        What a summary calls the layer; where it is "", the function that made it.
    parts, rebuild
        The layers that this one is made of, by the name that their parameters have in its own,
        and the function that makes it again of others: what `nn.at` and `nn.tabulate` go by.

    Examples
    --------
    >>> scale = Layer(
    ...     init=lambda key, x: {"factor": torch.ones(())},
    ...     apply=lambda params, x, *, key=None, train=False: params["factor"] * x,
    ... )
    >>> x = torch.arange(3.0)
    >>> scale(scale.init(torch.zeros(2, dtype=torch.uint32), x), x)
    tensor([0., 1., 2.])
    """

    init: Callable[[Tensor, Any], Params]
    apply: Apply
    uses_key: bool = True
    kind: str = field(default="", kw_only=True, compare=False)
    parts: Mapping[str, Layer | StatefulLayer] = field(
        default_factory=dict, kw_only=True, compare=False, repr=False
    )
    rebuild: Rebuild | None = field(default=None, kw_only=True, compare=False, repr=False)

    def __call__(
        self, params: Params, x: Any, *, key: Tensor | None = None, train: bool = False
    ) -> Any:
        """Return `self.apply(params, x, key=key, train=train)`."""
        return self.apply(params, x, key=key, train=train)


@dataclass(frozen=True)
class StatefulLayer:
    """A layer that also hands a state from one call to the next; nothing is written in place.

    Parameters
    ----------
    init
        `init(key, x) -> (params, state)`; otherwise as for `Layer`.
    apply
        `apply(params, state, x, *, key=None, train=False) -> (y, state)`.
    uses_key, kind, parts, rebuild
        As for `Layer`.

    Examples
    --------
    >>> counter = StatefulLayer(
    ...     init=lambda key, x: ({}, {"calls": torch.tensor(0)}),
    ...     apply=lambda params, state, x, *, key=None, train=False: (
    ...         x, {"calls": state["calls"] + 1}
    ...     ),
    ... )
    >>> params, state = counter.init(torch.zeros(2, dtype=torch.uint32), torch.ones(1))
    >>> counter(params, state, torch.ones(1))
    (tensor([1.]), {'calls': tensor(1)})
    """

    init: Callable[[Tensor, Any], tuple[Params, State]]
    apply: StatefulApply
    uses_key: bool = True
    kind: str = field(default="", kw_only=True, compare=False)
    parts: Mapping[str, Layer | StatefulLayer] = field(
        default_factory=dict, kw_only=True, compare=False, repr=False
    )
    rebuild: Rebuild | None = field(default=None, kw_only=True, compare=False, repr=False)

    def __call__(
        self,
        params: Params,
        state: State,
        x: Any,
        *,
        key: Tensor | None = None,
        train: bool = False,
    ) -> tuple[Any, State]:
        """Return `self.apply(params, state, x, key=key, train=train)`."""
        return self.apply(params, state, x, key=key, train=train)


def lift(fun: Callable[[Any], Any], name: str | None = None) -> Layer:
    """Return the layer without parameters that computes `fun`, a pure function of a tensor.

    Combinators do this to every function they are given, so that `torch.relu` or a lambda serves
    as a layer. Errors call it `name`, by default the name of `fun`.

    Raises
    ------
    TypeError
        `fun` is not callable, or is a `torch.nn.Module`, whose parameters would stay hidden.
    LayerError
        On use: `fun` fails on its input. The message says what arrived. What the compiler raises
        while it traces, and a lack of memory, pass unchanged.

    Examples
    --------
    >>> square = lift(lambda x: x * x)
    >>> square({}, torch.tensor([2.0, 3.0]))
    tensor([4., 9.])
    """
    name = name or str(getattr(fun, "__name__", type(fun).__name__))
    if isinstance(fun, torch.nn.Module):
        raise TypeError(
            f"expected a Layer or a pure function, got the torch.nn.Module {name}: a module hides "
            "parameters and modes. Use the layer of purefn.functional.nn or a function such as "
            "torch.relu."
        )
    if not callable(fun):
        raise TypeError(f"expected a Layer or a function, got {fun!r}.")

    def apply(params: Params, x: Any, *, key: Tensor | None = None, train: bool = False) -> Any:
        if params != {}:
            raise LayerError(f"{name} has no parameters, got {describe(params)}.")
        try:
            return fun(x)
        except (LayerError, *_NOT_THE_LAYERS):
            raise
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            raise LayerError(f"{name} failed on {describe(x)}: {error}") from error

    return Layer(lambda key, x: {}, apply, uses_key=False, kind=name)


def in_part(part: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a function of a part; an error that it raises begins with the part's name.

    >>> in_part("head", lift(torch.linalg.inv).apply, {}, torch.ones(2))
    Traceback (most recent call last):
    purefn.functional.nn.LayerError: model['head']: linalg_inv failed on ...
    """
    try:
        return function(*args, **options)
    except LayerError as error:
        error.path = (part, *error.path)
        raise


def describe(value: Any) -> str:
    """Return a short description of an argument for an error message.

    >>> describe({"weight": torch.ones(2, 3)})
    "a dict of ['weight']"
    >>> describe(torch.ones(2, 3))
    'a torch.float32 tensor of shape (2, 3)'
    """
    if isinstance(value, Tensor | ShapeDtype):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        library = type(value).__module__.partition(".")[0]
        return f"a {library} array of {value.dtype} and shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a dict of {sorted(value, key=str)}" if value else "an empty dict"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of length {len(value)}"
    return f"{type(value).__name__} {value!r}"
