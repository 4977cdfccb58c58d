"""What the scripts that can be interrupted share: where they write, and how they go on."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Protocol

import torch

from purefn import data


class Resumable(Protocol):
    """The settings of a run that leaves checkpoints."""

    @property
    def resume(self) -> bool:
        """Whether to go on from the checkpoint."""

    def remembered(self) -> dict[str, Any]:
        """Return what the numbers of a run depend on; a resumed run must have the same."""


def load_run(path: Path, settings: Resumable, start: Any) -> tuple[Any, list[dict[str, Any]]]:
    """Return where to start from, and the metrics that the run has left already."""
    if not path.exists():
        if settings.resume:
            print(f"no checkpoint in {path.parent}: starting from the beginning")
        return start, []
    if not settings.resume:
        path.replace(path.with_name("previous.safetensors"))
        return start, []
    _, metadata = data.load_checkpoint(path)
    now = settings.remembered()
    for name, value in json.loads(metadata["settings"]).items():
        if value != now[name]:
            raise ValueError(
                f"{path} was trained with {name}={value}, not {now[name]}: resume with the same "
                "settings, or train into another --out."
            )
    run, _ = data.load_checkpoint(path, like=start)
    return run, json.loads(metadata["history"])


def check_place(device: str, out: Path) -> None:
    """Find out now, not after the training, whether there is a device and a place for results."""
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {device} cannot be used: {reason}") from error
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ValueError(f"--out {out} cannot be written: {error}") from error
