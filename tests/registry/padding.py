"""Padding."""

import torch

from purefn.functional import nn

from .case import Case

_SHAPES = {1: (2, 3, 5), 2: (2, 3, 5, 4), 3: (2, 3, 3, 5, 4)}
_PADDINGS = {1: (1, 2), 2: (1, 2, 0, 3), 3: (1, 2, 0, 3, 2, 1)}


def _each(name, module, *options):
    return [
        Case(
            f"{name}_pad{dims}d",
            getattr(nn, f"{name}_pad{dims}d")(_PADDINGS[dims], *options),
            getattr(torch.nn, f"{module}Pad{dims}d")(_PADDINGS[dims], *options),
            shape,
        )
        for dims, shape in _SHAPES.items()
    ]


CASES = [
    *_each("constant", "Constant", 0.5),
    *_each("zero", "Zero"),
    *_each("reflection", "Reflection"),
    *_each("replication", "Replication"),
    *_each("circular", "Circular"),
    Case(
        "constant_pad2d",
        nn.constant_pad2d((-1, 2, 0, -2), -1.5),
        torch.nn.ConstantPad2d((-1, 2, 0, -2), -1.5),
        (2, 3, 5, 4),
        variant="crop",
    ),
]
