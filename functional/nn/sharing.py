"""Weight sharing: two places of a model with one set of parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, overload

from torch import Tensor

from .. import tree
from .layer import Layer, LayerError, Params, State, StatefulLayer, describe

#: Names of what is shared: that of a tied leaf or subtree, and that of the one it is read from.
Ties = Mapping[str, str]


@overload
def tie(layer: Layer, ties: Ties) -> Layer: ...
@overload
def tie(layer: StatefulLayer, ties: Ties) -> StatefulLayer: ...
def tie(layer: Layer | StatefulLayer, ties: Ties) -> Layer | StatefulLayer:
    """Return `layer` with some parameters read from where others are.

    With `ties={"decoder.weight": "encoder.weight"}` the parameters hold no `decoder.weight`, and
    the decoder computes with the encoder's, whose gradient is the sum over both uses. What is tied
    is a leaf or a subtree; the state is not tied. Press & Wolf 2017, Using the output embedding to
    improve language models (arXiv:1608.05859).

    A torch module with tied weights lists both names in its state dict: `tie_params` makes
    parameters of them, and `untie_params` gives them back. Where a whole layer is used twice, an
    ordinary function that calls it twice with the same parameters does as well.

    Parameters
    ----------
    layer
        A layer whose parameters are nested dicts.
    ties
        For each tied name that of its source. A source is not itself tied, nor above or below
        anything tied.

    Raises
    ------
    TypeError, ValueError
        `ties` is not as above.
    LayerError
        In `init`, the parameters have no such name, or the two differ in shape, dtype or
        structure. On use, the parameters hold the tied name all the same, or not that of its
        source; or `layer` refuses its input or parameters.

    Examples
    --------
    >>> import torch
    >>> from purefn.functional import nn, random
    >>> model = nn.serial(encoder=nn.embedding(7, 4), decoder=nn.linear(7, bias=False))
    >>> tied = tie(model, {"decoder.weight": "encoder.weight"})
    >>> words = torch.tensor([[3, 5]])
    >>> params = tied.init(random.key(0), words)
    >>> list(tree.to_state_dict(params))
    ['encoder.weight']
    >>> tied(params, words).shape
    torch.Size([1, 2, 7])
    """
    if not isinstance(layer, Layer | StatefulLayer):
        raise TypeError(f"tie: expected a Layer or a StatefulLayer, got {layer!r}.")
    ties = _checked(ties)

    def rebuild(parts: Any) -> Any:
        assert layer.rebuild is not None
        return tie(layer.rebuild(parts), ties)

    again = None if layer.rebuild is None else rebuild

    if isinstance(layer, StatefulLayer):
        stateful = layer

        def init_stateful(key: Tensor, x: Any) -> tuple[Params, State]:
            params, state = stateful.init(key, x)
            return _without(params, ties), state

        def apply_stateful(
            params: Params, state: State, x: Any, *, key: Tensor | None = None, train: bool = False
        ) -> tuple[Any, State]:
            return stateful.apply(untie_params(params, ties), state, x, key=key, train=train)

        return replace(layer, init=init_stateful, apply=apply_stateful, kind="tie", rebuild=again)

    def init(key: Tensor, x: Any) -> Params:
        return _without(layer.init(key, x), ties)

    def apply(params: Params, x: Any, *, key: Tensor | None = None, train: bool = False) -> Any:
        return layer.apply(untie_params(params, ties), x, key=key, train=train)

    return replace(layer, init=init, apply=apply, kind="tie", rebuild=again)


def untie_params(params: Params, ties: Ties) -> Params:
    """Return the parameters of the layer inside of `tie`: with a leaf in every place.

    Both places hold the same tensors, as in the state dict of a torch module with tied weights.

    Raises
    ------
    LayerError
        The parameters hold a tied name, or lack the name of a source.

    Examples
    --------
    >>> import torch
    >>> params = {"encoder": {"weight": torch.ones(2)}}
    >>> untie_params(params, {"decoder.weight": "encoder.weight"})
    {'encoder': {'weight': tensor([1., 1.])}, 'decoder': {'weight': tensor([1., 1.])}}
    """
    ties = _checked(ties)
    sources = {tied: _found(params, source) for tied, source in ties.items()}
    for tied, value in sources.items():
        params = _inserted(params, tied.split("."), value, tied)
    return params


def tie_params(params: Params, ties: Ties) -> Params:
    """Return the parameters of `tie(layer, ties)` made of those of `layer`, where they are equal.

    Raises
    ------
    LayerError
        The parameters lack a name, or what is to be tied differs in shape, dtype or value.

    Examples
    --------
    >>> import torch
    >>> both = {"encoder": {"weight": torch.ones(2)}, "decoder": {"weight": torch.ones(2)}}
    >>> tie_params(both, {"decoder.weight": "encoder.weight"})
    {'encoder': {'weight': tensor([1., 1.])}}
    """
    ties = _checked(ties)
    rest = _without(params, ties)
    for tied, source in ties.items():
        pair = _found(params, tied), _found(params, source)
        if not tree.all(tree.map(_is_equal, *pair)):
            raise LayerError(
                f"tie expected equal parameters for {tied!r} and {source!r}, got other values."
            )
    return rest


def _is_equal(one: Tensor, two: Tensor) -> bool:
    """Say whether two leaves of one shape have the same values, of which NaN is one."""
    return bool(((one == two) | (one.isnan() & two.isnan())).all())


def _checked(ties: Any) -> dict[str, str]:
    """Refuse what does not say which name is read from which."""
    if not isinstance(ties, Mapping) or not ties:
        raise TypeError(
            "tie: expected a dict of names such as {'decoder.weight': 'encoder.weight'} for ties, "
            f"got {ties!r}."
        )
    for name in (*ties, *ties.values()):
        if not isinstance(name, str) or "" in name.split("."):
            raise TypeError(f"tie: expected names joined by dots in ties, got {name!r}.")
    for tied in ties:
        for other in (*(name for name in ties if name != tied), *ties.values()):
            if f"{tied}.".startswith(f"{other}.") or f"{other}.".startswith(f"{tied}."):
                raise ValueError(
                    f"tie: expected names of places apart from each other, got {tied!r} and "
                    f"{other!r}; a source is not tied itself."
                )
    return dict(ties)


def _found(params: Params, name: str) -> Params:
    """Return the leaf or subtree of that name."""
    value = params
    for entry in name.split("."):
        if not isinstance(value, Mapping) or entry not in value:
            is_dict = isinstance(params, Mapping)
            raise LayerError(
                f"tie expected parameters with the name {name!r}, got "
                f"{list(tree.to_state_dict(params)) if is_dict else describe(params)}."
            )
        value = value[entry]
    return value


def _without(params: Params, ties: Ties) -> Params:
    """Return parameters without what is tied, which must be like its source."""
    for tied, source in ties.items():
        own, other = _found(params, tied), _found(params, source)
        alike = tree.structure(own) == tree.structure(other) and all(
            (one.shape, one.dtype) == (two.shape, two.dtype)
            for one, two in zip(tree.leaves(own), tree.leaves(other), strict=True)
        )
        if not alike:
            raise LayerError(
                f"tie expected {tied!r} to be like {source!r}, got {describe(own)} and "
                f"{describe(other)}."
            )
    for tied in ties:
        params = _removed(params, tied.split("."))
    return params


def _removed(params: Params, entries: list[str]) -> Params:
    """Return dicts without one entry, nor those that this leaves empty."""
    first, *rest = entries
    inner = _removed(params[first], rest) if rest else {}
    if inner:
        return {**params, first: inner}
    return {name: value for name, value in params.items() if name != first}


def _inserted(params: Params, entries: list[str], value: Params, tied: str) -> Params:
    """Return dicts with one entry more."""
    first, *rest = entries
    if not isinstance(params, Mapping) or (not rest and first in params):
        raise LayerError(
            f"tie expected parameters without {tied!r}, which is read from its source; "
            "nn.tie_params takes it away."
        )
    return {
        **params,
        first: _inserted(params.get(first, {}), rest, value, tied) if rest else value,
    }
