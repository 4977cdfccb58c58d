"""The test that the loss of an example depends on that example alone.

Where examples are mixed, as by batch norm, there is no gradient of one example, and what a batch of
one yields is another function's. So the losses of a few examples together are compared with those
of each alone, once for each function and kind of arguments; where they differ, the operator that
mixes is looked for. The test needs values: those of a call that is being traced are drawn.
"""

from __future__ import annotations

import contextlib
import logging
import traceback
import warnings
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from .. import tree
from ..control.closures import convert
from ..control.flat import Flat
from ..staging import disable_jit
from ..staging.errors import line_of
from ..staging.tracing import untraced
from .calls import Call

#: How many examples are looked at together.
COUNT = 3
#: How far losses of the same examples may be apart, relative to the largest.
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3}
COARSE = 5e-2

_checked: weakref.WeakKeyDictionary[Any, set[Any]] = weakref.WeakKeyDictionary()


def check_independence(call: Call) -> None:
    """Refuse a function whose loss of one example depends on another, or on its place.

    Raises
    ------
    ValueError
        It does; the message names the operator and the line where examples first meet. Or the
        function takes batches of one length only.
    """
    kind = (str(call.argnums), *[(x.shape, x.dtype) for x in (*call.params, *call.examples())])
    known = _kinds(call)
    if not call.size or kind in known:
        return
    rows = torch.arange(COUNT) % call.size
    batch = [leaf[rows.to(leaf.device)] for leaf in call.batch]
    try:
        with _quiet():
            losses, leaves = _with_values(call, batch)
    except (RuntimeError, ValueError) as error:
        with _quiet():
            _refuse_what_needs_others(call, batch, error)
    with _apart():
        try:
            together, backwards, *alone = losses(*leaves)
        except (RuntimeError, ValueError, IndexError):
            # Drawn values may be out of a function's domain; its own run says what is wrong.
            return
        single = torch.cat(alone)
        differs = _differ(together, single) or _differ(backwards, single)
    if differs:
        raise ValueError(_explanation(call, *_with_values(call, batch, alone=False)))
    known.add(kind)


def _kinds(call: Call) -> set[Any]:
    """Return the kinds of calls that were checked, for a function that can be remembered."""
    try:
        return _checked.setdefault(call.losses_fn, set())
    except TypeError:
        return set()


def _with_values(
    call: Call, batch: Sequence[Tensor], alone: bool = True
) -> tuple[Flat, list[Tensor]]:
    """Return the losses as a function of leaves that have values, and such leaves.

    The function returns the losses together; with `alone`, then those of the examples in reverse
    order, put in order again, and the loss of each example by itself.
    """
    count = len(call.params)

    def losses(*leaves: Tensor) -> list[Tensor]:
        params, examples = leaves[:count], leaves[count:]
        found = [_losses(call, params, examples)]
        if not alone:
            return found
        found.append(_losses(call, params, [leaf.flip(0) for leaf in examples]).flip(0))
        for row in range(COUNT):
            one = [leaf[row : row + 1] for leaf in examples]
            found.append(_losses(call, params, one).reshape(1))
        return found

    converted, closed_over, _ = convert(call.transform, losses, [*call.params, *batch])
    with _apart():
        draw = torch.Generator().manual_seed(0)
        own = [_value(leaf, draw) for leaf in closed_over]
        params = [_value(leaf, draw) for leaf in call.params]
        examples = [_different_rows(_value(leaf, draw), draw) for leaf in batch]
    return lambda *leaves: converted(*own, *leaves), [*params, *examples]


def _losses(call: Call, params: Sequence[Tensor], batch: Sequence[Tensor]) -> Tensor:
    losses, _ = call.losses(params, batch)
    call.check_losses(losses, len(batch[0]))
    return losses  # type: ignore[no-any-return]


def _refuse_what_needs_others(call: Call, batch: Sequence[Tensor], error: Exception) -> NoReturn:
    """Say what is wrong with a function that does not take one example, or not a few."""
    try:
        mixed = _with_values(call, batch, alone=False)
    except (RuntimeError, ValueError):
        _refuse_fixed_length(call, error)
    raise ValueError(_explanation(call, *mixed)) from error


