"""Every kind of node that a tree may have, for tests of what holds for any tree."""

from types import SimpleNamespace
from typing import NamedTuple

import optree
import pytest
import torch
from hypothesis import strategies as st

from purefn.functional import tree


class Pair(NamedTuple):
    weight: object
    bias: object


@tree.dataclass
class Affine:
    weight: object
    bias: object
    name: str = tree.static(default="affine")


class Ours:
    """Registered where this library looks alone."""

    def __init__(self, weight, bias):
        self.weight, self.bias = weight, bias


class Anyones:
    """Registered for everyone who uses optree."""

    def __init__(self, weight, bias):
        self.weight, self.bias = weight, bias


def _register(cls, namespace):
    optree.register_pytree_node(
        cls, lambda n: ((n.weight, n.bias), None, ("weight", "bias")),
        lambda _, children: cls(*children), namespace=namespace,
    )  # fmt: skip


_register(Ours, tree.NAMESPACE)
_register(Anyones, optree.registry.__GLOBAL_NAMESPACE)


@pytest.fixture(scope="session")
def nodes():
    """The classes: each is called with a weight and a bias."""
    return SimpleNamespace(Pair=Pair, Affine=Affine, Ours=Ours, Anyones=Anyones)


@pytest.fixture(scope="session")
def trees():
    """A strategy for trees of float64 tensors, with nodes of every kind."""
    shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
    leaves = st.builds(
        lambda shape, seed: torch.randn(
            shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
        ),
        shapes,
        st.integers(0, 2**31),
    )
    return st.recursive(
        leaves | st.none(),
        lambda inner: st.one_of(
            st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
            st.lists(inner, max_size=3),
            st.lists(inner, max_size=3).map(tuple),
            *(st.builds(node, inner, inner) for node in (Pair, Affine, Ours, Anyones)),
        ),
        max_leaves=5,
    )
