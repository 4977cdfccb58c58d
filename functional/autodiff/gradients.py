"""Gradients of scalar functions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import tree
from ..border import Carrier, check_callable
from .inputs import Argnums, Inputs, check_argnums
from .outputs import scalar, split_aux


def grad(
    fun: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """Return the function that computes the gradient of `fun`.

    Parameters
    ----------
    fun
        A pure function of trees that returns a 0-d tensor of floating dtype, or with `has_aux` a
        pair of one and any tree.
    argnums
        Which positional arguments to differentiate with respect to. All their leaves are floating
        tensors or Python floats, which count as 0-d tensors. The other arguments, keyword arguments
        included, are passed on as they are.
    has_aux
        Whether `fun` returns `(value, aux)`; `aux` comes out undifferentiated.

    Returns
    -------
    A function of the same arguments. It returns a tree like the argument that `argnums` selects, or
    a tuple of such trees where `argnums` is a tuple; with `has_aux`, `(gradient, aux)`. A leaf on
    which the value does not depend has a gradient of zeros.

    Raises
    ------
    TypeError
        When called: `fun` returned anything but a 0-d floating tensor, or a leaf to differentiate
        with respect to is an integer, a boolean or complex; the message names it.
    ValueError
        When called: `argnums` is out of range.

    Examples
    --------
    >>> def loss(params, x):
    ...     return (params["w"] * x).square().sum()
    >>> grad(loss)({"w": torch.tensor([1.0, 2.0])}, torch.tensor([1.0, 3.0]))
    {'w': tensor([ 2., 36.])}
    >>> grad(grad(torch.sin))(torch.tensor(0.5)) == -torch.sin(torch.tensor(0.5))
    tensor(True)
    """
    compute = _value_and_grad("grad", fun, argnums, has_aux)

    @functools.wraps(fun, updated=())
    def gradient(*args: Any, **kwargs: Any) -> Any:
        value, grads = compute(*args, **kwargs)
        return (grads, value[1]) if has_aux else grads

    return gradient


def value_and_grad(
    fun: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False
) -> Callable[..., tuple[Any, Any]]:
    """Return the function that computes both `fun` and its gradient.

    Everything is as for `grad`, except that the result is `(value, gradient)`, or with `has_aux`
    `((value, aux), gradient)`.

    >>> def loss(w, x):
    ...     return (w * x).square().sum(), {"rows": len(x)}
    >>> value_and_grad(loss, has_aux=True)(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]))
    ((tensor(37.), {'rows': 2}), tensor([ 2., 36.]))
    """
    return _value_and_grad("value_and_grad", fun, argnums, has_aux)


def stop_gradient(values: tree.PyTree) -> tree.PyTree:
    """Return `values`, as constants to every derivative, of any order, forward or reverse.

    Leaves that are not tensors are returned as they are.

    >>> grad(lambda x: x * stop_gradient(x))(torch.tensor(3.0))
    tensor(3.)
    """
    return tree.map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, values)


def _value_and_grad(
    transform: str, fun: Callable[..., Any], argnums: Argnums, has_aux: bool
) -> Callable[..., tuple[Any, Any]]:
    check_callable(transform, fun)
    argnums = check_argnums(transform, argnums)

    @functools.wraps(fun, updated=())
    def value_and_gradient(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        inputs, carrier = Inputs(transform, fun, argnums, args), Carrier()

        def flat_fun(*leaves: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            output = fun(*inputs.arguments(leaves), **kwargs)
            value, aux = split_aux(transform, fun, output, has_aux)
            return scalar(transform, fun, value), carrier.pack(aux)

        every_leaf = tuple(range(len(inputs.leaves)))
        compute = torch.func.grad_and_value(flat_fun, argnums=every_leaf, has_aux=True)
        grads, (value, aux) = compute(*inputs.leaves)
        return (value, carrier.unpack(aux)) if has_aux else value, inputs.like(grads)

    return value_and_gradient
