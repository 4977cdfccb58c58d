"""A piece with its own defaults is the rule of its recipe with the recipe's."""

import pytest
import torch

from purefn import optim

PAIRS = {
    "adadelta": (optim.scale_by_adadelta, optim.adadelta),
    "adagrad": (optim.scale_by_rss, optim.adagrad),
    "adam": (optim.scale_by_adam, optim.adam),
    "adamax": (optim.scale_by_adamax, optim.adamax),
    "adan": (optim.scale_by_adan, optim.adan),
    "amsgrad": (optim.scale_by_amsgrad, lambda lr: optim.adam(lr, amsgrad=True)),
    "lion": (optim.scale_by_lion, optim.lion),
    "nadam": (optim.scale_by_nadam, optim.nadam),
    "radam": (optim.scale_by_radam, optim.radam),
    "rmsprop": (optim.scale_by_rms, optim.rmsprop),
    "rmsprop, centered": (optim.scale_by_stddev, lambda lr: optim.rmsprop(lr, centered=True)),
    "yogi": (optim.scale_by_yogi, optim.yogi),
}


@pytest.mark.parametrize(("piece", "recipe"), PAIRS.values(), ids=PAIRS)
def test_a_piece_has_the_defaults_of_its_recipe(piece, recipe):
    generator = torch.Generator().manual_seed(0)
    params = {"w": torch.randn(4, 3, dtype=torch.float64, generator=generator)}
    scales = [1.0, 1e-7, 1e-3, 30.0, 0.0, 1e-8, 1.0, 2.0]
    ours, theirs = optim.chain(piece(), optim.scale(-0.5)), recipe(0.5)
    state, their_state = ours.init(params), theirs.init(params)
    for scale in scales:
        grads = {"w": scale * torch.randn(4, 3, dtype=torch.float64, generator=generator)}
        updates, state = ours.update(grads, state, params)
        expected, their_state = theirs.update(grads, their_state, params)
        torch.testing.assert_close(updates, expected, rtol=1e-12, atol=0)
