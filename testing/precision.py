"""Steps in narrow dtypes, against the same steps in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..functional import tree
from .problems import Case
from .report import Counterexample
from .steps import (
    Steps,
    allowed_of,
    failing,
    has_digits,
    outcomes,
    require_near,
    stacked,
    unstacked,
)


def require_precision(steps: Steps, dtypes: Sequence[torch.dtype]) -> None:
    """Require that steps in narrow dtypes are the float64 steps from the same rounded numbers.

    The leaves have the `dtypes` in turn.
    """
    case, step = steps.run.case, steps.step
    names = ", ".join([str(dtype).removeprefix("torch.") for dtype in dtypes])
    title = f"precision {names}"
    params = _narrow(case.params, dtypes)
    template = params, steps.subject.at(case, 0).init(params), params
    low = tree.map(lambda leaf, rows: rows.to(leaf.dtype), template, steps.many[:3])
    wide = tree.map(lambda rows, leaf: leaf.to(rows.dtype), steps.many[:3], low)
    starts = zip(unstacked(low, len(steps.starts)), steps.starts, strict=True)
    try:
        rows = [step(*start, *rest[3:]) for start, rest in starts]
    except Counterexample:
        raise
    except Exception as error:
        raise failing(steps, title, f"on leaves in {names}", error) from error
    for index, (updates, state) in zip(steps.chosen, rows, strict=True):
        _require_dtypes(case, title, index, "updates", template[0], updates)
        _require_dtypes(case, title, index, "state", template[1], state)
    many = (*wide, *steps.many[3:])
    exact, got = outcomes(step, many), stacked(rows)
    # What is kept in float64, a norm of all leaves say, was computed of narrow numbers.
    like = tree.map(lambda leaf: leaf.float() if leaf.dtype is torch.float64 else leaf, (low, got))
    allowed = allowed_of(step, many, exact, like)
    allowed = tree.map(_where_representable, allowed, exact, got)
    words = f"in {names} differ from the same step in float64"
    require_near(case, title, words, steps.chosen, got, exact, allowed)


def _where_representable(allowed: Tensor, exact: Tensor, got: Tensor) -> Tensor:
    """Allow for the smallest numbers of a dtype, and for results beyond its largest."""
    if not has_digits(got):
        return allowed
    info = torch.finfo(got.dtype)
    beyond = (exact.abs() > info.max / 2) & exact.isfinite()
    return (allowed + 64 * info.smallest_normal * info.eps).masked_fill(beyond, torch.inf)


def _narrow(params: Any, dtypes: Sequence[torch.dtype]) -> Any:
    leaves, structure = tree.flatten(params)
    rows = enumerate(leaves)
    return tree.unflatten(structure, [leaf.to(dtypes[i % len(dtypes)]) for i, leaf in rows])


def _require_dtypes(
    case: Case, title: str, step: int, name: str, expected: Any, given: Any
) -> None:
    rows = zip(tree.leaves(expected), tree.leaves(given), strict=True)
    for index, (old, new) in enumerate(rows):
        if old.dtype != new.dtype or old.shape != new.shape:
            leaf = tree.path_strings(given, name)[index]
            raise Counterexample(
                title,
                f"{leaf} does not keep its dtype and shape: {old.dtype} {tuple(old.shape)} before "
                f"step {step + 1}, {new.dtype} {tuple(new.shape)} after it.",
                case,
                step=step + 1,
                leaf=leaf,
                name=name,
                expected=str(old.dtype),
                got=str(new.dtype),
            )
