"""Masks: which leaves of a tree a transformation is for.

There is one rule. A mask is one of

- a tree of Python bools with the structure of the parameters, of which a leaf may stand for a whole
  subtree: `True` alone, `{"conv1": True, "head": False}`, or a bool for each leaf;
- a function of the name of a leaf. A name is torch's: keys, indices and fields joined by dots
  (`"conv1.weight"`), as in `named_parameters()` and `tree.to_state_dict`.

True means: this leaf is transformed. Labels are masks with something else than bools.

A leaf that is not selected is `None`, an empty subtree, for the transformation inside, which so
keeps no state for it. Inside another mask, a mask is still written for all the parameters: what it
says of leaves that are not there does not matter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from torch import Tensor

from ..functional import tree

__all__ = ["Labels", "Mask"]

#: A tree of bools, of which a leaf may stand for a subtree, or a function of a leaf's name.
Mask = tree.PyTree | Callable[[str], bool]
#: The same with names of groups.
Labels = tree.PyTree | Callable[[str], Hashable]


class Selector:
    """What a mask says of each leaf of a tree, found once for each structure.

    >>> selector = Selector("freeze: mask", lambda name: name.endswith("bias"), check=a_bool)
    >>> selector.flags({"fc": {"weight": 1.0, "bias": 2.0}})
    (True, False)
    """

    def __init__(self, who: str, mask: Mask | Labels, check: Callable[[Any, str], None]) -> None:
        _check_mask(who, mask)
        self.who, self.mask, self.check = who, mask, check
        self._of_structure = functools.lru_cache(maxsize=8)(self._flags)

    def flags(self, params: tree.PyTree) -> tuple[Any, ...]:
        """Return the flag or label of each leaf.

        Raises
        ------
        TypeError
            A flag is of the wrong type; the message names the leaf.
        ValueError
            The mask does not fit; the message names the path.
        """
        return self._of_structure(tree.structure(params))

    def _flags(self, structure: tree.Structure) -> tuple[Any, ...]:
        places = tree.unflatten(structure, range(structure.num_leaves))
        names = [".".join(map(str, path)) for path, _ in tree.leaves_with_path(places)]
        flags = list(map(self._ask, names)) if callable(self.mask) else self._spread(places)
        for flag, name in zip(flags, names, strict=True):
            self.check(flag, f"{self.who} for {name!r}" if name else self.who)
        return tuple(flags)

    def _ask(self, name: str) -> Any:
        """Return what the function says of the leaf of that name."""
        try:
            return self.mask(name)
        except Exception as error:
            error.add_note(
                f"{self.who}: the function receives the dotted name of one leaf, such as "
                f"'conv1.weight', never the tree; it was given {name!r}."
            )
            raise

    def _spread(self, params: tree.PyTree) -> list[Any]:
        """Give each leaf the value of the mask that stands for it."""
        spread: list[Any] = []

        def repeat(flag: Any, subtree: tree.PyTree) -> None:
            spread.extend([flag] * len(tree.leaves(subtree)))

        tree.map(repeat, self.mask, params, names=(self.who, "params"))
        return spread


def a_bool(flag: Any, place: str) -> None:
    """Require True or False."""
    if not isinstance(flag, bool):
        raise TypeError(f"{place}: expected True or False, got {flag!r} ({type(flag).__name__}).")


def select(params: tree.PyTree, flags: Sequence[bool]) -> tree.PyTree:
    """Return `params` with None in the place of each leaf whose flag is not set.

    >>> select({"a": 1, "b": 2}, [True, False])
    {'a': 1, 'b': None}
    """
    leaves, structure = tree.flatten(params)
    chosen = [leaf if flag else None for leaf, flag in zip(leaves, flags, strict=True)]
    return tree.unflatten(structure, chosen)


def select_params(
    params: tree.PyTree | None, updates: tree.PyTree, flags: Sequence[bool]
) -> tree.PyTree | None:
    """Return the selected parameters, which have the structure of the updates, if there are any."""
    if params is None:
        return None
    structure = tree.structure(updates)
    if tree.structure(params) != structure:
        tree.map(lambda *pair: None, updates, params, names=("updates", "params"))  # names the path
        tree.map(lambda *pair: None, params, updates, names=("params", "updates"))
    return select(params, flags)


def merge(
    who: str, updates: tree.PyTree, flags: Sequence[bool], transformed: tree.PyTree
) -> tree.PyTree:
    """Return `updates` with the leaves whose flag is set replaced by those of `transformed`.

    >>> merge("masked", {"a": 1, "b": 2}, [True, False], {"a": 10, "b": None})
    {'a': 10, 'b': 2}
    """
    new, found = tree.flatten(transformed)
    if found != tree.structure(select(updates, flags)):
        raise ValueError(
            f"{who}: the inner transformation has changed the structure of the updates to {found}; "
            "its update must return one tensor for each that it is given."
        )
    leaves, structure = tree.flatten(updates)
    rest = iter(new)
    return tree.unflatten(
        structure, [next(rest) if flag else leaf for flag, leaf in zip(flags, leaves, strict=True)]
    )


def inverted(mask: Mask) -> Mask:
    """Return the mask that selects the other leaves.

    >>> inverted({"a": True, "b": [False]}), inverted(lambda name: name == "a")("a")
    ({'a': False, 'b': [True]}, False)
    """
    if callable(mask):
        return lambda name: _inverted(mask(name))
    return tree.map(_inverted, mask)


def _inverted(flag: Any) -> Any:
    return not flag if isinstance(flag, bool) else flag  # what is no bool is refused in its place


def _check_mask(who: str, mask: Any) -> None:
    if isinstance(mask, Tensor):
        raise TypeError(
            f"{who}: expected Python bools, which are known before training, got a tensor."
        )
    if not callable(mask) and any(map(callable, tree.leaves(mask))):
        raise TypeError(
            f"{who}: expected a tree of bools or one function of the name of a leaf, got a tree "
            "of functions."
        )
