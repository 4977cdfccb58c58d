"""Building models of layers: chains, fans and residual connections.

Each combinator is written once, over stateful parts; `simplest` takes the empty state away again
where no part has one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, overload

import torch
from torch import Tensor

from .. import random, tree
from ..abstract import ShapeDtype, eval_shape
from ..random.threefry import check_key
from .activations import identity
from .layer import (
    Layer,
    LayerError,
    Params,
    Rebuild,
    State,
    StatefulLayer,
    describe,
    in_part,
    lift,
)

Stateless = Layer | Callable[[Any], Any]
Part = Layer | StatefulLayer | Callable[[Any], Any]


@overload
def serial(*layers: Stateless, **named: Stateless) -> Layer: ...  # type: ignore[overload-overlap]
@overload
def serial(*layers: Part, **named: Part) -> StatefulLayer: ...
def serial(*layers: Part, **named: Part) -> Layer | StatefulLayer:
    """Return the chain of layers: each receives what the one before it returns.

    Parameters and state are dicts by part name. Positional parts are called "0", "1", ... as in
    `torch.nn.Sequential`, and parts without parameters are left out, so that
    `tree.to_state_dict(params)` has the names of the torch model. Part number `i` receives the
    key `random.split(key, number_of_parts)[i]`, in `init` and in `apply`.

    Parameters
    ----------
    layers, named
        Layers, or pure functions of a tensor. The result is stateful when one of them is.

    Raises
    ------
    TypeError
        A part is neither a layer nor a function, or is a `torch.nn.Module`.
    LayerError
        A part refuses its input or parameters (the message begins with the path of the part), or
        the parameters hold a name that no part has.

    Examples
    --------
    >>> import torch
    >>> from purefn.functional import nn
    >>> model = nn.serial(hidden=nn.linear(16), act=torch.relu, head=nn.linear(3))
    >>> params = model.init(random.key(0), torch.ones(2, 5))
    >>> sorted(tree.to_state_dict(params))
    ['head.bias', 'head.weight', 'hidden.bias', 'hidden.weight']
    >>> model(params, torch.ones(2, 5)).shape
    torch.Size([2, 3])
    >>> model(params, torch.ones(2, 7))
    Traceback (most recent call last):
    purefn.functional.nn.LayerError: model['hidden']: linear expected an input of shape \
