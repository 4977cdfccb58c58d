"""Stochastic rounding: how small updates reach float16 and bfloat16 parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional import random, tree
from . import checks
from .leafwise import HALF
from .transformation import apply_updates

__all__ = ["apply_updates_stochastically"]


def apply_updates_stochastically(
    params: tree.PyTree, updates: tree.PyTree, key: Tensor
) -> tree.PyTree:
    """Return `params + updates`, where float16 and bfloat16 parameters are rounded by chance.

    A sum that lies between two neighbours of the dtype becomes the upper one with a probability of
    its distance from the lower one, in units of theirs::

        round(x) = ulp floor(x / ulp + u),    u uniform in [0, 1)

    so that its mean is the sum itself (Gupta et al. 2015, arXiv:1502.02551). An update below half
    a unit in the last place, which `apply_updates` loses, is so kept on average. Sums that the
    dtype has are not changed. The mean is exact to `2**-32` of a unit; sums beyond the largest
    finite number, where there is no upper neighbour, are rounded as usual. Other leaves are those
    of `apply_updates`.

    Parameters
    ----------
    params, updates
        As for `apply_updates`. Updates should be wider than half precision, see `in_dtype`.
    key
        A key of `purefn.functional.random`, another one at each step:
        `random.fold_in(key, step)`.

    Raises
    ------
    TypeError
        `key` is no key, or a leaf is no tensor of floating-point or complex numbers.
    ValueError
        `updates` does not match `params`; the message names the path.

    Examples
    --------
    >>> from purefn.functional import random
    >>> params = {"w": torch.ones(1000, dtype=torch.bfloat16)}
    >>> updates = {"w": torch.full((1000,), 2.0**-9)}  # a quarter of what separates 1 from the next
    >>> new = apply_updates_stochastically(params, updates, random.key(0))
    >>> new["w"].unique().tolist(), new["w"].float().mean()
    ([1.0, 1.0078125], tensor(1.0020))
    """
    structure, (leaves, deltas) = checks.same_leaves(
        {"params": params, "updates": updates}, dtypes=False
    )
    checks.trainable(params, leaves=leaves)
    # One draw for all leaves: the cipher is by far the longest part of a compiled program.
    sizes = [leaf.numel() if leaf.dtype in HALF else 0 for leaf in leaves]
    bits = random.bits(key, (sum(sizes),)).split(sizes)
    rows = zip(leaves, deltas, bits, strict=True)
    return tree.unflatten(structure, [_added(*row) for row in rows])


def _added(param: Tensor, update: Tensor, bits: Tensor) -> Tensor:
    if param.dtype not in HALF:
        return apply_updates(param, update)  # type: ignore[no-any-return]
    u = bits.reshape(param.shape).double() * 2.0**-32
    return _rounded(param.double() + update.double(), param.dtype, u)


def _rounded(x: Tensor, dtype: torch.dtype, u: Tensor) -> Tensor:
    """Round float64 numbers to one of the two numbers of `dtype` between which they lie."""
    unit = _unit_in_the_last_place(x, dtype)
    chosen = unit * torch.floor(x / unit + u)
    representable = chosen.abs() <= torch.finfo(dtype).max  # false of NaN
    return torch.where(representable, chosen, x).to(dtype)


def _unit_in_the_last_place(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the distance between the numbers of `dtype` around `x`, a power of two."""
    info = torch.finfo(dtype)
    size = torch.clamp(x.abs(), info.smallest_normal, info.max)
    power_of_two = (size.view(torch.int64) & _EXPONENT).view(torch.float64)
    return power_of_two * info.eps


#: The bits of a float64 that are its exponent; alone they are the power of two below it.
_EXPONENT = 0x7FF << 52
