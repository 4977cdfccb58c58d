"""Layers that change the shape."""

import torch

from purefn.functional import nn

from .case import Case

CASES = [
    Case("flatten", nn.flatten(), torch.nn.Flatten(), (2, 3, 4)),
]
