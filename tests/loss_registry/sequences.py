"""Connectionist temporal classification, of logits.

torch's kernel has the derivative of a `log_softmax` before it built in.
"""

import torch
from torch.nn import functional as F  # noqa: N812 - torch's name

from purefn.functional import losses

from .case import Case


def logits(draw):
    return (draw.normal(draw.N, 6, 4),)


def labels(draw):
    """Lists with repetitions, an empty one and one that fits only without a blank between."""
    drawn = draw.integers(4, draw.N, 3, low=1)
    drawn[0] = 2
    return drawn, torch.tensor([5, 6, 4, 1]), torch.tensor([3, 2, 0, 1])


def moved(y):
    """Return the labels when the blank is the last class."""
    return torch.where(y == 0, 3, y - 1)


def ours(x, y, frames, lengths):
    return losses.ctc(x.log_softmax(2), y, frames, lengths)


def with_last_blank(x, y, frames, lengths):
    return losses.ctc(x.log_softmax(2), moved(y), frames, lengths, blank=3, zero_infinity=True)


def torchs(x, y, frames, lengths):
    log_p = x.log_softmax(2).transpose(0, 1)
    return F.ctc_loss(log_p, y, frames, lengths, reduction="none")


def torchs_with_last_blank(x, y, frames, lengths):
    log_p = x.log_softmax(2).transpose(0, 1)
    return F.ctc_loss(
        log_p, moved(y), frames, lengths, blank=3, reduction="none", zero_infinity=True
    )


CASES = [
    Case("ctc", ours, logits, torchs, labels, has_bfloat16=False),
    Case(
        "ctc",
        with_last_blank,
        logits,
        torchs_with_last_blank,
        lambda draw: (*labels(draw)[:2], torch.tensor([3, 2, 0, 2])),  # the last fits no frame
        variant="-blank-zero_infinity",
        has_bfloat16=False,
    ),
]
