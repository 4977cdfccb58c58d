"""Pooling."""

import torch

from purefn.functional import nn

from .case import Case

CASES = [
    Case("max_pool1d", nn.max_pool1d(2), torch.nn.MaxPool1d(2), (2, 3, 8)),
    Case("max_pool2d", nn.max_pool2d(2), torch.nn.MaxPool2d(2), (2, 3, 8, 6)),
    Case("max_pool3d", nn.max_pool3d(2), torch.nn.MaxPool3d(2), (2, 3, 4, 4, 4)),
    Case("avg_pool1d", nn.avg_pool1d(2), torch.nn.AvgPool1d(2), (2, 3, 8)),
    Case("avg_pool2d", nn.avg_pool2d(2), torch.nn.AvgPool2d(2), (2, 3, 8, 6)),
    Case(
        "avg_pool3d", nn.avg_pool3d(2), torch.nn.AvgPool3d(2), (2, 3, 4, 4, 4), has_bfloat16=False
    ),
    Case(
        "adaptive_avg_pool1d", nn.adaptive_avg_pool1d(3), torch.nn.AdaptiveAvgPool1d(3), (2, 3, 8)
    ),
    Case(
        "adaptive_avg_pool2d",
        nn.adaptive_avg_pool2d((2, None)),
        torch.nn.AdaptiveAvgPool2d((2, None)),
        (2, 3, 5, 6),
    ),
    Case(
        "adaptive_avg_pool3d",
        nn.adaptive_avg_pool3d(2),
        torch.nn.AdaptiveAvgPool3d(2),
        (2, 3, 4, 3, 5),
    ),
]
