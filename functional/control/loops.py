"""`while_loop` and `fori_loop`: loops over a carry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import tree
from ..border import tensor_leaves
from ..staging.tracing import recorder
from . import flat, levels
from .checks import check_function, check_index, check_predicate, check_same
from .closures import convert
from .primitive import bind
from .scans import scan
from .while_primitive import ForwardOnly, While


def while_loop(
    cond_fun: Callable[[Any], Any], body_fun: Callable[[Any], Any], init_val: tree.PyTree
) -> Any:
    """Repeat `val = body_fun(val)` while `cond_fun(val)` is true, and return the last `val`.

    Parameters
    ----------
    cond_fun
        A pure function of the carry that returns one boolean.
    body_fun
        A pure function of the carry that returns one of the same structure, shapes and dtypes. Both
        may close over tensors that are differentiated or batched.
    init_val
        The first carry, a tree of tensors; numbers count as 0-d tensors.

    Returns
    -------
    The carry for which `cond_fun` is false. Under `vmap` the loop runs until every example has
    ended; those that have keep their carry.

    Raises
    ------
    TypeError
        `cond_fun` returns no boolean, or a leaf is no tensor.
    ValueError
        `cond_fun` returns more than one boolean, or the carry changes in structure, shape, dtype or
        device; the message names the leaf.
    RuntimeError
        A reverse derivative is asked for: how many steps to go back is not known. Forward mode
        (`jvp`, `jacfwd`) works, as does reverse mode through `scan` and through `fori_loop` with
        Python integers as bounds.

    Examples
    --------
    >>> import purefn.functional as pf
    >>> def collatz(state):
    ...     n, steps = state
    ...     return torch.where(n % 2 == 0, n // 2, 3 * n + 1), steps + 1
    >>> steps = lambda n: while_loop(lambda state: state[0] > 1, collatz, (n, 0))[1]
    >>> steps(torch.tensor(6))
    tensor(8)
    >>> pf.jit(pf.vmap(steps), backend="eager")(torch.tensor([1, 2, 3, 6]))
    tensor([0, 1, 7, 8])
    """
    check_function("while_loop", "cond_fun", cond_fun)
    check_function("while_loop", "body_fun", body_fun)
    leaves, structure = tree.flatten(tensor_leaves("while_loop", "init_val", init_val))

    def condition(*carry: Tensor) -> Tensor:
        found = cond_fun(tree.unflatten(structure, carry))
        return check_predicate("while_loop", "the result of cond_fun", found)

    def step(*carry: Tensor) -> Sequence[Tensor]:
        val = tree.unflatten(structure, carry)
        new = tensor_leaves("while_loop", "body_fun(val)", body_fun(val))
        check_same("while_loop", ("val", "body_fun(val)"), val, new, _KEEP)
        return tree.leaves(new)

    run = _eager if recorder() is None else _staged
    return tree.unflatten(structure, run(condition, step, leaves))


def fori_loop(
    lower: Any, upper: Any, body_fun: Callable[[Any, Any], Any], init_val: tree.PyTree
) -> Any:
    """Repeat `val = body_fun(i, val)` for `i` from `lower` to `upper - 1`; return the last `val`.

    With Python integers as bounds it is a `scan`, and can be differentiated in both modes; with a
    tensor as a bound it is a `while_loop`, and has forward derivatives only.

    Parameters
    ----------
    lower, upper
        The bounds, integers or 0-d integer tensors; where `upper <= lower` no step is taken.
    body_fun
        A pure function of the index, a 0-d int64 tensor, and the carry, which returns a carry of
        the same structure, shapes and dtypes. Under `jit` the index has no value, so that torch
        cannot index with it: write `x.index_select(0, i.view(1))[0]`, or go through `x` by `scan`.
    init_val
        The first carry, a tree of tensors; numbers count as 0-d tensors.

    Raises
    ------
    TypeError
        A bound is no integer, or a leaf is no tensor.
    ValueError
        The carry changes in structure, shape, dtype or device; the message names the leaf.

    Examples
    --------
    >>> import purefn.functional as pf
    >>> fori_loop(1, 6, lambda i, product: product * i, torch.tensor(1))
    tensor(120)
    >>> power = lambda x: fori_loop(0, 3, lambda i, y: y * x, torch.tensor(1.0))
    >>> pf.grad(power)(torch.tensor(2.0))
    tensor(12.)
    """
    check_function("fori_loop", "body_fun", body_fun)
    init_val = tensor_leaves("fori_loop", "init_val", init_val)
    first = check_index("fori_loop", "lower", lower)
    last = check_index("fori_loop", "upper", upper)

    def step(i: Tensor, val: tree.PyTree) -> tree.PyTree:
        new = tensor_leaves("fori_loop", "body_fun(i, val)", body_fun(i, val))
        check_same("fori_loop", ("val", "body_fun(i, val)"), val, new, _KEEP)
        return new

    if isinstance(lower, int) and isinstance(upper, int):
        if upper <= lower:
            return init_val
        return scan(lambda val, i: (step(i, val), None), init_val, torch.arange(lower, upper))[0]
    return while_loop(
        lambda state: state[0] < last,
        lambda state: (state[0] + 1, step(*state)),
        (first, init_val),
    )[1]


_KEEP = "A step returns a carry like the one it got; cast or broadcast it before the loop."


def _eager(
    condition: Callable[..., Tensor], step: flat.Flat, init: Sequence[Tensor]
) -> Sequence[Tensor]:
    carry = list(init)
    while True:
        goes_on = condition(*carry)
        any_goes_on = levels.holds(goes_on)
        if any_goes_on is False:
            return bind(ForwardOnly(), carry)
        new = step(*carry)
        if levels.is_batched(goes_on):
            new = [torch.where(goes_on, a, b) for a, b in zip(new, carry, strict=True)]
        if any_goes_on is None:
            return list(new)
        carry = list(new)


def _staged(
    condition: Callable[..., Tensor], step: flat.Flat, init: Sequence[Tensor]
) -> Sequence[Tensor]:
    holds, own, _ = convert("while_loop", lambda *carry: [condition(*carry)], init)
    body, more, _ = convert("while_loop", step, init)
    sizes = (len(own), len(more))

    def holds_of_all(*arguments: Tensor) -> Sequence[Tensor]:
        first, _, carry = flat.split(arguments, *sizes)
        return holds(*first, *carry)

    def body_of_all(*arguments: Tensor) -> Sequence[Tensor]:
        _, second, carry = flat.split(arguments, *sizes)
        return body(*second, *carry)

    return bind(While(holds_of_all, body_of_all, sum(sizes)), [*own, *more, *init])
