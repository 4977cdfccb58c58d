"""Trees of tensors in files: written whole or not at all, without pickle, checked when read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..functional import tree
from .extras import import_safetensors

_DIGEST = "sha256"


def save_checkpoint(
    path: str | os.PathLike[str], values: tree.PyTree, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a tree of tensors as a safetensors file with torch's dotted names.

    The file is written under a temporary name in the same folder, flushed to the disk and then
    renamed: whatever happens, `path` is the old checkpoint or the new one, whole.

    Parameters
    ----------
    path
        The file; its folder must exist.
    values
        A tree of tensors, on any device.
    metadata
        Strings to keep with them.

    Raises
    ------
    ImportError
        safetensors is not installed.
    OSError
        The file cannot be written; an earlier checkpoint is left as it was.
    TypeError
        A leaf is no tensor, or of a dtype that safetensors has not (complex128); it is named.
    ValueError
        `metadata` has the key "sha256", under which the digest is kept.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "model.safetensors")
    >>> save_checkpoint(path, {"fc": {"bias": torch.zeros(2)}}, {"epoch": "3"})
    >>> [file.name for file in path.parent.iterdir()]
    ['model.safetensors']
    """
    safetensors = import_safetensors()
    _check_leaves(safetensors, values)
    # A tensor of its own for every leaf: safetensors refuses leaves that share memory.
    leaves = {
        name: leaf.cpu().clone(memory_format=torch.contiguous_format)
        for name, leaf in tree.to_state_dict(values).items()
    }
    strings = dict(metadata or {})
    if _DIGEST in strings:
        raise ValueError(f"save_checkpoint: the key {_DIGEST!r} in metadata is taken.")
    header = {**strings, _DIGEST: _digest(leaves, strings)}
    write_whole(path, safetensors.torch.save(leaves, header))


def load_checkpoint(
    path: str | os.PathLike[str], like: tree.PyTree | None = None
) -> tuple[tree.PyTree, dict[str, str]]:
    """Read what `save_checkpoint` wrote: the tree, with the structure of `like`, and the metadata.

    Parameters
    ----------
    path
        The file.
    like
        A tree of tensors or `ShapeDtype`s with the names, shapes and dtypes that are expected; the
        tensors read go to its devices. Without it the tree is nested dicts, on the CPU.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is cut short or damaged, was not written by `save_checkpoint`, or holds another
        tree; the message names what differs.
    ImportError
        safetensors is not installed.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "model.safetensors")
    >>> save_checkpoint(path, {"w": torch.zeros(2)}, {"epoch": "3"})
    >>> params, metadata = load_checkpoint(path, like={"w": torch.ones(2)})
    >>> params, metadata["epoch"]
    ({'w': tensor([0., 0.])}, '3')
    """
    safetensors = import_safetensors()
    content = Path(path).read_bytes()
    try:
        # Copies, since the bytes of a file lie less well aligned than tensors, and kernels may
        # round differently on them.
        leaves = {name: leaf.clone() for name, leaf in safetensors.torch.load(content).items()}
        metadata = _metadata(content)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged or no checkpoint: {error}.") from error
    if _DIGEST not in metadata:
        raise ValueError(
            f"{path} was not written by save_checkpoint: its metadata have no {_DIGEST!r}. "
            "Read it with safetensors.torch.load_file and tree.from_state_dict."
        )
    if metadata.pop(_DIGEST) != _digest(leaves, metadata):
        raise ValueError(f"{path} is damaged: its contents do not have their recorded digest.")
    try:
        values = tree.from_state_dict(leaves, like)
    except ValueError as error:
        raise ValueError(f"{path} is a checkpoint of something else: {error}") from error
    if like is not None:
        values = tree.map(lambda leaf, example: leaf.to(example.device), values, like)
    return values, metadata


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file so that a reader, or a crash, finds the old contents or the new, never a part.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "note.txt")
    >>> write_whole(path, b"all of it")
    >>> path.read_text()
    'all of it'
    """
    temporary = Path(f"{os.fspath(path)}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _check_leaves(safetensors: Any, values: tree.PyTree) -> None:
    """Require that every leaf is a tensor that safetensors can write."""
    for path, leaf in zip(tree.path_strings(values, "values"), tree.leaves(values), strict=True):
        if not isinstance(leaf, Tensor):
            raise TypeError(
                f"save_checkpoint: expected {path} to be a tensor, got {leaf!r}; "
                "keep other values in metadata."
            )
        try:
            safetensors.torch.save({path: torch.empty(0, dtype=leaf.dtype)})
        except KeyError as error:
            raise TypeError(
                f"save_checkpoint: {path} is a tensor of {leaf.dtype}, which safetensors has not; "
                "save its real and imaginary parts, or another dtype."
            ) from error


def _digest(leaves: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return a digest of metadata, names, dtypes, shapes and contents."""
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, leaf in sorted(leaves.items()):
        digest.update(f"{name} {leaf.dtype} {tuple(leaf.shape)};".encode())
        digest.update(leaf.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _metadata(content: bytes) -> dict[str, str]:
    """Return the strings in the header: eight bytes of length, then JSON."""
    length = int.from_bytes(content[:8], "little")
    header: dict[str, dict[str, str]] = json.loads(content[8 : 8 + length])
    return header.get("__metadata__", {})
