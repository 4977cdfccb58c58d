"""The test that the loss of an example depends on that example alone.

Where examples are mixed, as by batch norm, there is no gradient of one example, and what a batch of
one yields is another function's. So the losses of a few examples together are compared with those
of each alone, once for each function and kind of arguments; where they differ, the operator that
mixes is looked for. The test needs values: those of a call that is being traced are drawn. Since a
last layer of zeros hides what is before it, parameters that were moved are tried as well.

What none of these examples reaches, such as a mean over the losses above a threshold, is not seen.
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

#: How many examples are looked at together. The last has the integers of the first, so that what
#: counts how often a label comes up shows.
COUNT = 4
#: How far losses of the same examples may be apart: so much of the largest for rounding, by dtype,
#: and so much of what lies between the smallest and the largest.
ROUNDING = {torch.float64: 1e-9, torch.float32: 3e-5}
COARSE = 5e-2
#: Of float32 off the CPU, where products may round to ten bits.
TENSOR_FLOAT = 1e-3
OF_SPREAD = 1e-2
#: How much of a difference float64 leaves, where it is of rounding.
OF_ROUNDING = 1e-4

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
    rows = torch.tensor([*range(COUNT - 1), 0]) % call.size
    batch = [leaf[rows.to(leaf.device)] for leaf in call.batch]
    try:
        with _quiet():
            run = _runs(call, batch)
    except (RuntimeError, ValueError) as error:
        with _quiet():
            _refuse_what_needs_others(call, batch, error)
    is_telling = [_is_telling(call, batch, run, is_moved) for is_moved in (False, True)]
    if any(is_telling):
        known.add(kind)


def _is_telling(call: Call, batch: Sequence[Tensor], run: Flat, is_moved: bool) -> bool:
    """Refuse examples that are not independent; say whether it would have shown if they were not.

    Losses that are all equal, or not finite, do not tell.
    """
    leaves = _with_values(call, batch, is_moved)
    with _apart():
        try:
            rows = run(*leaves)
        except (RuntimeError, ValueError, IndexError):
            # Drawn values may be out of a function's domain; its own run says what is wrong.
            return False
        differs = any(_differ(three[i], three[2]) for three in _threes(rows) for i in (0, 1))
        differs = differs and not _is_rounding(run, leaves, rows)
        losses = rows[2][torch.isfinite(rows[2])]
        tells = bool(losses.numel()) and bool(losses.max() > losses.min())
    if differs:
        raise ValueError(_explanation(call, _runs(call, batch, alone=False), leaves))
    return tells


def _is_rounding(run: Flat, leaves: Sequence[Tensor], rows: Sequence[Tensor]) -> bool:
    """Say whether `rows` differ by rounding alone: in float64 they then differ far less.

    Where large terms cancel, rounding is large beside what is left of them.
    """
    try:
        with _InFloat64():  # type: ignore[no-untyped-call]
            finer = run(*leaves)
    except (RuntimeError, ValueError, TypeError):
        # There are operators, of quantized numbers say, that take no float64.
        return False
    return all(
        _distance(fine[i], fine[2]) <= OF_ROUNDING * _distance(coarse[i], coarse[2])
        for fine, coarse in zip(_threes(finer), _threes(rows), strict=True)
        for i in (0, 1)
        if _differ(coarse[i], coarse[2])
    )


def _threes(rows: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    return [rows[start : start + 3] for start in range(0, len(rows), 3)]


def _distance(first: Tensor, second: Tensor) -> float:
    usable = torch.isfinite(first) & torch.isfinite(second)
    apart = (first[usable].double() - second[usable].double()).abs()
    return float(apart.max()) if apart.numel() else 0.0


def _kinds(call: Call) -> set[Any]:
    """Return the kinds of calls that were checked, for a function that can be remembered."""
    try:
        return _checked.setdefault(call.losses_fn, set())
    except TypeError:
        return set()


def _runs(call: Call, batch: Sequence[Tensor], alone: bool = True) -> Flat:
    """Return what is computed for examples as a function of the leaves of `_with_values`.

    With `alone`, every output three times: of the examples together, in reverse order and put in
    order again, and of each example by itself. The first output is the losses.
    """
    count = len(call.params)

    def run(*leaves: Tensor) -> list[Tensor]:
        params, examples = leaves[:count], leaves[count:]
        together = _outputs(call, params, examples)
        if not alone:
            return together
        backwards = _outputs(call, params, [leaf.flip(0) for leaf in examples])
        singles = [
            _outputs(call, params, [leaf[row : row + 1] for leaf in examples])
            for row in range(COUNT)
        ]
        found = []
        for whole, reverse, *ones in zip(together, backwards, *singles, strict=True):
            if len(whole) == COUNT and all(one.numel() * COUNT == whole.numel() for one in ones):
                rows = [one.reshape(1, *whole.shape[1:]) for one in ones]
                found += [whole, reverse.flip(0), torch.cat(rows)]
        return found

    converted, closed_over, _ = convert(call.transform, run, [*call.params, *batch])
    with _apart():
        draw = torch.Generator().manual_seed(0)
        own = [_value(leaf, draw) for leaf in closed_over]
    return lambda *leaves: converted(*own, *leaves)


def _with_values(call: Call, batch: Sequence[Tensor], is_moved: bool) -> list[Tensor]:
    """Return parameters and examples that have values; the parameters moved somewhere else."""
    with _apart():
        draw = torch.Generator().manual_seed(1)
        params = [_value(leaf, draw) for leaf in call.params]
        if is_moved:
            params = [leaf + _drawn(leaf, draw) for leaf in params]
        return [*params, *(_different_rows(_value(leaf, draw), draw) for leaf in batch)]


def _outputs(call: Call, params: Sequence[Tensor], batch: Sequence[Tensor]) -> list[Tensor]:
    """Return the losses, and the floating-point leaves of the auxiliary output."""
    losses, aux = call.losses(params, batch)
    call.check_losses(losses, len(batch[0]))
    return [losses, *(leaf for leaf in tree.leaves(aux) if leaf.is_floating_point() and leaf.ndim)]


def _refuse_what_needs_others(call: Call, batch: Sequence[Tensor], error: Exception) -> NoReturn:
    """Say what is wrong with a function that does not take one example, or not a few."""
    try:
        run = _runs(call, batch, alone=False)
    except (RuntimeError, ValueError):
        _refuse_fixed_length(call, error)
    leaves = _with_values(call, batch, is_moved=True)
    raise ValueError(_explanation(call, run, leaves)) from error


def _refuse_fixed_length(call: Call, error: Exception) -> NoReturn:
    """Raise what the function does for the whole batch; or, if that works, say that this does."""
    count = len(call.params)
    convert(
        call.transform,
        lambda *leaves: _outputs(call, leaves[:count], leaves[count:]),
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
    return _drawn(leaf, draw)


def _drawn(leaf: Tensor, draw: torch.Generator) -> Tensor:
    """Return numbers of about the size that a leaf of a network has."""
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
    rounding = ROUNDING.get(second.dtype, COARSE)
    if second.dtype == torch.float32 and second.device.type != "cpu":
        rounding = TENSOR_FLOAT
    first, second = first[usable].double(), second[usable].double()
    scale = torch.maximum(first.abs().max(), second.abs().max())
    spread = second.max() - second.min()
    return bool((first - second).abs().max() > rounding * scale + OF_SPREAD * spread)


# --- what to say ---------------------------------------------------------------------------------


def _explanation(call: Call, losses: Flat, leaves: Sequence[Tensor]) -> str:
    """Say which operator mixes examples, or that an example depends on its place."""
    count = len(call.params)
    with _apart():
        changed = [*leaves[:count], *map(_with_another_first, leaves[count:])]
        before = _Outputs([])
        with before:
            first = losses(*leaves)
        after = _Outputs(before.seen)
        with after:
            second = losses(*changed)
        is_apart = all(torch.equal(a[1:], b[1:]) for a, b in zip(first, second, strict=True))
    if is_apart:
        return (
            f"{call.transform}: {call.name} gives an example another loss in a batch than alone: "
            "the loss depends on the example's place or on how many there are. Numbers that are "
            "drawn for a whole batch do that, as for dropout: give every example a key of its own, "
            "as an argument (random.split(key, batch)), and draw with vmap."
        )
    what = "losses, or auxiliary outputs," if call.has_aux else "losses"
    return (
        f"{call.transform}: the {what} of {call.name} mix examples: with another first example, "
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


class _InFloat64(TorchDispatchMode):
    """Computes in float64 what is written for narrower floating-point numbers."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        wide, options = tree.map(_widened, (tuple(args), dict(kwargs or {})))
        if func._schema.is_mutable and wide and wide[0] is not args[0]:
            raise TypeError(f"{func} would write into a copy.")
        return tree.map(_widened, func(*wide, **options))


def _widened(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return torch.float64 if value.is_floating_point else value
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


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
