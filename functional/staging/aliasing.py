"""Which outputs may be written into which donated inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from .. import tree


class DonationPlan(NamedTuple):
    """`buffers[output] = input`: the pairs that share memory; `unused`: donated for nothing."""

    buffers: dict[int, int]
    unused: list[int]


class AbstractRun(NamedTuple):
    """What one run without values shows of a function."""

    inputs: list[Tensor]
    outputs: list[Any]
    dependencies: Dependencies


def run_abstractly(
    interpret: Callable[[Sequence[Tensor]], Any], inputs: Sequence[Tensor]
) -> AbstractRun | None:
    """Run a function of leaves without values; None where it fails, as the compiler then will."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes: list[Tensor] = [mode.from_tensor(tensor.detach()) for tensor in inputs]
        try:
            with Dependencies(fakes) as dependencies:
                outputs = tree.leaves(interpret(fakes))
        except Exception:
            return None
    return AbstractRun(fakes, outputs, dependencies)


def plan_donation(run: AbstractRun, donated: Sequence[int]) -> DonationPlan:
    """Pair outputs with donated inputs of the same shape, dtype and device.

    An input that an output is a view of is left alone, and so is one of which an output may be a
    mere copy: inductor (2.13) takes `b = a.clone()` for `a`, and would read `a` after a write. For
    the same reason what is made of one donated input alone goes into no other's memory.
    """
    fakes, outputs, dependencies = run
    candidates = {j: out for j, out in enumerate(outputs) if isinstance(out, Tensor)}
    passed_on = {_storage(out) for out in candidates.values()}
    kept = [i for i in donated if _storage(fakes[i]) in passed_on]
    for i in kept:
        candidates = {j: o for j, o in candidates.items() if _storage(o) != _storage(fakes[i])}
    copies = {
        i: [
            j
            for j, out in candidates.items()
            if _like(out, fakes[i]) and dependencies.of(out) == {i}
        ]
        for i in donated
    }
    buffers = {copies[i][0]: i for i in donated if i not in kept and len(copies[i]) == 1}
    free = [i for i in donated if i not in kept and not copies[i]]
    for j, out in candidates.items():
        fitting = next((i for i in free if _like(out, fakes[i])), None)
        alone = len(dependencies.of(out)) == 1 and dependencies.of(out) <= set(donated)
        if j not in buffers and fitting is not None and not alone:
            buffers[j] = fitting
            free.remove(fitting)
    unused = [i for i in donated if i not in kept and i not in buffers.values()]
    return DonationPlan(buffers, unused)


class Dependencies(TorchDispatchMode):
    """Records for every storage the positions of the inputs that its contents depend on."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._of = {_storage(tensor): {index} for index, tensor in enumerate(inputs)}
        self._inputs = dict(self._of)
        #: Positions of inputs that were written, with the operation that did it.
        self.written: dict[int, str] = {}
        # A storage that is freed could give its address to another.
        self._alive: list[Any] = list(inputs)

    def of(self, tensor: Tensor) -> set[int]:
        """Return the positions of the inputs that `tensor` depends on."""
        return self._of.get(_storage(tensor), set())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for tensor in tree.leaves(value):
                    for index in self._inputs.get(_storage(tensor), ()):
                        self.written[index] = func._schema.name.removeprefix("aten::")
        read = [leaf for leaf in tree.leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        sources = set().union(*(self.of(tensor) for tensor in read))
        for out in tree.leaves(result):
            if isinstance(out, Tensor):
                self._of[_storage(out)] = self.of(out) | sources
                self._alive.append(out)
        return result


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _like(out: Tensor, into: Tensor) -> bool:
    return (out.shape, out.dtype, out.device) == (into.shape, into.dtype, into.device)
