"""Several models of one kind as one layer, computed at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, overload

import optree
from torch import Tensor

from .. import random, tree
from ..abstract import ShapeDtype
from ..batching import vmap
from ..random.threefry import check_key
from .checks import positive_int
from .layer import Layer, LayerError, Params, State, StatefulLayer, describe


@overload
def ensemble(layer: Layer, n: int, *, in_axes: tree.PyTree = None) -> Layer: ...
@overload
def ensemble(layer: StatefulLayer, n: int, *, in_axes: tree.PyTree = None) -> StatefulLayer: ...
def ensemble(
    layer: Layer | StatefulLayer, n: int, *, in_axes: tree.PyTree = None
) -> Layer | StatefulLayer:
    """Return `n` members of one kind as a layer that computes them at once.

    Parameters (and state) have the names of the layer's own, each leaf with a new first axis of
    length `n`; the output of shape `(n, ...)` holds member `i`'s at `[i]`. Member `i` receives the
    key `random.split(key, n)[i]`, in `init` and in `apply`, so members differ from the start and in
    what they drop. `tree.unstack(params)` gives the members' own parameters and `tree.stack` puts
    trained ones together; the mean of the outputs' probabilities is a deep ensemble's answer
    (Lakshminarayanan et al. 2017, arXiv:1612.01474).

    Gradients of a sum of losses over members are each member's own. An update that is elementwise
    (Adam's, not one that clips by the global norm) trains them as if each were alone.

    Parameters
    ----------
    layer
        Any layer or model.
    n
        How many members there are, at least 1.
    in_axes
        The axis of the input along which it holds one input for each member, or a tree of them for
        an input that is one; None, the default, where all members receive the same.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        On use: the input has another length than `n` along an axis of `in_axes`, the leaves of
        parameters or state have another first length, or `layer` refuses its input.

    Examples
    --------
    >>> import torch
    >>> from purefn.functional import nn
    >>> member = nn.serial(nn.linear(16), nn.relu, nn.linear(3))
    >>> model, x = ensemble(member, 4), torch.ones(8, 5)
    >>> params = model.init(random.key(0), x)
    >>> params["0"]["weight"].shape, model(params, x).shape
    (torch.Size([4, 16, 5]), torch.Size([4, 8, 3]))
    >>> first = tree.unstack(params)[0]
    >>> torch.allclose(model(params, x)[0], member(first, x), atol=1e-6)
    True

    With a batch for each member, as when they are trained on different samples:

    >>> ensemble(member, 4, in_axes=0)(params, torch.ones(4, 8, 5)).shape
    torch.Size([4, 8, 3])
    """
    if not isinstance(layer, Layer | StatefulLayer):
        raise TypeError(f"ensemble: expected a Layer or a StatefulLayer, got {layer!r}.")
    positive_int("ensemble", "n", n)
    for axis in tree.leaves(in_axes):
        if isinstance(axis, bool) or not isinstance(axis, int):
            raise TypeError(
                f"ensemble: expected an int, None or a tree of them for in_axes, got {in_axes!r}."
            )

    def init(key: Tensor, x: Any) -> Any:
        check_key("ensemble.init", key)
        one = _input_of_a_member(x, in_axes, n)
        return init_each(layer, n, key, one)

    members = _at_once(layer.apply, n, in_axes)

    def rebuild(parts: Mapping[str, Layer | StatefulLayer]) -> Layer | StatefulLayer:
        assert layer.rebuild is not None
        return ensemble(layer.rebuild(parts), n, in_axes=in_axes)

    again = None if layer.rebuild is None else rebuild
    shown: dict[str, Any] = {"kind": "ensemble", "parts": layer.parts, "rebuild": again}

    if isinstance(layer, StatefulLayer):

        def stateful_apply(
            params: Params, state: State, x: Any, *, key: Tensor | None = None, train: bool = False
        ) -> tuple[Any, State]:
            outputs: tuple[Any, State] = members((params, state), x, key, train)
            return outputs

        return StatefulLayer(init, stateful_apply, layer.uses_key, **shown)

    def apply(params: Params, x: Any, *, key: Tensor | None = None, train: bool = False) -> Any:
        return members((params,), x, key, train)

    return Layer(init, apply, layer.uses_key, **shown)


def init_each(layer: Layer | StatefulLayer, n: int, key: Tensor, x: Any) -> Any:
    """Return what `layer.init` draws with each of `n` keys, stacked."""
    drawn = vmap(lambda key: layer.init(key, x))(random.split(key, n))
    # What no key decides is repeated without being stored; it is to be trained all the same.
    return tree.map(lambda leaf: leaf.contiguous(), drawn)


def _at_once(apply: Callable[..., Any], n: int, in_axes: tree.PyTree) -> Callable[..., Any]:
    """Return the function that runs all members, whose parameters and state are `carried`."""

    def members(carried: tuple[tree.PyTree, ...], x: Any, key: Tensor | None, train: bool) -> Any:
        check_stacked("ensemble", carried, n)
        _input_of_a_member(x, in_axes, n)
        if key is None:
            run = vmap(lambda c, x: apply(*c, x, train=train), (0, in_axes), axis_size=n)
            return run(carried, x)
        run = vmap(lambda c, x, key: apply(*c, x, key=key, train=train), (0, in_axes, 0))
        return run(carried, x, random.split(key, n))

    return members


def _input_of_a_member(x: Any, in_axes: tree.PyTree, n: int) -> Any:
    """Return the shapes of what one member receives."""

    def without_axis(axis: int, leaf: Any) -> ShapeDtype:
        if not -len(leaf.shape) <= axis < len(leaf.shape) or leaf.shape[axis] != n:
            raise LayerError(
                f"ensemble expected an input of length {n} along axis {axis}, one for each member, "
                f"got shape {tuple(leaf.shape)}."
            )
        axis %= len(leaf.shape)
        shape = (*leaf.shape[:axis], *leaf.shape[axis + 1 :])
        return ShapeDtype(shape, leaf.dtype, leaf.device)

    def member(axis: int | None, subtree: Any) -> Any:
        if axis is None:
            return subtree
        return tree.map(lambda leaf: without_axis(axis, leaf), subtree)

    axes, structure = optree.tree_flatten(in_axes, none_is_leaf=True, namespace=tree.NAMESPACE)
    try:
        subtrees = structure.flatten_up_to(x)
    except ValueError as error:
        raise LayerError(
            f"ensemble expected an input like in_axes={in_axes!r}, got {describe(x)}."
        ) from error
    return tree.unflatten(structure, list(map(member, axes, subtrees)))


def check_stacked(kind: str, carried: tree.PyTree, n: int) -> None:
    """Refuse parameters and state that do not hold those of `n` layers, one after the other."""
    for path, leaf in tree.leaves_with_path(carried):
        if leaf.ndim == 0 or leaf.shape[0] != n:
            name = ".".join(map(str, path[1:]))
            raise LayerError(
                f"{kind} expected leaves with a first axis of length {n}, one for each member, "
                f"got shape {tuple(leaf.shape)} for {name!r}; tree.stack puts members together."
            )
