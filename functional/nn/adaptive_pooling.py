"""Pooling to a given size, whatever the size of the input, and to none at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

from .checks import check_input, check_maybe_batched, positive_int
from .layer import Layer, LayerError, lift

Lengths = int | Sequence[int | None] | None

_AVG: dict[int, Callable[..., Any]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}
_MAX: dict[int, Callable[..., Any]] = {
    1: F.adaptive_max_pool1d,
    2: F.adaptive_max_pool2d,
    3: F.adaptive_max_pool3d,
}


def adaptive_avg_pool1d(output_size: Lengths) -> Layer:
    """Return the mean over as many windows as the output has elements; see `adaptive_avg_pool2d`.

    >>> import torch
    >>> adaptive_avg_pool1d(1)({}, torch.tensor([[[1.0, 4.0, 3.0, 2.0]]]))
    tensor([[[2.5000]]])
    """
    return _adaptive("adaptive_avg_pool1d", 1, output_size, _AVG[1])


def adaptive_avg_pool2d(output_size: Lengths) -> Layer:
    """Return the mean over as many windows as the output has elements.

    Inputs have shape `(N, C, H, W)` or `(C, H, W)`. Windows are as even as they can be, and overlap
    where the division is not exact. `output_size` is one length or one for each spatial dimension;
    `None` keeps the input's.

    Raises
    ------
    TypeError, ValueError
        `output_size` is not one of the above.
    LayerError
        The input does not have the right dimensions, is empty or not floating-point.

    Examples
    --------
    >>> import torch
    >>> adaptive_avg_pool2d(1)({}, torch.ones(8, 3, 28, 28)).shape
    torch.Size([8, 3, 1, 1])
    """
    return _adaptive("adaptive_avg_pool2d", 2, output_size, _AVG[2])


def adaptive_avg_pool3d(output_size: Lengths) -> Layer:
    """Return the mean over as many windows as the output has elements; see `adaptive_avg_pool2d`.

    >>> import torch
    >>> adaptive_avg_pool3d((1, None, 2))({}, torch.ones(8, 3, 4, 4, 4)).shape
    torch.Size([8, 3, 1, 4, 2])
    """
    return _adaptive("adaptive_avg_pool3d", 3, output_size, _AVG[3])


def adaptive_max_pool1d(output_size: Lengths) -> Layer:
    """Return the maximum over as many windows as the output has elements.

    See `adaptive_avg_pool2d`.

    >>> import torch
    >>> adaptive_max_pool1d(2)({}, torch.tensor([[[1.0, 4.0, 3.0, 2.0]]]))
    tensor([[[4., 3.]]])
    """
    return _adaptive("adaptive_max_pool1d", 1, output_size, _MAX[1])


def adaptive_max_pool2d(output_size: Lengths) -> Layer:
    """Return the maximum over as many windows as the output has elements.

    Inputs, windows, `output_size` and errors are those of `adaptive_avg_pool2d`.

    Examples
    --------
    >>> import torch
    >>> adaptive_max_pool2d((1, None))({}, torch.ones(8, 3, 28, 28)).shape
    torch.Size([8, 3, 1, 28])
    """
    return _adaptive("adaptive_max_pool2d", 2, output_size, _MAX[2])


def adaptive_max_pool3d(output_size: Lengths) -> Layer:
    """Return the maximum over as many windows as the output has elements.

    See `adaptive_avg_pool2d`.

    >>> import torch
    >>> adaptive_max_pool3d(2)({}, torch.ones(8, 3, 4, 4, 4)).shape
    torch.Size([8, 3, 2, 2, 2])
    """
    return _adaptive("adaptive_max_pool3d", 3, output_size, _MAX[3])


def global_avg_pool() -> Layer:
    """Return the mean of each channel: `(N, C, *spatial)` becomes `(N, C)`.

    Raises
    ------
    LayerError
        The input has no spatial dimensions, is empty or not floating-point.

    Examples
    --------
    >>> import torch
    >>> global_avg_pool()({}, torch.ones(8, 3, 28, 28)).shape
    torch.Size([8, 3])
    """
    return _global("global_avg_pool", lambda x: x.mean(dim=2))


def global_max_pool() -> Layer:
    """Return the maximum of each channel: `(N, C, *spatial)` becomes `(N, C)`.

    Errors are those of `global_avg_pool`. Of equal elements the first receives the gradient.

    Examples
    --------
    >>> import torch
    >>> global_max_pool()({}, torch.tensor([[[1.0, 4.0, 3.0]]]))
    tensor([[4.]])
    """
    return _global("global_max_pool", lambda x: x.max(dim=2).values)


def _adaptive(name: str, dims: int, output_size: Lengths, function: Callable[..., Any]) -> Layer:
    sizes = tuple(output_size) if isinstance(output_size, Sequence) else (output_size,) * dims
    if len(sizes) != dims:
        raise ValueError(f"{name}: expected one or {dims} lengths, got {output_size!r}.")
    for size in sizes:
        if size is not None:
            positive_int(name, "output_size", size)

    def pool(x: Tensor) -> Any:
        check_maybe_batched(name, x, dims)
        _check_not_empty(name, x, dims + 1)
        pairs = zip(x.shape[-dims:], sizes, strict=True)
        lengths = [length if size is None else size for length, size in pairs]
        return function(x, lengths)

    return lift(pool, name)


def _global(name: str, over_last: Callable[[Tensor], Tensor]) -> Layer:
    def pool(x: Tensor) -> Tensor:
        check_input(name, x, ("N", "C", "L", "..."))
        _check_not_empty(name, x, x.ndim - 1)
        return over_last(x.flatten(2))

    return lift(pool, name)


def _check_not_empty(name: str, x: Tensor, dims: int) -> None:
    if 0 in x.shape[-dims:]:
        raise LayerError(f"{name} expected a non-empty input, got shape {tuple(x.shape)}.")
