"""Which of torch's attention kernels a transform can differentiate."""

from __future__ import annotations

from contextlib import AbstractContextManager

from torch.nn.attention import SDPBackend, sdpa_kernel


def every_derivative_of_attention() -> AbstractContextManager[None]:
    """Have `F.scaled_dot_product_attention` computed by operators with all derivatives.

    The fused kernels have no forward mode, and under vmap their derivative is a loop. Inside a
    transform that needs these, torch's plain composition of products and a softmax has both.

    >>> import torch
    >>> x = torch.ones(1, 1, 2, 4)
    >>> with every_derivative_of_attention():
    ...     torch.nn.functional.scaled_dot_product_attention(x, x, x).shape
    torch.Size([1, 1, 2, 4])
    """
    return sdpa_kernel(SDPBackend.MATH)
