"""`remat`: what a function computes is not kept for its derivative, but computed again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar, cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from .. import tree
from ..border import tensor_leaves
from ..staging.tracing import recorder
from .checks import check_function
from .closures import convert
from .primitive import bind
from .remat_primitive import Remat

P = ParamSpec("P")
R = TypeVar("R")


def remat(fun: Callable[P, R]) -> Callable[P, R]:
    """Return `fun` with a derivative that computes `fun` anew instead of keeping what it computed.

    The way back through a function keeps its arguments alone, and the memory of all else is free
    until then; it costs another forward. Values and derivatives are those of `fun`, in both modes
    and under every transform. It is what JAX calls `jax.checkpoint`, and a decorator.

    Parameters
    ----------
    fun
        A pure function of trees that returns a tree of tensors and numbers. It may close over
        tensors that are differentiated.

    Raises
    ------
    TypeError
        `fun` is not a function, or a leaf of its output is neither a tensor nor a number.
    ValueError
        `fun` writes into a tensor that it did not make.

    Notes
    -----
    Memory is saved in eager `grad` and under `jit`, where the recomputation is compiled apart from
    the rest, so that the compiler does not merge it with what was computed before. To find what
    `fun` closes over it is run once without values at each call; in eager that costs about a
    millisecond an operation, so wrap what is large: a block of layers on a batch. In eager a
    function that looks at values (`if x > 0`) runs as it is, and keeps what it computes.

    Examples
    --------
    >>> import purefn.functional as pf
    >>> @remat
    ... def block(x):
    ...     return torch.sin(torch.sin(x))
    >>> pf.grad(block)(torch.tensor(0.0))
    tensor(1.)
    """
    check_function("remat", "fun", fun)

    @functools.wraps(fun, updated=())
    def rematerialized(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return fun(*args, **kwargs)
        leaves, structure = tree.flatten((args, kwargs))
        places = [index for index, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        result = tree.structure(None)

        def flat_fun(*tensors: Tensor) -> Sequence[Tensor]:
            nonlocal result
            values = list(leaves)
            for place, tensor in zip(places, tensors, strict=True):
                values[place] = tensor
            own_args, own_kwargs = tree.unflatten(structure, values)
            output = tensor_leaves("remat", "output", fun(*own_args, **own_kwargs))
            outputs, result = tree.flatten(output)
            return outputs

        tensors = [leaves[place] for place in places]
        try:
            converted, captured, _ = convert("remat", flat_fun, tensors)
        except (DataDependentOutputException, DynamicOutputShapeException):
            if recorder() is not None:
                raise
            return fun(*args, **kwargs)
        outputs = bind(Remat(converted), [*captured, *tensors])
        return cast(R, tree.unflatten(result, outputs))

    return rematerialized
