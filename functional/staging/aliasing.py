"""Which outputs may be written into which donated inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, fx

from . import graphs
from .tracing import storage_id


class DonationPlan(NamedTuple):
    """`buffers[output] = input`: the pairs that share memory; `unused`: donated for nothing."""

    buffers: dict[int, int]
    unused: list[int]


def plan_donation(graph: fx.Graph, donated: Sequence[int]) -> DonationPlan:
    """Pair outputs with donated inputs of the same shape, layout, dtype and device.

    An input that an output is a view of is left alone, and so is one of which an output may be a
    mere copy: inductor (2.13) takes `b = a.clone()` for `a`, and would read `a` after a write. For
    the same reason what is made of one donated input alone goes into no other's memory.
    """
    inputs, of = graphs.values(graph), graphs.dependencies(graph)
    results = graphs.results(graph)
    first = graphs.first_places(results)
    outputs = {j: node.meta["val"] for j, node in enumerate(results)}
    depends = {j: of[storage_id(out)] for j, out in outputs.items()}
    memories = {i: storage_id(inputs[i]) for i in donated}
    passed_on = {storage_id(out) for out in outputs.values()}
    kept = {i for i in donated if memories[i] in passed_on}
    of_inputs = {storage_id(value) for value in inputs}
    candidates = {
        j: out
        for j, out in outputs.items()
        if storage_id(out) not in of_inputs and first[results[j]] == j
    }
    made_of: dict[int, list[int]] = {i: [] for i in donated}
    for j, out in candidates.items():
        i = depends[j].bit_length() - 1
        if i in made_of and depends[j] == 1 << i and _like(out, inputs[i]):
            made_of[i].append(j)
    buffers = {made_of[i][0]: i for i in donated if i not in kept and len(made_of[i]) == 1}
    free = [i for i in donated if i not in kept and not made_of[i]]
    alone = {1 << i for i in donated}
    for j, out in candidates.items():
        if j in buffers or depends[j] in alone:
            continue
        fitting = next((i for i in free if _like(out, inputs[i])), None)
        if fitting is not None:
            buffers[j] = fitting
            free.remove(fitting)
    unused = [i for i in donated if i not in kept and i not in buffers.values()]
    return DonationPlan(buffers, unused)


def _like(out: Tensor, into: Tensor) -> bool:
    same = (out.shape, out.dtype, out.device) == (into.shape, into.dtype, into.device)
    return same and out.stride() == into.stride() and not torch._debug_has_internal_overlap(into)
