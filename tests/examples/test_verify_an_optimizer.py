"""The example of the verification kit: it finds the mistake, and passes what is mended."""

import importlib
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    threads = torch.get_num_threads()
    yield importlib.import_module("verify_an_optimizer")
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_the_mistake_is_shown_and_what_is_mended_passes(example, capsys):
    example.main()
    first, mended = capsys.readouterr().out.split("Mended\n======\n")
    assert first.startswith("As first written\n================\n")
    assert "first_attempt does not follow paper" in first
    assert "expected" in first
    assert "the same in every step" not in first
    assert "the same in every step and state" in mended


def test_training_cannot_tell(example):
    for direction in (example.first_attempt, example.mended):
        assert example.train(example.nadamw(direction)) < 1e-3
