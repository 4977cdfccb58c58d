"""Losses made by `fenchel_young`, of conjugates whose loss torch has."""

import torch
from torch.nn import functional as F  # noqa: N812 - torch's name

from purefn.functional import losses

from .case import Case


def logsumexp(scores):
    return scores.logsumexp(1)


def half_square(x):
    return 0.5 * (x * x).sum(1)


CASES = [
    Case(
        "fenchel_young",
        lambda x, y: losses.fenchel_young(logsumexp)(x, torch.eye(5).to(x)[y]),
        lambda draw: (draw.normal(draw.N, 5),),
        lambda x, y: F.cross_entropy(x, y, reduction="none"),
        lambda draw: (draw.integers(5, draw.N),),
        variant="-logsumexp",
    ),
    Case(
        "fenchel_young",
        losses.fenchel_young(half_square, half_square),
        lambda draw: (draw.normal(draw.N, 5), draw.normal(draw.N, 5)),
        lambda x, y: 0.5 * F.mse_loss(x, y, reduction="none").sum(1),
        variant="-square",
    ),
]
