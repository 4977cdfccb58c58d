"""The noise scale while training, for a few steps."""

import importlib
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from purefn import data
from purefn.functional import per_example, random, tree

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("noise_scale")


def test_a_short_run_measures_and_draws(example, tmp_path, capsys):
    settings = ("--backend", "eager", "--steps", "50", "--draws", "4")
    example.main(["--out", str(tmp_path), *settings])
    found = re.findall(r"step +(\d+): .*noise scale ([\d.]+)", capsys.readouterr().out)
    assert [int(step) for step, _ in found] == [2, 12, 50]
    assert all(10 < float(scale) < 1000 for _, scale in found)
    for name in ("noise_scale.png", "signal.png"):
        with Image.open(tmp_path / name) as picture:
            assert len(set(picture.convert("L").tobytes())) > 20


def test_the_share_of_signal_is_as_the_noise_scale_says(example):
    """Against the scale of all the data, with every gradient formed."""
    train_set, _ = data.digits()
    params = example.model.init(random.key(0), train_set.images[:1])
    formed = per_example.grads(example.losses_fn)(params, train_set.images, train_set.labels)
    rows = torch.cat([leaf.flatten(1) for leaf in tree.leaves(formed)], 1).double()
    scale = rows.var(0, correction=0).sum() / rows.mean(0).square().sum()
    share = example.share_of_signal(params, train_set, random.key(1), 400, 64)
    assert share == pytest.approx(1 / (1 + scale.item() / 64), rel=0.1)
