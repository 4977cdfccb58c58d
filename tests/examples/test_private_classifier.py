"""The private classifier, for a few steps: epsilon as it goes, and a picture."""

import importlib
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from purefn.optim import privacy

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
SHORT = ("--backend", "eager", "--steps", "6", "--report-every", "3", "--noise-multipliers", "4")


@pytest.fixture
def example(monkeypatch):
    pytest.importorskip("dp_accounting")
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("private_classifier")


def test_a_short_run_tells_what_it_spends(example, tmp_path, capsys):
    example.main(["--out", str(tmp_path), *SHORT])
    printed = capsys.readouterr().out
    spent = [
        float(found) for found in re.findall(r"noise 4, step +\d+: epsilon +([\d.]+)", printed)
    ]
    assert len(spent) == 2
    assert spent[0] < spent[1]
    probability = 360 / len(example.data.digits()[0])
    expected = privacy.epsilon(4.0, 1e-4, steps=6, sampling=privacy.poisson(probability))
    assert spent[1] == pytest.approx(expected, abs=0.006)
    assert f"  epsilon  {spent[1]:.2f}: " in printed
    with Image.open(tmp_path / "privacy.png") as picture:
        assert len(set(picture.convert("L").tobytes())) > 20


def test_runs_share_neither_coins_nor_noise(example, monkeypatch, tmp_path):
    """With one noise for all levels, the difference of two models would tell the gradients."""
    keys = []
    monkeypatch.setattr(example, "train", lambda *arguments: keys.append(arguments[-1]) or [(1, 0)])
    example.main(["--out", str(tmp_path), *SHORT, "8"])
    assert len(keys) == 3
    assert len(torch.stack(keys).unique(dim=0)) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--steps 0", "--steps: expected at least 1, got 0"),
        ("--report-every 0", "--report-every: expected at least 1, got 0"),
        ("--noise-multipliers -1", "--noise-multipliers: expected different numbers"),
        ("--noise-multipliers 4 0", "--noise-multipliers: expected different numbers"),
        ("--noise-multipliers 4 4", "--noise-multipliers: expected different numbers"),
        ("--noise-multipliers inf", "--noise-multipliers: expected different numbers"),
        ("--noise-multipliers", "--noise-multipliers: expected different numbers"),
        ("--delta 0", "--delta: expected a number in (0, 1), got 0.0"),
        ("--delta 2", "--delta: expected a number in (0, 1), got 2.0"),
        ("--max-norm 0", "--max-norm: expected a number greater than 0, got 0.0"),
        (
            "--expected-batch-size 0",
            "--expected-batch-size: expected more than 0 and at most",
        ),
        ("--expected-batch-size 5000", "--expected-batch-size: expected more than 0"),
        ("--lr -1", "lr"),
    ],
)
def test_bad_arguments_end_with_one_line(example, tmp_path, options, message):
    with pytest.raises(SystemExit) as caught:
        example.main(["--out", str(tmp_path), "--backend", "eager", *options.split()])
    said = str(caught.value)
    assert said.startswith(f"private_classifier: {message}"), said
    assert "\n" not in said
