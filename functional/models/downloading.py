"""Files that are fetched once, whole and undamaged, or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO

#: How many bytes are read at a time, and for how many seconds a silent server is waited for.
_CHUNK, _PATIENCE = 1 << 20, 30


def fetched(url: str, folder: Path, sha256: str, *, download: bool = True) -> Path:
    """Return the path of the file that `url` names, in `folder`, fetching it if it is not there.

    Parameters
    ----------
    url
        Where the file can be had; the last part is its name.
    folder
        Where it is kept; made if it is not there.
    sha256
        The beginning of the file's SHA-256, in hexadecimal digits.
    download
        Whether a file that is not there is fetched.

    Raises
    ------
    RuntimeError
        The file is not there and cannot be, or may not be, fetched; or what is there, or came,
        cannot be read or has another digest. What came is then thrown away; what was there stays.

    Examples
    --------
    >>> import tempfile
    >>> source = Path(tempfile.mkdtemp(), "three.txt")
    >>> _ = source.write_text("one two three")
    >>> kept = fetched(source.as_uri(), source.parent / "cache", "6899ee40")
    >>> kept.relative_to(source.parent).as_posix(), kept.read_text()
    ('cache/three.txt', 'one two three')
    """
    path = folder / url.rpartition("/")[2]
    if path.exists():
        try:
            with path.open("rb") as file:
                digest = _digest(file)
        except OSError as error:
            raise RuntimeError(f"{path} cannot be read: {error}") from error
        _check(f"{path} is damaged", digest, sha256, "Remove it to fetch it again.")
        return path
    if not download:
        raise RuntimeError(f"{path} is not there. Fetch it from {url}, or allow the download.")
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=_PATIENCE) as source, part.open("xb") as file:
            digest = _digest(source, file.write)
            file.flush()
            os.fsync(file.fileno())
        _check(f"what came from {url} is damaged", digest, sha256, "Try again.")
        part.replace(path)
    except (OSError, http.client.HTTPException) as error:
        raise RuntimeError(
            f"{url} could not be fetched ({error or type(error).__name__}). Put the file into "
            f"{folder} by another way."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return path


def _digest(source: IO[bytes], write: Callable[[bytes], object] | None = None) -> str:
    """Return the SHA-256 of all that can be read, which is written on the way if asked."""
    digest = hashlib.sha256()
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        if write is not None:
            write(chunk)
    return digest.hexdigest()


def _check(problem: str, digest: str, sha256: str, remedy: str) -> None:
    if not digest.startswith(sha256):
        raise RuntimeError(
            f"{problem}: its SHA-256 begins with {digest[: len(sha256)]}, expected {sha256}. "
            f"{remedy}"
        )
