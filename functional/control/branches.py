"""`cond` and `switch`: choices that data make."""

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
from .choice_primitive import Choice, select
from .closures import convert
from .primitive import bind


def cond(
    pred: Any, true_fun: Callable[..., Any], false_fun: Callable[..., Any], *operands: tree.PyTree
) -> Any:
    """Return `true_fun(*operands)` where `pred` is true, `false_fun(*operands)` where it is not.

    Only the branch taken is computed, under `jit` too. Under `vmap`, where every example has a
    `pred` of its own, both are, and `torch.where` selects.

    Parameters
    ----------
    pred
        One boolean: a 0-d tensor or a Python bool.
    true_fun, false_fun
        Pure functions of the operands that return trees of the same structure, shapes and dtypes.
        They may close over tensors that are differentiated or batched.
    operands
        Trees of tensors; numbers count as 0-d tensors.

    Raises
    ------
    TypeError
        `pred` is not boolean, or a leaf is no tensor.
    ValueError
        `pred` has more than one element, or the branches return what differs in structure, shape,
        dtype or device; the message names the leaf. Outside of `jit` and `vmap` only one branch
        runs, and the difference does not show.

    Notes
    -----
    It has derivatives of both modes. Under `jit` a derivative is a choice again, which computes the
    values of its branch anew.

    Examples
    --------
    >>> import purefn.functional as pf
    >>> safe_log = lambda x: cond(x > 0, torch.log, torch.zeros_like, x)
    >>> safe_log(torch.tensor(-1.0))
    tensor(0.)
    >>> pf.jit(pf.vmap(safe_log), backend="eager")(torch.tensor([1.0, -1.0]))
    tensor([0., 0.])
    >>> pf.jit(pf.grad(safe_log), backend="eager")(torch.tensor(4.0))
    tensor(0.2500)
    """
    check_function("cond", "true_fun", true_fun)
    check_function("cond", "false_fun", false_fun)
    predicate = check_predicate("cond", "pred", pred)
    branches = {"false_fun": false_fun, "true_fun": true_fun}
    return _choose("cond", predicate.to(torch.int64), branches, operands)


def switch(index: Any, branches: Sequence[Callable[..., Any]], *operands: tree.PyTree) -> Any:
    """Return `branches[index](*operands)`, with an index outside of the list moved to its end.

    Parameters
    ----------
    index
        One integer: a 0-d tensor or a Python int; it is clamped to `0 ... len(branches) - 1`.
    branches
        Pure functions of the operands that return trees of the same structure, shapes and dtypes.
    operands
        Trees of tensors; numbers count as 0-d tensors.

    Raises
    ------
    TypeError
        `index` is no integer, or a leaf is no tensor.
    ValueError
        There is no branch, `index` has more than one element, or the branches return what differs,
        as for `cond`.

    Notes
    -----
    What is computed, and derivatives, are as for `cond`.

    Examples
    --------
    >>> import purefn.functional as pf
    >>> waves = [torch.sin, torch.cos, torch.tan]
    >>> switch(torch.tensor(1), waves, torch.tensor(0.0))
    tensor(1.)
    >>> pf.vmap(lambda i: switch(i, waves, 0.0))(torch.tensor([-5, 0, 1, 7]))
    tensor([0., 0., 1., 0.])
    """
    if not branches:
        raise ValueError("switch: expected at least one function for branches, got none.")
    for number, branch in enumerate(branches):
        check_function("switch", f"branches[{number}]", branch)
    clamped = check_index("switch", "index", index).clamp(0, len(branches) - 1)
    named = {f"branches[{number}]": branch for number, branch in enumerate(branches)}
    return _choose("switch", clamped, named, operands)


def _choose(
    transform: str,
    index: Tensor,
    branches: dict[str, Callable[..., Any]],
    operands: Sequence[tree.PyTree],
) -> Any:
    """Call the branch at `index`; `branches` maps what errors call them to the functions."""
    leaves, structure = tree.flatten(tensor_leaves(transform, "operands", operands))
    results: dict[str, Any] = {}

    def flat_branch(name: str) -> flat.Flat:
        def call(*tensors: Tensor) -> Sequence[Tensor]:
            result = branches[name](*tree.unflatten(structure, tensors))
            results[name] = tensor_leaves(transform, f"the output of {name}", result)
            return tree.leaves(results[name])

        return call

    flat_branches = list(map(flat_branch, branches))

    def check() -> None:
        (first, expected), *others = results.items()
        for name, found in others:
            names = (f"{first}(...)", f"{name}(...)")
            check_same(transform, names, expected, found, _SAME)

    if recorder() is not None:
        chosen = _staged(transform, index, flat_branches, leaves, check)
    elif levels.is_batched(index) or levels.holds(index == index) is None:
        outputs = [branch(*leaves) for branch in flat_branches]
        check()
        chosen = select(index, outputs)
    else:
        chosen = flat_branches[int(levels.lowered(index))](*leaves)
    return tree.unflatten(tree.structure(next(iter(results.values()))), chosen)


_SAME = "All branches return the same structure, shapes and dtypes."


def _staged(
    transform: str,
    index: Tensor,
    branches: Sequence[flat.Flat],
    leaves: Sequence[Tensor],
    check: Callable[[], None],
) -> Sequence[Tensor]:
    converted = [convert(transform, branch, leaves) for branch in branches]
    check()
    consts = {id(tensor): tensor for _, captured, _ in converted for tensor in captured}
    position = {key: place for place, key in enumerate(consts)}

    def of_all(branch: flat.Flat, captured: Sequence[Tensor]) -> flat.Flat:
        own = [position[id(tensor)] for tensor in captured]
        return lambda *tensors: branch(*flat.picked(tensors, own), *tensors[len(consts) :])

    choice = Choice([of_all(branch, captured) for branch, captured, _ in converted])
    return bind(choice, [index, *consts.values(), *leaves])
