"""Noise added to gradients."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...functional import random, tree
from .. import checks
from ..leafwise import Scalar, leafwise, working
from ..moments import first_step
from ..transformation import GradientTransformation

__all__ = ["AddNoiseState", "add_noise"]


class AddNoiseState(NamedTuple):
    """The number of steps (int64, 0-d), and the key of the noise that is still to come."""

    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    rng_key: Tensor


def add_noise(eta: Scalar, gamma: Scalar, key: Tensor | int) -> GradientTransformation:
    """Add Gaussian noise that fades (Neelakantan et al. 2015, arXiv:1511.06807).

    At step `t = 1, 2, ...` ::

        g + N(0, sigma_t^2),    sigma_t^2 = eta / t^gamma

    independent for each element; `E|n|^2 = sigma_t^2` also of complex ones. The noise is
    that of `jax.random` for the same key in optax. It is drawn in float32 for float16 and bfloat16.

    Parameters
    ----------
    eta, gamma
        Variance at the first step, and the exponent with which it falls.
    key
        A key of `purefn.functional.random`, or an integer to make one of. It lives in the state,
        where each step splits it: the same state gives the same noise.

    Raises
    ------
    TypeError
        `key` is neither a key nor an integer.
    ValueError
        `eta` or `gamma` is negative, or, in `update`, a gradient does not match `params`.

    Examples
    --------
    >>> import torch
    >>> from purefn import optim
    >>> noisy = optim.add_noise(eta=0.01, gamma=0.55, key=0)
    >>> state = noisy.init({"w": torch.zeros(2)})
    >>> updates, state = noisy.update({"w": torch.zeros(2)}, state)
    >>> updates["w"].abs().max() < 0.5, state.count
    (tensor(True), tensor(1))
    """
    checks.non_negative("eta", eta)
    checks.non_negative("gamma", gamma)
    seed = random.key(key) if isinstance(key, int) else key
    random.split(seed)  # refuses what is no key

    def init(params: tree.PyTree) -> AddNoiseState:
        checks.trainable(params)
        count = first_step(params)
        return AddNoiseState(count, seed.to(count.device, copy=True))

    def update(
        updates: tree.PyTree,
        state: AddNoiseState,
        params: tree.PyTree | None = None,
        **extra: object,
    ) -> tuple[tree.PyTree, AddNoiseState]:
        checks.state("add_noise", state, AddNoiseState)
        checks.trainable(updates, "updates")
        count = state.count + 1
        deviation = torch.sqrt(eta / count.double() ** gamma)
        rng_key, sample_key = random.split(state.rng_key)
        noisy = leafwise(
            lambda g, n: g + deviation * n,
            {"updates": updates, "noise": _noise(sample_key, updates)},
            same_dtypes=False,
        )
        return noisy, AddNoiseState(count, rng_key)

    return GradientTransformation(init, update)


def _noise(key: Tensor, like: tree.PyTree) -> tree.PyTree:
    """Return standard normal numbers, one key for each leaf."""
    leaves, structure = tree.flatten(like)
    keys = random.split(key, max(len(leaves), 1))
    return tree.unflatten(structure, [_normal(*pair) for pair in zip(keys, leaves, strict=False)])


def _normal(key: Tensor, leaf: Tensor) -> Tensor:
    parts = working(leaf)
    drawn = random.normal(key, parts.shape, parts.dtype)
    if leaf.is_complex():
        return torch.view_as_complex(drawn * 0.5**0.5)
    return drawn
