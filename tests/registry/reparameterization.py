"""Layers with a computed weight."""

import torch
from torch.nn.utils import parametrizations

from purefn.functional import nn

from .case import Case

CASES = [
    Case(
        "weight_norm",
        nn.weight_norm(nn.linear(3)),
        parametrizations.weight_norm(torch.nn.Linear(5, 3)),
        (4, 5),
    ),
    Case(
        "weight_norm",
        nn.weight_norm(nn.conv1d(4, 3), dim=1),
        parametrizations.weight_norm(torch.nn.Conv1d(2, 4, 3), dim=1),
        (3, 2, 8),
        variant="conv1d",
    ),
    Case(
        "weight_norm",
        nn.weight_norm(nn.conv2d(4, 3, groups=2), dim=None),
        parametrizations.weight_norm(torch.nn.Conv2d(2, 4, 3, groups=2), dim=None),
        (3, 2, 6, 5),
        variant="conv2d",
    ),
    Case(
        "spectral_norm",
        nn.spectral_norm(nn.linear(3)),
        parametrizations.spectral_norm(torch.nn.Linear(5, 3)),
        (4, 5),
    ),
    Case(
        "spectral_norm",
        nn.spectral_norm(nn.conv1d(4, 3, bias=False), n_power_iterations=3, eps=1e-3, dim=1),
        parametrizations.spectral_norm(
            torch.nn.Conv1d(2, 4, 3, bias=False), n_power_iterations=3, eps=1e-3, dim=1
        ),
        (3, 2, 8),
        variant="conv1d",
    ),
    Case(
        "spectral_norm",
        nn.spectral_norm(nn.conv2d(4, 3)),
        parametrizations.spectral_norm(torch.nn.Conv2d(2, 4, 3)),
        (3, 2, 6, 5),
        variant="conv2d",
    ),
]
