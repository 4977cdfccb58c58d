"""Linear layers."""

import torch

from purefn.functional import nn

from .case import Case


class _Halves(torch.nn.Module):
    def forward(self, x):
        return x[..., :3], x[..., 3:]


class _Bilinear(torch.nn.Bilinear):
    def forward(self, pair):
        return super().forward(*pair)


def _bilinear(variant, **options):
    return Case(
        "bilinear",
        nn.serial(lambda x: (x[..., :3], x[..., 3:]), nn.bilinear(4, **options)),
        torch.nn.Sequential(_Halves(), _Bilinear(3, 2, 4, **options)),
        (3, 5),
        variant=variant,
    )


CASES = [
    Case("linear", nn.linear(3), torch.nn.Linear(5, 3), (4, 5)),
    Case(
        "linear",
        nn.linear(3, bias=False),
        torch.nn.Linear(5, 3, bias=False),
        (2, 4, 5),
        variant="b",
    ),
    _bilinear(""),
    _bilinear("b", bias=False),
]
