"""Losses of an order, by their definitions, list by list."""

import torch
from torch.nn import functional as F  # noqa: N812 - torch's name

from purefn.functional import losses

from .case import Case


def scores(draw):
    return (draw.normal(draw.N, 5),)


def relevances(draw):
    """Some of them equal, and which items there are; the last list is empty."""
    there = draw.integers(4, draw.N, 5) > 0
    there[-1] = False
    return draw.integers(3, draw.N, 5), there


def masked(loss):
    def call(s, y, mask):
        return loss(s, y.to(s.dtype), mask=mask)

    return call


def for_each_list(function):
    def reference(s, y, mask):
        rows = [function(s[i][mask[i]], y[i][mask[i]]) for i in range(len(s))]
        return torch.stack(rows)

    return reference


def pairs(element):
    def of_list(s, y):
        better = [(i, j) for i in range(len(s)) for j in range(len(s)) if y[i] > y[j]]
        values = [element(s[i], s[j]) for i, j in better]
        return torch.stack(values).mean() if values else 0 * s.sum()

    return of_list


def listnet(s, y):
    return F.cross_entropy(s, y.to(s.dtype), reduction="sum") if len(s) else 0 * s.sum()


def plackett_luce(s, y):
    order = sorted(range(len(s)), key=lambda i: -y[i].item())
    terms = [s[order[k:]].logsumexp(0) - s[order[k]] for k in range(len(s))]
    return sum(terms, 0 * s.sum())


def logistic(better, worse):
    return F.soft_margin_loss(better - worse, torch.ones_like(better))


def hinge(better, worse):
    return F.margin_ranking_loss(better, worse, torch.ones_like(better), margin=1.0)


CASES = [
    Case(name, masked(getattr(losses, name)), scores, for_each_list(function), relevances)
    for name, function in (
        ("ranking_softmax", listnet),
        ("list_mle", plackett_luce),
        ("pairwise_logistic", pairs(logistic)),
        ("pairwise_hinge", pairs(hinge)),
    )
]
