"""Transposed convolutions."""

import torch

from purefn.functional import nn

from .case import Case

CASES = [
    Case(
        "conv_transpose1d",
        nn.conv_transpose1d(4, 3, stride=2, bias=False),
        torch.nn.ConvTranspose1d(2, 4, 3, stride=2, bias=False),
        (3, 2, 5),
    ),
    Case(
        "conv_transpose2d",
        nn.conv_transpose2d(3, 3),
        torch.nn.ConvTranspose2d(2, 3, 3),
        (3, 2, 4, 5),
    ),
    Case(
        "conv_transpose2d",
        nn.conv_transpose2d(
            4, (2, 3), stride=(2, 1), padding=1, output_padding=1, groups=2, dilation=2
        ),
        torch.nn.ConvTranspose2d(2, 4, (2, 3), (2, 1), 1, 1, groups=2, dilation=2),
        (3, 2, 4, 5),
        variant="options",
    ),
    Case(
        "conv_transpose3d",
        nn.conv_transpose3d(4, 2),
        torch.nn.ConvTranspose3d(2, 4, 2),
        (2, 2, 3, 2, 3),
    ),
]
