"""Losses of overlap, by their definitions, class by class."""

from functools import partial

import torch
from torch.nn import functional as F  # noqa: N812 - torch's name

from purefn.functional import losses

from .case import Case


def logits(draw):
    return (draw.normal(draw.N, 3, 4, 2),)


def labels(draw):
    drawn = draw.integers(3, draw.N, 4, 2)
    drawn[0] = 2  # the other classes are absent
    return (drawn,)


def sizes(x, y):
    """Return overlap, predicted and true size for each class, `(3, N, C)`."""
    p = x.softmax(1)
    q = F.one_hot(y, 3).movedim(-1, 1).to(x.dtype) if y.ndim == 3 else y
    return [value.sum((2, 3)) for value in (p * q, p, q)]


def tversky(x, y, w=1.0, smooth=1.0, alpha=0.5, beta=0.5):
    both, p, q = sizes(x, y)
    share = (both + smooth) / (both + alpha * (p - both) + beta * (q - both) + smooth)
    return (w * (1 - share)).mean(1)


def sudre(x, y):
    both, p, q = sizes(x, y)
    w = 1 / torch.maximum(q, torch.ones_like(q)) ** 2
    return 1 - 2 * (w * both).sum(1) / (w * (p + q)).sum(1)


def one_region(x, y):
    p = x.sigmoid()
    return 1 - (2 * (p * y).sum(1) + 2) / (p.sum(1) + y.sum(1) + 2)


CASES = [
    Case("dice", losses.dice, logits, tversky, labels),
    Case(
        "dice",
        lambda x, w, y: losses.dice(x, y, weight=w, smooth=0.1, alpha=0.3, beta=1),
        lambda draw: (*logits(draw), draw.uniform(3)),
        lambda x, w, y: tversky(x, y, w, 0.1, 0.3, 1),
        labels,
        variant="-tversky",
        shared=(1,),
    ),
    Case(
        "dice",
        partial(losses.dice, smooth=0.0),
        lambda draw: (draw.normal(draw.N, 3, 4, 2), draw.softmax(draw.N, 3, 4, 2)),
        partial(tversky, smooth=0.0),
        variant="-soft",
    ),
    Case(
        "binary_dice",
        losses.binary_dice,
        lambda draw: (draw.normal(draw.N, 6), draw.uniform(draw.N, 6)),
        one_region,
    ),
    Case("generalized_dice", losses.generalized_dice, logits, sudre, labels),
]
