"""Keys, and the random bits they stand for: the block cipher Threefry-2x32 in counter mode.

A key is a uint32 tensor of shape (2,). Block `i` of a draw is the cipher of the number `i` under
the key, so an element depends on the key and its own position alone. This is the layout that JAX
uses by default (`jax_threefry_partitionable`), and the bits are those of `jax.random`.

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar

import torch
from torch import Tensor

from .cipher import enciphered, rotate_left_int, threefry2x32

Shape = Sequence[int]
_WORD = 0xFFFFFFFF
#: Blocks enciphered at a time on a CPU, so that the working set stays in the cache.
_CACHED_BLOCKS = 1 << 15
#: Blocks enciphered at a time elsewhere; the upper half of the counter is constant within.
_COUNTABLE_BLOCKS = 1 << 31
#: Up to this many blocks, Python integers are faster than a hundred calls of torch.
_FEW_BLOCKS = 8
#: Whether what is drawn in this thread is looked at by nobody.
_no_values: ContextVar[bool] = ContextVar("no_values", default=False)


def key(seed: int | Tensor) -> Tensor:
    """Return the key of an integer seed: its upper and lower 32 bits, as uint32 of shape (2,).

    The seed is a number of 64 bits in two's complement, as a Python integer is to `jax.random.key`
    under `jax_enable_x64`. Without that setting JAX drops the upper half, which makes another key
    of a negative seed and of one from `2**32` on. An integer tensor of shape () stands for the
    number that it holds, in whatever dtype; the key lives on its device.

    Raises
    ------
    TypeError
        The seed is not an integer.
    ValueError
        The seed has more than 64 bits, or is a tensor with axes.

    Examples
    --------
    >>> key(42)
    tensor([ 0, 42], dtype=torch.uint32)
    """
    if isinstance(seed, Tensor):
        _check_integer_scalar("key", "seed", seed)
        number = _as_int64(seed)
        return torch.stack([number >> 32, number]).to(torch.int32).view(torch.uint32)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"key: expected seed to be an integer, got {seed!r}.")
    if not -(1 << 63) <= seed < 1 << 64:
        raise ValueError(f"key: expected a seed of at most 64 bits, got {seed}.")
    return torch.tensor([(seed >> 32) & _WORD, seed & _WORD], dtype=torch.uint32)


def split(key: Tensor, num: int | Shape = 2) -> Tensor:
    """Return `num` independent keys in shape `(num, 2)`, or `(*num, 2)` where `num` is a shape.

    The key that was split is spent: draw from the new ones only.

    >>> split(key(0))
    tensor([[1797259609, 2579123966],
            [ 928981903, 3453687069]], dtype=torch.uint32)
    """
    shape = (num,) if isinstance(num, int) else tuple(num)
    words = encipher("split", key, shape, lambda x0, x1: torch.stack([x0, x1], dim=-1))
    return words.view(torch.uint32)


def fold_in(key: Tensor, data: int | Tensor) -> Tensor:
    """Return the new key that `key` and the number `data` determine, such as a step's.

    `data` is an integer in `[0, 2**32)`, or an integer tensor of shape (), taken modulo `2**32`.

    >>> fold_in(key(0), 1)
    tensor([ 928981903, 3453687069], dtype=torch.uint32)
    """
    check_key("fold_in", key)
    if not isinstance(data, Tensor):
        if isinstance(data, bool) or not isinstance(data, int):
            raise TypeError(f"fold_in: expected data to be an integer, got {data!r}.")
        if not 0 <= data <= _WORD:
            raise ValueError(
                f"fold_in: expected data in [0, 2**32), got {data}. Fold in the parts of a larger "
                "number one after the other."
            )
        if is_eager_on_cpu(key):
            return torch.cat(_encipher_few((data,), key)).view(torch.uint32)
        data = torch.full((), data, dtype=torch.int64, device=key.device)
    _check_integer_scalar("fold_in", "data", data)
    low = _as_int64(data).to(key.device).to(torch.int32)
    # Like `low`, and unlike a plain 0, it has an example's value under vmap over `data`.
    high = torch.zeros_like(low)
    return torch.stack(_encipher_words(key, high, low)).view(torch.uint32)


def bits(key: Tensor, shape: Shape = (), dtype: torch.dtype = torch.uint32) -> Tensor:
    """Return uniformly distributed unsigned integers of the given shape and dtype.

    `dtype` is uint8, uint16, uint32 or uint64. Each element costs one block of the cipher in every
    dtype: the narrow ones are the low bits of what uint32 gives.

    >>> bits(key(0), (2,))
    tensor([4070199207, 4202968722], dtype=torch.uint32)
    """
    if dtype not in _SIGNED:
        raise TypeError(
            f"bits: expected dtype to be one of {', '.join(map(str, _SIGNED))}, got {dtype}."
        )
    words = encipher("bits", key, shape, word64 if dtype == torch.uint64 else word32)
    return words.to(_SIGNED[dtype]).view(dtype)


_SIGNED = {
    torch.uint8: torch.int8,
    torch.uint16: torch.int16,
    torch.uint32: torch.int32,
    torch.uint64: torch.int64,
}


def word32(x0: Tensor, x1: Tensor) -> Tensor:
    """Make 32 random bits of a block, as int32."""
    return x0 ^ x1


def word64(x0: Tensor, x1: Tensor) -> Tensor:
    """Make 64 random bits of a block, as int64."""
    return (x0.to(torch.int64) << 32) | (x1.to(torch.int64) & _WORD)


def encipher(
    name: str, key: Tensor, shape: Shape, finish: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Encipher the numbers `0, 1, ...` of an array of the given shape, in row-major order.

    Parameters
    ----------
    name
        The public function that draws, for its errors.
    finish
        Makes of the two int32 words of each block, in shape `(n,)`, what the caller is after, in
        shape `(n, ...)`. It is applied to pieces of the array that fit the cache, and may
        overwrite the words.

    Returns
    -------
    Tensor
        What `finish` gave, in shape `(*shape, ...)`.
    """
    check_key(name, key)
    shape = check_shape(name, shape)
    count = math.prod(shape)
    eager = is_eager_on_cpu(key)
    if eager and count <= _FEW_BLOCKS:
        result = finish(*_encipher_few(range(count), key))
    else:
        step = _CACHED_BLOCKS if eager else _COUNTABLE_BLOCKS
        starts = range(0, max(count, 1), step)
        pieces = [finish(*_encipher_run(start, min(step, count - start), key)) for start in starts]
        result = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    return result.reshape((*shape, *result.shape[1:]))


