"""What lets transformations be composed that see their trees in another form.

Without extra arguments, as one vector, in another dtype.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from ...functional import tree
from .. import checks
from ..transformation import GradientTransformation, State

__all__ = ["flatten", "in_dtype", "with_extra_args"]


def with_extra_args(transformation: GradientTransformation) -> GradientTransformation:
    """Let a transformation whose `update` takes no extra arguments stand beside those that do.

    It receives of the extra arguments those that its signature names. All transformations of this
    library take them already.

    Raises
    ------
    TypeError
        It is no pair of functions `init` and `update`.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> plain = optim.GradientTransformation(
    ...     init=lambda params: optim.EmptyState(),
    ...     update=lambda updates, state, params=None: (updates, state))
    >>> with_extra_args(plain).update({"w": 1.0}, optim.EmptyState(), value=0.5)
    ({'w': 1.0}, EmptyState())
    """
    checks.transformation("with_extra_args: transformation", transformation)
    parameters = inspect.signature(transformation.update).parameters.values()
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = {p.name for p in parameters} - {"updates", "state", "params"}

    def update(
        updates: tree.PyTree, state: State, params: tree.PyTree | None = None, **extra: Any
    ) -> tuple[tree.PyTree, State]:
        known = {name: v for name, v in extra.items() if takes_all or name in named}
        return transformation.update(updates, state, params, **known)

    return GradientTransformation(transformation.init, update)


def flatten(inner: GradientTransformation) -> GradientTransformation:
    """Show `inner` parameters and gradients as one vector each.

    What `inner` does to a leaf as a whole (its norm, its mean) it does to all of them together.
    The vector has the widest dtype among the leaves, and updates return to each leaf's own.

    Raises
    ------
    TypeError
        Real and complex leaves are mixed.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> clip = optim.flatten(optim.clip_by_block_rms(1.0))
    >>> params = {"a": torch.zeros(1), "b": torch.zeros(1)}
    >>> state = clip.init(params)
    >>> clip.update({"a": torch.tensor([0.0]), "b": torch.tensor([2.0])}, state)[0]
    {'a': tensor([0.]), 'b': tensor([1.4142])}
    """
    checks.transformation("flatten: inner", inner)

    def vector(name: str, of: tree.PyTree) -> Any:
        checks.trainable(of, name)
        if len({leaf.is_complex() for leaf in tree.leaves(of)}) > 1:
            raise TypeError(
                f"flatten: {name} mixes real and complex leaves, which have no common vector. "
                "Separate them with partition."
            )
        return tree.ravel(of)

    def init(params: tree.PyTree) -> State:
        return inner.init(vector("params", params)[0])

    def update(
        updates: tree.PyTree, state: State, params: tree.PyTree | None = None, **extra: Any
    ) -> tuple[tree.PyTree, State]:
        if params is not None:
            checks.same_leaves({"params": params, "updates": updates})
            params = vector("params", params)[0]
        flat, unravel = vector("updates", updates)
        flat, state = inner.update(flat, state, params, **extra)
        return unravel(flat), state

    return GradientTransformation(init, update)


def in_dtype(optimizer: GradientTransformation, dtype: torch.dtype) -> GradientTransformation:
    """Compute, and keep the state, in `dtype`, whatever the parameters are.

    For bfloat16 parameters with float32 state. Parameters and gradients are cast before `optimizer`
    sees them, and its updates are in `dtype`: `apply_updates` adds them in the wider of the two and
    rounds once, or `apply_updates_stochastically`. Complex leaves stay as they are.

    It belongs outermost: around a chain or `multi_steps`, not within, where updates must have
    the parameters' dtype.

    Raises
    ------
    TypeError
        `dtype` is not floating-point.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.in_dtype(optim.adam(lr=0.5), torch.float32)
    >>> params = {"w": torch.ones(1, dtype=torch.bfloat16)}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update(params, state, params)
    >>> updates, optim.get(state, "mu")
    ({'w': tensor([-0.5000])}, {'w': tensor([0.1000])})
    >>> optim.apply_updates(params, updates)
    {'w': tensor([0.5000], dtype=torch.bfloat16)}
    """
    checks.transformation("in_dtype: optimizer", optimizer)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype: expected a floating-point torch.dtype, got {dtype!r}.")

    def init(params: tree.PyTree) -> State:
        checks.trainable(params)
        return optimizer.init(tree.cast(params, dtype))

    def update(
        updates: tree.PyTree, state: State, params: tree.PyTree | None = None, **extra: Any
    ) -> tuple[tree.PyTree, State]:
        checks.trainable(updates, "updates")
        if params is not None:
            checks.same_leaves({"params": params, "updates": updates}, dtypes=False)
            params = tree.cast(params, dtype)
        return optimizer.update(tree.cast(updates, dtype), state, params, **extra)

    return GradientTransformation(init, update)
