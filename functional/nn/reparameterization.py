"""Layers whose weight is a function of other parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

from .. import random
from .checks import check_flag, check_int, check_positive, positive_int
from .layer import Layer, LayerError, Params, State, StatefulLayer, describe
from .parameters import check_parameters, check_state_dtype

#: How many steps of the power iteration `init` makes, as in torch.
_FIRST_ITERATIONS = 15


def weight_norm(layer: Layer, name: str = "weight", dim: int | None = 0) -> Layer:
    """Return `layer` with the parameter `name` computed as `w = g v / ||v||`.

    Length and direction are learned apart. The norm is over all dimensions but `dim`, which for 0
    is one norm for each output. The names are those of `torch.nn.utils.parametrizations`: in the
    place of `weight` stand `parametrizations.weight.original0`, which is `g` (with lengths of 1 but
    for `dim`), and `parametrizations.weight.original1`, which is `v`. `init` gives the weight that
    `layer.init` draws from the key. Salimans & Kingma 2016, Weight normalization.

    Parameters
    ----------
    layer
        A layer without a state that has the parameter.
    name
        The name of the parameter; wrap the layer again for another one.
    dim
        The dimension that is kept, of at least 0; `None` for a single norm.

    Raises
    ------
    TypeError, ValueError
        An argument is not one of the above.
    LayerError
        The layer has no such parameter or one with fewer dimensions, the parameters are not this
        layer's, or the layer refuses its own parameters or its input.

    Examples
    --------
    >>> from purefn.functional import nn, tree
    >>> layer = weight_norm(nn.linear(3))
    >>> params = layer.init(random.key(0), torch.ones(2, 4))
    >>> {name: tuple(value.shape) for name, value in tree.to_state_dict(params).items()}
    {'bias': (3,), 'parametrizations.weight.original0': (3, 1), \
'parametrizations.weight.original1': (3, 4)}
    >>> layer(params, torch.ones(2, 4)).shape
    torch.Size([2, 3])
    """
    _check_arguments("weight_norm", layer, name)
    if dim is not None:
        check_int("weight_norm", "dim", dim)
        if dim < 0:
            raise ValueError(f"weight_norm: expected dim >= 0 or None, got {dim}.")

    def init(key: Tensor, x: Any) -> Params:
        params = layer.init(key, x)
        weight = _take("weight_norm", params, name, dim or 0)
        return _replace(params, name, {"original0": _norm(weight, dim), "original1": weight})

    def apply(params: Params, x: Any, *, key: Tensor | None = None, train: bool = False) -> Any:
        rest, own = _split("weight_norm", params, name, ("original0", "original1"))
        lengths, direction = own["original0"], own["original1"]
        _check_lengths(lengths, direction, dim)
        weight = direction * (lengths / _norm(direction, dim))
        return layer.apply({**rest, name: weight}, x, key=key, train=train)

    shown = _shown("weight_norm", layer, lambda inner: weight_norm(inner, name, dim))
    return Layer(init, apply, layer.uses_key, **shown)


def spectral_norm(
    layer: Layer | StatefulLayer,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int = 0,
) -> StatefulLayer:
    """Return `layer` with the parameter `name` divided by its largest singular value.

    The singular value of the weight as a matrix, of which the rows are those of `dim`, is
    estimated as `sigma = u^T W v`. In training the state, the vectors `u` and `v`, first makes

        v = W^T u / ||W^T u||  after  u = W v / ||W v||,

    `n_power_iterations` times; otherwise it stays as it is. No gradient flows through the vectors,
    only through `W`. A weight with a single dimension is divided by its norm, without a state. The
    names are those of `torch.nn.utils.parametrizations`: `parametrizations.weight.original` in the
    place of `weight`, and the state `parametrizations.weight.0._u` and `_v`. Miyato et al. 2018,
    Spectral normalization for generative adversarial networks.

    Parameters
    ----------
    layer
        A layer that has the parameter. What it has as a state stands beside the vectors, so that a
        layer can be wrapped again for another parameter.
    name
        The name of the parameter.
    n_power_iterations
        How many steps are made in training.
    eps
        What the norms are at least taken to be, above 0.
    dim
        The dimension of the outputs, from the last one where it is negative; of a transposed
        convolution 1, which torch chooses by itself.

    Raises
    ------
    TypeError, ValueError, LayerError
        As for `weight_norm`; and `LayerError` where the state is not this layer's.

    Examples
    --------
    >>> from purefn.functional import nn, tree
    >>> layer = spectral_norm(nn.linear(2, bias=False))
    >>> x = torch.eye(2)
    >>> params, state = layer.init(random.key(0), x)
    >>> list(tree.to_state_dict(params)), list(tree.to_state_dict(state))
    (['parametrizations.weight.original'], ['parametrizations.weight.0._u', \
'parametrizations.weight.0._v'])
    >>> y, state = layer(params, state, x, train=True)
    >>> print(f"{torch.linalg.matrix_norm(y, 2):.3f}")
    1.000
    """
    _check_arguments("spectral_norm", layer, name, (Layer, StatefulLayer))
    positive_int("spectral_norm", "n_power_iterations", n_power_iterations)
    check_positive("spectral_norm", "eps", eps)
    check_int("spectral_norm", "dim", dim)

    def init(key: Tensor, x: Any) -> tuple[Params, State]:
        layer_key, vector_key = random.split(key)
        drawn = layer.init(layer_key, x)
        params, state = drawn if isinstance(layer, StatefulLayer) else (drawn, {})
        weight = _take("spectral_norm", params, name, dim)
        if weight.ndim > 1:
            state = _with_vectors(state, name, *_first(vector_key, _matrix(weight, dim), eps))
        return _replace(params, name, {"original": weight}), state

    def apply(
        params: Params, state: State, x: Any, *, key: Tensor | None = None, train: bool = False
    ) -> tuple[Any, State]:
        check_flag("spectral_norm", "train", train)
        rest, own = _split("spectral_norm", params, name, ("original",))
        original = own["original"]
        vectors, others = _split_state(state, name)
        if original.ndim > 1:
            _check_dim("spectral_norm", name, original, dim)
            u, v = _vectors(vectors, state, name, original, dim)
            matrix = _matrix(original, dim).to(u.dtype)
            if train:
                u, v = _power_iterations(matrix, v, n_power_iterations, eps)
            weight = original / torch.dot(u, torch.mv(matrix, v)).to(original.dtype)
        else:
            others = state
            weight = F.normalize(original, dim=0, eps=eps)
        if isinstance(layer, StatefulLayer):
            y, others = layer.apply({**rest, name: weight}, others, x, key=key, train=train)
        else:
            check_parameters("spectral_norm", others, {})
            y = layer.apply({**rest, name: weight}, x, key=key, train=train)
            if not train:
                return y, state
        return y, _with_vectors(others, name, u, v) if original.ndim > 1 else others

    shown = _shown(
        "spectral_norm",
        layer,
        lambda inner: spectral_norm(inner, name, n_power_iterations, eps, dim),
    )
    return StatefulLayer(init, apply, layer.uses_key, **shown)


def _shown(
    wrapper: str, layer: Layer | StatefulLayer, wrapped: Callable[[Any], Layer | StatefulLayer]
) -> dict[str, Any]:
    """Return how a wrapped layer is shown: with its own parts, which keep their names."""

    def rebuild(parts: Mapping[str, Layer | StatefulLayer]) -> Layer | StatefulLayer:
        assert layer.rebuild is not None
        return wrapped(layer.rebuild(parts))

    again = None if layer.rebuild is None else rebuild
    return {"kind": wrapper, "parts": layer.parts, "rebuild": again}


def _check_arguments(
    wrapper: str, layer: Any, name: Any, kinds: tuple[type, ...] = (Layer,)
) -> None:
    if not isinstance(layer, kinds):
        raise TypeError(
            f"{wrapper}: expected a {' or '.join(kind.__name__ for kind in kinds)}, got "
            f"{type(layer).__name__}."
        )
    if not isinstance(name, str):
        raise TypeError(f"{wrapper}: expected the name of a parameter, got {name!r}.")


def _take(wrapper: str, params: Params, name: str, dim: int) -> Tensor:
    """Return the parameter of a layer that is to be computed from others."""
    weight = params.get(name) if isinstance(params, Mapping) else None
    if not isinstance(weight, Tensor):
        raise LayerError(
            f"{wrapper} expected a layer with the parameter {name!r}, got one with "
            f"{describe(params)}."
        )
    _check_dim(wrapper, name, weight, dim)
    return weight


def _check_dim(wrapper: str, name: str, weight: Tensor, dim: int) -> None:
    if not -weight.ndim <= dim < weight.ndim:
        raise LayerError(
            f"{wrapper} expected {name!r} to have a dimension {dim}, got {describe(weight)}."
        )


def _replace(params: Params, name: str, originals: Params) -> Params:
    """Return parameters with `originals`, under torch's name for them, in the place of `name`."""
    rest = {other: value for other, value in params.items() if other != name}
    parametrizations = {**rest.pop("parametrizations", {}), name: originals}
    return {**rest, "parametrizations": parametrizations}


