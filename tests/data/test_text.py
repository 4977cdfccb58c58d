"""Text as windows of characters: nothing lost, nothing seen twice, the same on every run."""

import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import purefn.functional as pf
from purefn import data
from purefn.functional import random, tree


def write(folder, characters):
    path = folder / "text.txt"
    path.write_text(characters, encoding="utf-8")
    return path


@given(st.text(st.sampled_from("abcd\nß"), min_size=2, max_size=60), st.integers(1, 5))
def test_windows_hold_the_text(characters, length):
    vocabulary = "\nabcdß"
    if len(characters) <= length:
        with pytest.raises(ValueError, match="more than length"):
            data.text_windows(characters, vocabulary, length)
        return
    part = data.text_windows(characters, vocabulary, length)
    used = (len(characters) - 1) // length * length
    assert part.inputs.shape == part.labels.shape == (used // length, length)
    assert data.decode(part.inputs.flatten(), vocabulary) == characters[:used]
    assert data.decode(part.labels.flatten(), vocabulary) == characters[1 : used + 1]


@given(st.text(st.characters(max_codepoint=0x2FF), max_size=30))
def test_decoding_undoes_encoding(characters):
    vocabulary = tuple(sorted(set(characters)))
    tokens = data.encode(characters, vocabulary)
    assert tokens.dtype == torch.int64
    assert tokens.tolist() == [vocabulary.index(character) for character in characters]
    assert data.decode(tokens, vocabulary) == characters


def test_a_file_is_split_where_it_ends(tmp_path):
    characters = "the quick brown fox jumps over the lazy dog\n" * 5
    train, test = data.text(write(tmp_path, characters), length=4, test_share=0.25)
    assert train.vocabulary == test.vocabulary == tuple(sorted(set(characters)))
    end = len(characters) * 3 // 4
    assert data.decode(train.inputs.flatten(), train.vocabulary) == characters[: (end - 1) // 4 * 4]
    rest = characters[end:]
    used = (len(rest) - 1) // 4 * 4
    assert data.decode(test.inputs.flatten(), test.vocabulary) == rest[:used]


def test_batches_are_windows_and_resume_at_any_step(tmp_path):
    train, _ = data.text(write(tmp_path, "abcdefghij" * 20), length=7)
    whole = list(data.batches(train, 4, key=random.key(0), epochs=2))
    tail = list(data.batches(train, 4, key=random.key(0), epochs=2, start_step=5))
    assert len(tail) == len(whole) - 5
    for ours, expected in zip(tail, whole[5:], strict=True):
        assert isinstance(ours, data.Text)
        assert torch.equal(ours.windows, expected.windows)
        assert torch.equal(ours.inputs[:, 1:], ours.labels[:, :-1])
        assert ours.vocabulary == train.vocabulary
    first = torch.cat([batch.windows for batch in whole[: len(train) // 4]])
    rows = {tuple(row) for row in first.tolist()}
    assert rows <= {tuple(row) for row in train.windows.tolist()}


def test_text_is_a_tree_that_compiles():
    part = data.text_windows("abcabcab", "abc", 3)
    assert len(part) == 2
    assert tree.map(lambda leaf: leaf[:1], part).windows.tolist() == [[0, 1, 2, 0]]
    count = pf.jit(lambda part: (part.labels == 2).sum(), backend="eager")
    assert count(part) == 2


def test_pythons_manual_is_long_english_without_repetitions():
    manual = data.python_manual()
    assert len(manual) > 200_000
    assert 'The "if" statement is used for conditional execution' in manual
    paragraphs = manual.split("\n\n")
    assert len(set(paragraphs)) == len(paragraphs)
    train, test = data.text(length=64)
    assert 0.09 < len(test) / (len(train) + len(test)) < 0.11
    assert data.text(length=64)[1].windows.equal(test.windows)
    # What is tested on was not trained on: few lines of one part are in the other, such as "...".
    seen, lines = (
        {line.strip() for line in data.decode(part.inputs.flatten(), part.vocabulary).split("\n")}
        for part in (train, test)
    )
    long = {line for line in lines if len(line) > 40}
    assert len(long) > 300
    assert len(long & seen) < 0.05 * len(long)


def test_a_python_without_its_manual_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ImportError, match=r"give data\.text the path"):
        data.text()


def test_bad_arguments_are_refused(tmp_path):
    path = write(tmp_path, "abc" * 20)
    for length in (0, -1):
        with pytest.raises(ValueError, match="length to be at least 1"):
            data.text(path, length=length)
    with pytest.raises(TypeError, match="length to be an int"):
        data.text(path, length=2.0)
    for share in (0.0, 1.0, float("nan"), -1):
        with pytest.raises(ValueError, match=r"test_share within \(0, 1\)"):
            data.text(path, test_share=share)
    for share in ("0.1", True):
        with pytest.raises(TypeError, match="number for test_share"):
            data.text(path, test_share=share)
    with pytest.raises(ValueError, match="test part of more than length=6 characters, got 6 of 60"):
        data.text(path, length=6)
    with pytest.raises(FileNotFoundError):
        data.text(tmp_path / "nowhere.txt")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="UTF-8"):
        data.text(tmp_path / "binary")
    with pytest.raises(ValueError, match=r"got also \['x', 'y'\]"):
        data.encode("axby", "ab")
    with pytest.raises(ValueError, match="without repetitions"):
        data.encode("a", "aba")
    with pytest.raises(TypeError, match="string"):
        data.encode(3, "ab")
    for position in (-1, 2):
        with pytest.raises(ValueError, match=f"from 0 to 1, got {position}"):
            data.decode(torch.tensor([0, position]), "ab")
    with pytest.raises(ValueError, match=r"one dimension, got shape \(1, 2\)"):
        data.decode(torch.zeros(1, 2, dtype=torch.int64), "ab")
    others = (torch.zeros(2, dtype=dtype) for dtype in (torch.bool, torch.complex64))
    for wrong in (torch.zeros(2), *others, [0, 1]):
        with pytest.raises(TypeError, match="integers"):
            data.decode(wrong, "ab")
    with pytest.raises(TypeError, match="length to be an int"):
        data.text_windows("abc", "abc", True)
