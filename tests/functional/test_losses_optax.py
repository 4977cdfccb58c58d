"""Losses against the values and gradients that optax was recorded to give, in float64."""

import json
import math
import pathlib
from functools import partial

import numpy as np
import pytest
import torch

from purefn.functional import losses

RECORDED = np.load(pathlib.Path(__file__).parent / "reference" / "optax_losses.npz")
NAMES = json.loads(RECORDED["origin"].item())["cases"]


def generalized_dice(x, y):
    """Return what the docstring of ours says that optax computes."""
    sizes = torch.bincount(y.flatten(), minlength=4).double()
    w = 1 / (sizes**2 + 1e-7)
    return losses.dice(x, y, weight=4 * w / w.sum()).mean(0, keepdim=True)


def ntxent(x, y):
    return losses.ntxent(x, y, temperature=0.5).mean(0, keepdim=True)


OURS = {
    "cross_entropy-soft": losses.cross_entropy,
    "cross_entropy-masked": losses.cross_entropy,
    "ctc": lambda x, *rest: losses.ctc(x.log_softmax(2), *rest),
    "dice-generalized": generalized_dice,
    "dice-tversky": partial(
        losses.dice, smooth=0.1, alpha=0.3, beta=0.7, weight=torch.arange(4.0).double()
    ),
    "fenchel_young": losses.fenchel_young(lambda scores: scores.logsumexp(1)),
    "ntxent": ntxent,
    "ranking_softmax": lambda s, y, mask: losses.ranking_softmax(s, y, mask=mask),
    "sigmoid_focal": partial(losses.sigmoid_focal, alpha=None),
    "sigmoid_focal-alpha": partial(losses.sigmoid_focal, alpha=0.3, gamma=1.5),
    "sparsemax": lambda x, y: losses.sparsemax(x, y.double()),
    "triplet_margin": partial(losses.triplet_margin, eps=0.0),
}
#: Of these optax hands back the elements.
ELEMENTS = {"bce_with_logits", "hinge", "huber", "log_cosh", "mse", "perceptron", "sparsemax"}
ELEMENTS |= {"sigmoid_focal", "sigmoid_focal-alpha"}
#: Labels that are no numbers to vary; and where JAX's `logsumexp` drops the derivative in a weight
#: of 0, or where its `log 0` leaves one that is infinite.
ONLY_IN_THE_FIRST = {"hinge", "perceptron", "sigmoid_focal-alpha", "cross_entropy-masked"}


@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_are_those_that_optax_gave(name):
    inputs, gradients = [], {}
    while f"{name}/input{len(inputs)}" in RECORDED:
        inputs.append(torch.from_numpy(RECORDED[f"{name}/input{len(inputs)}"]))
    for i, x in enumerate(inputs):
        if f"{name}/gradient{i}" in RECORDED:
            inputs[i] = x.requires_grad_(not (i and name in ONLY_IN_THE_FIRST))
            gradients[i] = torch.from_numpy(RECORDED[f"{name}/gradient{i}"])
    expected = torch.from_numpy(RECORDED[f"{name}/values"])
    loss = OURS.get(name) or getattr(losses, name)
    actual, share = loss(*inputs), 1.0
    if name in ELEMENTS:
        share, expected = math.prod(expected.shape[1:]), expected.flatten(1).mean(1)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    differentiated = [i for i, x in enumerate(inputs) if x.requires_grad]
    found = torch.autograd.grad(share * actual.sum(), [inputs[i] for i in differentiated])
    for i, gradient in zip(differentiated, found, strict=True):
        torch.testing.assert_close(gradient, gradients[i], rtol=1e-11, atol=1e-12)