def _split(
    wrapper: str, params: Any, name: str, originals: tuple[str, ...]
) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    """Return the parameters that the layer has beside `name`, and those that make up `name`."""
    found = params.get("parametrizations") if isinstance(params, Mapping) else None
    own = found.get(name) if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping) or not isinstance(own, Mapping) or set(own) != set(originals):
        got = params if own is None else own
        raise LayerError(
            f"{wrapper} expected a dict of {list(originals)} for 'parametrizations.{name}', got "
            f"{describe(got)}."
        )
    for original in originals:
        if not isinstance(own[original], Tensor):
            raise LayerError(
                f"{wrapper} expected {original!r} to be a tensor, got {describe(own[original])}."
            )
    rest = {other: value for other, value in params.items() if other != "parametrizations"}
    others = {other: value for other, value in found.items() if other != name}
    return {**rest, "parametrizations": others} if others else rest, own


def _norm(weight: Tensor, dim: int | None) -> Tensor:
    others = [index for index in range(weight.ndim) if index != dim]
    if dim is not None and not others:  # no dimensions at all would stand for every one
        return weight.abs()
    norm: Tensor = torch.linalg.vector_norm(weight, dim=others, keepdim=dim is not None)
    return norm


def _check_lengths(lengths: Tensor, direction: Tensor, dim: int | None) -> None:
    """Refuse a `g` that does not belong to the `v`."""
    shape = [length if index == dim else 1 for index, length in enumerate(direction.shape)]
    has_dim = dim is None or dim < direction.ndim
    fits = tuple(lengths.shape) == (() if dim is None else tuple(shape))
    if not has_dim or not fits or lengths.dtype != direction.dtype:
        raise LayerError(
            "weight_norm expected 'original0' to hold the norms of 'original1' over all dimensions"
            f"{'' if dim is None else f' but {dim}'}, got {describe(lengths)} and "
            f"{describe(direction)}."
        )


