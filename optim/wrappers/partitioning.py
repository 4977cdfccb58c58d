"""Different transformations for different leaves."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

from ...functional import tree
from .. import checks
from ..masks import Labels, Selector, merge, select, select_params
from ..transformation import GradientTransformation, State

__all__ = ["PartitionState", "partition"]


class PartitionState(NamedTuple):
    """The state of each transformation by its label."""

    inner_states: dict[Hashable, State]


def partition(
    transforms: Mapping[Hashable, GradientTransformation], param_labels: Labels
) -> GradientTransformation:
    """Give each leaf to the transformation that its label names: torch's parameter groups.

    Each transformation sees trees in which the leaves of the others are None.

    Parameters
    ----------
    transforms
        Transformations by label. A label that no leaf has is no error.
    param_labels
        A tree of labels, which may be a prefix of the parameters' structure, or a function of the
        name of a leaf, `"conv1.weight"`.

    Raises
    ------
    ValueError
        A label is not among those of `transforms` (the message names the leaf), or the tree of
        labels does not fit the parameters (the message names the path).

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> optimizer = optim.partition(
    ...     {"fast": optim.sgd(lr=1.0), "slow": optim.sgd(lr=0.1)},
    ...     lambda name: "slow" if name.startswith("encoder") else "fast")
    >>> params = {"encoder": {"weight": torch.ones(1)}, "head": {"weight": torch.ones(1)}}
    >>> optimizer.update(params, optimizer.init(params), params)[0]
    {'encoder': {'weight': tensor([-0.1000])}, 'head': {'weight': tensor([-1.])}}
    """
    transforms = dict(transforms)
    for label, part in transforms.items():
        checks.transformation(f"partition: transforms[{label!r}]", part)

    def known(label: Any, place: str) -> None:
        if label not in list(transforms):  # it need not be hashable to be refused
            raise ValueError(
                f"{place}: got {label!r}, expected one of the labels of transforms: "
                f"{', '.join(map(repr, transforms))}."
            )

    selector = Selector("partition: param_labels", param_labels, known)

    def groups(params: tree.PyTree) -> dict[Hashable, list[bool]]:
        labels = selector.flags(params)
        return {group: [label == group for label in labels] for group in transforms}

    def init(params: tree.PyTree) -> PartitionState:
        checks.trainable(params)
        return PartitionState(
            {
                label: transforms[label].init(select(params, flags))
                for label, flags in groups(params).items()
            }
        )

    def update(
        updates: tree.PyTree, state: PartitionState, params: tree.PyTree | None = None, **extra: Any
    ) -> tuple[tree.PyTree, PartitionState]:
        checks.state("partition", state, PartitionState)
        checks.states_by_name("partition", state.inner_states, transforms)
        result, inner_states = updates, {}
        for label, flags in groups(updates).items():
            transformed, inner_states[label] = transforms[label].update(
                select(updates, flags),
                state.inner_states[label],
                select_params(params, updates, flags),
                **extra,
            )
            result = merge("partition", result, flags, transformed)
        return result, PartitionState(inner_states)

    return GradientTransformation(init, update)