def _encipher_run(start: int, size: int, key: Tensor) -> tuple[Tensor, Tensor]:
    """Encipher `size` numbers from `start` on, whose upper words are all equal."""
    low = torch.arange(size, dtype=torch.int32, device=key.device)
    low += _signed(start & _WORD)
    high = torch.full_like(low, _signed(start >> 32))
    return _encipher_words(key, high, low)


def _encipher_words(key: Tensor, high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
    first, second = _key_words(key)
    if has_no_values():
        return high + first, low + second
    return enciphered(first, second, high, low)


@contextlib.contextmanager
def shapes_only(is_so: bool = True) -> Iterator[None]:
    """Leave out the arithmetic of a draw, for who runs a function without values.

    The cipher and the inverse of the error function are hundreds of operations, and change no
    shape. Within, a graph that is kept is recorded with `shapes_only(False)`.
    """
    token = _no_values.set(is_so)
    try:
        yield
    finally:
        _no_values.reset(token)


def has_no_values() -> bool:
    """Whether what is drawn is looked at by nobody.

    It never is where no mode of torch's stands between Python and the values, as in a thread to
    which this one's context was copied.

    >>> with shapes_only():
    ...     has_no_values()
    False
    """
    is_compiling = torch.compiler.is_compiling()
    return not is_compiling and _no_values.get() and torch._C._len_torch_dispatch_stack() > 0


def _encipher_few(numbers: Sequence[int], key: Tensor) -> tuple[Tensor, Tensor]:
    """Encipher numbers in Python, without a call of torch for each operation."""
    first, second = key.tolist()
    blocks = [
        threefry2x32((first, second), (number >> 32, number & _WORD), rotate_left_int)
        for number in numbers
    ]
    words = [[block[half] & _WORD for block in blocks] for half in (0, 1)]
    both = torch.tensor(words, dtype=torch.uint32, device=key.device).view(torch.int32)
    return both[0], both[1]


def _key_words(key: Tensor) -> tuple[Tensor, Tensor]:
    first, second = key.view(torch.int32).unbind()
    return first, second


def _signed(word: int) -> int:
    return word - (1 << 32) if word >> 31 else word


def _as_int64(number: Tensor) -> Tensor:
    return number.view(torch.int64) if number.dtype == torch.uint64 else number.to(torch.int64)


def is_eager_on_cpu(x: Tensor) -> bool:
    """Whether operations on `x` run at once on a CPU, under no tracer and no transform."""
    return (
        not torch.compiler.is_compiling()
        and type(x) is Tensor
        and x.device.type == "cpu"
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and torch._C._len_torch_dispatch_stack() == 0
    )


def check_key(name: str, key: Tensor) -> None:
    """Refuse what is not one key."""
    advice = "Make a key with random.key(seed)."
    if not isinstance(key, Tensor):
        raise TypeError(
            f"{name}: expected a key, a uint32 tensor of shape (2,), got {key!r}. {advice}"
        )
    if key.dtype != torch.uint32:
        raise TypeError(
            f"{name}: expected a key, a uint32 tensor of shape (2,), got a tensor of dtype "
            f"{key.dtype} and shape {tuple(key.shape)}. {advice}"
        )
    if key.shape != (2,):
        raise ValueError(
            f"{name}: expected one key, a uint32 tensor of shape (2,), got shape "
            f"{tuple(key.shape)}. {advice} For a batch of keys, use vmap."
        )


def check_shape(name: str, shape: Shape) -> tuple[int, ...]:
    """Refuse what is not a shape, and return it as a tuple."""
    if isinstance(shape, int) or not isinstance(shape, Sequence):
        raise TypeError(f"{name}: expected shape to be a tuple of integers, got {shape!r}.")
    if not all(isinstance(length, int | torch.SymInt) for length in shape):
        raise TypeError(f"{name}: expected shape to be a tuple of integers, got {tuple(shape)}.")
    if any(length < 0 for length in shape):
        raise ValueError(f"{name}: expected a shape without negative lengths, got {tuple(shape)}.")
    return tuple(shape)


def _check_integer_scalar(name: str, argument: str, value: Tensor) -> None:
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name}: expected {argument} to be an integer, got dtype {value.dtype}.")
    if value.shape != ():
        raise ValueError(
            f"{name}: expected {argument} to be a scalar, got shape {tuple(value.shape)}. "
            "For a batch of them, use vmap."
        )
