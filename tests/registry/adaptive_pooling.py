"""Pooling to a given size, and to none."""

import torch

from purefn.functional import nn

from .case import Case


def flat(module):
    return torch.nn.Sequential(module, torch.nn.Flatten())


CASES = [
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
    Case(
        "adaptive_max_pool1d", nn.adaptive_max_pool1d(3), torch.nn.AdaptiveMaxPool1d(3), (2, 3, 8)
    ),
    Case(
        "adaptive_max_pool2d",
        nn.adaptive_max_pool2d((2, None)),
        torch.nn.AdaptiveMaxPool2d((2, None)),
        (2, 3, 5, 6),
    ),
    Case(
        "adaptive_max_pool3d",
        nn.adaptive_max_pool3d(2),
        torch.nn.AdaptiveMaxPool3d(2),
        (2, 3, 4, 3, 5),
    ),
    Case(
        "global_avg_pool", nn.global_avg_pool(), flat(torch.nn.AdaptiveAvgPool2d(1)), (2, 3, 5, 4)
    ),
    Case(
        "global_max_pool", nn.global_max_pool(), flat(torch.nn.AdaptiveMaxPool2d(1)), (2, 3, 5, 4)
    ),
    Case(
        "global_max_pool",
        nn.global_max_pool(),
        flat(torch.nn.AdaptiveMaxPool1d(1)),
        (2, 3, 5),
        variant="1d",
    ),
]
