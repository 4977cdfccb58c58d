"""Models of layers."""

import torch

from purefn.functional import nn

from .case import Case

CASES = [
    Case("lift", nn.lift(torch.exp), None, (4, 5)),
    Case(
        "serial",
        nn.serial(nn.linear(4), nn.tanh, nn.linear(2)),
        torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)),
        (3, 5),
    ),
    Case(
        "serial",
        nn.serial(
            nn.conv2d(4, 3, bias=False), nn.batch_norm(), nn.relu, nn.flatten(), nn.linear(2)
        ),
        torch.nn.Sequential(
            torch.nn.Conv2d(2, 4, 3, bias=False),
            torch.nn.BatchNorm2d(4),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(16, 2),
        ),
        (3, 2, 4, 4),
        variant="stateful",
    ),
    Case("residual", nn.residual(nn.linear(5)), None, (3, 5)),
    Case(
        "parallel",
        nn.serial(nn.parallel(nn.linear(4), nn.relu), lambda ys: torch.cat(ys, dim=-1)),
        None,
        (3, 5),
    ),
]
