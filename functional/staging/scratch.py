"""Running a function without values, for nothing but what it returns."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from ..random.threefry import shapes_only
from .tracing import Recorder, recorder


class Scratch(Recorder):
    """Records what is thrown away; the function may read tensors of whatever is traced outside."""

    def node(self, tensor: Tensor) -> fx.Node:
        """Return the node that computes `tensor`; what no node computes is from outside."""
        if id(tensor) not in self._nodes:
            self.add_input(tensor, f"outer{len(self._nodes)}")
        return super().node(tensor)


@contextlib.contextmanager
def without_values() -> Iterator[None]:
    """Compute without values: as `jit` traces, and inside it unseen, with the tensors it traces."""
    outer = recorder()
    with shapes_only():
        if outer is None:
            with Scratch(FakeTensorMode(allow_non_fake_inputs=True)).recording():
                yield
        else:
            with outer.paused(), Scratch(outer.mode).recording():
                yield
