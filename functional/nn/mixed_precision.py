"""A layer in one dtype for its parameters, one to compute in, and one for what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, overload

import torch
from torch import Tensor

from .. import tree
from ..abstract import ShapeDtype
from .layer import Apply, Layer, Params, State, StatefulApply, StatefulLayer


@overload
def precision(
    layer: Layer,
    *,
    params: torch.dtype = ...,
    compute: torch.dtype = ...,
    output: torch.dtype = ...,
) -> Layer: ...
@overload
def precision(
    layer: StatefulLayer,
    *,
    params: torch.dtype = ...,
    compute: torch.dtype = ...,
    output: torch.dtype = ...,
) -> StatefulLayer: ...
def precision(
    layer: Layer | StatefulLayer,
    *,
    params: torch.dtype = torch.float32,
    compute: torch.dtype = torch.bfloat16,
    output: torch.dtype = torch.float32,
) -> Layer | StatefulLayer:
    """Return `layer` with parameters in one dtype, computing in another and returning a third.

        y = cast(layer(cast(params, compute), cast(x, compute)), output)

    Gradients pass the casts backwards, so those of the parameters have the parameters' dtype.
    Micikevicius et al. 2017, Mixed precision training (arXiv:1710.03740). Only floating-point
    leaves are cast. A state is not: the running statistics of a norm would stand still in
    bfloat16, and begin in float32, or in float64 where that is computed in. Norms, softmax and the
    sums of a product are taken in float32 by torch's kernels whatever the dtype of what they read.

    It wraps any layer, so that parts may differ: `nn.serial(body=nn.precision(body), head=head)`
    has a head in float32. With `compute=torch.float16` small gradients are lost unless the loss
    is scaled: see `optim.dynamic_loss_scale`.

    Parameters
    ----------
    layer
        A layer with or without a state.
    params, compute, output
        Floating-point dtypes: of what `init` returns, of what the layer is given, and of what it
        returns.

    Raises
    ------
    TypeError
        `layer` is no layer, or a dtype is none or not a floating-point one.
    LayerError
        As `layer` does.

    Examples
    --------
    >>> from purefn.functional import nn, random
    >>> model = nn.precision(nn.linear(2))
    >>> x = torch.ones(1, 3)
    >>> params = model.init(random.key(0), x)
    >>> params["weight"].dtype, model(params, x).dtype
    (torch.float32, torch.float32)
    >>> nn.precision(nn.linear(2), output=torch.bfloat16)(params, x).dtype
    torch.bfloat16
    """
    if not isinstance(layer, Layer | StatefulLayer):
        raise TypeError(f"precision: expected a Layer or a StatefulLayer, got {layer!r}.")
    for name, dtype in (("params", params), ("compute", compute), ("output", output)):
        _check_dtype(name, dtype)

    def init(key: Tensor, x: Any) -> Any:
        made = layer.init(key, _cast_input(x, params))
        if isinstance(layer, Layer):
            return tree.cast(made, params)
        return tree.cast(made[0], params), tree.cast(made[1], at_least_float32)

    at_least_float32 = compute if compute.itemsize >= 4 else torch.float32

    def rebuild(parts: Mapping[str, Layer | StatefulLayer]) -> Layer | StatefulLayer:
        assert layer.rebuild is not None
        return precision(layer.rebuild(parts), params=params, compute=compute, output=output)

    again = None if layer.rebuild is None else rebuild
    shown: dict[str, Any] = {"kind": "precision", "parts": layer.parts, "rebuild": again}
    if isinstance(layer, Layer):
        return Layer(init, _computing_in(layer, compute, output), layer.uses_key, **shown)
    apply = _stateful_computing_in(layer, compute, output)
    return StatefulLayer(init, apply, layer.uses_key, **shown)


def _computing_in(layer: Layer, compute: torch.dtype, output: torch.dtype) -> Apply:
    def apply(params: Params, x: Any, *, key: Tensor | None = None, train: bool = False) -> Any:
        params, x = tree.cast((params, x), compute)
        return tree.cast(layer.apply(params, x, key=key, train=train), output)

    return apply


def _stateful_computing_in(
    layer: StatefulLayer, compute: torch.dtype, output: torch.dtype
) -> StatefulApply:
    def apply(
        params: Params, state: State, x: Any, *, key: Tensor | None = None, train: bool = False
    ) -> tuple[Any, State]:
        params, x = tree.cast((params, x), compute)
        y, state = layer.apply(params, state, x, key=key, train=train)
        return tree.cast(y, output), state

    return apply


def _cast_input(x: Any, dtype: torch.dtype) -> Any:
    """Return an example with its floating-point leaves, tensors or shapes, in `dtype`."""

    def cast(leaf: Any) -> Any:
        if not leaf.dtype.is_floating_point:
            return leaf
        if isinstance(leaf, ShapeDtype):
            return ShapeDtype(leaf.shape, dtype, leaf.device)
        return leaf.to(dtype)

    return tree.map(cast, x)


def _check_dtype(name: str, dtype: Any) -> None:
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(
            f"precision: expected a floating-point torch.dtype for {name}, got {dtype!r}."
        )
