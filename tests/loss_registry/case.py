"""What the registry knows of a loss."""

from collections.abc import Callable
from dataclasses import dataclass

import torch


class Draw:
    """Random float64 inputs for a batch of `N` examples."""

    N = 4

    def __init__(self, seed=0, scale=1.0):
        self.generator, self.scale = torch.Generator().manual_seed(seed), scale

    def normal(self, *shape):
        return self.scale * self.unit(*shape)

    def unit(self, *shape):
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def uniform(self, *shape):
        """Between 0.05 and 0.95."""
        return 0.05 + 0.9 * torch.rand(shape, generator=self.generator, dtype=torch.float64)

    def integers(self, high, *shape, low=0):
        return torch.randint(low, high, shape, generator=self.generator)

    def signs(self, *shape):
        return 2 * self.integers(2, *shape) - 1

    def log_softmax(self, *shape):
        return self.normal(*shape).log_softmax(1)

    def softmax(self, *shape):
        return self.unit(*shape).softmax(1)


def nothing(draw):
    return ()


@dataclass
class Case:
    """A loss with some settings, and what it is to equal."""

    name: str
    #: Called with `floats` and then `others`.
    loss: Callable
    #: Draws the inputs that are differentiated, batch first.
    floats: Callable
    #: Of the same arguments: torch's elements, `(N, ...)`. None where the recorded values of
    #: optax or a closed form, in tests of their own, are all there is.
    reference: Callable | None
    #: Draws what is not differentiated, batch first.
    others: Callable = nothing
    #: What tells it from others of the same name.
    variant: str = ""
    #: Whether a value depends on the whole batch by nature.
    mixes: bool = False
    #: Which of `floats` are not of an example but of all.
    shared: tuple[int, ...] = ()
    #: Which of `floats` torch does not differentiate.
    constant: tuple[int, ...] = ()
    #: Whether torch computes the reference in bfloat16 on the CPU.
    has_bfloat16: bool = True

    @property
    def id(self):
        return self.name + self.variant

    def inputs(self, dtype=torch.float64, seed=0, scale=1.0):
        draw = Draw(seed, scale)
        floats = tuple(x.to(dtype) for x in self.floats(draw))
        return floats, self.others(draw)

    def axes(self, others):
        """Return which axis of each argument is the batch."""
        batched = [None if i in self.shared else 0 for i in range(len(self.floats(Draw())))]
        return (*batched, *[0] * len(others))
