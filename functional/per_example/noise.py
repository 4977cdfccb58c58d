"""The gradient noise scale: from which batch size on more examples stop helping.

McCandlish et al. 2018, "An Empirical Model of Large-Batch Training", arXiv:1812.06162. With the
true gradient `G` and the covariance `Sigma` of the gradient of one example, the noise scale is::

    B_simple = tr(Sigma) / |G|^2

Both estimators of the paper give unbiased estimates of numerator and denominator. Their ratio is
not unbiased, and the denominator of one batch may even be negative: average the two separately
over steps (`RunningNoiseScale`) before dividing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..autodiff.inputs import Argnums, check_argnums
from .calls import Call, LossesFunction, check_count
from .gradients import by_method, squared_norms, total_of
from .leaves import Method, check_method
from .similarity import squared_norm_of_sum


class NoiseScale(NamedTuple):
    """Unbiased estimates of tr(Sigma), the `trace`, and |G|^2, the `squared_norm`: 0-d tensors.

    >>> NoiseScale(trace=torch.tensor(6.0), squared_norm=torch.tensor(2.0)).scale
    tensor(3.)
    """

    trace: Tensor
    squared_norm: Tensor

    @property
    def scale(self) -> Tensor:
        """Return tr(Sigma) / |G|^2, in examples."""
        return self.trace / self.squared_norm


def noise_scale(
    losses_fn: LossesFunction,
    *,
    method: Method = "auto",
    chunk_size: int | None = None,
    argnums: Argnums = 0,
) -> Callable[..., NoiseScale]:
    """Return the function that estimates the noise scale from the gradients of one batch.

    ::

        tr(Sigma) = 1/(B - 1) (sum_b |g_b|^2 - B |g|^2),    g = 1/B sum_b g_b
        |G|^2 = |g|^2 - tr(Sigma) / B

    Both are unbiased for examples that are drawn independently; B = 1 and B are the two batch sizes
    of McCandlish et al. 2018, arXiv:1812.06162. No gradient is formed where norms do without. The
    trace is a difference: where gradients are a thousand times as long as they vary, float32 leaves
    no digit of it.

    Parameters
    ----------
    losses_fn, method, chunk_size, argnums
        As for `norms`.

    Returns
    -------
    A function of `(params, *batch)` that returns a `NoiseScale`, of which `scale` is the quotient.

    Raises
    ------
    TypeError, ValueError
        As for `grads`; also for a batch of fewer than two.

    Examples
    --------
    >>> def losses(params, x):
    ...     return x @ params["w"]
    >>> x = torch.tensor([[3.0, 1.0], [3.0, -1.0]])
    >>> estimate = noise_scale(losses)({"w": torch.zeros(2)}, x)
    >>> estimate, estimate.scale
    (NoiseScale(trace=tensor(2.), squared_norm=tensor(8.)), tensor(0.2500))
    """
    argnums = check_argnums("noise_scale", argnums)
    check_method("noise_scale", method)
    check_count("noise_scale", "chunk_size", chunk_size)

    @functools.wraps(losses_fn, updated=())
    def of_examples(*args: Any) -> NoiseScale:
        call = Call("noise_scale", losses_fn, args, argnums=argnums)
        if call.size < 2:
            raise ValueError(
                f"noise_scale: a variance needs two examples at least, got a batch of {call.size}."
            )
        leaves = by_method(call, method, chunk_size).leaves
        small = total_of(squared_norms(leaves, chunk_size), call.size).mean()
        big = squared_norm_of_sum(leaves) / call.size**2
        return noise_scale_of_batches(small, big, 1, call.size)

    return of_examples


def noise_scale_of_batches(
    small: float | Tensor, big: float | Tensor, small_size: int, big_size: int
) -> NoiseScale:
    """Return the estimate from squared norms of gradients at two batch sizes, b and B.

    ::

        |G|^2 = (B |G_B|^2 - b |G_b|^2) / (B - b)
        tr(Sigma) = (|G_b|^2 - |G_B|^2) / (1/b - 1/B)

    What accumulates gradients of microbatches, or averages them over devices, has both norms at no
    cost. McCandlish et al. 2018, arXiv:1812.06162, appendix A.1.

    Parameters
    ----------
    small, big
        The squared norms `|G_b|^2` and `|G_B|^2` of gradients of *mean* losses. The first may be
        the mean of the squared norms over several batches of that size.
    small_size, big_size
        The numbers of examples, b < B.

    Raises
    ------
    ValueError
        The sizes are not `1 <= small_size < big_size`.

    Examples
    --------
    >>> estimate = noise_scale_of_batches(torch.tensor(5.0), torch.tensor(2.0), 1, 4)
    >>> estimate, estimate.scale
    (NoiseScale(trace=tensor(4.), squared_norm=tensor(1.)), tensor(4.))
    """
    if not 1 <= small_size < big_size:
        raise ValueError(
            "noise_scale_of_batches: expected 1 <= small_size < big_size, got "
            f"small_size={small_size!r} and big_size={big_size!r}."
        )
    small, big = torch.as_tensor(small), torch.as_tensor(big)
    squared_norm = (big_size * big - small_size * small) / (big_size - small_size)
    return NoiseScale((small - big) / (1 / small_size - 1 / big_size), squared_norm)


class RunningNoiseScale(NamedTuple):
    """An average of estimates of the noise scale over steps, numerator and denominator apart.

    A state like those of optimizers: `RunningNoiseScale.start()` knows nothing, and `updated`
    returns the state after one more estimate. All fields are 0-d tensors; `trace` and
    `squared_norm` are sums in which the estimate of t steps ago has weight `decay^t`, and `weight`
    is the sum of those weights.

    >>> running = RunningNoiseScale.start()
    >>> for trace, squared_norm in [(2.0, -1.0), (6.0, 3.0)]:
    ...     estimate = NoiseScale(torch.tensor(trace), torch.tensor(squared_norm))
    ...     running = running.updated(estimate, decay=0.5)
    >>> running.mean, running.mean.scale
    (NoiseScale(trace=tensor(4.6667), squared_norm=tensor(1.6667)), tensor(2.8000))
    """

    trace: Tensor
    squared_norm: Tensor
    weight: Tensor

    @classmethod
    def start(
        cls, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
    ) -> RunningNoiseScale:
        """Return the state before any estimate."""
        return cls(*torch.zeros(3, dtype=dtype, device=device).unbind())

    def updated(self, estimate: NoiseScale, decay: float | Tensor = 0.99) -> RunningNoiseScale:
        """Return the state after one more estimate; `decay` 1 weighs all of them alike."""
        return RunningNoiseScale(
            decay * self.trace + estimate.trace.to(self.trace.dtype),
            decay * self.squared_norm + estimate.squared_norm.to(self.trace.dtype),
            decay * self.weight + 1,
        )

    @property
    def mean(self) -> NoiseScale:
        """Return the average, NaN before any estimate; its `scale` is the noise scale."""
        return NoiseScale(self.trace / self.weight, self.squared_norm / self.weight)
