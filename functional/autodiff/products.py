"""Products with Jacobians and Hessians that are never formed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import tree
from ..border import Carrier, check_callable, describe, tensor_leaves
from ..staging.tracing import recorder
from .attention import every_derivative_of_attention
from .gradients import grad
from .inputs import Inputs
from .outputs import split_aux

# Their annotations leave out what has_aux adds.
_torch_jvp: Callable[..., Any] = torch.func.jvp
_torch_vjp: Callable[..., Any] = torch.func.vjp


def jvp(
    fun: Callable[..., Any],
    primals: Sequence[tree.PyTree],
    tangents: Sequence[tree.PyTree],
    has_aux: bool = False,
) -> tuple[Any, ...]:
    """Push `tangents` forward through `fun`: the Jacobian-vector product `J(primals) @ tangents`.

    Parameters
    ----------
    fun
        A pure function of trees that returns a tree, or with `has_aux` a pair of one and any tree.
    primals
        A tuple of the positional arguments of `fun`; their leaves are floating or complex tensors,
        or Python floats, which count as 0-d tensors.
    tangents
        A tuple like `primals`: same structure, shapes and dtypes.
    has_aux
        Whether `fun` returns `(output, aux)`.

    Returns
    -------
    `(output, output_tangent)`, two trees of one structure, and with `has_aux` also `aux`. An
    output that does not depend on `primals`, or is of integer dtype, has a tangent of zeros.

    Raises
    ------
    TypeError
        `primals` or `tangents` is not a tuple, or a leaf has the wrong dtype; the message names it.
    ValueError
        `tangents` differs from `primals` in structure or shape; the message names the leaf.

    Examples
    --------
    >>> x, v = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0])
    >>> jvp(lambda x: {"out": x**2}, (x,), (v,))
    ({'out': tensor([1., 4.])}, {'out': tensor([2., 0.])})
    """
    check_callable("jvp", fun)
    for name, given in (("primals", primals), ("tangents", tangents)):
        if not isinstance(given, tuple | list):
            raise TypeError(
                f"jvp: expected a tuple with one entry per argument of fun for {name}, "
                f"got {type(given).__name__}."
            )
    primals, tangents = tuple(primals), tuple(tangents)
    inputs = Inputs("jvp", fun, tuple(range(len(primals))), primals, complex_allowed=True)
    directions = _matching("jvp", inputs.like(inputs.leaves), tangents, ("primals", "tangents"))
    output_carrier, aux_carrier = Carrier(), Carrier()

    def flat_fun(*leaves: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        with every_derivative_of_attention():
            output = fun(*inputs.arguments(leaves))
        output, aux = split_aux("jvp", fun, output, has_aux)
        output = tensor_leaves("jvp", "output", output)
        return output_carrier.pack(output), aux_carrier.pack(aux)

    flat_tangents = tuple(map(_apart, directions)) or (torch.zeros(()),)
    points = tuple(map(_apart, inputs.leaves))
    output, tangent, aux = _torch_jvp(flat_fun, points, flat_tangents, has_aux=True)
    result = (output_carrier.unpack(output), output_carrier.unpack(tangent))
    return (*result, aux_carrier.unpack(aux)) if has_aux else result


def vjp(fun: Callable[..., Any], *primals: tree.PyTree, has_aux: bool = False) -> tuple[Any, ...]:
    """Evaluate `fun` and return the function that pulls cotangents back to its arguments.

    The pairing of cotangents and values is JAX's: no complex conjugate is taken, so that for a
    holomorphic `f` the cotangent `c` comes back as `c f'(z)`.

    Parameters
    ----------
    fun
        A pure function of trees that returns a tree, or with `has_aux` a pair of one and any tree.
    primals
        Its positional arguments; their leaves are floating or complex tensors, or Python floats,
        which count as 0-d tensors.
    has_aux
        Whether `fun` returns `(output, aux)`.

    Returns
    -------
    `(output, vjp_fun)`, and with `has_aux` also `aux`. `vjp_fun(cotangents)` takes a tree like the
    output (a number may stand for a 0-d tensor; what stands for an integer leaf is ignored, for it
    has no derivative) and returns a tuple of trees, one like each argument. It may be called any
    number of times.

    Raises
    ------
    TypeError
        A leaf of an argument is an integer, or a cotangent has another dtype than the output.
    ValueError
        The cotangents differ from the output in structure or shape; the message names the leaf.

    Examples
    --------
    >>> output, vjp_fun = vjp(lambda x, y: {"product": x * y}, torch.tensor(3.0), torch.tensor(4.0))
    >>> output
    {'product': tensor(12.)}
    >>> vjp_fun({"product": torch.tensor(1.0)})
    (tensor(4.), tensor(3.))
    """
    check_callable("vjp", fun)
    inputs = Inputs("vjp", fun, tuple(range(len(primals))), primals, complex_allowed=True)
    output_carrier, aux_carrier = Carrier(), Carrier()

    def flat_fun(*leaves: Tensor) -> tuple[tuple[Tensor, ...], Any]:
        output, aux = split_aux("vjp", fun, fun(*inputs.arguments(leaves)), has_aux)
        values = output_carrier.pack(tensor_leaves("vjp", "output", output))
        # torch.func differentiates floating outputs only, and wants at least one.
        smooth = tuple(value for value in values if _is_smooth(value))
        return smooth or (torch.zeros(()),), (values, aux_carrier.pack(aux))

    _, flat_vjp, (values, aux) = _torch_vjp(flat_fun, *inputs.leaves, has_aux=True)
    output = output_carrier.unpack(values)

    def vjp_fun(cotangents: tree.PyTree) -> tuple[Any, ...]:
        given = _matching("vjp", output, cotangents, ("output", "cotangents"))
        smooth = [_conjugate(leaf) for leaf in given] or [torch.zeros(())]
        gradients: tuple[Any, ...] = inputs.like(
            [_conjugate(leaf) for leaf in flat_vjp(tuple(smooth))]
        )
        return gradients

    return (output, vjp_fun, aux_carrier.unpack(aux)) if has_aux else (output, vjp_fun)


def hvp(
    fun: Callable[..., Any], primals: Sequence[tree.PyTree], tangents: Sequence[tree.PyTree]
) -> Any:
    """Return the Hessian-vector product of a scalar function: the tangent of its gradient.

    Forward over reverse, `jvp(grad(fun), primals, tangents)[1]`: about twice the price of a
    gradient, and no matrix. `fun` is differentiated first with respect to its first argument, and
    then along `tangents`, which cover all of `primals`.

    Parameters
    ----------
    fun
        A pure function of trees that returns a 0-d floating tensor.
    primals, tangents
        As for `jvp`. To leave an argument out, close over it:
        `hvp(lambda params: loss(params, batch), (params,), (v,))`.

    Returns
    -------
    A tree like the first of `primals`.

    Examples
    --------
    >>> x, v = {"x": torch.tensor([1.0, 2.0])}, {"x": torch.tensor([1.0, 1.0])}
    >>> hvp(lambda tree: (tree["x"] ** 3).sum(), (x,), (v,))
    {'x': tensor([ 6., 12.])}
    """
    return jvp(grad(fun), primals, tangents)[1]


def _apart(leaf: Tensor) -> Tensor:
    """Return a leaf that is no view, where there are no values.

    There torch's forward mode confuses a primal and a tangent that are slices of one tensor.
    """
    return leaf if recorder() is None else leaf.clone()


def _matching(
    transform: str, primals: tree.PyTree, tangents: tree.PyTree, names: tuple[str, str]
) -> list[Tensor]:
    """Return the leaves of `tangents`, less those of integer primals, or say what differs."""
    rows = tree.leaves(tree.map(_Row, primals, tangents, names=names))
    matching: list[Tensor] = []
    for index, row in enumerate(rows):
        primal, tangent = row.primal, row.tangent
        if not _is_smooth(primal):
            continue
        if isinstance(tangent, int | float | complex) and primal.ndim == 0:
            tangent = torch.full_like(primal, tangent)
        problem = _mismatch(primal, tangent)
        if problem is not None:
            expected = tree.path_strings(primals, names[0])[index]
            found = tree.path_strings(primals, names[1])[index]
            raise problem(
                f"{transform}: {found} is {describe(tangent)}, expected "
                f"{describe(primal)} as {expected} is."
            )
        matching.append(tangent)
    return matching


class _Row:
    """A leaf that pairs a primal with its tangent."""

    def __init__(self, primal: Tensor, tangent: Any) -> None:
        self.primal = primal
        self.tangent = tangent


def _mismatch(primal: Tensor, tangent: Any) -> type[Exception] | None:
    if not isinstance(tangent, Tensor) or tangent.dtype != primal.dtype:
        return TypeError
    return None if tangent.shape == primal.shape else ValueError


def _is_smooth(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def _conjugate(value: Tensor) -> Tensor:
    return value.conj().resolve_conj() if value.is_complex() else value