def _matrix(weight: Tensor, dim: int) -> Tensor:
    return weight.movedim(dim, 0).flatten(1)


def _with_vectors(state: State, name: str, u: Tensor, v: Tensor) -> State:
    """Return the layer's own state with the vectors of `name`, under torch's names for them."""
    parametrizations = {**state.get("parametrizations", {}), name: {"0": {"_u": u, "_v": v}}}
    return {**state, "parametrizations": parametrizations}


def _split_state(state: Any, name: str) -> tuple[Any, Any]:
    """Return what the state holds for `name`, and the state of the layer inside."""
    found = state.get("parametrizations") if isinstance(state, Mapping) else None
    if not isinstance(found, Mapping) or name not in found:
        return None, state
    rest = {other: value for other, value in state.items() if other != "parametrizations"}
    others = {other: value for other, value in found.items() if other != name}
    return found[name], {**rest, "parametrizations": others} if others else rest


def _first(key: Tensor, matrix: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return vectors that have come some way from a random `v`."""
    start = random.normal(key, matrix.shape[1:], matrix.dtype)
    v = F.normalize(start, dim=0, eps=eps)
    return _power_iterations(matrix, v, _FIRST_ITERATIONS, eps)


def _power_iterations(matrix: Tensor, v: Tensor, count: int, eps: float) -> tuple[Tensor, Tensor]:
    matrix, v = matrix.detach(), v.detach()
    for _ in range(count):
        u = F.normalize(torch.mv(matrix, v), dim=0, eps=eps)
        v = F.normalize(torch.mv(matrix.mT, u), dim=0, eps=eps)
    # Under autocast products have another dtype, and the state is to keep its own.
    return u.to(matrix.dtype), v.to(matrix.dtype)


def _vectors(own: Any, state: Any, name: str, original: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return the two vectors of the state, without gradients."""
    found = own.get("0") if isinstance(own, Mapping) and len(own) == 1 else None
    if not isinstance(found, Mapping) or set(found) != {"_u", "_v"}:
        raise LayerError(
            f"spectral_norm expected a state with '_u' and '_v' for 'parametrizations.{name}.0', "
            f"got {describe(state if found is None else found)}; the order of arguments is "
            "(params, state, x)."
        )
    rows = original.shape[dim]
    shapes = {"_u": (rows,), "_v": (original.numel() // rows if rows else 0,)}
    for entry, shape in shapes.items():
        value = found[entry]
        if not isinstance(value, Tensor) or value.shape != shape:
            raise LayerError(
                f"spectral_norm expected {entry!r} of shape ({shape[0]},) for 'original', got "
                f"{describe(value)} and {describe(original)}."
            )
    check_state_dtype("spectral_norm", original, found)
    return found["_u"].detach(), found["_v"].detach()
