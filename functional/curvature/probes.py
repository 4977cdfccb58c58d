"""Random trees with independent elements of mean 0 and variance 1, by which traces are probed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .. import random, tree
from .coordinates import Coordinates

#: Draws a tree like the second argument.
Probe = Callable[[Tensor, Any], Any]


def rademacher_like(key: Tensor, like: tree.PyTree) -> Any:
    """Return a tree of signs, -1 or 1 with equal probability, with shapes and dtypes of `like`.

    >>> import torch
    >>> rademacher_like(random.key(0), {"b": torch.zeros(2), "w": torch.zeros(2)})
    {'b': tensor([-1., -1.]), 'w': tensor([1., 1.])}
    """
    space = Coordinates("rademacher_like", "like", like)
    signs = random.bernoulli(key, 0.5, (space.size,)).to(space.dtype) * 2 - 1
    return space.unravel(signs)


def normal_like(key: Tensor, like: tree.PyTree) -> Any:
    """Return a tree of standard normal numbers with the shapes and dtypes of `like`.

    >>> import torch
    >>> normal_like(random.key(0), {"w": torch.zeros(3)})
    {'w': tensor([ 1.6226,  2.0253, -0.4336])}
    """
    space = Coordinates("normal_like", "like", like)
    return space.unravel(random.normal(key, (space.size,), space.dtype))
