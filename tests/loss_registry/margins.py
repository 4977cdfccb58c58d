"""Losses that ask for a margin."""

from functools import partial

import torch
from torch.nn import functional as F  # noqa: N812 - torch's name

from purefn.functional import losses

from .case import Case

multi = partial(F.multi_margin_loss, reduction="none")


def scores(draw):
    return (draw.normal(draw.N, 5),)


def classes(draw):
    return (draw.integers(5, draw.N),)


def signs(draw):
    return (draw.signs(draw.N, 5),)


def present(draw):
    """Different classes, some of them before the -1."""
    orders = torch.stack([torch.randperm(5, generator=draw.generator) for _ in range(draw.N)])
    ends = draw.integers(6, draw.N)
    return (torch.where(torch.arange(5) == ends[:, None], -1, orders),)


def crammer_singer(x, y):
    other = 1 - F.one_hot(y, x.shape[1]).to(x.dtype)
    return (x + other).amax(1) - x.gather(1, y[:, None])[:, 0]


CASES = [
    Case(
        "hinge",
        losses.hinge,
        scores,
        lambda x, y: F.hinge_embedding_loss(x * y, -torch.ones_like(x), reduction="none"),
        signs,
    ),
    Case(
        "perceptron",
        losses.perceptron,
        scores,
        lambda x, y: F.margin_ranking_loss(x, torch.zeros_like(x), y, reduction="none"),
        signs,
    ),
    Case(
        "soft_margin",
        losses.soft_margin,
        scores,
        partial(F.soft_margin_loss, reduction="none"),
        signs,
    ),
    *(
        Case(
            "multi_margin",
            lambda x, w, y, options=options: losses.multi_margin(x, y, weight=w, **options),
            lambda draw: (*scores(draw), draw.uniform(5)),
            lambda x, w, y, options=options: multi(x, y, weight=w, **options),
            classes,
            variant=f"-{options}",
            shared=(1,),
            constant=(1,),
            has_bfloat16=False,
        )
        for options in ({"p": 1, "margin": 1.0}, {"p": 2, "margin": 0.5})
    ),
    Case("multi_margin", losses.multi_margin, scores, multi, classes, has_bfloat16=False),
    Case("multiclass_hinge", losses.multiclass_hinge, scores, crammer_singer, classes),
    Case(
        "multiclass_perceptron",
        losses.multiclass_perceptron,
        scores,
        lambda x, y: x.amax(1) - x.gather(1, y[:, None])[:, 0],
        classes,
    ),
    Case(
        "multilabel_margin",
        losses.multilabel_margin,
        scores,
        partial(F.multilabel_margin_loss, reduction="none"),
        present,
        has_bfloat16=False,
    ),
]
