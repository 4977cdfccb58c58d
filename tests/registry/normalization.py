"""Normalization."""

import torch

from purefn.functional import nn

from .case import Case

CASES = [
    Case("layer_norm", nn.layer_norm(), torch.nn.LayerNorm(6), (4, 5, 6)),
    Case("batch_norm", nn.batch_norm(), torch.nn.BatchNorm1d(6), (8, 6)),
    Case("batch_norm", nn.batch_norm(), torch.nn.BatchNorm2d(6), (3, 6, 2, 3), variant="2d"),
    Case(
        "batch_norm",
        nn.batch_norm(momentum=None, eps=0.1, bias=False),
        torch.nn.BatchNorm3d(4, momentum=None, eps=0.1, bias=False),
        (3, 4, 2, 3, 2),
        variant="3d",
    ),
    Case(
        "batch_norm",
        nn.batch_norm(affine=False),
        torch.nn.BatchNorm1d(4, affine=False),
        (3, 4, 5),
        variant="plain",
    ),
    Case(
        "untracked_batch_norm",
        nn.untracked_batch_norm(eps=0.1),
        torch.nn.BatchNorm2d(6, eps=0.1, track_running_stats=False),
        (3, 6, 2, 3),
        mixes=True,
    ),
    Case(
        "untracked_batch_norm",
        nn.untracked_batch_norm(bias=False),
        torch.nn.BatchNorm1d(6, bias=False, track_running_stats=False),
        (8, 6),
        variant="weight",
        mixes=True,
    ),
]
