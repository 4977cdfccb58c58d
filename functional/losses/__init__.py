"""Losses: one value per example, never a reduced one.

Every loss returns a tensor of shape `(batch,)`; the caller writes `.mean()` (or weighs, clips,
sorts or differentiates the values one by one). An example of several elements, `(N, C, d1, ...)`
logits or `(N, ...)` predictions, has as its value the mean of torch's `reduction="none"` values
over its own elements, so that `.mean()` is torch's `reduction="mean"`.

One of torch's means is not a mean over examples: with class weights or ignored labels
`torch.nn.functional.cross_entropy` divides by the summed weights of the labels. That is one line,

>>> import torch
>>> logits, labels = torch.zeros(3, 4), torch.tensor([1, 0, -100])
>>> weight = torch.tensor([1.0, 2.0, 1.0, 1.0])
>>> values = cross_entropy(logits, labels, weight=weight)
>>> label_weights = torch.where(labels == -100, 0.0, weight[labels.clamp(min=0)])
>>> values.mean() / label_weights.mean()
tensor(1.3863)

and for labels of shape `(N, d1, ...)` the same line holds.

Shapes and dtypes are compared before anything is computed: nothing is broadcast or cast. Labels
outside the classes are an error wherever their values can be seen; under `jit` and `vmap` they
cannot, and there the value of such an example is NaN, and its gradient too.
"""

from .classification import bce_with_logits, cross_entropy, nll
from .regression import huber, mse, smooth_l1

__all__ = ["bce_with_logits", "cross_entropy", "huber", "mse", "nll", "smooth_l1"]
