"""Normalization."""

import torch

from purefn.functional import nn

from .case import Case

CASES = [
    Case("layer_norm", nn.layer_norm(), torch.nn.LayerNorm(6), (4, 5, 6)),
    Case("batch_norm", nn.batch_norm(), torch.nn.BatchNorm1d(6), (8, 6)),
    Case("batch_norm", nn.batch_norm(), torch.nn.BatchNorm2d(6), (3, 6, 2, 3), variant="2d"),
]
