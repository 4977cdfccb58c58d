"""Losses of pairs and triplets of vectors or scores, and of whole batches."""

import math
from functools import partial

import torch
from torch.nn import functional as F  # noqa: N812 - torch's name

from purefn.functional import losses

from .case import Case

triplet = partial(F.triplet_margin_loss, reduction="none")


def vectors(count):
    return lambda draw: tuple(draw.normal(draw.N, 3) for _ in range(count))


def signs(draw):
    return (draw.signs(draw.N),)


def manhattan(x, y):
    return (x - y).abs().sum(-1)


def ntxent(x, y):
    """Return the definition, example by example and pair by pair."""
    s = F.cosine_similarity(x[:, None], x[None], dim=-1) / 0.5
    values = []
    for i in range(len(x)):
        negatives = s[i][y != y[i]].exp().sum()
        positives = [j for j in range(len(x)) if j != i and y[j] == y[i]]
        pairs = [-(s[i, j] - (s[i, j].exp() + negatives).log()) for j in positives]
        values.append(sum(pairs) / len(pairs))
    return torch.stack(values)


CASES = [
    *(
        Case(
            "pairwise_distance",
            partial(losses.pairwise_distance, p=p),
            vectors(2),
            partial(F.pairwise_distance, p=p),
            variant=f"-{p}",
        )
        for p in (1.0, 2.0, 3.5, math.inf)
    ),
    Case("cosine_similarity", losses.cosine_similarity, vectors(2), F.cosine_similarity),
    Case(
        "cosine_distance",
        losses.cosine_distance,
        lambda draw: (draw.normal(draw.N, 2, 3), draw.normal(draw.N, 2, 3)),
        lambda x, y: 1 - F.cosine_similarity(x, y, dim=-1),
    ),
    *(
        Case(
            "cosine_embedding",
            partial(losses.cosine_embedding, margin=margin),
            vectors(2),
            partial(F.cosine_embedding_loss, margin=margin, reduction="none"),
            signs,
            variant=f"-{margin}",
        )
        for margin in (0.0, -0.5)
    ),
    Case(
        "hinge_embedding",
        partial(losses.hinge_embedding, margin=0.5),
        lambda draw: (draw.normal(draw.N, 3),),
        partial(F.hinge_embedding_loss, margin=0.5, reduction="none"),
        lambda draw: (draw.signs(draw.N, 3),),
    ),
    Case(
        "margin_ranking",
        partial(losses.margin_ranking, margin=0.5),
        vectors(2),
        partial(F.margin_ranking_loss, margin=0.5, reduction="none"),
        lambda draw: (draw.signs(draw.N, 3),),
    ),
    *(
        Case(
            "triplet_margin",
            partial(losses.triplet_margin, **options),
            vectors(3),
            partial(triplet, **options),
            variant=f"-{options}",
        )
        for options in (
            {},
            {"swap": True, "margin": 2.0},
            {"p": 1, "eps": 0.0},
            {"p": 3.5, "eps": 0.1, "swap": True},
        )
    ),
    *(
        Case(
            "triplet_margin_with_distance",
            partial(losses.triplet_margin_with_distance, distance_function=manhattan, **options),
            vectors(3),
            partial(
                F.triplet_margin_with_distance_loss,
                distance_function=manhattan,
                reduction="none",
                **options,
            ),
            variant=f"-{options}",
        )
        for options in ({}, {"swap": True, "margin": 2.0})
    ),
    Case(
        "ntxent",
        partial(losses.ntxent, temperature=0.5),
        lambda draw: (draw.normal(7, 3),),
        ntxent,
        lambda draw: (torch.tensor([0, 1, 0, 1, 2, 2, 0]),),
        mixes=True,
    ),
]
