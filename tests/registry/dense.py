"""Linear layers."""

import torch

from purefn.functional import nn

from .case import Case

CASES = [
    Case("linear", nn.linear(3), torch.nn.Linear(5, 3), (4, 5)),
    Case(
        "linear",
        nn.linear(3, bias=False),
        torch.nn.Linear(5, 3, bias=False),
        (2, 4, 5),
        variant="b",
    ),
]