(..., 5), got (2, 7).
    """
    return combination(
        "serial",
        named_parts("serial", layers, named),
        next_input=lambda name, x, y: y,
        result=lambda outputs, x: x,
    )


@overload
def parallel(*layers: Stateless, **named: Stateless) -> Layer: ...  # type: ignore[overload-overlap]
@overload
def parallel(*layers: Part, **named: Part) -> StatefulLayer: ...
def parallel(*layers: Part, **named: Part) -> Layer | StatefulLayer:
    """Return the layer that gives its input to every part and returns the tuple of outputs.

    Names, parameters, state, keys and errors are as for `serial`.

    Examples
    --------
    >>> import torch
    >>> from purefn.functional import nn
    >>> branches = nn.parallel(wide=nn.linear(8), narrow=nn.linear(2))
    >>> model = nn.serial(branches=branches, join=lambda outputs: torch.cat(outputs, dim=-1))
    >>> params = model.init(random.key(0), torch.ones(4, 3))
    >>> model(params, torch.ones(4, 3)).shape
    torch.Size([4, 10])
    """
    return _fan("parallel", named_parts("parallel", layers, named))


@overload
def residual(body: Stateless, shortcut: Stateless = ...) -> Layer: ...  # type: ignore[overload-overlap]
@overload
def residual(body: Part, shortcut: Part = ...) -> StatefulLayer: ...
def residual(body: Part, shortcut: Part = identity) -> Layer | StatefulLayer:
    """Return the layer `y = shortcut(x) + body(x)`; the shortcut is `x` itself unless one is given.

    The parts are called "body" and "shortcut" in parameters, state and errors.

    Raises
    ------
    LayerError
        The two outputs are not tensors of one shape and dtype (nothing is broadcast or cast, except
        under autocast), or a part refuses its input.

    Examples
    --------
    >>> import torch
    >>> from purefn.functional import nn
    >>> block = nn.residual(nn.serial(torch.relu, nn.linear(5)))
    >>> params = block.init(random.key(0), torch.ones(2, 5))
    >>> list(tree.to_state_dict(params))
    ['body.1.bias', 'body.1.weight']
    """
    parts = named_parts("residual", (), {"body": body, "shortcut": shortcut})
    branches = as_stateful(_fan("residual", parts))

    def init(key: Tensor, x: Any) -> tuple[Params, State]:
        params, state = branches.init(key, x)
        eval_shape(apply, *abstract((params, state, x), key))
        return params, state

    def apply(
        params: Params, state: State, x: Any, *, key: Tensor | None = None, train: bool = False
    ) -> tuple[Any, State]:
        (y, kept), state = branches.apply(params, state, x, key=key, train=train)
        _check_summands(y, kept, x)
        return kept + y, state

    return _with_parts(
        "residual",
        parts,
        StatefulLayer(init, apply, branches.uses_key),
        rebuild=lambda parts: residual(**parts),
    )


def _check_summands(y: Any, kept: Any, x: Any) -> None:
    """Refuse to add what are not two tensors of one shape and dtype."""
    are_tensors = isinstance(y, Tensor) and isinstance(kept, Tensor)
    if not are_tensors or y.shape != kept.shape or not _same_dtype(y, kept):
        raise LayerError(
            "residual expected its body and its shortcut to return tensors of one shape and dtype, "
            f"got {describe(y)} and {describe(kept)} for {describe(x)}."
        )


def _same_dtype(y: Tensor, kept: Tensor) -> bool:
    """Say whether the dtypes agree, or differ by autocast alone."""
    floating = y.is_floating_point() and kept.is_floating_point()
    return y.dtype == kept.dtype or (floating and torch.is_autocast_enabled(y.device.type))


def _fan(kind: str, parts: Mapping[str, Layer | StatefulLayer]) -> Layer | StatefulLayer:
    """Return the layer that gives its input to every part and returns the tuple of outputs."""
    return combination(
        kind, parts, next_input=lambda name, x, y: x, result=lambda outputs, x: tuple(outputs)
    )


def combination(
    kind: str,
    parts: Mapping[str, Layer | StatefulLayer],
    next_input: Callable[[str, Any, Any], Any],
    result: Callable[[list[Any], Any], Any],
) -> Layer | StatefulLayer:
    """Return the layer that runs its parts in order.

    A part that turned `x` into `y` leaves `next_input(name, x, y)` to the one after it, and the
    whole returns `result(outputs, x)` of all outputs and the `x` left by the last part.
    """
    stateful = {name: as_stateful(part) for name, part in parts.items()}
    uses_key = any(part.uses_key for part in stateful.values())

    def init(key: Tensor, x: Any) -> tuple[Params, State]:
        check_key(f"{kind}.init", key)
        x = abstract(x, key)
        params: dict[str, Params] = {}
        state: dict[str, State] = {}
        for (name, part), part_key in zip(stateful.items(), _split(key, parts), strict=True):
            params[name], state[name] = in_part(name, part.init, part_key, x)
            made = abstract((params[name], state[name]), key)
            y, _ = in_part(name, eval_shape, part.apply, *made, x)
            x = next_input(name, x, y)
        return _without_empty(params), _without_empty(state)

    def apply(
        params: Params, state: State, x: Any, *, key: Tensor | None = None, train: bool = False
    ) -> tuple[Any, State]:
        check_names(kind, "parameters", parts, params)
        check_names(kind, "a state", parts, state)
        keys = [None] * len(parts) if key is None or not uses_key else _split(key, parts)
        outputs: list[Any] = []
        new_state: dict[str, State] = {}
        for (name, part), part_key in zip(stateful.items(), keys, strict=True):
            own = params.get(name, {}), state.get(name, {})
            y, new_state[name] = in_part(name, part.apply, *own, x, key=part_key, train=train)
            outputs.append(y)
            x = next_input(name, x, y)
        return result(outputs, x), _without_empty(new_state)

    def rebuild(parts: Mapping[str, Layer | StatefulLayer]) -> Layer | StatefulLayer:
        return combination(kind, parts, next_input, result)

    return _with_parts(kind, parts, StatefulLayer(init, apply, uses_key), rebuild)


def named_parts(
    kind: str, layers: tuple[Part, ...], named: Mapping[str, Part]
) -> dict[str, Layer | StatefulLayer]:
    """Return the parts by name, positional ones first, functions lifted to layers."""
    parts: dict[str, Layer | StatefulLayer] = {}
    positional = [(str(index), layer) for index, layer in enumerate(layers)]
    for name, part in [*positional, *named.items()]:
        if name in parts or "." in name:
            raise ValueError(
                f"{kind}: expected part names that are unique and without dots, got {name!r}."
            )
        try:
            parts[name] = part if isinstance(part, Layer | StatefulLayer) else lift(part)
        except TypeError as error:
            raise TypeError(f"{kind}: part {name!r}: {error}") from None
    return parts


def as_stateful(layer: Layer | StatefulLayer) -> StatefulLayer:
    """Return `layer` with a state, `{}` where it has none."""
    if isinstance(layer, StatefulLayer):
        return layer

    def apply(
        params: Params, state: State, x: Any, *, key: Tensor | None = None, train: bool = False
    ) -> tuple[Any, State]:
        return layer.apply(params, x, key=key, train=train), {}

    return StatefulLayer(lambda key, x: (layer.init(key, x), {}), apply, layer.uses_key)


def _with_parts(
    kind: str,
    parts: Mapping[str, Layer | StatefulLayer],
    layer: StatefulLayer,
    rebuild: Rebuild,
) -> Layer | StatefulLayer:
    """Return `layer` with its parts, and without its state, always empty, when no part has one."""
    layer = replace(layer, kind=kind, parts=parts, rebuild=rebuild)
    has_state = any(isinstance(part, StatefulLayer) for part in parts.values())
    return layer if has_state else simplest(layer)


def simplest(layer: StatefulLayer) -> Layer:
    """Return a layer whose state is always empty without it."""

    def apply(params: Params, x: Any, *, key: Tensor | None = None, train: bool = False) -> Any:
        return layer.apply(params, {}, x, key=key, train=train)[0]

    return Layer(
        lambda key, x: layer.init(key, x)[0],
        apply,
        layer.uses_key,
        kind=layer.kind,
        parts=layer.parts,
        rebuild=layer.rebuild,
    )


def stateless_parts(kind: str, parts: Mapping[str, Layer | StatefulLayer]) -> dict[str, Layer]:
    """Return the parts of a layer that hands no state on, or refuse one that has a state."""
    found = {}
    for name, part in parts.items():
        if not isinstance(part, Layer):
            raise TypeError(
                f"{kind}: expected a Layer, which has no state, for {name!r}, got {part!r}."
            )
        found[name] = part
    return found


def check_names(
    kind: str, what: str, parts: Mapping[str, Layer | StatefulLayer], given: Any
) -> None:
    """Refuse what is not a dict by part name; parts without parameters may be missing."""
    if not isinstance(given, Mapping):
        raise LayerError(
            f"{kind} expected {what} as a dict by part name ({list(parts)}), got "
            f"{describe(given)}; the order of arguments is (params, x) or (params, state, x)."
        )
    unknown = [name for name in given if name not in parts]
    if unknown:
        raise LayerError(f"{kind} got {what} for {unknown}; its parts are {list(parts)}.")


def _split(key: Tensor, parts: Mapping[str, Any]) -> Sequence[Tensor]:
    """Return a key for each part, by its position."""
    return random.split(key, len(parts)).unbind(0) if parts else ()


def _without_empty(trees: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in trees.items() if not _is_empty_dict(value)}


def _is_empty_dict(value: Any) -> bool:
    return isinstance(value, dict) and not value


def abstract(values: tree.PyTree, key: Tensor) -> tree.PyTree:
    """Return shapes and dtypes, on the device where parameters drawn with `key` live.

    A key on the device "meta" draws parameters without values, and as many. Autocast, for which
    layers ask, knows no such device; shapes are the same on a CPU.
    """
    device = torch.device("cpu") if key.is_meta else key.device
    return tree.map(lambda leaf: ShapeDtype(leaf.shape, leaf.dtype, device), values)
