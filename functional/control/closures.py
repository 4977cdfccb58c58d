"""What a function closes over, found by running it once, and made an argument.

A loop becomes one node of a graph, and torch.func differentiates and batches it by rules; both must
know every tensor that its body reads, those in its closure included. There Python offers no list,
so the body is run once without values under a mode that sees every operation on tensors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._functorch import eager_transforms
from torch._functorch import vmap as batching
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from ..staging.tracing import Recorder, recorder
from ..staging.valueless import Valueless
from . import levels
from .flat import Batch, Flat, mapped


def convert(
    name: str, fun: Flat, examples: Sequence[Tensor]
) -> tuple[Flat, list[Tensor], list[Tensor]]:
    """Return `fun` with what it closes over made its first arguments.

    Parameters
    ----------
    name
        What errors call the transform.
    fun
        A flat function; it may close over tensors that are traced, differentiated or batched.
    examples
        Tensors of the shapes and dtypes of its arguments.

    Raises
    ------
    ValueError
        The function writes into what it is given or closes over.

    Returns
    -------
    The function of `(*captured, *arguments)`, the captured tensors, and outputs without values.
    """
    scout = Scout(_mode())
    arguments = [scout.stand_in(example) for example in examples]
    notes = Notes(_watches[-1] if _watches else None, levels.current())
    with scout.alone(), notes.watching():
        outputs = [notes.seen(output) for output in fun(*arguments)]
    if scout.written:
        raise ValueError(
            f"{name}: the function writes into an argument or into a tensor that it closes over "
            f"({', '.join(scout.written.values())}). Compute a new tensor and return it."
        )
    captured = notes.taken_by(scout)

    outer = notes.outer

    def converted(*tensors: Tensor) -> Sequence[Tensor]:
        own, rest = tensors[: len(captured)], tensors[len(captured) :]
        substitution = Substitution(outer, captured, own)
        with substitution.watching():
            return [substitution.seen(output) for output in fun(*rest)]

    return converted, captured, outputs


def mapped_outputs(
    fun: Flat, axes: Sequence[int | None], examples: Sequence[Tensor], batch: Batch
) -> list[int | None]:
    """Return the batch axis, 0, of each output of `fun` over a batch; None where it has none."""
    if all(axis is None for axis in axes):
        outputs = _abstractly(fun, examples)
        return [None] * len(outputs)
    found: list[int | None] = []

    def look(*arguments: Tensor) -> tuple[Tensor, ...]:
        outputs = tuple(fun(*arguments))
        found[:] = [0 if levels.is_mapped(output) else None for output in outputs]
        return outputs

    _abstractly(mapped(look, axes, None, batch.randomness), examples)
    return found


def _abstractly(fun: Flat, examples: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the outputs of `fun`, which closes over nothing, without values."""
    scout = Scout(_mode())
    arguments = [scout.stand_in(example) for example in examples]
    with scout.alone(), Valueless():
        return fun(*arguments)


def _mode() -> FakeTensorMode:
    outer = recorder()
    return FakeTensorMode(allow_non_fake_inputs=True) if outer is None else outer.mode


class Scout(Recorder):
    """Records a run that is thrown away, and keeps the tensors from outside that it read."""

    def __init__(self, mode: FakeTensorMode) -> None:
        super().__init__(mode)
        self._outer = recorder()
        self._foreign: dict[int, Tensor] = {}

    def stand_in(self, tensor: Tensor) -> Tensor:
        """Return an argument without values for the run."""
        with torch._C._DisableFuncTorch(), self.mode:
            fake = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
        self.add_input(fake, f"l{len(self._nodes)}")
        return fake

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Record what is run within; no recorder around this one sees it."""
        with self.paused(), self.recording():
            yield

    def node(self, tensor: Tensor) -> fx.Node:
        """Return the node that computes `tensor`; what no node computes is from outside."""
        if id(tensor) not in self._nodes:
            self._foreign[id(tensor)] = tensor
            self.add_input(tensor, f"outer{len(self._foreign)}")
        return super().node(tensor)

    def is_from_outside(self, tensor: Tensor) -> bool:
        """Say whether the run has read `tensor`, and there is something outside that made it."""
        return id(tensor) in self._foreign and self._is_made_outside(tensor)

    def _is_made_outside(self, tensor: Tensor) -> bool:
        outer = self._outer
        if not isinstance(tensor, FakeTensor):
            return True
        if outer is None or id(tensor) in outer._nodes:
            return outer is not None
        return isinstance(outer, Scout) and outer._is_made_outside(tensor)


_watches: list[_Watch] = []


class _Watch(TorchFunctionMode):
    """Passes every tensor that an operation reads through `replaced` before it is read.

    torch.func wraps tensors, and `Function.apply` takes them, without asking a mode: these entries
    are covered for as long as the watch lasts.
    """

    def __init__(self, outer: _Watch | None) -> None:
        super().__init__()
        self.outer = outer

    def replaced(self, tensor: Tensor) -> Tensor:
        """Return what an operation shall read in the place of `tensor`."""
        raise NotImplementedError

    def seen(self, tensor: Tensor) -> Tensor:
        """Return what becomes of `tensor` in the watches around this one, and then here."""
        return self.replaced(tensor if self.outer is None else self.outer.seen(tensor))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map_only(Tensor, self.seen, (args, kwargs or {}))
        return func(*args, **kwargs)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch what is run within."""
        apply: Any = torch.autograd.Function.apply.__func__  # type: ignore[attr-defined]

        def covered_apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
            return apply(cls, *tree_map_only(Tensor, self.seen, args), **kwargs)

        with (
            self._covering(eager_transforms, "_wrap_for_grad"),
            self._covering(batching, "_add_batch_dim"),
            _attribute(torch.autograd.Function, "apply", classmethod(covered_apply)),
            self,
        ):
            _watches.append(self)
            try:
                yield
            finally:
                _watches.pop()

    def _covering(self, module: Any, name: str) -> contextlib.AbstractContextManager[None]:
        wrap = getattr(module, name)

        def covered(tensor: Tensor, *settings: Any) -> Any:
            return wrap(self.seen(tensor), *settings)

        return _attribute(module, name, covered)


@contextlib.contextmanager
def _attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Let `owner` have another attribute for a while."""
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


class Notes(_Watch):
    """Takes note of the tensors that operations read, as they are outside of the function."""

    def __init__(self, outer: _Watch | None, level: int) -> None:
        super().__init__(outer)
        self._level = level
        self._noted: dict[int, Tensor] = {}

    def replaced(self, tensor: Tensor) -> Tensor:
        """Take note of `tensor`."""
        outer = levels.lowered(tensor, self._level)
        self._noted[id(outer)] = outer
        return tensor

    def taken_by(self, scout: Scout) -> list[Tensor]:
        """Return the noted tensors that came into the run from outside."""
        return [
            tensor
            for tensor in self._noted.values()
            if scout.is_from_outside(levels.lowered(tensor))
        ]


class Substitution(_Watch):
    """Lets a function read other tensors in the place of those that it closes over."""

    def __init__(
        self, outer: _Watch | None, captured: Sequence[Tensor], own: Sequence[Tensor]
    ) -> None:
        super().__init__(outer)
        self._captured = captured
        self._own = {id(old): new for old, new in zip(captured, own, strict=True)}

    def replaced(self, tensor: Tensor) -> Tensor:
        """Return the argument that stands for `tensor`, or itself."""
        return self._own.get(id(tensor), tensor)