def _refuse_fixed_length(call: Call, error: Exception) -> NoReturn:
    """Raise what the function does for the whole batch; or, if that works, say that this does."""
    count = len(call.params)
    convert(
        call.transform,
        lambda *leaves: [_losses(call, leaves[:count], leaves[count:])],
        [*call.params, *call.batch],
    )
    raise ValueError(
        f"{call.transform}: {call.name} works for a batch of {call.size} examples, but not for "
        f"{COUNT} of them ({error}). It has to work for any number: what belongs to the examples, "
        "such as weights or masks of the length of the batch, is an argument, not closed over."
    ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let torch not log what fails here, which is raised again in other words, or tried again."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """Compute values as plain torch does."""
    with (
        untraced(),
        disable_jit(),
        torch.no_grad(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def _value(leaf: Tensor, draw: torch.Generator) -> Tensor:
    """Return a tensor with values in the place of one that has none."""
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(leaf)
    if not (wrapped or isinstance(leaf, FakeTensor)):
        return leaf.detach()
    if leaf.is_floating_point() or leaf.is_complex():
        scale = max(1, leaf.shape[1:].numel()) ** -0.5
        drawn: Tensor = torch.randn(leaf.shape, generator=draw) * scale
    else:
        drawn = torch.randint(2, leaf.shape, generator=draw)
    return drawn.to(device=leaf.device, dtype=leaf.dtype)


def _different_rows(leaf: Tensor, draw: torch.Generator) -> Tensor:
    """Return examples of which no two are the same in floating-point leaves."""
    if not leaf.is_floating_point():
        return leaf
    noise = torch.randn(leaf.shape, generator=draw).to(leaf)
    return leaf.add(noise, alpha=0.1)


def _differ(first: Tensor, second: Tensor) -> bool:
    usable = torch.isfinite(first) & torch.isfinite(second)
    if not bool(usable.any()):
        return False
    tolerance = TOLERANCES.get(first.dtype, COARSE)
    first, second = first[usable].double(), second[usable].double()
    scale = torch.maximum(first.abs().max(), second.abs().max())
    return bool((first - second).abs().max() > tolerance * scale)


# --- what to say ---------------------------------------------------------------------------------


def _explanation(call: Call, losses: Flat, leaves: Sequence[Tensor]) -> str:
    """Say which operator mixes examples, or that an example depends on its place."""
    count = len(call.params)
    with _apart():
        changed = [*leaves[:count], *map(_with_another_first, leaves[count:])]
        before = _Outputs([])
        with before:
            (first,) = losses(*leaves)
        after = _Outputs(before.seen)
        with after:
            (second,) = losses(*changed)
        is_apart = torch.equal(first[1:], second[1:])
    if is_apart:
        return (
            f"{call.transform}: {call.name} gives an example another loss in a batch than alone: "
            "the loss depends on the example's place or on how many there are. Numbers that are "
            "drawn for a whole batch do that, as for dropout: give every example a key of its own, "
            "as an argument (random.split(key, batch)), and draw with vmap."
        )
    return (
        f"{call.transform}: the losses of {call.name} mix examples: with another first example, "
        f"others change too{after.mixing}. The gradient of one example is not defined "
        "then. Normalize over channels (group, layer or instance norm) or by fixed statistics in "
        "the place of batch norm, and reduce over the other axes only."
    )


def _with_another_first(leaf: Tensor) -> Tensor:
    rows = leaf.clone()
    rows[0] = rows[0] * -1.5 + 1 if leaf.is_floating_point() else rows[1]
    return rows


class _Outputs(TorchDispatchMode):
    """Keeps what operators return, and finds the first in which a change is everywhere."""

    def __init__(self, expected: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[Tensor] = []
        #: Where that is, in words; nothing if it was not found.
        self.mixing = ""
        self._expected = list(expected)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for output in tree.leaves(result):
            if not isinstance(output, Tensor):
                continue
            place = len(self.seen)
            self.seen.append(output)
            if not self.mixing and place < len(self._expected):
                before = self._expected[place]
                if before.shape == output.shape and not _is_confined(before, output):
                    name = func._schema.name.removeprefix("aten::")
                    self.mixing = f", first in {name}{line_of(traceback.extract_stack())}"
        return result


def _is_confined(before: Tensor, after: Tensor) -> bool:
    """Say whether two tensors differ only where the first of the examples may be."""
    differs = ~((before == after) | (before.isnan() & after.isnan()))
    if not bool(differs.any()):
        return True
    for axis, length in enumerate(differs.shape):
        if length % COUNT == 0:
            parts = differs.movedim(axis, 0)
            # Examples lie one after the other, or take turns.
            if not (parts[length // COUNT :].any() and _elsewhere(parts).any()):
                return True
    return False


def _elsewhere(parts: Tensor) -> Tensor:
    turns: Tensor = parts.unflatten(0, (-1, COUNT))
    return turns[:, 1:]
