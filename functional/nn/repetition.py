"""A chain of layers of one kind as a loop, which compiles as fast as one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, overload

import torch
from torch import Tensor

from .. import random, tree
from ..abstract import eval_shape
from ..control.scans import scan
from ..random.threefry import check_key
from .checks import positive_int
from .combinators import abstract, as_stateful, simplest
from .ensembles import check_stacked, init_each
from .layer import Layer, LayerError, Params, State, StatefulLayer, describe


@overload
def repeat(layer: Layer, n: int) -> Layer: ...
@overload
def repeat(layer: StatefulLayer, n: int) -> StatefulLayer: ...
def repeat(layer: Layer | StatefulLayer, n: int) -> Layer | StatefulLayer:
    """Return the chain of `n` layers of one kind, each with parameters of its own, as a `scan`.

    It computes what `serial` of `n` such layers does, but under `jit` the layer is traced once, so
    that the time to compile does not grow with `n`. Parameters (and state) have the names of the
    layer's own, each leaf with a new first axis of length `n`: `tree.unstack(params)` gives those
    of each layer, and `tree.stack` puts them together. Layer `i` receives the key
    `random.split(key, n)[i]`, in `init` and in `apply`. Under `jit` the way back keeps the input of
    each layer alone and computes the layer again, as if each were under `remat`.

    Parameters
    ----------
    layer
        Any layer or model that returns what it receives: the same structure, shapes and dtypes.
    n
        How many layers there are, at least 1.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        The layer returns something else than it receives, or refuses its input; the leaves of
        parameters or state have another first length than `n`.

    Examples
    --------
    >>> import torch
    >>> from purefn.functional import nn
    >>> block = nn.residual(nn.serial(nn.layer_norm(), nn.linear(8), nn.tanh))
    >>> model, x = repeat(block, 12), torch.ones(2, 8)
    >>> params = model.init(random.key(0), x)
    >>> params["body"]["1"]["weight"].shape, model(params, x).shape
    (torch.Size([12, 8, 8]), torch.Size([2, 8]))
    >>> y = x
    >>> for own in tree.unstack(params):
    ...     y = block(own, y)
    >>> torch.allclose(model(params, x), y)
    True
    """
    if not isinstance(layer, Layer | StatefulLayer):
        raise TypeError(f"repeat: expected a Layer or a StatefulLayer, got {layer!r}.")
    positive_int("repeat", "n", n)
    stateful = as_stateful(layer)

    def init(key: Tensor, x: Any) -> tuple[Params, State]:
        check_key("repeat.init", key)
        x = abstract(x, key)
        params, state = init_each(stateful, n, key, x)
        eval_shape(apply, *abstract((params, state, x), key))
        return params, state

    def apply(
        params: Params, state: State, x: Any, *, key: Tensor | None = None, train: bool = False
    ) -> tuple[Any, State]:
        check_stacked("repeat", (params, state), n)
        keys = None if key is None else random.split(key, n)

        def step(x: Any, own: tuple[Params, State, Tensor | None]) -> tuple[Any, State]:
            params, state, key = own
            y, state = stateful.apply(params, state, x, key=key, train=train)
            return _like(x, y), state

        return scan(step, x, (params, state, keys), length=n)

    def rebuild(parts: Mapping[str, Layer | StatefulLayer]) -> Layer | StatefulLayer:
        assert layer.rebuild is not None
        return repeat(layer.rebuild(parts), n)

    again = None if layer.rebuild is None else rebuild
    chain = StatefulLayer(
        init, apply, layer.uses_key, kind="repeat", parts=layer.parts, rebuild=again
    )
    return chain if isinstance(layer, StatefulLayer) else simplest(chain)


def _like(x: Any, y: Any) -> Any:
    """Return `y`, which the next layer receives as this one has received `x`; or refuse it."""

    def kind(value: Any) -> tuple[Any, ...]:
        leaves, structure = tree.flatten(value)
        return structure, [leaf.shape for leaf in leaves], [leaf.dtype for leaf in leaves]

    before, after = kind(x), kind(y)
    if before == after:
        return y
    by_autocast = any(torch.is_autocast_enabled(leaf.device.type) for leaf in tree.leaves(y))
    if before[:2] == after[:2] and by_autocast:
        return tree.map(lambda new, old: new.to(old.dtype), y, x)
    raise LayerError(
        f"repeat expected a layer that returns what it receives, {describe(x)}, got {describe(y)}."
    )
