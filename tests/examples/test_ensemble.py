"""The ensemble against a loop over its networks, for a few steps."""

import importlib
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from purefn import data
from purefn.functional import metrics, random

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
SHORT = ("--backend", "eager", "--members", "4", "--steps", "150", "--lr", "0.02")


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("ensemble")


def test_a_short_training_is_that_of_a_loop_and_votes_well(example, tmp_path, capsys):
    example.main(["--out", str(tmp_path), *SHORT])
    printed = capsys.readouterr().out
    (apart,) = re.findall(r"times as long\); their probabilities differ by at most (\S+)", printed)
    assert float(apart) < 1e-4
    mean, single, least, most = (float(number) for number in re.findall(r"([\d.]+)%", printed))
    assert least <= single <= most
    assert mean > max(single, 80)
    for name in ("ensemble.png", "disagreement.png"):
        with Image.open(tmp_path / name) as picture:
            assert len(set(picture.convert("L").tobytes())) > 20


def test_curves_are_those_of_a_loop(example):
    _, test_set = data.digits()
    labels = test_set.labels[:50]
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 50, 10, generator=generator)
    found = (logits + 3 * torch.nn.functional.one_hot(labels, 10)).softmax(-1)
    curve = example.accuracy_of_means(found, labels, random.key(0), draws=400)
    each = [metrics.accuracy(one, labels).mean().item() for one in found]
    assert curve[0] == pytest.approx(sum(each) / 5, abs=0.01)
    assert curve[-1] == pytest.approx(metrics.accuracy(found.mean(0), labels).mean().item())

    surest = example.accuracy_of_the_surest(found[:1], labels)
    for count in (1, 7, 50):
        chosen = found[0].max(1).values.topk(count).indices
        expected = metrics.accuracy(found[0][chosen], labels[chosen]).mean().item()
        assert surest[count - 1] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--members", "1"), "--members: expected at least 2, got 1"),
        (("--steps", "0"), "--steps: expected at least 1"),
        (("--batch-size", "0"), "--batch-size: expected at least 1"),
        (("--hidden", "-1"), "--hidden: expected at least 1"),
    ],
)
def test_what_is_refused(example, tmp_path, options, message):
    with pytest.raises(SystemExit, match=message):
        example.main(["--out", str(tmp_path / "out"), *options])
    assert not (tmp_path / "out").exists()
