"""Text as integers: a character is a token, and what is learned from are windows of them."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..functional import tree
from .batching import check_count


@tree.dataclass
class Text:
    """Windows of a text, a pytree with one leaf, so that `batches` gives batches of the same kind.

    Attributes
    ----------
    windows
        Shape `(n, length + 1)`, int64: positions in `vocabulary`.
    vocabulary
        The characters; static, so part of the tree's structure.

    Examples
    --------
    >>> part = text_windows("hello", "ehlo", length=2)
    >>> part.windows
    tensor([[1, 0, 2],
            [2, 2, 3]])
    >>> part.inputs.shape, part.labels[0], decode(part.labels[0], part.vocabulary)
    (torch.Size([2, 2]), tensor([0, 2]), 'el')
    """

    windows: Tensor
    vocabulary: tuple[str, ...] = tree.static()

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.windows)

    @property
    def inputs(self) -> Tensor:
        """The characters but the last of each window, shape `(n, length)`."""
        return self.windows[:, :-1]

    @property
    def labels(self) -> Tensor:
        """The character after each of `inputs`, shape `(n, length)`."""
        return self.windows[:, 1:]


def text(
    path: str | os.PathLike[str] | None = None, *, length: int = 64, test_share: float = 0.1
) -> tuple[Text, Text]:
    """Return the characters of a text file as `(train, test)`; by default, Python's own manual.

    The beginning of the text is for training and the rest for testing. Both are cut into windows
    as by `text_windows`, over one vocabulary: the characters that appear, in order.

    Parameters
    ----------
    path
        A text file in UTF-8; by default `python_manual()`, which needs no file.
    length
        How many characters a window has, not counting the label of the last.
    test_share
        Which part of the characters is for testing, above 0 and below 1.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above; the file is not UTF-8; or a part of the text is too short
        for one window.
    OSError
        The file cannot be read.
    ImportError
        No path is given and this Python has no manual.

    Examples
    --------
    >>> train, test = text(length=32)
    >>> train.windows.shape[1], train.vocabulary == test.vocabulary
    (33, True)
    >>> decode(test.inputs[0], test.vocabulary) == decode(test.windows[0], test.vocabulary)[:-1]
    True
    """
    check_count("text", "length", length, minimum=1)
    is_number = isinstance(test_share, int | float) and not isinstance(test_share, bool)
    if not is_number:
        raise TypeError(f"text: expected a number for test_share, got {test_share!r}.")
    if not 0 < test_share < 1:
        raise ValueError(f"text: expected test_share within (0, 1), got {test_share}.")
    characters = python_manual() if path is None else _read(Path(path))
    vocabulary = tuple(sorted(set(characters)))
    end = len(characters) - round(test_share * len(characters))
    parts = {"train": characters[:end], "test": characters[end:]}
    for name, part in parts.items():
        if len(part) <= length:
            raise ValueError(
                f"text: expected a {name} part of more than length={length} characters, got "
                f"{len(part)} of {len(characters)}."
            )
    train, test = (text_windows(part, vocabulary, length) for part in parts.values())
    return train, test


def text_windows(characters: str, vocabulary: Sequence[str], length: int) -> Text:
    """Return the windows of a text, each of `length + 1` characters.

    Window `i` begins at character `i * length`, so that each character but the first is the label
    of one place; what is left at the end and fills no window is not used.

    Raises
    ------
    TypeError, ValueError
        `length` is not an integer of at least 1, the text is too short for one window, or
        `encode` refuses it.

    Examples
    --------
    >>> text_windows("abcabc", "abc", length=2).windows
    tensor([[0, 1, 2],
            [2, 0, 1]])
    """
    check_count("text_windows", "length", length, minimum=1)
    tokens = encode(characters, vocabulary)
    if len(tokens) <= length:
        raise ValueError(
            f"text_windows: expected more than length={length} characters, got {len(tokens)}."
        )
    return Text(tokens.unfold(0, length + 1, length).clone(), tuple(vocabulary))


def encode(characters: str, vocabulary: Sequence[str]) -> Tensor:
    """Return the position in `vocabulary` of each character, int64 of shape `(len(characters),)`.

    Raises
    ------
    TypeError
        `characters` is not a string.
    ValueError
        A character is not in the vocabulary, or is there twice.

    Examples
    --------
    >>> encode("cab", "abc")
    tensor([2, 0, 1])
    """
    if not isinstance(characters, str):
        raise TypeError(f"encode: expected a string, got {characters!r}.")
    positions = {character: index for index, character in enumerate(vocabulary)}
    if len(positions) != len(vocabulary):
        raise ValueError("encode: expected a vocabulary without repetitions, got one with some.")
    strangers = sorted(set(characters) - set(positions))
    if strangers:
        raise ValueError(
            f"encode: expected characters of the vocabulary, which has {len(positions)}, got also "
            f"{strangers[:5]}."
        )
    return torch.tensor([positions[character] for character in characters], dtype=torch.int64)


def decode(tokens: Tensor, vocabulary: Sequence[str]) -> str:
    """Return the characters at positions `tokens` in `vocabulary`.

    Raises
    ------
    TypeError
        `tokens` is not an integer tensor.
    ValueError
        `tokens` is not of one dimension, or one is outside of the vocabulary.

    Examples
    --------
    >>> decode(torch.tensor([2, 0, 1]), "abc")
    'cab'
    """
    is_number = isinstance(tokens, Tensor) and tokens.dtype != torch.bool
    if not is_number or tokens.dtype.is_floating_point or tokens.dtype.is_complex:
        raise TypeError(f"decode: expected a tensor of integers, got {tokens!r}.")
    if tokens.ndim != 1:
        raise ValueError(f"decode: expected one dimension, got shape {tuple(tokens.shape)}.")
    positions = tokens.tolist()
    for position in positions:
        if not 0 <= position < len(vocabulary):
            raise ValueError(
                f"decode: expected positions from 0 to {len(vocabulary) - 1}, got {position}."
            )
    return "".join(vocabulary[position] for position in positions)


def python_manual() -> str:
    """Return what Python's `help()` says of the language, some hundred thousand characters.

    It is the text of `pydoc_data.topics`, a part of the standard library, with each paragraph once:
    many stand under several topics, and a test part must not hold what was trained on. It differs
    a little from one version of Python to the next.

    Raises
    ------
    ImportError
        This Python was installed without it.

    Examples
    --------
    >>> "if" in python_manual()
    True
    """
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError as error:
        raise ImportError(
            "python_manual: this Python comes without pydoc_data, the text of help(); give "
            "data.text the path of a text file instead."
        ) from error
    # Topics begin and end with empty lines of different number.
    paragraphs = [
        paragraph.strip("\n") for name in sorted(topics) for paragraph in topics[name].split("\n\n")
    ]
    return "\n\n".join(paragraph for paragraph in dict.fromkeys(paragraphs) if paragraph)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"text: expected a text in UTF-8, got {path}: {error}.") from error
