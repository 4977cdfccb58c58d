"""Torch's random operators as functions of a key: each by its name, with torch's arguments.

`DRAWS` return what the operator returns. `WRITES` return what it leaves in the tensor it is given;
`SILENT` says when an operator that may draw does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .. import random
from ..border import is_mapped
from ..staging.tracing import recorder
from .attending import attention_by_formula

#: What `selu` tends to for small inputs, `-1.0507 * 1.6733`, in the digits that torch has.
_SELU_FLOOR = -1.7580993408473766


def is_silent(name: str, args: tuple[Any, ...], options: Mapping[str, Any]) -> bool:
    """Say whether a random operator called with these arguments draws nothing.

    >>> is_silent("dropout", (torch.ones(2), 0.5, False), {})
    True
    """
    judge = _SILENT.get(name.removesuffix("_"))
    return judge is not None and judge(*args, **options)


def _no_dropout(x: Tensor, p: float, train: bool) -> bool:
    return not train or p == 0


def _no_attention_dropout(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    *args: Any,
    **options: Any,
) -> bool:
    return dropout_p == 0


def _no_slopes(
    x: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False
) -> bool:
    return not training


def _no_recurrent_dropout(*args: Any) -> bool:
    # (x, states, weights, bias, layers, dropout, train, bidirectional, batch_first), or packed:
    # (data, batch_sizes, states, weights, bias, layers, dropout, train, bidirectional).
    dropout, train = args[5:7] if isinstance(args[3], bool) else args[6:8]
    layers = args[4] if isinstance(args[3], bool) else args[5]
    return dropout == 0 or not train or layers == 1


_SILENT: Mapping[str, Callable[..., bool]] = {
    "alpha_dropout": _no_dropout,
    "dropout": _no_dropout,
    "feature_alpha_dropout": _no_dropout,
    "feature_dropout": _no_dropout,
    "gru": _no_recurrent_dropout,
    "lstm": _no_recurrent_dropout,
    "rnn_relu": _no_recurrent_dropout,
    "rnn_tanh": _no_recurrent_dropout,
    "rrelu": _no_slopes,
    "scaled_dot_product_attention": _no_attention_dropout,
}


# --- dropout, of elements and of channels --------------------------------------------------------


def _dropout(key: Tensor, x: Tensor, p: float, train: bool) -> Tensor:
    return _zeroed(x, p, _kept(key, p, x.shape))


def _feature_dropout(key: Tensor, x: Tensor, p: float, train: bool) -> Tensor:
    return _zeroed(x, p, _kept(key, p, _channels(x)))


def _alpha_dropout(key: Tensor, x: Tensor, p: float, train: bool) -> Tensor:
    return _floored(x, p, _kept(key, p, x.shape))


def _feature_alpha_dropout(key: Tensor, x: Tensor, p: float, train: bool) -> Tensor:
    return _floored(x, p, _kept(key, p, _channels(x)))


def _kept(key: Tensor, p: float, shape: tuple[int, ...]) -> Tensor:
    if not 0 <= p <= 1:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}.")
    return random.bernoulli(key, float(1 - p), tuple(shape))


def _channels(x: Tensor) -> tuple[int, ...]:
    return (*x.shape[:2], *(1 for _ in x.shape[2:]))


def _zeroed(x: Tensor, p: float, kept: Tensor) -> Tensor:
    return torch.zeros_like(x) if p == 1 else torch.where(kept, x / (1 - p), 0.0)


def _floored(x: Tensor, p: float, kept: Tensor) -> Tensor:
    if p == 1:
        return torch.zeros_like(x)
    factor = 1 / math.sqrt((1 - p) * (1 + p * _SELU_FLOOR**2))
    offset = -factor * p * _SELU_FLOOR
    return torch.where(kept, factor * x + offset, factor * _SELU_FLOOR + offset)


def _rrelu(
    key: Tensor, x: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False
) -> Tensor:
    slope = random.uniform(key, tuple(x.shape), x.dtype, lower, upper)
    return torch.where(x <= 0, x * slope, x)


def _attention(random_key: Tensor, /, *args: Any, **options: Any) -> Tensor:
    return attention_by_formula(
        *args, **options, drop=lambda weights, p: _dropout(random_key, weights, p, True)
    )


def pool_samples(dims: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what draws the places of the windows of fractional pooling.

    Graham 2014, Fractional max-pooling (arXiv:1412.6071).
    """

    def draw(key: Tensor, x: Tensor) -> Tensor:
        batch = 1 if x.ndim == dims + 1 else x.shape[0]
        return random.uniform(key, (batch, x.shape[-dims - 1], dims), x.dtype)

    return draw


# --- numbers of a shape --------------------------------------------------------------------------


def _rand(key: Tensor, *size: Any, **options: Any) -> Tensor:
    return _uniform(key, torch.empty(*size, **options))


def _rand_like(key: Tensor, x: Tensor, **options: Any) -> Tensor:
    return _uniform(key, torch.empty_like(x, **options))


def _randn(key: Tensor, *size: Any, **options: Any) -> Tensor:
    return _normal(key, torch.empty(*size, **options))


def _randn_like(key: Tensor, x: Tensor, **options: Any) -> Tensor:
    return _normal(key, torch.empty_like(x, **options))


def _randint(key: Tensor, *args: Any, **options: Any) -> Tensor:
    bounds = [options.pop(name) for name in ("low", "high") if name in options]
    size = options.pop("size", None)
    *positional, last = (*args, *([] if size is None else [size]))
    low, high = (0, *bounds, *positional)[-2:]
    like = torch.empty(last, **_with_integers(options))
    return _integers(key, like, low, high)


