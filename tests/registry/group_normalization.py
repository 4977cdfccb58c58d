"""Normalization within an example."""

import torch

from purefn.functional import nn

from .case import Case

CASES = [
    Case("rms_norm", nn.rms_norm(), torch.nn.RMSNorm(6), (4, 5, 6)),
    Case(
        "rms_norm",
        nn.rms_norm(2, eps=0.1, elementwise_affine=False),
        torch.nn.RMSNorm((5, 6), eps=0.1, elementwise_affine=False),
        (4, 5, 6),
        variant="plain",
    ),
    Case("group_norm", nn.group_norm(2), torch.nn.GroupNorm(2, 6), (3, 6, 2, 3)),
    Case(
        "group_norm",
        nn.group_norm(3, eps=0.1, bias=False),
        torch.nn.GroupNorm(3, 6, eps=0.1, bias=False),
        (4, 6),
        variant="weight",
    ),
    Case(
        "group_norm",
        nn.group_norm(1, affine=False),
        torch.nn.GroupNorm(1, 6, affine=False),
        (3, 6, 4),
        variant="plain",
    ),
    Case("instance_norm", nn.instance_norm(), torch.nn.InstanceNorm1d(4), (3, 4, 5)),
    Case(
        "instance_norm",
        nn.instance_norm(affine=True, eps=0.1, spatial_dims=2),
        torch.nn.InstanceNorm2d(4, affine=True, eps=0.1),
        (3, 4, 5, 2),
        variant="affine",
    ),
    Case(
        "tracked_instance_norm",
        nn.tracked_instance_norm(),
        torch.nn.InstanceNorm1d(4, track_running_stats=True),
        (3, 4, 5),
    ),
    Case(
        "tracked_instance_norm",
        nn.tracked_instance_norm(affine=True, momentum=0.3, spatial_dims=3),
        torch.nn.InstanceNorm3d(4, affine=True, momentum=0.3, track_running_stats=True),
        (3, 4, 2, 2, 3),
        variant="affine",
    ),
    Case(
        "local_response_norm",
        nn.local_response_norm(3, alpha=0.5),
        torch.nn.LocalResponseNorm(3, alpha=0.5),
        (3, 5, 4),
    ),
    Case(
        "local_response_norm",
        nn.local_response_norm(2, alpha=0.5, beta=0.5, k=2.0),
        torch.nn.LocalResponseNorm(2, alpha=0.5, beta=0.5, k=2.0),
        (3, 5, 4, 2),
        variant="even",
    ),
]
