"""Patches of images, laid side by side and added up again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812 - torch's name
from torch import Tensor

from .checks import Shape, check_input, check_maybe_batched, int_per_dim
from .layer import Layer, LayerError, lift

IntOrInts = int | Sequence[int]


def unfold(
    kernel_size: IntOrInts,
    dilation: IntOrInts = 1,
    padding: IntOrInts = 0,
    stride: IntOrInts = 1,
) -> Layer:
    """Return the layer that lays the patches of inputs `(N, C, H, W)` or `(C, H, W)` side by side.

    The output has shape `(N, C prod(kernel_size), L)` or that without `N`, a column for each of
    the `L` places where a convolution with the same options has its kernel.

    Parameters
    ----------
    kernel_size, dilation, padding, stride
        One integer for both spatial dimensions, or one for each; the padding is of zeros.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above.
    LayerError
        The input does not have the right dimensions, is not floating-point, or is empty or smaller
        than the kernel.

    Examples
    --------
    >>> import torch
    >>> unfold(2)({}, torch.arange(6.0).reshape(1, 2, 3))
    tensor([[0., 1.],
            [1., 2.],
            [3., 4.],
            [4., 5.]])
    """
    patches = _patches("unfold", kernel_size, dilation, padding, stride)

    def unfolded(x: Tensor) -> Tensor:
        check_maybe_batched("unfold", x, 2)
        if 0 in x.shape[-3:] or min(patches.counts(x.shape[-2:])) < 1:
            raise LayerError(
                f"unfold expected a non-empty input at least as large as its kernel of "
                f"{patches.kernel_size} with padding {patches.padding} and dilation "
                f"{patches.dilation}, got shape {tuple(x.shape)}."
            )
        return F.unfold(x, patches.kernel_size, patches.dilation, patches.padding, patches.stride)

    return lift(unfolded, "unfold")


def fold(
    output_size: IntOrInts,
    kernel_size: IntOrInts,
    dilation: IntOrInts = 1,
    padding: IntOrInts = 0,
    stride: IntOrInts = 1,
) -> Layer:
    """Return the layer that adds patches up to an image, the transpose of `unfold`.

    From inputs `(N, C prod(kernel_size), L)`, or those without `N`, to `(N, C, *output_size)`:
    where patches overlap their sum is taken.

    Parameters
    ----------
    output_size
        The height and width of the output, or one integer for both.
    kernel_size, dilation, padding, stride
        As for `unfold`.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above, or the kernel is larger than the output.
    LayerError
        The input does not have the right dimensions, is not floating-point, has rows that the
        kernel does not divide, or not as many columns as the output has patches.

    Examples
    --------
    >>> import torch
    >>> fold((2, 3), 2)({}, torch.ones(4, 2))
    tensor([[[1., 2., 1.],
             [1., 2., 1.]]])
    """
    patches = _patches("fold", kernel_size, dilation, padding, stride)
    lengths = int_per_dim("fold", "output_size", output_size, 2)
    counts = patches.counts(lengths)
    if min(counts) < 1:
        raise ValueError(
            f"fold: expected output_size at least as large as the kernel of {patches.kernel_size} "
            f"with padding {patches.padding} and dilation {patches.dilation}, got {lengths}."
        )

    def folded(x: Tensor) -> Tensor:
        rows = math.prod(patches.kernel_size)
        pattern = (f"C * {rows}", math.prod(counts))
        is_single = isinstance(x, Tensor) and x.ndim == 2
        check_input("fold", x, pattern if is_single else ("N", *pattern))
        if not x.shape[-2] or x.shape[-2] % rows:
            raise LayerError(
                f"fold expected rows divisible by {rows}, the size of its kernel, got shape "
                f"{tuple(x.shape)}."
            )
        return F.fold(
            x, lengths, patches.kernel_size, patches.dilation, patches.padding, patches.stride
        )

    return lift(folded, "fold")


@dataclass(frozen=True)
class _Patches:
    """The checked options of the patches of an image, one value for each spatial dimension."""

    kernel_size: Shape
    dilation: Shape
    padding: Shape
    stride: Shape

    def counts(self, lengths: Sequence[int]) -> Shape:
        """Return how many patches there are along each dimension of an image."""
        return tuple(
            (length + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for length, kernel, dilation, padding, stride in zip(
                lengths, self.kernel_size, self.dilation, self.padding, self.stride, strict=True
            )
        )


def _patches(
    name: str, kernel_size: IntOrInts, dilation: IntOrInts, padding: IntOrInts, stride: IntOrInts
) -> _Patches:
    return _Patches(
        int_per_dim(name, "kernel_size", kernel_size, 2),
        int_per_dim(name, "dilation", dilation, 2),
        int_per_dim(name, "padding", padding, 2, minimum=0),
        int_per_dim(name, "stride", stride, 2),
    )
