"""Replacing parts of a model by name: `tree.at` for layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..tree.paths import Where, select
from .layer import Layer, StatefulLayer, lift

AnyLayer = Layer | StatefulLayer
Place = tuple[str, ...]


class Parts:
    """Parts of a model; see `nn.at`.

    >>> from purefn.functional import nn
    >>> at(nn.serial(hidden=nn.linear(3), act=nn.relu), "hidden")
    <Parts 'hidden'>
    """

    def __init__(self, model: AnyLayer, *where: Where) -> None:
        if not isinstance(model, Layer | StatefulLayer):
            raise TypeError(f"nn.at: expected a Layer or a StatefulLayer, got {model!r}.")
        if not model.parts:
            raise ValueError("nn.at: expected a model of parts; this layer has none.")
        self._model = model
        self._places = select("nn.at", _names(model), where)

    def __repr__(self) -> str:
        """Show the names of the parts."""
        return f"<Parts {', '.join(map(repr, self.names))}>"

    @property
    def names(self) -> list[str]:
        """The names of the parts."""
        return [".".join(place) for place in self._places]

    def get(self) -> AnyLayer:
        """Return the part, of which there must be one.

        Raises
        ------
        ValueError
            There are several parts, for which there is `get_all`.

        Examples
        --------
        >>> from purefn.functional import nn
        >>> at(nn.serial(nn.linear(3), nn.relu), "1").get().kind
        'relu'
        """
        if len(self._places) > 1:
            raise ValueError(
                f"nn.at: expected one part to get, there are {self.names}; use get_all()."
            )
        (part,) = self.get_all().values()
        return part

    def get_all(self) -> dict[str, AnyLayer]:
        """Return each part, by name.

        >>> from purefn.functional import nn
        >>> list(at(nn.serial(a=nn.serial(nn.relu), b=nn.relu), "**").get_all())
        ['a', 'b']
        """
        return {".".join(place): _part(self._model, place) for place in self._places}

    def set(self, part: Any) -> AnyLayer:
        """Return the model with `part`, a layer or a pure function of a tensor, in each place.

        >>> from purefn.functional import nn
        >>> model = at(nn.serial(nn.linear(3), nn.relu), "1").set(nn.tanh)
        >>> model.parts["1"].kind
        'tanh'
        """
        return self.apply(lambda old: part)

    def apply(self, fun: Callable[[Any], Any]) -> AnyLayer:
        """Return the model with `fun(part)` in the place of each part.

        Raises
        ------
        TypeError
            `fun` returns neither a layer nor a function, or a combinator of one's own tells its
            parts but not how to make it again (`rebuild`).

        Examples
        --------
        >>> import torch
        >>> from purefn.functional import nn, random
        >>> model = nn.serial(hidden=nn.linear(16), act=nn.relu, head=nn.linear(3))
        >>> adapted = at(model, "hidden", "head").apply(lambda part: nn.lora(part, 2, alpha=4.0))
        >>> params = adapted.init(random.key(0), torch.ones(1, 5))
        >>> sorted(params["hidden"])
        ['adapters', 'base']
        """
        return _replaced(self._model, (), set(self._places), fun)


def at(model: AnyLayer, *where: Where) -> Parts:
    """Return the parts of `model` that `where` selects, to get or to replace them.

    A part is called like its parameters: `layer4.0.conv2`. `set` and `apply` make the combinators
    around it again; the model that was given stays as it is. Parameters of the others fit the new
    model, so `tree.at(params, name).set(...)` with those of the new part completes the operation.

    Parameters
    ----------
    model
        What `serial`, `parallel`, `residual` and the models of `functional.models` return; any
        layer with `parts`.
    where
        Names and patterns as in `tree.mask`, or functions of the name of a part without parts.

    Raises
    ------
    TypeError
        The model is no layer, or `where` holds something else.
    ValueError
        There is no `where`, or one of them selects nothing; the message names what is similar.

    Examples
    --------
    >>> import torch
    >>> from purefn.functional import nn, random, tree
    >>> model = nn.serial(body=nn.serial(nn.linear(16), nn.relu), head=nn.linear(3))
    >>> x = torch.ones(8, 5)
    >>> params = model.init(random.key(0), x)

    A new head for other classes, the rest as it was:

    >>> head = nn.linear(10)
    >>> params = tree.at(params, "head").set(head.init(random.key(1), torch.ones(8, 16)))
    >>> at(model, "head").set(head)(params, x).shape
    torch.Size([8, 10])
    >>> at(model, "haed")
    Traceback (most recent call last):
    ValueError: nn.at: nothing is called 'haed'; there are 'head'.
    """
    return Parts(model, *where)


def _names(layer: AnyLayer) -> Any:
    """Return the names of all parts as nested dicts."""
    return {name: _names(part) for name, part in layer.parts.items()} or layer


def _part(layer: AnyLayer, place: Place) -> AnyLayer:
    for name in place:
        layer = layer.parts[name]
    return layer


def _replaced(
    layer: AnyLayer, above: Place, places: set[Place], fun: Callable[[Any], Any]
) -> AnyLayer:
    """Return `layer` with the parts at `places` replaced, and itself where none is in it."""
    parts = dict(layer.parts)
    for name, part in parts.items():
        place = (*above, name)
        if place in places:
            new = fun(part)
            parts[name] = new if isinstance(new, Layer | StatefulLayer) else lift(new)
        else:
            parts[name] = _replaced(part, place, places, fun)
    if all(parts[name] is part for name, part in layer.parts.items()):
        return layer
    if layer.rebuild is None:
        raise TypeError(
            f"nn.at: the layer at {'.'.join(above) or 'the top'!r} ({layer.kind}) has parts, but "
            "not the `rebuild` that makes it again of others."
        )
    return layer.rebuild(parts)
