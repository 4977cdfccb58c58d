"""Losses that compare the examples of a batch with one another.

The values here are one for each example too, but by nature each depends on the whole batch:
gradients of single examples (`purefn.functional.per_example`) do not exist for them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .checks import check_above, check_integers, check_vectors
from .distances import normalized
from .reduction import log_sum_exp, widened


def ntxent(embeddings: Tensor, labels: Tensor, *, temperature: float = 0.07) -> Tensor:
    r"""Return the normalized, temperature-scaled cross-entropy of positive pairs, NT-Xent.

    With cosines :math:`s_{ij}` of the embeddings over the temperature, positives
    :math:`P_i = \{j \ne i : y_j = y_i\}` and negatives :math:`y_k \ne y_i`,

    .. math::
        \ell_i = -\frac1{|P_i|} \sum_{j \in P_i}
        \log \frac{e^{s_{ij}}}{e^{s_{ij}} + \sum_{k : y_k \ne y_i} e^{s_{ik}}}

    Chen et al. 2020, arXiv:2002.05709, where each example has one positive, its other view. An
    example without a positive is 0: `(values * has_positive).sum() / has_positive.sum()`. With
    as many positives for each example `.mean()` is `optax.losses.ntxent`.

    Each value depends on the whole batch.

    Parameters
    ----------
    embeddings
        Shape `(N, D)`, floating point; they need not be normalized. A vector of zeros has cosine 0
        with every other, and its gradient is large (see `cosine_similarity`).
    labels
        Shape `(N,)`, any integer dtype: examples of one number are positives of each other.
    temperature
        A Python number above 0.

    Returns
    -------
    Tensor
        Shape `(N,)`, dtype of `embeddings`.

    Raises
    ------
    TypeError, ValueError
        A dtype, shape or option does not fit.

    Examples
    --------
    >>> views = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> ntxent(views, torch.tensor([0, 0, 1, 1]), temperature=1.0)
    tensor([0.5755, 0.6201, 0.5755, 0.6201])
    """
    check_vectors("ntxent", embeddings=embeddings)
    check_integers("ntxent", "labels", labels)
    check_above("ntxent", "temperature", temperature, 0)
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise ValueError(
            "ntxent: embeddings must have shape (batch, features) and labels (batch,), got "
            f"{tuple(embeddings.shape)} and {tuple(labels.shape)}."
        )
    unit = normalized(widened(embeddings), 1e-8)
    s = unit @ unit.T / temperature
    same = labels.unsqueeze(1) == labels
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    negatives = log_sum_exp(s.masked_fill(same, -math.inf), 1)
    # -log(e^s / (e^s + e^n)) = -log sigmoid(s - n), of an empty sum 0.
    pairs = -logsigmoid(s - negatives.unsqueeze(1)).masked_fill(~positive, 0)
    return (pairs.sum(1) / positive.sum(1).clamp(min=1)).to(embeddings.dtype)
