"""Distributions over integers, booleans and the elements of a tensor."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .distributions import check_broadcast, gumbel, held, log_of, sum_of, uniform, unit_uniform
from .threefry import Shape, bits, check_key, check_shape, split


def bernoulli(key: Tensor, p: float | Tensor = 0.5, shape: Shape | None = None) -> Tensor:
    """Return booleans that are true with probability `p`: `u < p`.

    Parameters
    ----------
    p
        A number, or a floating-point tensor that broadcasts to `shape`. The uniform variates have
        its dtype, and float32 for a number.
    shape
        The shape of the result, by default that of `p`.

    Examples
    --------
    >>> bernoulli(key(0), 0.5, (4,))
    tensor([False, False,  True,  True])
    """
    if isinstance(p, Tensor):
        _check_floating("bernoulli", "p", p)
        variates = unit_uniform("bernoulli", key, p.shape if shape is None else shape, p.dtype)
        check_broadcast("bernoulli", "p", p, variates.shape)
        return variates < p
    if not isinstance(p, float):
        raise TypeError(f"bernoulli: expected p to be a float or a tensor, got {p!r}.")
    return unit_uniform("bernoulli", key, () if shape is None else shape, torch.float32) < p


def randint(
    key: Tensor,
    shape: Shape,
    minval: int | Tensor,
    maxval: int | Tensor,
    dtype: torch.dtype = torch.int32,
) -> Tensor:
    """Return integers uniformly distributed over `[minval, maxval)`.

    Twice as many random bits as the result has are reduced modulo the length of the range, so the
    bias is below `(maxval - minval) / 2**32`, or `2**64` in the dtypes of 64 bits.

    Parameters
    ----------
    minval, maxval
        Integers, or integer tensors that broadcast to `shape`. What a tensor has beyond the range
        of `dtype` is clipped to it, and where its range is empty the result is `minval`.
    dtype
        Any integer dtype. `maxval` may exceed its greatest value by one.

    Raises
    ------
    ValueError
        The range is empty, or not within that of `dtype`.

    Examples
    --------
    >>> randint(key(0), (5,), 0, 10)
    tensor([9, 0, 2, 3, 1], dtype=torch.int32)
    """
    if dtype not in _PATTERNS:
        raise TypeError(f"randint: expected dtype to be an integer dtype, got {dtype}.")
    signed, unsigned = _WORDS[max(dtype.itemsize, 4)]
    low, span = (bound.to(signed) for bound in _low_and_span(minval, maxval, dtype, key.device))
    shape = check_shape("randint", shape)
    check_broadcast("randint", "minval", low, shape)
    check_broadcast("randint", "maxval", span, shape)
    higher, lower = (bits(half, shape, unsigned).view(signed) for half in split(key).unbind())
    offset = _remainder_of_two_words(higher, lower, span)
    return (low + offset).to(_PATTERNS[dtype]).view(dtype)


#: The signed dtype that holds the bits of each integer dtype; few operations know unsigned ones.
_PATTERNS = {
    torch.int8: torch.int8,
    torch.int16: torch.int16,
    torch.int32: torch.int32,
    torch.int64: torch.int64,
    torch.uint8: torch.int8,
    torch.uint16: torch.int16,
    torch.uint32: torch.int32,
    torch.uint64: torch.int64,
}
_WORDS = {4: (torch.int32, torch.uint32), 8: (torch.int64, torch.uint64)}


def _low_and_span(
    minval: int | Tensor, maxval: int | Tensor, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the least value and the number of values, as int64 modulo `2**64`."""
    least, greatest = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    for argument, value in (("minval", minval), ("maxval", maxval)):
        integral = isinstance(value, int) or (
            isinstance(value, Tensor) and value.dtype in _PATTERNS and value.dtype != torch.uint64
        )
        if not integral or isinstance(value, bool):
            given = f"dtype {value.dtype}" if isinstance(value, Tensor) else repr(value)
            raise TypeError(
                f"randint: expected {argument} to be an integer or a tensor of integers of at "
                f"most 63 bits, got {given}."
            )
    if isinstance(minval, int) and isinstance(maxval, int):
        if not least <= minval < maxval <= greatest + 1:
            raise ValueError(
                f"randint: expected {least} <= minval < maxval <= {greatest + 1} for {dtype}, "
                f"got minval={minval} and maxval={maxval}."
            )
        return _full(minval, device), _full(maxval - minval, device)
    greatest = min(greatest, torch.iinfo(torch.int64).max)
    limits = (greatest, min(greatest + 1, torch.iinfo(torch.int64).max))
    low, high = (
        (bound.to(torch.int64) if isinstance(bound, Tensor) else _full(bound, device)).clamp(
            least, limit
        )
        for bound, limit in zip((minval, maxval), limits, strict=True)
    )
    return low, torch.where(high > low, high - low, 1)


