"""How many examples to take at a time, so that what is kept of them stays in the caches.

Until all norms are known, what the gradients are made of must be kept, and those that are formed:
two to three times what an ordinary step keeps. Examples are independent, so a part of the batch is
as good as the whole, takes that part of the memory, and is faster while the caches hold it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..staging.tracing import recorder, untraced
from .calls import Call
from .capture import capture
from .factored import Products, leaves_of_terms, products
from .leaves import Leaf, Method

#: How many bytes to keep at a time of at least so many examples, since products of small matrices
#: take longer; from the more bytes on, fewer examples are better all the same. Measured on CPUs
#: (benchmarks/RESULTS.md); on other devices only memory is bounded.
ON_CPU = ((64, 2**24), (8, 2**27))
ELSEWHERE = ((64, 2**31), (8, 2**33))


def examples_at_once(call: Call, method: Method) -> int:
    """Return how many examples of a call to compute at a time.

    Only a program that is compiled is divided.
    """
    if recorder() is None or not call.params:
        return call.size
    limits = ON_CPU if call.params[0].device.type == "cpu" else ELSEWHERE
    if call.size <= min(fewest for fewest, _ in limits):
        return call.size
    try:
        captured = capture(call)
    except NotImplementedError:
        return call.size
    parts = None if captured is None else products(captured)
    size = call.size
    # Each part adds to the sums, so it is worth no less than they take.
    least = _every_byte(call.params)
    for fewest, most in limits:
        while size > fewest and _kept_bytes(call, parts, method, size) > max(most, least):
            size = max(fewest, size // 2)
    return _even(call.size, size)


def _kept_bytes(call: Call, parts: Products | None, method: Method, size: int) -> int:
    """Return what is kept of so many examples until their norms are known."""
    if parts is None:
        return size * _every_byte(call.params)
    with untraced():
        values = {
            node: torch.empty((size, *node.meta["val"].shape), dtype=node.meta["val"].dtype,
                              device="meta")
            for node in parts.operands
        }  # fmt: skip
        like = torch.empty(size, device="meta")
        leaves = leaves_of_terms(call, parts.terms, values, like)
    operands = sum(value.numel() * value.element_size() for value in values.values())
    formed = [_formed_bytes(leaf) for leaf in leaves if _is_formed(leaf, method)]
    # Those that only their norms are wanted of are formed and dropped one after the other.
    return operands + size * (max(formed, default=0) if method == "ghost" else sum(formed))


def _every_byte(params: Sequence[Tensor]) -> int:
    return sum(param.numel() * param.element_size() for param in params)


def _is_formed(leaf: Leaf, method: Method) -> bool:
    return method == "materialize" or leaf.is_cheaper_formed()


def _formed_bytes(leaf: Leaf) -> int:
    return math.prod(leaf.shape) * leaf.like.element_size()


def _even(count: int, most: int) -> int:
    """Return at most `most` that divides `count`, if one is not much smaller; else equal parts."""
    divisors: Sequence[int] = [d for d in range(most, most // 2, -1) if count % d == 0]
    return divisors[0] if divisors else math.ceil(count / math.ceil(count / most))
