"""The hidden generators that no key replaces, and a guard that notices their use."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..nn import LayerError
from ..staging.tracing import untraced


class Guard:
    """Notices a module that draws from the generators of torch (on the CPU), Python or numpy.

    torch's is looked at in every call. The others, which takes as long as a small network, are
    looked at until a call in the same mode has passed.
    """

    def __init__(self, layer: str) -> None:
        self._layer = layer
        self._passed: set[bool] = set()

    @contextmanager
    def watching(self, train: bool) -> Iterator[None]:
        """Refuse draws within.

        Raises
        ------
        LayerError
            One of the generators has been used; the message says which.
        """
        look = _torch_state if train in self._passed else _states
        before = look()
        yield
        after = look()
        used = [name for name, state in before.items() if after[name] != state]
        if used:
            raise LayerError(
                f"{self._layer} draws random numbers from {' and '.join(used)}, so that its output "
                "depends on more than its arguments; draw with torch.rand, randn or bernoulli, "
                "which take a key."
            )
        self._passed.add(train)


def _states() -> dict[str, Any]:
    """Return the states of all generators, to be compared."""
    states = {**_torch_state(), "Python's `random`": random.getstate()}
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        state = numpy.random.get_state(legacy=False)["state"]
        states["`numpy.random`"] = (state["pos"], state["key"].tobytes())
    return states


def _torch_state() -> dict[str, Any]:
    with untraced():
        state = torch.default_generator.get_state().numpy().tobytes()
    return {"torch's default generator, where no key reaches": state}
