"""Drawing a token from logits, among all tokens or the most probable ones."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .. import random
from ..losses.checks import values_are_visible
from ..losses.reduction import widened
from ..nn.checks import positive_int
from ..nn.layer import describe


def top_k_logits(logits: Tensor, k: int) -> Tensor:
    """Return logits `(..., V)` with -inf in the place of all but the `k` greatest.

    Fan et al. 2018, Hierarchical neural story generation (arXiv:1805.04833), section 5.4. Logits
    equal to the last of the `k` stay too.

    Raises
    ------
    TypeError, ValueError
        `logits` is not a floating-point tensor of at least one dimension, or `k` is not an integer
        from 1 to `V`.

    Examples
    --------
    >>> top_k_logits(torch.tensor([3.0, 1.0, 2.0]), 2)
    tensor([3., -inf, 2.])
    """
    _check_logits("top_k_logits", logits)
    check_top_k("top_k_logits", "k", k, logits.shape[-1])
    least = logits.topk(k, -1).values[..., -1:]
    return torch.where(logits < least, -torch.inf, logits)


def top_p_logits(logits: Tensor, p: float) -> Tensor:
    """Return logits `(..., V)` with -inf outside the nucleus, the fewest tokens of probability `p`.

    The nucleus is the smallest set of most probable tokens whose probabilities add up to `p` or
    more; of equal tokens the first come first. Holtzman et al. 2019, The curious case of neural
    text degeneration (arXiv:1904.09751), equation 2.

    Raises
    ------
    TypeError, ValueError
        `logits` is not a floating-point tensor of at least one dimension, or `p` is not a number
        within `(0, 1]`.

    Examples
    --------
    >>> top_p_logits(torch.tensor([0.2, 0.5, 0.3]).log(), 0.6).exp()
    tensor([0.0000, 0.5000, 0.3000])
    """
    _check_logits("top_p_logits", logits)
    check_top_p("top_p_logits", "p", p)
    if p == 1:  # all that has a probability, also where rounding reaches 1 before the end
        return logits
    ordered, order = torch.sort(logits, dim=-1, descending=True, stable=True)
    probabilities = widened(ordered).softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    # The first is kept whatever p is: nothing is before it. NaN is not hidden by -inf.
    kept = torch.where(before >= p, -torch.inf, ordered)
    return torch.full_like(logits, -torch.inf).scatter(-1, order, kept)


def sample_token(
    key: Tensor,
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """Return tokens `(...)`, int64, drawn from logits `(..., V)`.

    A token is distributed like `softmax(f(logits / temperature))`, where `f` keeps first the
    `top_k` most probable tokens and then, of these, the nucleus of `top_p`. Half-precision logits
    are drawn from in float32, as their own noise would be too coarse for many tokens.

    Parameters
    ----------
    key
        The random key; the same gives the same tokens.
    temperature
        Below 1 the probable becomes more so; at 0 the token is the most probable one, and the key
        has no effect.
    top_k, top_p
        As for `top_k_logits` and `top_p_logits`; `None` keeps all tokens.

    Raises
    ------
    TypeError, ValueError
        An argument is not one of the above; or a row has no finite greatest logit: it holds NaN or
        inf, or nothing but -inf. Under `jit` and `vmap`, where values cannot be seen, the token of
        such a row is -1.

    Examples
    --------
    >>> logits = torch.tensor([[0.0, 5.0, 4.0], [9.0, 0.0, 0.0]])
    >>> sample_token(random.key(0), logits, temperature=0)
    tensor([1, 0])
    >>> sample_token(random.key(1), logits, temperature=0.7, top_k=2).shape
    torch.Size([2])
    """
    _check_logits("sample_token", logits)
    check_sampling("sample_token", temperature, top_k, top_p, logits.shape[-1])
    greatest = logits.amax(-1, keepdim=True)
    is_drawable = greatest[..., 0].isfinite()
    if values_are_visible(is_drawable) and not is_drawable.all():
        raise ValueError(
            "sample_token: expected a finite greatest logit in every row, got "
            f"{greatest[..., 0][~is_drawable][:5].tolist()} (all -inf, or NaN or inf among them)."
        )
    if temperature == 0:
        return torch.where(is_drawable, logits.argmax(-1), -1)
    # Less the greatest: it is to stay finite, however low the temperature is.
    logits = widened(logits) - widened(greatest)
    limits = torch.finfo(logits.dtype)
    logits = logits / min(max(temperature, limits.tiny), limits.max)
    if top_k is not None:
        logits = top_k_logits(logits, top_k)
    if top_p is not None:
        logits = top_p_logits(logits, top_p)
    return torch.where(is_drawable, random.categorical(key, logits).long(), -1)


def check_sampling(caller: str, temperature: Any, top_k: Any, top_p: Any, vocabulary: int) -> None:
    """Refuse options of `sample_token` that are out of range."""
    if not _is_number(temperature):
        raise TypeError(
            f"{caller}: expected a number for temperature, got {describe(temperature)}; under jit "
            "mark it static."
        )
    if not 0 <= temperature < math.inf:
        raise ValueError(f"{caller}: expected a finite temperature >= 0, got {temperature}.")
    if top_k is not None:
        check_top_k(caller, "top_k", top_k, vocabulary)
    if top_p is not None:
        check_top_p(caller, "top_p", top_p)


def check_top_k(caller: str, argument: str, value: Any, vocabulary: int) -> None:
    """Refuse what is not a number of tokens."""
    if positive_int(caller, argument, value) > vocabulary:
        raise ValueError(
            f"{caller}: expected {argument} to be at most the {vocabulary} tokens there are, got "
            f"{value}."
        )


def check_top_p(caller: str, argument: str, value: Any) -> None:
    """Refuse what is not a probability above zero."""
    if not _is_number(value):
        raise TypeError(f"{caller}: expected a number for {argument}, got {describe(value)}.")
    if not 0 < value <= 1:
        raise ValueError(f"{caller}: expected {argument} within (0, 1], got {value}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_logits(caller: str, logits: Any) -> None:
    if not isinstance(logits, Tensor) or not logits.dtype.is_floating_point:
        raise TypeError(f"{caller}: expected a floating-point tensor, got {describe(logits)}.")
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(
            f"{caller}: expected logits of shape (..., V), V >= 1, got shape {tuple(logits.shape)}."
        )
