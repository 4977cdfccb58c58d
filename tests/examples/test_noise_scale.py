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
    assert [int(step) for step, _ in found] == [2, 25, 50]
    assert all(10 < float(scale) < 1000 for _, scale in found)
    for name in ("noise_scale.png", "signal.png"):
        with Image.open(tmp_path / name) as picture:
            assert len(set(picture.convert("L").tobytes())) > 20


def test_what_is_measured_is_what_is_predicted(example, monkeypatch, tmp_path):
    """Also while |G|^2 falls so fast that a long average is no use."""
    drawn = []
    monkeypatch.setattr(example.pictures, "draw_signal", lambda *given: drawn.append(given))
    settings = ("--backend", "eager", "--steps", "60", "--lr", "0.4", "--decay", "0.98")
    example.main(["--out", str(tmp_path), *settings])
    ((predicted, sizes, measured, _),) = drawn
    assert len(predicted) == 3
    for step, scale in predicted.items():
        shares = [1 / (1 + scale / size) for size in sizes]
        assert measured[step][3:] == pytest.approx(shares[3:], rel=0.1)


def test_the_share_of_signal_is_as_the_noise_scale_says(example):
    """Against the scale of all the data, with every gradient formed."""
    train_set, _ = data.digits()
    params = example.model.init(random.key(0), train_set.images[:1])
    formed = per_example.grads(example.losses_fn)(params, train_set.images, train_set.labels)
    rows = torch.cat([leaf.flatten(1) for leaf in tree.leaves(formed)], 1).double()
    scale = rows.var(0, correction=0).sum() / rows.mean(0).square().sum()
    assert example.of_all(params, train_set) == pytest.approx(scale.item(), rel=1e-4)
    share = example.share_of_signal(params, train_set, random.key(1), 400, 64)
    assert share == pytest.approx(1 / (1 + scale.item() / 64), rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--steps 0", "--steps: expected at least 1, got 0"),
        ("--batch-size 1", "--batch-size: expected at least 2, got 1"),
        ("--draws 0", "--draws: expected at least 1, got 0"),
        ("--decay 1.5", "--decay: expected a number in [0, 1], got 1.5"),
        ("--decay nan", "--decay: expected"),
        ("--lr -1", "lr"),
    ],
)
def test_bad_arguments_end_with_one_line(example, tmp_path, options, message):
    with pytest.raises(SystemExit) as caught:
        example.main(["--out", str(tmp_path), *options.split()])
    said = str(caught.value)
    assert said.startswith(f"noise_scale: {message}"), said
    assert "\n" not in said
