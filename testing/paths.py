"""Ways to execute a step, all of which must do the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .. import functional as pf
from ..functional import tree
from .report import Counterexample
from .runs import same
from .steps import (
    Outcome,
    Start,
    Steps,
    as_tensor,
    at_once,
    failing,
    one_by_one,
    require_near,
    stacked,
    step_of,
    unwritten,
)


def require_path(steps: Steps, path: str) -> None:
    """Require that another way to execute, one of `PATHS`, gives what the run did at each step."""
    case = steps.run.case
    try:
        got = PATHS[path](steps)
    except Counterexample:
        raise
    except Exception as error:
        raise failing(steps, path, _WORDS[path], error) from error
    words = f"{_WORDS[path]} differ from those of the run"
    require_near(case, path, words, steps.chosen, got, steps.expected, steps.allowed)


def _leaf_by_leaf(steps: Steps) -> Outcome:
    with _Watching():  # type: ignore[no-untyped-call]
        return one_by_one(steps.step, steps.starts)


class _Watching(TorchDispatchMode):
    """Does nothing; but under it rules are not run on lists of tensors."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return func(*args, **(kwargs or {}))


def _with_tensors(steps: Steps) -> Outcome:
    """Give every hyperparameter, the learning rate too, as a 0-d tensor."""
    step = step_of(steps.subject, steps.run.case, **steps.tensors)
    starts = [
        start if start.lr is None else start._replace(lr=as_tensor(start.lr))
        for start in steps.starts
    ]
    return one_by_one(step, starts)


def _batched(steps: Steps) -> Outcome:
    """Make all the steps at once, each a member of the batch."""
    with unwritten(steps.run.case, steps.many[:4]):
        return at_once(step_of(steps.subject, steps.run.case, **steps.tensors), steps.many)


def _compiled(steps: Steps) -> Outcome:
    """Run the step under `jit`, for which one program must serve all steps."""
    case, constant = steps.run.case, steps.many[-1]

    def step(params: Any, state: Any, grads: Any, lr: Any, extra: Any) -> Outcome:
        outcome: Outcome = steps.step(params, state, grads, lr, {**extra, **constant})
        return outcome

    compiled = pf.jit(step, backend="eager")
    rows = []
    for index, start in zip(steps.chosen, steps.starts, strict=True):
        given = (*start[:4], {name: start.extra[name] for name in steps.many[4]})
        before = [leaf.clone() for leaf in tree.leaves(start[:3])]
        rows.append(compiled(*given))
        if not all(map(same, before, tree.leaves(start[:3]))):
            text = f"update writes its input under jit, at step {index + 1}."
            raise Counterexample("jit", text, case, step=index + 1)
    if compiled.trace_count != 1:
        raise Counterexample(
            "jit",
            f"{len(rows)} steps of one kind took {compiled.trace_count} compiled programs; "
            "is something of the state a Python number, or of a changing shape or dtype?",
            case,
            expected=1,
            got=compiled.trace_count,
        )
    outcome: Outcome = stacked(rows)
    return outcome


def _strided(steps: Steps) -> Outcome:
    """Give tensors whose elements do not lie in memory in the order of their indices."""

    def spread(leaf: Tensor) -> Tensor:
        if leaf.ndim == 0:
            return leaf
        wide = torch.zeros(*leaf.shape[::-1], 2, dtype=leaf.dtype)
        return wide[..., 0].permute(*range(leaf.ndim)[::-1]).copy_(leaf)

    starts = []
    for start in steps.starts:
        params, state, grads = tree.map(spread, tuple(start[:3]))
        starts.append(Start(params, state, grads, start.lr, start.extra))
    return one_by_one(steps.step, starts)


#: Ways to make steps.
PATHS: Mapping[str, Callable[[Steps], Outcome]] = {
    "leaf by leaf": _leaf_by_leaf,
    "strided": _strided,
    "tensors": _with_tensors,
    "vmap": _batched,
    "jit": _compiled,
}
_WORDS = {
    "leaf by leaf": "leaf by leaf (without torch's foreach kernels)",
    "strided": "on tensors that are not contiguous",
    "tensors": "with hyperparameters that are 0-d tensors",
    "vmap": "under vmap",
    "jit": "under jit",
}
