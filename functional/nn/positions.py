"""Where an element stands in its sequence: positions for attention, which has no order itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..initializers import Initializer, normal
from .checks import check_bools, check_input, check_positive, positive_int
from .layer import Layer, LayerError, Params
from .parameters import check_parameters, check_same_dtype


def rotary(
    x: Tensor, offset: int | Tensor = 0, *, base: float = 10_000.0, interleaved: bool = True
) -> Tensor:
    """Return `x` of shape `(..., L, D)`, each pair of features turned by its position times a rate.

    Pair `i` of the features at position `m` becomes

        (a cos(m t) - b sin(m t), a sin(m t) + b cos(m t)),    t = base ** (-2 i / D),

    so that the product of two such vectors depends on the difference of their positions alone. Su
    et al. 2021, RoFormer: enhanced transformer with rotary position embedding, equation 34.

    Parameters
    ----------
    offset
        The position of the first element: an integer, or a tensor of one integer that may change
        under `jit`, as when one token after another is decoded.
    base
        The slowest pair takes about `2 pi base` positions for a turn.
    interleaved
        Whether features `(2 i, 2 i + 1)` are a pair, as in the paper, or `(i, i + D / 2)`, as in
        GPT-NeoX and Llama.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        The input has fewer than two dimensions or an odd number of features, or is not
        floating-point.

    Examples
    --------
    >>> rotary(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    tensor([[1.0000, 0.0000],
            [0.5403, 0.8415]])
    """
    check_positive("rotary", "base", base)
    check_bools("rotary", interleaved=interleaved)
    check_input("rotary", x, ("...", "L", "D"))
    half = x.shape[-1] // 2
    if x.shape[-1] % 2:
        raise LayerError(f"rotary expected an even number of features, got {tuple(x.shape)}.")
    angles = _angles("rotary", x, half, offset, base)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.unflatten(-1, (half, 2)).unbind(-1) if interleaved else x.split(half, -1)
    turned = a * cos - b * sin, a * sin + b * cos
    return torch.stack(turned, -1).flatten(-2) if interleaved else torch.cat(turned, -1)


def sinusoidal_positions(x: Tensor, offset: int | Tensor = 0, *, base: float = 10_000.0) -> Tensor:
    """Return `x` of shape `(..., L, D)` plus waves of its positions.

    To features `2 i` and `2 i + 1` at position `m` are added

        sin(m / base ** (2 i / D))    and    cos(m / base ** (2 i / D)).

    Vaswani et al. 2017, Attention is all you need, section 3.5. Parameters and errors are those of
    `rotary`, but the number of features may be odd.

    Examples
    --------
    >>> sinusoidal_positions(torch.zeros(2, 2))
    tensor([[0.0000, 1.0000],
            [0.8415, 0.5403]])
    """
    check_positive("sinusoidal_positions", "base", base)
    check_input("sinusoidal_positions", x, ("...", "L", "D"))
    half = (x.shape[-1] + 1) // 2
    angles = _angles("sinusoidal_positions", x, half, offset, base)
    waves = torch.stack((angles.sin(), angles.cos()), -1).flatten(-2)
    return x + waves[:, : x.shape[-1]].to(x.dtype)


def learned_positions(max_length: int, *, weight_init: Initializer | None = None) -> Layer:
    """Return the layer `y = x + weight[:L]` for inputs of shape `(..., L, D)`.

    The parameter is `weight` of shape `(max_length, D)`, one vector for each position as in a
    `torch.nn.Embedding`; by default from a normal distribution of deviation 0.02, as in GPT-2 and
    vision transformers.

    Parameters
    ----------
    max_length
        The length of the longest sequence.
    weight_init
        An initializer in the place of the default one.

    Raises
    ------
    TypeError, ValueError
        `max_length` is not a positive integer.
    LayerError
        The input has fewer than two dimensions, other features, or more than `max_length`
        positions; it is not floating-point or not of the dtype of the parameter; or the parameters
        are not this layer's.

    Examples
    --------
    >>> from purefn.functional import random
    >>> layer = learned_positions(16)
    >>> params = layer.init(random.key(0), torch.ones(2, 5, 3))
    >>> params["weight"].shape, layer(params, torch.ones(2, 5, 3)).shape
    (torch.Size([16, 3]), torch.Size([2, 5, 3]))
    """
    positive_int("learned_positions", "max_length", max_length)

    def check(x: Any, features: int | str) -> None:
        check_input("learned_positions", x, ("...", "L", features))
        if x.shape[-2] > max_length:
            raise LayerError(
                f"learned_positions expected at most max_length={max_length} positions, got "
                f"{x.shape[-2]} in shape {tuple(x.shape)}."
            )

    def init(key: Tensor, x: Any) -> Params:
        check(x, "D")
        draw = weight_init or normal(0.02)
        return {"weight": draw(key, (max_length, x.shape[-1]), x.dtype)}

    def apply(
        params: Params, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        check_parameters("learned_positions", params, {"weight": (max_length, "D")})
        check(x, params["weight"].shape[1])
        check_same_dtype("learned_positions", x, params)
        weight: Tensor = params["weight"]
        return x + weight[: x.shape[-2]]

    return Layer(init, apply, uses_key=False)


def alibi_slopes(num_heads: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the slope of each head in attention with linear biases, of shape `(num_heads,)`.

    For a power of two they are `2 ** (-8 h / num_heads)`, `h` from 1 to `num_heads`. Otherwise
    they are those for the next smaller power of two, and then every second one of those for twice
    as many, as in the authors' code. Press et al. 2022, Train short, test long: attention with
    linear biases enables input length extrapolation.

    Parameters
    ----------
    num_heads
        How many heads there are.
    dtype
        That of the slopes.

    Raises
    ------
    TypeError, ValueError
        `num_heads` is not a positive integer.

    Examples
    --------
    >>> alibi_slopes(4)
    tensor([0.2500, 0.0625, 0.0156, 0.0039])
    >>> alibi_slopes(3)
    tensor([0.0625, 0.0039, 0.2500])
    """
    positive_int("alibi_slopes", "num_heads", num_heads)
    power = 1 << (num_heads.bit_length() - 1)
    slopes = [2 ** (-8 * head / power) for head in range(1, power + 1)]
    slopes += [2 ** (-4 * head / power) for head in range(1, 2 * power, 2)]
    return torch.tensor(slopes[:num_heads], dtype=dtype)


def _angles(layer: str, x: Tensor, half: int, offset: Any, base: float) -> Tensor:
    """Return the position times the rate of each pair of features, of shape `(L, half)`."""
    if isinstance(offset, Tensor):
        if offset.ndim or offset.dtype.is_floating_point or offset.dtype == torch.bool:
            raise LayerError(
                f"{layer} expected one integer for offset, got a {offset.dtype} tensor of shape "
                f"{tuple(offset.shape)}."
            )
    elif isinstance(offset, bool) or not isinstance(offset, int):
        raise TypeError(f"{layer}: expected an integer for offset, got {offset!r}.")
    # Positions above 256 have no bfloat16 of their own.
    dtype = torch.promote_types(x.dtype, torch.float32)
    pairs = torch.arange(half, device=x.device, dtype=dtype)
    rates = torch.pow(base, -2 * pairs / x.shape[-1])
    positions = torch.arange(x.shape[-2], device=x.device) + offset
    angles: Tensor = positions.to(dtype)[:, None] * rates
    return angles
