"""Layers several times over: at once, or one after the other.

Of an ensemble the mean over the members is taken, for a registry's outputs are batches.
"""

from purefn.functional import nn

from .case import Case


def mean_of(member, n):
    return nn.serial(nn.ensemble(member, n), lambda outputs: outputs.mean(0))


CASES = [
    Case("ensemble", mean_of(nn.serial(nn.linear(4), nn.tanh, nn.linear(2)), 3), None, (3, 5)),
    Case(
        "ensemble",
        mean_of(nn.serial(nn.conv2d(4, 2), nn.batch_norm(), nn.dropout(0.5)), 2),
        None,
        (3, 2, 4, 4),
        variant="stateful",
        draws=True,
    ),
    Case("repeat", nn.repeat(nn.residual(nn.serial(nn.linear(5), nn.tanh)), 3), None, (3, 5)),
    Case(
        "repeat",
        nn.repeat(nn.serial(nn.conv2d(2, 1), nn.batch_norm(), nn.dropout(0.5)), 2),
        None,
        (3, 2, 4, 4),
        variant="stateful",
        draws=True,
    ),
]
