"""The block cipher Threefry-2x32, and what stands for it in a graph: one operator.

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor

#: 32-bit words: an int32 tensor, or a Python integer of which the low 32 bits count.
Words = TypeVar("Words", int, Tensor)

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_WORD = 0xFFFFFFFF


def threefry2x32(
    key: tuple[Words, Words],
    block: tuple[Words, Words],
    rotate_left: Callable[[Words, int], Words],
) -> tuple[Words, Words]:
    """Encipher blocks of two 32-bit words under a key of two words, in 20 rounds.

        x0 <- x0 + x1
        x1 <- rotate_left(x1, r) xor x0

    After every fourth round the next two words of the key schedule are added.
    """
    schedule = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    x0, x1 = block[0] + key[0], block[1] + key[1]
    for injection in range(1, 6):
        for rotation in _ROTATIONS[(injection - 1) % 2]:
            x0 += x1
            x1 = rotate_left(x1, rotation)
            x1 ^= x0
        x0 += schedule[injection % 3]
        x1 += schedule[(injection + 1) % 3] + injection
    return x0, x1


def _rotate_left(x: Tensor, r: int) -> Tensor:
    x = named(x)
    carried = x >> (32 - r)
    # The shift of a signed word copies the sign into the bits that have to be zero.
    carried &= (1 << r) - 1
    return carried.add_(x, alpha=1 << r)


def named(x: Tensor) -> Tensor:
    """Return `x`, as a result to which a compiler gives a name.

    Inductor writes an unnamed result out anew wherever it is used. Over the rounds, each of which
    uses the last one's words several times, that takes seconds. What `as_strided` views has a
    name; the kernel is the same.
    """
    is_traced = torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0
    return x.as_strided(x.shape, x.stride()) if is_traced else x


def rotate_left_int(x: int, r: int) -> int:
    """Rotate the low 32 bits of an integer."""
    x &= _WORD
    return (x << r | x >> (32 - r)) & _WORD


# --- One operator of a graph ---------------------------------------------------------------------

_library = torch.library.Library("purefn", "DEF")
_library.define(
    "threefry2x32(Tensor first, Tensor second, Tensor high, Tensor low) -> (Tensor, Tensor)"
)


def enciphered(first: Tensor, second: Tensor, high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `rounds` does, as one node of a graph where `jit` records one."""
    # Dynamo knows no context variables.
    if torch.compiler.is_compiling() or not _is_whole.get():
        return rounds(first, second, high, low)
    # A thread to which this one's context was copied records nothing.
    is_recorded = torch._C._len_torch_dispatch_stack() > 0
    words: tuple[Tensor, Tensor] = (operator if is_recorded else rounds)(first, second, high, low)
    return words


@contextlib.contextmanager
def whole() -> Iterator[None]:
    """Record the cipher as one operator, which `jit` takes apart before it compiles.

    Its hundred and fifty operations would be differentiated, batched and compiled one by one for
    every layer that drops; what is whole can be computed for many of them together.
    """
    token = _is_whole.set(True)
    try:
        yield
    finally:
        _is_whole.reset(token)


_is_whole: ContextVar[bool] = ContextVar("is_whole", default=False)


def rounds(first: Tensor, second: Tensor, high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
    """Encipher blocks of the words `high` and `low` under keys of the words `first` and `second`.

    All are int32 and broadcast against each other.
    """
    shape = torch.broadcast_shapes(first.shape, second.shape, high.shape, low.shape)
    return threefry2x32((first, second), (high.expand(shape), low.expand(shape)), _rotate_left)


def _shapes(first: Tensor, second: Tensor, high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
    shape = torch.broadcast_shapes(first.shape, second.shape, high.shape, low.shape)
    return low.new_empty(shape), low.new_empty(shape)


def _over_a_batch(info: Any, in_dims: Any, *words: Tensor) -> tuple[tuple[Tensor, ...], Any]:
    rank = max(x.ndim - (axis is not None) for x, axis in zip(words, in_dims, strict=True))
    lined_up = [
        x if axis is None else x.movedim(axis, 0).unflatten(0, (-1, *[1] * (rank - x.ndim + 1)))
        for x, axis in zip(words, in_dims, strict=True)
    ]
    return operator(*lined_up), (0, 0)


_library.impl("threefry2x32", rounds, "CompositeExplicitAutograd")
torch.library.register_fake("purefn::threefry2x32", _shapes, lib=_library)
torch.library.register_vmap("purefn::threefry2x32", _over_a_batch, lib=_library)
operator: Any = torch.ops.purefn.threefry2x32.default
