"""The language model as a user runs it, with a small network and few steps."""

import importlib
import json
import math
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from purefn import data
from purefn.functional import models, random

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
SMALL = ("--layers", "1", "--width", "32", "--heads", "2", "--context", "24", "--no-jit")
SHORT = (*SMALL, "--steps", "60", "--every", "30", "--batch-size", "16", "--device", "cpu")


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("language_model")


@pytest.fixture
def refused(example, tmp_path):
    """Return a function giving the message of a run that must end with one line."""

    def message(*options, out=tmp_path):
        with pytest.raises(SystemExit) as caught:
            example.main([*SHORT, "--out", str(out), *options])
        assert str(caught.value).startswith("language_model: ")
        return str(caught.value)

    return message


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the folder of a short run; each module of pytest starts it once."""
    out = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        importlib.import_module("language_model").main([*SHORT, "--out", str(out)])
    return out


def history(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def same_run(left, right):
    ours, theirs = (load_file(out / "checkpoint.safetensors") for out in (left, right))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
    assert history(left) == history(right)


def test_a_short_run_learns_writes_and_draws(finished):
    first, last = history(finished)
    assert [first["step"], last["step"]] == [30, 60]
    assert last["test_bits"] < first["test_bits"] < math.log2(103)
    assert last["test_bits"] < 4.7  # below unigrams: what stands before a character helps
    assert all(entry["sample"].startswith("The ") for entry in (first, last))
    assert len(last["sample"]) == 24
    samples = (finished / "samples.txt").read_text()
    assert samples == "".join(f"--- step {e['step']}\n{e['sample']}\n" for e in (first, last))
    for name in ("curve.png", "surprise.png"):
        with Image.open(finished / name) as picture:
            assert len(set(picture.convert("L").tobytes())) > 20


def test_a_run_that_stops_resumes_bit_for_bit(example, finished, tmp_path, monkeypatch, capsys):
    class StoppedError(Exception):
        pass

    save, saved = example.save_run, []

    def save_once(*args):
        save(*args)
        saved.append(args)
        raise StoppedError

    monkeypatch.setattr(example, "save_run", save_once)
    with pytest.raises(StoppedError):
        example.main([*SHORT, "--out", str(tmp_path)])
    assert [entry["step"] for entry in history(tmp_path)] == [30]
    monkeypatch.setattr(example, "save_run", save)
    example.main([*SHORT, "--out", str(tmp_path), "--resume"])
    same_run(tmp_path, finished)
    printed = re.search(r"test bits per character ([\d.]+) after 60 steps", capsys.readouterr().out)
    assert float(printed[1]) == pytest.approx(history(finished)[-1]["test_bits"], abs=1e-3)


@pytest.mark.slow
def test_a_compiled_run_learns_the_same(example, tmp_path):
    options = [option for option in SHORT if option != "--no-jit"]
    few = ("--steps", "4", "--every", "4")
    example.main([*options, *few, "--out", str(tmp_path / "compiled")])
    example.main([*SHORT, *few, "--out", str(tmp_path / "eager")])
    (ours,), (theirs,) = (history(tmp_path / name) for name in ("compiled", "eager"))
    assert ours["train_bits"] == pytest.approx(theirs["train_bits"], rel=1e-5)
    assert ours["test_bits"] == pytest.approx(theirs["test_bits"], rel=1e-4)


def test_resuming_needs_the_same_settings(refused, finished, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes((finished / "checkpoint.safetensors").read_bytes())
    assert "seed=0, not 1" in refused("--resume", "--seed", "1")
    assert "steps=60, not 90" in refused("--resume", "--steps", "90")
    path.write_bytes(path.read_bytes()[:500])
    assert "damaged" in refused("--resume")


def test_tables_are_those_of_counts(example):
    """By hand: "ab" repeated, which a bigram knows by heart and a unigram does not."""
    train, test = (data.text_windows("ab" * 50 + "a", "ab", 10) for _ in range(2))
    bits = example.table_bits(train, test)
    assert bits["unigrams"] == pytest.approx(1, abs=1e-6)
    assert bits["bigrams"] == pytest.approx(-math.log2(50.1 / 50.2), rel=1e-9)


def test_the_bits_are_those_of_every_character(example):
    model = models.gpt(7, 5, num_layers=1, num_heads=1, embedding_dim=4)
    part = data.text_windows("abcdefgfedcba", "abcdefg", 5)
    params = model.init(random.key(0), part.inputs)
    chosen = model(params, part.inputs).softmax(-1).gather(-1, part.labels[..., None])[..., 0]
    bits = example.evaluate(model, params, part)
    torch.testing.assert_close(bits, -chosen.log2(), rtol=1e-5, atol=1e-6)


def test_a_file_of_ones_own(example, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("all work and no play makes jack a dull boy. " * 60)
    out = tmp_path / "out"
    options = ("--path", str(path), "--prompt", "all ", "--steps", "8", "--every", "8")
    example.main([*SHORT, *options, "--out", str(out)])
    assert history(out)[-1]["sample"].startswith("all ")
    # The file may move; another one of as many characters is another text.
    path = path.rename(tmp_path / "moved.txt")
    again = ("--path", str(path), *options[2:], "--resume", "--out", str(out))
    example.main([*SHORT, *again])
    path.write_text(path.read_text().translate(str.maketrans("jkb", "xqz")))
    with pytest.raises(SystemExit, match="was trained with text="):
        example.main([*SHORT, *again])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--steps 0", "--steps: expected at least 1, got 0"),
        ("--every 0", "--every: expected at least 1"),
        ("--batch-size 0", "--batch-size: expected at least 1"),
        ("--batch-size 99999", "batch_size=99999 is larger"),
        ("--context 0", "--context: expected at least 1"),
        ("--context 1", "--context: expected at least 2"),
        ("--heads 5", "embedding_dim to be a multiple of num_heads=5"),
        ("--temperature -1", "--temperature: expected at least 0"),
        ("--lr -1", "lr"),
        ("--dropout 2", "dropout"),
        ("--device teapot", "teapot"),
        ("--path nowhere.txt", "nowhere.txt"),
        ("--prompt \u732b", "got also ['\u732b']"),
        (f"--prompt {'a' * 24}", "--prompt: expected from 1 to 23 characters"),
    ],
)
def test_bad_settings_are_refused_before_training(refused, options, message):
    assert message in refused(*options.split())


def test_an_output_that_cannot_be_written_is_refused(refused, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert "cannot be written" in refused(out=tmp_path / "file")


def test_a_loss_that_is_no_number_stops(refused, tmp_path):
    assert "at step" in refused("--lr", "1e30")
    assert not (tmp_path / "checkpoint.safetensors").exists()
