"""The search for mislabelled images, with a short training."""

import importlib
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from purefn.functional import random

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
SHORT = ("--backend", "eager", "--epochs", "4", "--checkpoints", "2")


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("mislabelled")


def test_a_short_training_finds_most(example, tmp_path, capsys):
    example.main(["--out", str(tmp_path), *SHORT])
    printed = capsys.readouterr().out
    found = re.findall(r"([\d.]+)% of the first 72 by ([\w -]+) are flipped", printed)
    shares = {name: float(share) for share, name in found}
    assert shares.keys() == {
        "gradient norm",
        "influence on itself",
        "influence on held-out images",
    }
    assert shares["gradient norm"] > 75
    assert shares["influence on itself"] > 75
    assert shares["influence on held-out images"] > 20
    for name in ("found.png", "suspects.png"):
        with Image.open(tmp_path / name) as picture:
            assert len(set(picture.convert("L").tobytes())) > 20


def test_flipped_labels_are_wrong_and_the_others_right(example):
    labels = torch.arange(200) % 10
    given, is_flipped = example.flip(labels, 10, 30, random.key(0))
    assert is_flipped.sum() == 30
    assert torch.equal(given != labels, is_flipped)
    assert given.min() >= 0
    assert given.max() <= 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--flipped 2", "--flipped: expected a share in (0, 1], got 2.0"),
        ("--flipped 0", "--flipped: expected a share"),
        ("--flipped nan", "--flipped: expected a share"),
        ("--flipped 0.0001", "--flipped: 0.0001 of 1442 images is none"),
        ("--epochs 0", "--epochs: expected at least 1, got 0"),
        ("--checkpoints 0", "--checkpoints: expected at least 1, got 0"),
        ("--batch-size 0", "--batch-size: expected at least 1"),
        ("--batch-size 5000", "--batch-size: expected at most the 1442 images, got 5000"),
        ("--momentum 1", "--momentum: expected a number in [0, 1), got 1.0"),
        ("--lr -1", "lr"),
    ],
)
def test_bad_arguments_end_with_one_line(example, tmp_path, options, message):
    with pytest.raises(SystemExit) as caught:
        example.main(["--out", str(tmp_path), *SHORT, *options.split()])
    said = str(caught.value)
    assert said.startswith(f"mislabelled: {message}"), said
    assert "\n" not in said
