"""Jacobians and Hessians, formed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..border import Carrier, check_callable
from .attention import every_derivative_of_attention
from .inputs import Argnums, Inputs, check_argnums
from .outputs import real_leaves, split_aux

Transform = Callable[..., Any]


def jacfwd(fun: Transform, argnums: Argnums = 0, has_aux: bool = False) -> Transform:
    """Return the function that computes the Jacobian of `fun`, one column at a time.

    Forward mode: its price grows with the number of inputs, so it suits a `fun` with more outputs
    than inputs.

    Parameters
    ----------
    fun
        A pure function of trees that returns a tree of floating tensors, or with `has_aux` a pair
        of one and any tree.
    argnums
        Which positional arguments to differentiate with respect to, as for `grad`.
    has_aux
        Whether `fun` returns `(output, aux)`; `aux` comes out undifferentiated.

    Returns
    -------
    A function of the same arguments. It returns a tree like the output of `fun`; in the place of a
    leaf of shape `s` stands a tree like the selected argument (a tuple of trees where `argnums` is
    a tuple), whose leaves have shape `s + t` where those of the argument have shape `t`. With
    `has_aux`, `(jacobian, aux)`.

    Raises
    ------
    TypeError
        When called: a leaf of the output or of a selected argument is not of floating dtype; the
        message names it.
    ValueError
        When called: `argnums` is out of range.

    Examples
    --------
    >>> jacfwd(lambda p: {"out": p["x"] ** 2})({"x": torch.tensor([1.0, 2.0])})
    {'out': {'x': tensor([[2., 0.],
            [0., 4.]])}}
    """
    return _jacobian("jacfwd", torch.func.jacfwd, fun, argnums, has_aux)


def jacrev(fun: Transform, argnums: Argnums = 0, has_aux: bool = False) -> Transform:
    """Return the function that computes the Jacobian of `fun`, one row at a time.

    Reverse mode: its price grows with the number of outputs, so it suits a `fun` with more inputs
    than outputs. Arguments, result and errors are those of `jacfwd`.

    >>> jacrev(lambda p: {"out": p["x"] ** 2})({"x": torch.tensor([1.0, 2.0])})
    {'out': {'x': tensor([[2., 0.],
            [0., 4.]])}}
    """
    return _jacobian("jacrev", torch.func.jacrev, fun, argnums, has_aux)


def hessian(fun: Transform, argnums: Argnums = 0, has_aux: bool = False) -> Transform:
    """Return the function that computes the Hessian of `fun`, forward over reverse.

    Arguments and errors are those of `jacfwd`, of which this is `jacfwd(jacrev(fun))`: in the place
    of a leaf of the output stands a tree like the argument, each of whose leaves is again such a
    tree, with leaves of shape `s + t + u`.

    >>> hessian(lambda p: (p["x"] ** 3).sum())({"x": torch.tensor([1.0, 2.0])})
    {'x': {'x': tensor([[ 6.,  0.],
            [ 0., 12.]])}}
    """
    rows = _jacobian("hessian", torch.func.jacrev, fun, argnums, has_aux)
    return _jacobian("hessian", torch.func.jacfwd, rows, argnums, has_aux)


def _jacobian(
    transform: str, differentiate: Transform, fun: Transform, argnums: Argnums, has_aux: bool
) -> Transform:
    """Make `differentiate`, one of torch.func's two Jacobians, a transform of trees."""
    check_callable(transform, fun)
    argnums = check_argnums(transform, argnums)

    @functools.wraps(fun, updated=())
    def jacobian(*args: Any, **kwargs: Any) -> Any:
        inputs = Inputs(transform, fun, argnums, args)
        output_carrier, aux_carrier = Carrier(), Carrier()

        def flat_fun(*leaves: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
            with every_derivative_of_attention():
                output = fun(*inputs.arguments(leaves), **kwargs)
            output, aux = split_aux(transform, fun, output, has_aux)
            return output_carrier.pack(real_leaves(transform, output)), aux_carrier.pack(aux)

        every_leaf = tuple(range(len(inputs.leaves)))
        rows, aux = differentiate(flat_fun, argnums=every_leaf, has_aux=True)(*inputs.leaves)
        result = output_carrier.unpack([inputs.like(row) for row in rows])
        return (result, aux_carrier.unpack(aux)) if has_aux else result

    return jacobian
