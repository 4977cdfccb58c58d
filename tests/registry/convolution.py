"""Convolutions."""

import torch

from purefn.functional import nn

from .case import Case

CASES = [
    Case("conv1d", nn.conv1d(4, 3, padding=1), torch.nn.Conv1d(2, 4, 3, padding=1), (3, 2, 8)),
    Case("conv2d", nn.conv2d(4, 3), torch.nn.Conv2d(2, 4, 3), (3, 2, 6, 7)),
    Case(
        "conv2d",
        nn.conv2d(4, (2, 3), padding="same", groups=2, padding_mode="reflect"),
        torch.nn.Conv2d(2, 4, (2, 3), padding="same", groups=2, padding_mode="reflect"),
        (3, 2, 6, 7),
        variant="reflect",
    ),
    Case("conv3d", nn.conv3d(4, 2), torch.nn.Conv3d(2, 4, 2), (2, 2, 3, 4, 3)),
]