def _full(value: int, device: torch.device) -> Tensor:
    wrapped = (value + (1 << 63)) % (1 << 64) - (1 << 63)
    return torch.full((), wrapped, dtype=torch.int64, device=device)


def _remainder_of_two_words(higher: Tensor, lower: Tensor, span: Tensor) -> Tensor:
    """Return `(higher 2^w + lower) mod span` in words of `w` bits, products taken modulo `2^w`."""
    half_word = torch.full_like(span, 1 << (4 * span.dtype.itemsize))
    multiplier = _unsigned_remainder(half_word, span)
    multiplier = _unsigned_remainder(multiplier * multiplier, span)
    offset = _unsigned_remainder(higher, span) * multiplier + _unsigned_remainder(lower, span)
    return _unsigned_remainder(offset, span)


def _unsigned_remainder(x: Tensor, divisor: Tensor) -> Tensor:
    """Return `x mod divisor` of unsigned words in signed dtypes, and `x` where `divisor` is 0.

    Half of `x` is divided, which has no sign bit, and the quotient doubled: it is then short by at
    most one. (Warren, Hacker's Delight, section 9-3.)
    """
    information = torch.iinfo(x.dtype)
    half = (x >> 1) & information.max
    quotient = torch.where(divisor > 0, half // divisor.clamp(min=1), 0) << 1
    remainder = x - quotient * divisor
    # Flipping the sign bit turns the unsigned order into the signed one.
    short = (remainder ^ information.min) >= (divisor ^ information.min)
    return torch.where(short, remainder - divisor, remainder)


def permutation(key: Tensor, x: int | Tensor, axis: int = 0, independent: bool = False) -> Tensor:
    """Return `x` with the slices along `axis` in random order, or a random order of `range(x)`.

    The slices are sorted by random words, stably, as many times as it takes for two words of all
    rounds together to differ almost surely.

    Parameters
    ----------
    x
        A tensor with at least one axis, or an integer `n` for `arange(n)` in int32.
    independent
        Whether each vector along `axis` gets an order of its own.

    Examples
    --------
    >>> permutation(key(0), 5)
    tensor([0, 1, 4, 3, 2], dtype=torch.int32)
    """
    check_key("permutation", key)
    if isinstance(x, int) and not isinstance(x, bool):
        if x < 0:
            raise ValueError(f"permutation: expected x to be at least 0, got {x}.")
        return _random_order(key, (x,), 0).to(torch.int32)
    if not isinstance(x, Tensor) or x.ndim == 0:
        raise TypeError(
            "permutation: expected x to be an integer or a tensor with at least one axis, "
            f"got {x!r}."
        )
    axis = _axis("permutation", axis, x)
    if independent:
        return torch.take_along_dim(x, _random_order(key, x.shape, axis), axis)
    return x.index_select(axis, _random_order(key, (x.shape[axis],), 0))


def _random_order(key: Tensor, shape: Shape, axis: int) -> Tensor:
    """Return for each vector along `axis` the indices of a random order."""
    indices = torch.arange(shape[axis], device=key.device)
    indices = indices.expand(*shape[:axis], *shape[axis + 1 :], -1).movedim(-1, axis)
    rounds = math.ceil(3 * math.log(max(1, math.prod(shape))) / math.log(2**32 - 1))
    for _ in range(rounds):
        key, subkey = split(key).unbind()
        words = bits(subkey, shape).view(torch.int32)
        words ^= torch.iinfo(torch.int32).min  # the signed order is now the unsigned one
        indices = indices.gather(axis, words.sort(dim=axis, stable=True).indices)
    return indices


def categorical(key: Tensor, logits: Tensor, axis: int = -1, shape: Shape | None = None) -> Tensor:
    """Return indices along `axis`, in int32, distributed like `softmax(logits, axis)`.

    The index is that of the greatest logit after Gumbel noise has been added, in the dtype of the
    logits as in JAX. In halves the noise has few values and ties, which the first index wins: among
    many classes, as of a vocabulary, give logits in float32.

    Parameters
    ----------
    logits
        Unnormalized log-probabilities, in any floating-point dtype.
    shape
        The shape of the result, by default that of `logits` without `axis`, which is otherwise
        broadcast to it.

    Examples
    --------
    >>> categorical(key(0), torch.tensor([0.0, 1.0, 2.0]), shape=(6,))
    tensor([1, 1, 2, 1, 2, 2], dtype=torch.int32)
    """
    check_key("categorical", key)
    _check_floating("categorical", "logits", logits)
    if logits.ndim == 0:
        raise ValueError("categorical: expected logits to have at least one axis, got shape ().")
    axis = _axis("categorical", axis, logits) - logits.ndim
    batch = logits.movedim(axis, -1)[..., 0]
    shape = tuple(batch.shape) if shape is None else check_shape("categorical", shape)
    check_broadcast("categorical", "logits without the axis", batch, shape)
    position = len(shape) + 1 + axis
    noise = gumbel(key, (*shape[:position], logits.shape[axis], *shape[position:]), logits.dtype)
    return sum_of(held(noise), held(logits), logits.dtype).argmax(dim=axis).to(torch.int32)


def choice(
    key: Tensor,
    a: int | Tensor,
    shape: Shape = (),
    replace: bool = True,
    p: Tensor | None = None,
    axis: int = 0,
) -> Tensor:
    """Return random slices of `a` along `axis`.

    Parameters
    ----------
    a
        A tensor with at least one axis, or an integer `n` for `arange(n)` in int32.
    shape
        How many slices; this shape takes the place of `axis` in the result.
    replace
        Whether a slice may be drawn more than once.
    p
        The probabilities of the slices, a floating-point vector; uniform if it is None. Drawing
        without replacement needs as many that are not 0 as there are draws.

    Raises
    ------
    ValueError
        There is nothing to draw from, or too little without replacement.

    Examples
    --------
    >>> choice(key(0), torch.tensor([10, 20, 30]), (4,))
    tensor([20, 10, 30, 20])
    """
    check_key("choice", key)
    shape = check_shape("choice", shape)
    if isinstance(a, Tensor) and a.ndim:
        axis = _axis("choice", axis, a)
        length = a.shape[axis]
    elif isinstance(a, int) and not isinstance(a, bool):
        length = a
    else:
        raise TypeError(
            f"choice: expected a to be an integer or a tensor with at least one axis, got {a!r}."
        )
    indices = _choose(key, length, shape, replace, p)
    if isinstance(a, int):
        return indices.to(torch.int32)
    chosen = a.index_select(axis, indices.reshape(-1))
    return chosen.reshape((*a.shape[:axis], *shape, *a.shape[axis + 1 :]))


def _choose(
    key: Tensor, length: int, shape: tuple[int, ...], replace: bool, p: Tensor | None
) -> Tensor:
    """Return indices in `[0, length)`, of the given shape."""
    draws = math.prod(shape)
    if draws == 0:
        return torch.zeros(shape, dtype=torch.int64, device=key.device)
    if length <= 0:
        raise ValueError("choice: expected a to have at least one element to draw, got none.")
    if not replace and draws > length:
        raise ValueError(
            f"choice: cannot draw {draws} of {length} without replacement; pass replace=True or "
            "a smaller shape."
        )
    if p is None:
        if replace:
            return randint(key, shape, 0, length)
        return _random_order(key, (length,), 0)[:draws].reshape(shape)
    _check_floating("choice", "p", p)
    if p.shape != (length,):
        raise ValueError(f"choice: expected p to have shape ({length},), got {tuple(p.shape)}.")
    if replace:
        cumulative = _cumulative_sum(p)
        u = uniform(key, shape, p.dtype)
        return torch.searchsorted(cumulative, cumulative[-1] * (1 - u))
    noisy = sum_of(held(gumbel(key, (length,), p.dtype)), log_of(p), p.dtype)
    order = noisy.sort(descending=True, stable=True).indices
    return order[:draws].reshape(shape)


def _cumulative_sum(x: Tensor) -> Tensor:
    """Return the running sums of a vector, added in the order in which XLA adds them.

    Runs of 16 are summed from left to right, and their totals, in the same way, ahead of them.
    """
    length = x.shape[0]
    runs = held(torch.nn.functional.pad(x, (0, -length % 16))).reshape(-1, 16).unbind(dim=1)
    sums = [runs[0]]
    for run in runs[1:]:
        sums.append(sum_of(sums[-1], run, x.dtype))
    within = torch.stack(sums, dim=1)
    if length > 16:
        before = torch.nn.functional.pad(_cumulative_sum(within[:, -1].to(x.dtype))[:-1], (1, 0))
        within = sum_of(within, held(before)[:, None], x.dtype)
    return within.reshape(-1)[:length].to(x.dtype)


def _check_floating(name: str, argument: str, value: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected {argument} to be a tensor, got {value!r}.")
    if not value.is_floating_point():
        raise TypeError(f"{name}: expected {argument} to be floating-point, got {value.dtype}.")


def _axis(name: str, axis: int, x: Tensor) -> int:
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(
            f"{name}: expected axis to be in [{-x.ndim}, {x.ndim}) for a tensor of shape "
            f"{tuple(x.shape)}, got {axis}."
        )
    return axis % x.ndim
