"""Pooling."""

import math

import torch

from purefn.functional import nn

from .case import Case

CASES = [
    Case("max_pool1d", nn.max_pool1d(2), torch.nn.MaxPool1d(2), (2, 3, 8)),
    Case("max_pool2d", nn.max_pool2d(2), torch.nn.MaxPool2d(2), (2, 3, 8, 6)),
    Case("max_pool3d", nn.max_pool3d(2), torch.nn.MaxPool3d(2), (2, 3, 4, 4, 4)),
    Case("avg_pool1d", nn.avg_pool1d(2), torch.nn.AvgPool1d(2), (2, 3, 8)),
    Case("avg_pool2d", nn.avg_pool2d(2), torch.nn.AvgPool2d(2), (2, 3, 8, 6)),
    Case("avg_pool3d", nn.avg_pool3d(2), torch.nn.AvgPool3d(2), (2, 3, 4, 4, 4)),
    Case(
        "avg_pool2d",
        nn.avg_pool2d(3, 2, 1, divisor_override=2),
        torch.nn.AvgPool2d(3, 2, 1, divisor_override=2),
        (2, 3, 8, 6),
        variant="divisor",
    ),
    Case(
        "avg_pool3d",
        nn.avg_pool3d(2, divisor_override=3),
        torch.nn.AvgPool3d(2, divisor_override=3),
        (2, 3, 4, 4, 4),
        variant="divisor",
    ),
    Case("lp_pool1d", nn.lp_pool1d(2, 2), torch.nn.LPPool1d(2, 2), (2, 3, 8)),
    Case(
        "lp_pool1d",
        nn.lp_pool1d(4, 3, 2, ceil_mode=True),
        torch.nn.LPPool1d(4, 3, 2, ceil_mode=True),
        (2, 3, 8),
        variant="ceil",
    ),
    Case("lp_pool2d", nn.lp_pool2d(2, (2, 3)), torch.nn.LPPool2d(2, (2, 3)), (2, 3, 8, 6)),
    Case(
        "lp_pool2d",
        nn.lp_pool2d(math.inf, 3, stride=2),
        torch.nn.LPPool2d(math.inf, 3, stride=2),
        (2, 3, 8, 6),
        variant="infinite",
    ),
    Case(
        "lp_pool3d",
        nn.lp_pool3d(2, 2),
        torch.nn.LPPool3d(2, 2),
        (2, 3, 4, 4, 4),
    ),
]
