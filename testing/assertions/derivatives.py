"""Derivatives against finite differences, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...functional import tree
from ...functional.autodiff import jvp, vjp
from .naming import function_name, leaf_names

__all__ = ["assert_numerical_grads"]

Tensors = tuple[Tensor, ...]
#: A function of tensors that returns several.
Function = Callable[..., Tensors]

#: The step of the difference quotient, where its error of order h^2 is as large as rounding.
_STEP = torch.finfo(torch.float64).eps ** (1 / 3)


def assert_numerical_grads(
    f: Callable[..., Any],
    f_args: Sequence[Any],
    order: int = 1,
    *,
    modes: Sequence[str] = ("forward", "reverse"),
    rtol: float = 1e-5,
    atol: float = 1e-8,
    seed: int = 0,
) -> None:
    """Require that the derivatives of a function are those that finite differences show.

    The function is computed in float64 (complex128). For each leaf of the arguments and a random
    direction `v` in that leaf, and random `u` like the outputs, with `h` = 6e-6 times the size of
    the leaf's elements (at least 1)::

        J v = (f(x + h v) - f(x - h v)) / 2h                             forward
        Re(sum(v * J^T u)) = Re(sum(u * (f(x + h v) - f(x - h v)))) / 2h   reverse

    For `order` 2 this is asked of the functions `J v` and `J^T u` of `x` too, and so on.

    Parameters
    ----------
    f
        A function of trees that returns a tree of tensors, smooth around `f_args`; what it computes
        in a narrower dtype by itself fails.
    f_args
        Its arguments, a tuple; leaves that are no floating-point or complex tensors are constants.
    order
        Up to which order, at least 1.
    modes
        "forward" (`jvp`), "reverse" (`vjp`) or both, in every combination.
    rtol, atol
        How far a derivative may be from the difference quotient: relative to the larger of the two,
        and relative to the outputs of `f` where these are larger than 1.
    seed
        Of the directions.

    Raises
    ------
    AssertionError
        A derivative is wrong; the message names every leaf with respect to which one is, the mode,
        and both values.
    TypeError
        No argument is a floating-point or complex tensor, or no output.

    Examples
    --------
    >>> import purefn.functional as pf
    >>> x = torch.tensor([0.5, 2.0])
    >>> assert_numerical_grads(lambda x: (x.sin() * x).sum(), (x,), order=2)
    >>> def frozen(params):
    ...     return pf.stop_gradient(params["scale"]) * params["w"]
    >>> assert_numerical_grads(frozen, ({"w": x, "scale": x},), modes=["reverse"])
    Traceback (most recent call last):
    ...
    AssertionError: assert_numerical_grads: wrong derivatives of frozen:
      params['scale'], reverse: 0.0, but the difference quotient is ...
    """
    _check_settings(order, modes)
    leaves, structure = tree.flatten(tuple(f_args))
    places = [place for place, leaf in enumerate(leaves) if _is_inexact(leaf)]

    def flat(*moving: Tensor) -> Tensors:
        given = list(leaves)
        for place, leaf in zip(places, moving, strict=True):
            given[place] = leaf
        return tuple(filter(_is_inexact, tree.leaves(f(*tree.unflatten(structure, given)))))

    x = tuple([_wide(leaves[place]) for place in places])
    if not x or not flat(*x):
        what = "argument" if not x else "output"
        raise TypeError(f"assert_numerical_grads: no {what} is a floating or complex tensor.")
    names = leaf_names(f, f_args)
    settings = _Settings(
        [names[place] for place in places],
        modes,
        rtol,
        atol,
        torch.Generator().manual_seed(seed),
    )
    wrong = list(_wrong(flat, x, order, settings))
    if wrong:
        title = f"assert_numerical_grads: wrong derivatives of {function_name(f)}:"
        raise AssertionError("\n  ".join([title, *wrong]))


class _Settings(NamedTuple):
    names: Sequence[str]
    modes: Sequence[str]
    rtol: float
    atol: float
    generator: torch.Generator


def _wrong(
    f: Function, x: Tensors, order: int, settings: _Settings, taken: str = ""
) -> Iterator[str]:
    """Describe every derivative of `f` that is wrong; `taken` are the modes that have made `f`."""
    outputs = f(*x)
    size = max([1.0, *map(_largest, outputs)])
    for mode in settings.modes:
        label = f"{mode} over {taken}" if taken else mode
        u = _directions(outputs, settings.generator)
        for i, name in enumerate(settings.names):
            v = tuple([v * (i == j) for j, v in enumerate(_directions(x, settings.generator))])
            quotient = _difference_quotient(f, x, v, i)
            derivative = _derivative(f, mode, v, u)(*x)
            if mode == "reverse":
                quotient, derivative = (_product(u, quotient),), (_product(v, derivative),)
            for got, expected in zip(derivative, quotient, strict=True):
                bound = settings.rtol * max(_largest(got), _largest(expected))
                if not _largest(got - expected) <= bound + settings.atol * size:
                    yield f"{name}, {label}: {_shown(got, expected)}"
        if order > 1:
            v = _directions(x, settings.generator)
            yield from _wrong(_derivative(f, mode, v, u), x, order - 1, settings, label)


def _derivative(f: Function, mode: str, v: Tensors, u: Tensors) -> Function:
    """Return the function of `x` that is `J v`, or `J^T u`."""
    if mode == "forward":
        return lambda *x: jvp(f, x, v)[1]
    return lambda *x: vjp(f, *x)[1](u)


def _difference_quotient(f: Function, x: Tensors, v: Tensors, i: int) -> Tensors:
    """Return the derivative of `f` in the direction `v`, which moves `x[i]`."""
    h = _STEP * max(1.0, _largest(x[i]))
    forth = f(*[a + h * b for a, b in zip(x, v, strict=True)])
    back = f(*[a - h * b for a, b in zip(x, v, strict=True)])
    return tuple([(a - b) / (2 * h) for a, b in zip(forth, back, strict=True)])


def _directions(like: Sequence[Tensor], generator: torch.Generator) -> Tensors:
    def direction(x: Tensor) -> Tensor:
        return torch.randn(x.shape, dtype=x.dtype, generator=generator).to(x.device)

    return tuple(map(direction, like))


def _product(a: Tensors, b: Tensors) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for one, other in zip(a, b, strict=True):
        product = one * other
        total = total + (product.real if product.is_complex() else product).sum().cpu()
    return total


def _largest(x: Tensor) -> float:
    return x.abs().max().item() if x.numel() else 0.0


def _shown(got: Tensor, expected: Tensor) -> str:
    """Show both values, at the element where they differ most."""
    distance = (got - expected).abs().nan_to_num(torch.inf)
    where = tuple(int(i) for i in torch.unravel_index(distance.argmax(), distance.shape))
    at = f" at {list(where)}" if where else ""
    return f"{got[where].item()}{at}, but the difference quotient is {expected[where].item():.12g}"


def _is_inexact(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def _wide(leaf: Tensor) -> Tensor:
    return leaf.detach().to(torch.complex128 if leaf.is_complex() else torch.float64)


def _check_settings(order: int, modes: Sequence[str]) -> None:
    if order < 1:
        raise ValueError(f"assert_numerical_grads: expected order at least 1, got {order}.")
    if isinstance(modes, str) or not modes or set(modes) - {"forward", "reverse"}:
        raise ValueError(
            f"assert_numerical_grads: expected modes of 'forward' and 'reverse', got {modes!r}."
        )
