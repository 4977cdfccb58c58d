"""Compiled programs in a file: what one process compiled, another runs at once."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import platform
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from .backends import Generated
from .elementwise import Kernel
from .identity import digest

_FORMAT = 1


def save(path: str | os.PathLike[str], fun: Callable[..., Any], programs: dict[Any, Any]) -> None:
    """Write programs and the libraries they load into one file, whole or not at all."""
    pieces = _Pieces()
    content = pieces.dumps(programs)
    target = Path(path)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("made_for.json", json.dumps(_made_for(fun)))
            archive.writestr("programs", content)
            for library in sorted(pieces.libraries):
                archive.write(library, f"libraries/{_relative(library)}")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def load(path: str | os.PathLike[str], fun: Callable[..., Any]) -> dict[Any, Any]:
    """Return the programs of a file, their libraries put where they are looked for.

    Raises
    ------
    ValueError
        The file holds no programs, or was made from another function, version or machine.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            content = {name: archive.read(name) for name in archive.namelist()}
        found = json.loads(content["made_for.json"])
        packed = content["programs"]
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, ValueError) as error:
        raise ValueError(f"load: {os.fspath(path)!r} holds no compiled programs.") from error
    for what, expected in _made_for(fun).items():
        if found.get(what) != expected:
            raise ValueError(
                f"load: {os.fspath(path)!r} was made for another {what}: {found.get(what)!r}; "
                f"this is {expected!r}. Compile again and save."
            )
    for name, library in content.items():
        if name.startswith("libraries/"):
            _put(name.removeprefix("libraries/"), library)
    with _nothing_to_compile():
        programs: dict[Any, Any] = pickle.loads(packed)
    return programs


class _Pieces:
    """Pickles programs and notes the files of the libraries that they load."""

    def __init__(self) -> None:
        self.libraries: set[str] = set()

    def dumps(self, programs: dict[Any, Any]) -> bytes:
        """Return the pickled programs."""
        buffer = io.BytesIO()
        pickler = pickle.Pickler(buffer)
        pickler.dispatch_table = _Noting(self)
        try:
            pickler.dump(programs)
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            raise ValueError(
                "save: a program cannot be written to a file; only those of the backend "
                f"'inductor' can, of named functions and containers ({error})."
            ) from error
        return buffer.getvalue()

    def note(self, value: Any) -> None:
        """Add the libraries of a part of a program."""
        if isinstance(value, Kernel):
            self.libraries.add(value.path)
        if isinstance(value, Generated):
            with _loaded() as paths:
                exec(compile(value.source, "<generated>", "exec"), {})
            self.libraries |= paths


class _Noting(dict[Any, Any]):
    """A dispatch table that lets a pickler pass and looks at what it pickles."""

    def __init__(self, pieces: _Pieces) -> None:
        super().__init__()
        self._pieces = pieces
        for kind in (Kernel, Generated):
            self[kind] = self._reduce

    def _reduce(self, value: Any) -> Any:
        self._pieces.note(value)
        return value.__reduce_ex__(2)


@contextlib.contextmanager
def _loaded() -> Iterator[set[str]]:
    """Collect the paths of the libraries that inductor loads within, be they loaded before."""
    from torch._inductor.codecache import CppCodeCache

    paths: set[str] = set()
    holder: Any = CppCodeCache
    original = CppCodeCache.__dict__["load_async"]

    def noting(cls: Any, *args: Any, **kwargs: Any) -> Callable[[], Any]:
        result = original.__func__(cls, *args, **kwargs)

        def load_library() -> Any:
            library = result()
            paths.add(str(getattr(library, "__file__", None) or library._name))
            return library

        return load_library

    holder.load_async = classmethod(noting)
    try:
        yield paths
    finally:
        holder.load_async = original


@contextlib.contextmanager
def _nothing_to_compile() -> Iterator[None]:
    """Spare inductor what it prepares before it compiles a library: here they all exist."""
    from torch._inductor import codecache, config

    holder: Any = codecache
    prepare = holder._precompile_header
    holder._precompile_header = lambda *args, **kwargs: ""
    try:
        with config.patch({"cpp.vec_isa_ok": True}):
            yield
    finally:
        holder._precompile_header = prepare


def _relative(library: str) -> str:
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return Path(library).resolve().relative_to(Path(cache_dir()).resolve()).as_posix()


def _put(name: str, content: bytes) -> None:
    """Write a library into inductor's cache, where its name is a digest of what it was made of."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    target = Path(cache_dir(), name)
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    partial.replace(target)


def _made_for(fun: Callable[..., Any]) -> dict[str, Any]:
    """Return all that a file must have in common with the process that loads it."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "format": _FORMAT,
        "torch": torch.__version__,
        "Python": platform.python_version(),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "GPU": device,
        "function": digest(fun),
    }
