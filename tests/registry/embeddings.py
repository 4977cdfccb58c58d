"""Tables of vectors."""

import torch

from purefn.functional import nn

from .case import Case

CASES = [
    Case("embedding", nn.embedding(7, 3), torch.nn.Embedding(7, 3), (4, 5), integers=True),
    *(
        Case(
            "embedding_bag",
            nn.embedding_bag(7, 3, *options),
            torch.nn.EmbeddingBag(7, 3, mode=options[0], padding_idx=(*options, None)[1]),
            (4, 5),
            integers=True,
            variant="".join(map(str, options)),
        )
        for options in [("mean",), ("sum",), ("max",), ("mean", 2), ("sum", -3), ("max", 2)]
    ),
]
