"""Low-rank adapters."""

from purefn.functional import nn

from .case import Case

CASES = [
    Case("lora", nn.lora(nn.linear(4), 2, alpha=1.0), None, (3, 5)),
    Case(
        "lora",
        nn.lora(nn.serial(nn.conv2d(4, 2), nn.batch_norm()), 2, alpha=1.0),
        None,
        (3, 2, 4, 4),
        variant="stateful",
    ),
]
