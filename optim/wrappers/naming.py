"""A chain whose parts have names."""

from __future__ import annotations

from typing import Any

from ...functional import tree
from .. import checks
from ..transformation import GradientTransformation, State, chain

__all__ = ["named_chain"]


def named_chain(*parts: tuple[str, GradientTransformation]) -> GradientTransformation:
    """Apply transformations one after the other, as `chain`; the state is a dict by their names.

    Raises
    ------
    TypeError
        An argument is no pair of a string and a `GradientTransformation`.
    ValueError
        Two parts have the same name.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.named_chain(
    ...     ("clip", optim.clip_by_global_norm(1.0)), ("momentum", optim.trace(0.9)))
    >>> state = optimizer.init({"w": torch.zeros(1)})
    >>> state["momentum"].trace
    {'w': tensor([0.])}
    """
    for position, part in enumerate(parts):
        if not isinstance(part, tuple) or len(part) != 2 or not isinstance(part[0], str):
            raise TypeError(
                f"named_chain: argument {position} is {part!r}, expected a pair such as "
                "('rule', optim.sgd(lr=0.1))."
            )
        checks.transformation(f"named_chain: {part[0]!r}", part[1])
    names = [name for name, _ in parts]
    if len(set(names)) != len(names):
        raise ValueError(f"named_chain: expected different names, got {', '.join(names)}.")
    inner = chain(*[part for _, part in parts])

    def init(params: tree.PyTree) -> dict[str, State]:
        return dict(zip(names, inner.init(params), strict=True))

    def update(
        updates: tree.PyTree,
        state: dict[str, State],
        params: tree.PyTree | None = None,
        **extra: Any,
    ) -> tuple[tree.PyTree, dict[str, State]]:
        checks.states_by_name("named_chain", state, names)
        own = tuple([state[name] for name in names])
        updates, states = inner.update(updates, own, params, **extra)
        return updates, dict(zip(names, states, strict=True))

    return GradientTransformation(init, update)