def _randint_like(key: Tensor, x: Tensor, *bounds: int, **options: Any) -> Tensor:
    bounds = (*(options.pop(name) for name in ("low", "high") if name in options), *bounds)
    low, high = (0, *bounds)[-2:]
    return _integers(key, torch.empty_like(x, **options), low, high)


def _integers(key: Tensor, like: Tensor, low: int, high: int) -> Tensor:
    drawn = random.randint(key, tuple(like.shape), low, high, torch.int64)
    return drawn.to(like.device, like.dtype)


def _with_integers(options: dict[str, Any]) -> dict[str, Any]:
    return {**options, "dtype": torch.int64 if options.get("dtype") is None else options["dtype"]}


def _randperm(key: Tensor, n: int, **options: Any) -> Tensor:
    return random.permutation(key, torch.arange(n, **_with_integers(options)))


def _normal_of(
    key: Tensor, mean: Any = 0.0, std: Any = 1.0, size: Any = None, **options: Any
) -> Tensor:
    if size is not None:
        like = torch.empty(size, **options)
    else:
        tensors = [value for value in (mean, std) if isinstance(value, Tensor)]
        like = torch.empty_like(torch.broadcast_tensors(*tensors)[0])
    _check(std, std >= 0, "normal takes no standard deviation below zero")
    numbers: Tensor = mean + std * _normal(key, like)
    return numbers


def _bernoulli(key: Tensor, x: Tensor, p: float | None = None) -> Tensor:
    return _bernoulli_into(key, x, x if p is None else p)


def _multinomial(key: Tensor, x: Tensor, num_samples: int, replacement: bool = False) -> Tensor:
    """Return indices by the Gumbel trick: the largest of `log p + g`, or one for each sample."""
    _check(x, (x >= 0) & x.isfinite(), "multinomial takes finite weights that are not negative")
    _check(x, (x > 0).any(-1), "multinomial takes weights of which one is above zero")
    shape = tuple(x.shape)
    if replacement:
        shape = (*shape[:-1], num_samples, shape[-1])
        scores = x.log().unsqueeze(-2) + random.gumbel(key, shape, x.dtype)
        return scores.argmax(-1)
    return (x.log() + random.gumbel(key, shape, x.dtype)).topk(num_samples, dim=-1).indices


def _uniform(key: Tensor, like: Tensor) -> Tensor:
    return random.uniform(key, tuple(like.shape), like.dtype).to(like.device)


def _normal(key: Tensor, like: Tensor) -> Tensor:
    return random.normal(key, tuple(like.shape), like.dtype).to(like.device)


def _check(values: Any, valid: Any, message: str) -> None:
    """Refuse values, numbers or a tensor, that torch refuses, where they can be seen."""
    if isinstance(values, Tensor):
        if recorder() is not None or is_mapped(values) or values.is_meta:
            return
        valid = valid.all()
    if not valid:
        raise ValueError(f"{message}, got {values}.")


DRAWS: Mapping[str, Callable[..., Any]] = {
    "alpha_dropout": _alpha_dropout,
    "bernoulli": _bernoulli,
    "dropout": _dropout,
    "feature_alpha_dropout": _feature_alpha_dropout,
    "feature_dropout": _feature_dropout,
    "multinomial": _multinomial,
    "normal": _normal_of,
    "rand": _rand,
    "rand_like": _rand_like,
    "randint": _randint,
    "randint_like": _randint_like,
    "randn": _randn,
    "randn_like": _randn_like,
    "randperm": _randperm,
    "rrelu": _rrelu,
    "scaled_dot_product_attention": _attention,
}


# --- numbers for a tensor that is there ----------------------------------------------------------


def _bernoulli_into(key: Tensor, tensor: Tensor, p: Any = 0.5) -> Tensor:
    dtype = p.dtype if isinstance(p, Tensor) else torch.get_default_dtype()
    _check(p, (p >= 0) & (p <= 1), "bernoulli takes probabilities between 0 and 1")
    drawn = random.uniform(key, tuple(tensor.shape), dtype).to(tensor.device)
    found: Tensor = (drawn < p).to(tensor.dtype)
    return found


def _exponential_into(key: Tensor, tensor: Tensor, lambd: float = 1.0) -> Tensor:
    return random.exponential(key, tuple(tensor.shape), tensor.dtype) / lambd


def _normal_into(key: Tensor, tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    _check(std, std >= 0, "normal takes no standard deviation below zero")
    return mean + std * random.normal(key, tuple(tensor.shape), tensor.dtype)


def _uniform_into(
    key: Tensor, tensor: Tensor, a: float = 0.0, b: float = 1.0, **bounds: float
) -> Tensor:
    # `torch.nn.init` says a and b, the method of a tensor from and to.
    low, high = bounds.get("from", a), bounds.get("to", b)
    return low + (high - low) * random.uniform(key, tuple(tensor.shape), tensor.dtype)


WRITES: Mapping[str, Callable[..., Tensor]] = {
    "alpha_dropout_": _alpha_dropout,
    "bernoulli_": _bernoulli_into,
    "dropout_": _dropout,
    "exponential_": _exponential_into,
    "feature_alpha_dropout_": _feature_alpha_dropout,
    "feature_dropout_": _feature_dropout,
    "normal_": _normal_into,
    "rrelu_": _rrelu,
    "uniform_": _uniform_into,
}
