"""Activations with slopes that are learned or drawn."""

import torch

from purefn.functional import nn

from .case import Case

CASES = [
    Case("prelu", nn.prelu(), torch.nn.PReLU(), (4, 5)),
    Case("prelu", nn.prelu(3), torch.nn.PReLU(3), (4, 3, 2, 2), variant="channels"),
    Case("prelu", nn.prelu(5), torch.nn.PReLU(5), (4, 5), variant="features"),
    Case("rrelu", nn.rrelu(), torch.nn.RReLU(), (4, 5), draws=True),
    Case("rrelu", nn.rrelu(0.1, 0.9), torch.nn.RReLU(0.1, 0.9), (4, 5), draws=True, variant="b"),
]
