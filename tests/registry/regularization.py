"""Layers that drop parts of their input."""

import torch

from purefn.functional import nn

from .case import Case

CASES = [
    Case("dropout", nn.dropout(0.4), torch.nn.Dropout(0.4), (20, 30), draws=True),
]
