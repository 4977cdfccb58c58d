"""Layers that change the shape."""

import torch

from purefn.functional import nn

from .case import Case

CASES = [
    Case("flatten", nn.flatten(), torch.nn.Flatten(), (2, 3, 4)),
    Case("unflatten", nn.unflatten(1, (2, -1)), torch.nn.Unflatten(1, (2, -1)), (3, 6, 2)),
]
