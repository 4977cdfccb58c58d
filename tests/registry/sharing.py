"""Tied weights."""

from purefn.functional import nn

from .case import Case

CASES = [
    Case(
        "tie",
        nn.tie(
            nn.serial(a=nn.linear(5), act=nn.tanh, b=nn.linear(5), c=nn.linear(2)),
            {"b": "a"},
        ),
        None,
        (3, 5),
    ),
    Case(
        "tie",
        nn.tie(
            nn.serial(a=nn.conv2d(2, 3, padding=1), norm=nn.batch_norm(), b=nn.conv2d(2, 3)),
            {"b.weight": "a.weight"},
        ),
        None,
        (3, 2, 4, 4),
        variant="stateful",
    ),
]
