"""Divergences of distributions; torch sums no classes by itself."""

import math

import torch
from torch.nn import functional as F  # noqa: N812 - torch's name

from purefn.functional import losses

from .case import Case


def kl(log_p, q):
    return F.kl_div(log_p, q, reduction="none").sum(1)


def kl_of_logs(log_p, log_q):
    return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)


def js(log_p, log_q):
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return 0.5 * kl_of_logs(log_m, log_p) + 0.5 * kl_of_logs(log_m, log_q)


def with_targets(draw):
    return draw.log_softmax(draw.N, 5, 2), draw.softmax(draw.N, 5, 2)


def with_log_targets(draw):
    return draw.log_softmax(draw.N, 5, 2), draw.log_softmax(draw.N, 5, 2)


def generalized(log_p, q):
    return kl(log_p, q) - q.sum(1) + log_p.exp().sum(1)


CASES = [
    Case("kl_div", losses.kl_div, with_targets, kl),
    Case("kl_div_with_log_targets", losses.kl_div_with_log_targets, with_log_targets, kl_of_logs),
    Case(
        "reverse_kl_div",
        losses.reverse_kl_div,
        with_log_targets,
        lambda log_p, log_q: kl_of_logs(log_q, log_p),
    ),
    Case(
        "generalized_kl_div",
        losses.generalized_kl_div,
        lambda draw: (draw.unit(draw.N, 3), draw.uniform(draw.N, 3)),
        generalized,
    ),
    Case("js_div", losses.js_div, with_log_targets, js),
]
