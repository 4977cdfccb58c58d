"""What an optimizer is judged by: a class of torch.optim, a transcription, another recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..functional import tree

__all__: list[str] = []

#: The parameters and parts of the state by name, each the list of its leaves.
Snapshot = dict[str, list[Tensor]]

#: `transcription(theta, gradients, **hyperparameters)` computes in numpy, in float64, with one
#: array of parameters and the array of gradients of each step. After each step it yields `theta`,
#: or `theta` and a dict of the state, by the names of our fields.
Transcription = Callable[..., Iterable[Any]]


def whole_tree(transcription: Transcription) -> Transcription:
    """Mark a transcription that needs all leaves together: it receives lists of arrays.

    `theta` and each of the gradients are then lists with an array for each leaf, and so are `theta`
    and the state that it yields (a value of the state may also be one number, for all leaves).
    """
    transcription.whole_tree = True  # type: ignore[attr-defined]
    return transcription


def run_transcription(
    transcription: Transcription,
    params: tree.PyTree,
    gradients: Sequence[tree.PyTree],
    hyperparameters: Mapping[str, Any],
) -> Iterator[Snapshot]:
    """Yield the snapshot after each step of a transcription."""
    theta = [leaf.double().numpy() for leaf in tree.leaves(params)]
    columns = [[leaf.double().numpy() for leaf in tree.leaves(grads)] for grads in gradients]
    if getattr(transcription, "whole_tree", False):
        for theta_and_state in transcription(theta, columns, **hyperparameters):
            yield _snapshot(*_pair(theta_and_state))
        return
    runs = [
        transcription(leaf, [grads[index] for grads in columns], **hyperparameters)
        for index, leaf in enumerate(theta)
    ]
    for row in zip(*runs, strict=True):
        pairs = [_pair(theta_and_state) for theta_and_state in row]
        names = pairs[0][1]
        yield _snapshot(
            [leaf for leaf, _ in pairs],
            {name: [state[name] for _, state in pairs] for name in names},
        )


def _pair(yielded: Any) -> tuple[Any, Mapping[str, Any]]:
    if isinstance(yielded, tuple) and len(yielded) == 2 and isinstance(yielded[1], dict):
        return yielded
    return yielded, {}


def _snapshot(theta: Sequence[Any], state: Mapping[str, Any]) -> Snapshot:
    def tensors(values: Any) -> list[Tensor]:
        values = values if isinstance(values, list) else [values]
        return [torch.as_tensor(np.array(value, dtype=np.float64)) for value in values]

    return {"params": tensors(list(theta)), **{name: tensors(v) for name, v in state.items()}}


def run_torch(
    make: Callable[..., torch.optim.Optimizer],
    params: tree.PyTree,
    gradients: Sequence[tree.PyTree],
    hyperparameters: Mapping[str, Any],
    states: Mapping[str, str],
) -> Iterator[Snapshot]:
    """Yield the snapshot after each step of an optimizer of torch; `states` maps our names."""
    leaves = [leaf.clone() for leaf in tree.leaves(params)]
    optimizer = make(leaves, **hyperparameters)
    for grads in gradients:
        for leaf, grad in zip(leaves, tree.leaves(grads), strict=True):
            leaf.grad = grad.clone()
        optimizer.step()
        held = [optimizer.state[leaf] for leaf in leaves]
        kept = {
            ours: [torch.as_tensor(state[theirs]).clone() for state in held]
            for ours, theirs in states.items()
            if all(state.get(theirs) is not None for state in held)
        }
        yield {"params": [leaf.clone() for leaf in leaves], **kept}
