"""Tables of vectors."""

import torch

from purefn.functional import nn

from .case import Case

CASES = [
    Case("embedding", nn.embedding(7, 3), torch.nn.Embedding(7, 3), (4, 5), integers=True),
]
