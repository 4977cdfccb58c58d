"""Right mathematics, wrongly run: inputs written, hidden memory, dtypes, shapes, paths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ... import optim
from ...functional import tree
from ...optim import GradientTransformation
from .planting import (
    Fault,
    Step,
    after,
    changed,
    leaves,
    part,
    rewritten,
    substituted,
    with_part,
)

# --- writing, memory -----------------------------------------------------------------------------


def _writes(name: str, only: int | None = None) -> Callable[..., GradientTransformation]:
    """Write to what `update` was given, at all leaves or only one."""

    def change(right: GradientTransformation) -> GradientTransformation:
        def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
            made = right.update(updates, state, params, **extra)
            given = {"grads": updates, "params": params, "state": part(state, "mu")}[name]
            for index, leaf in enumerate(tree.leaves(given)):
                if only is None or index == only:
                    leaf.mul_(1.5)
            return made

        return GradientTransformation(right.init, update)

    return change


def _counts_in_a_closure(right: GradientTransformation) -> GradientTransformation:
    """Divide updates by the number of calls, which the closure counts."""
    calls = 0

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        nonlocal calls
        calls += 1
        made, state = right.update(updates, state, params, **extra)
        return tree.map(lambda leaf: leaf / calls, made), state

    return GradientTransformation(right.init, update)


def _keeps_its_state(right: GradientTransformation) -> GradientTransformation:
    """Carry on from the state of its own last call."""
    last: list[Any] = []

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        made, new = right.update(updates, last[-1] if last else state, params, **extra)
        last.append(new)
        return made, new

    return GradientTransformation(right.init, update)


def _first_rate() -> Callable[..., GradientTransformation]:
    first: list[Any] = []

    def sgd(lr: Any = 1e-3, *args: Any, **options: Any) -> GradientTransformation:
        first.append(lr)
        return optim.sgd(first[0], *args, **options)

    return sgd


WRITING = {
    "gradients written": Fault("adam", changed("adam", _writes("grads")), "inputs"),
    "parameters written": Fault("adam", changed("adam", _writes("params")), "inputs"),
    "state written": Fault("adam", changed("adam", _writes("state")), "inputs", 2),
    "gradient of one leaf written": Fault(
        "adam", changed("adam", _writes("grads", only=3)), "inputs"
    ),
    "calls counted in a closure": Fault(
        "adam", changed("adam", _counts_in_a_closure), "two runs", 2
    ),
    "state kept in a closure": Fault("adam", changed("adam", _keeps_its_state), "two runs", None),
    "first learning rate kept for ever": Fault("sgd", rewritten("sgd", _first_rate())),
}

# --- states --------------------------------------------------------------------------------------


def _count_like(like: Callable[[Tensor], Any]) -> Callable[..., GradientTransformation]:
    """Begin with another kind of count."""

    def change(right: GradientTransformation) -> GradientTransformation:
        return GradientTransformation(
            lambda params: with_part(right.init(params), "count", like), right.update
        )

    return change


def _at(index: int, function: Callable[[Tensor], Tensor]) -> Callable[[Step], Any]:
    """Change the updates of one leaf."""

    def changed_at(step: Step) -> Any:
        made, structure = tree.flatten(step.updates)
        if len(made) == 6:
            made[index] = function(made[index])
        return tree.unflatten(structure, made), step.after

    return changed_at


def _beyond(count: int) -> Callable[[Step], Any]:
    """Go wrong after so many steps."""

    def late(step: Step) -> Any:
        factor = torch.where(part(step.after, "count") > count, 1.001, 1.0)
        return tree.map(lambda leaf: (leaf * factor).to(leaf.dtype), step.updates), step.after

    return late


def _first_norm(step: Step) -> Any:
    """Scale all updates by the first leaf."""
    first = tree.leaves(step.grads)[0].abs().sum()
    factor = 1 / (1 + first)
    return tree.map(lambda leaf: leaf * factor.to(leaf.dtype), step.updates), step.after


def _through_bfloat16(leaf: Tensor) -> Tensor:
    return leaf.bfloat16().float() if leaf.dtype is torch.float32 else leaf


STATES = {
    "count with an axis": Fault(
        "adam", changed("adam", _count_like(lambda count: count.reshape(1))), "state", None
    ),
    "count of 32 bits": Fault(
        "adam", changed("adam", _count_like(lambda count: count.int())), "state", None
    ),
    "count a Python number": Fault(
        "adam",
        after("adam", lambda s: (s.updates, with_part(s.after, "count", lambda c: int(c)))),
        "state",
    ),
    "count never advances": Fault(
        "adam", after("adam", lambda s: (s.updates, with_part(s.after, "count", lambda c: c * 0)))
    ),
    "state not returned": Fault("adam", after("adam", lambda s: (s.updates, s.before))),
    "moments promoted": Fault(
        "adam",
        after("adam", lambda s: (s.updates, with_part(s.after, "mu", lambda m: m.double()))),
        "precision float32",
    ),
    "updates promoted": Fault("sgd", leaves("sgd", lambda u: u.double()), "precision float32"),
    "moments kept in bfloat16": Fault(
        "adam",
        after(
            "adam",
            lambda s: (
                s.updates,
                with_part(
                    s.after,
                    "nu",
                    lambda v: v.bfloat16().to(v.dtype) if v.dtype is torch.float32 else v,
                ),
            ),
        ),
        "precision float32",
    ),
    "updates of bfloat16 rounded down": Fault(
        "adam",
        leaves("adam", lambda u: u * 0.9 if u.dtype is torch.bfloat16 else u),
        "precision bfloat16",
    ),
    "eps lost in float16": Fault(
        "adam",
        leaves("adam", lambda u: u / (u != 0) if u.dtype is torch.float16 else u),
        "precision float16",
        None,
    ),
    "one element squeezed": Fault(
        "sgd", leaves("sgd", lambda u: u.reshape(()) if u.shape == (1,) else u), "updates"
    ),
    "scalars treated otherwise": Fault(
        "sgd", leaves("sgd", lambda u: u * 1.01 if u.ndim == 0 else u), leaf="params['scale']"
    ),
    "last leaf forgotten": Fault(
        "sgd", after("sgd", _at(-1, lambda u: u * 0)), leaf="params['weight']"
    ),
    "third of six leaves doubled": Fault(
        "sgd", after("sgd", _at(2, lambda u: u * 2)), leaf="params['nested'].second[0]"
    ),
    "wrong beyond fifty steps": Fault("adam", after("adam", _beyond(50)), step=51),
    "scaled by the first leaf": Fault(
        "adam", after("adam", _first_norm), "order of leaves", itself=True
    ),
}

# --- ways to execute -----------------------------------------------------------------------------


def _batched(leaf: Tensor) -> bool:
    return bool(torch._C._functorch.is_batchedtensor(leaf))


def _traced(leaf: Tensor) -> bool:
    return type(leaf) is not Tensor and not _batched(leaf)


def _under_a_mode(leaf: Tensor) -> bool:
    return type(leaf) is Tensor and torch._C._len_torch_dispatch_stack() > 0


def _where(condition: Callable[[Tensor], bool]) -> Callable[[Tensor], Tensor]:
    return lambda update: update * 1.0001 if condition(update) else update


def _tensor_moment(m: Tensor, g: Tensor, decay: Any) -> Tensor:
    """Return the first moment, wrong where its decay is a tensor."""
    if isinstance(decay, Tensor):
        return decay * m + decay * g
    return torch.lerp(m, g, 1 - decay)


def _half_a_step_late(schedule: Any) -> Any:
    return lambda step: -schedule(step + 1)


PATHS = {
    "wrong under vmap": Fault("adam", leaves("adam", _where(_batched)), "vmap"),
    "wrong under jit": Fault("adam", leaves("adam", _where(_traced)), "jit"),
    "wrong leaf by leaf": Fault("adam", leaves("adam", _where(_under_a_mode)), "leaf by leaf"),
    "wrong with a tensor for beta": Fault(
        "adam",
        substituted("adam", "algorithms.adam", first_moment=_tensor_moment),
        "tensors",
    ),
    "branches on the count": Fault(
        "adam",
        after("adam", lambda s: (s.updates, s.after if int(part(s.after, "count")) else s.before)),
        "vmap",
        None,
    ),
    "wrong on strided gradients": Fault(
        "sgd",
        after(
            "sgd",
            lambda s: (
                tree.map(lambda u, g: u if g.is_contiguous() else u * 2, s.updates, s.grads),
                s.after,
            ),
        ),
        "strided",
    ),
    "schedule one step late": Fault(
        "sgd",
        substituted("sgd", "pieces.scaling", _downhill=_half_a_step_late),
        "schedule",
    ),
}

CONDUCT = {**WRITING, **STATES, **PATHS}
